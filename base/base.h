/* base: what every other folder stands on; libc, pthread, xxhash and libcrypto's SHA-256 only.
 * This is the umbrella header; each part stands alone in its own header. */
#ifndef VIADUCT_BASE_BASE_H
#define VIADUCT_BASE_BASE_H

#include "base/arena.h"
#include "base/checksum.h"
#include "base/cursor.h"
#include "base/err.h"
#include "base/failpoint.h"
#include "base/fs.h"
#include "base/lanes.h"
#include "base/layout.h"
#include "base/log.h"
#include "base/philox.h"
#include "base/protobuf.h"
#include "base/rundir.h"

#define VIADUCT_VERSION "0.1.0"
#define VIADUCT_DATE "2026-11-27"     /* of its man pages */

#define ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b) ((a) < (b) ? (a) : (b))
#define MAX(a, b) ((a) > (b) ? (a) : (b))

#endif
