/* Publishing this site's copy of a decided checkpoint, in a thread of its own: parts are hashed, the manifest is linked in place,
 * older checkpoints go. Asks are served in order; a site that lacks the parts fetches them from another folder that has them. */
#ifndef VIADUCT_AGENT_PUBLISH_H
#define VIADUCT_AGENT_PUBLISH_H

#include "base/log.h"
#include "jobs/jobs.h"
#include "net/net.h"

struct publisher;
int publisher_open(struct loop *loop, struct log *log, const char *run_dir, const char *site, uint8_t site_index, const struct job_spec *spec,
                   void (*done)(void *arg, const struct msg_published *m), void *arg, struct publisher **out, struct err *err);
void publisher_close(struct publisher *p);           /* finishes what was asked */
unsigned publisher_waiting(struct publisher *p);     /* asks whose done() has not been called */
/* The manifest's bytes are copied. done is called in the loop's thread. */
void publisher_ask(struct publisher *p, const struct msg_manifest *m, const void *manifest, size_t size);

#endif
