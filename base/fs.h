/* Files and clock as an argument: the real ones here, recording, failing or crashing ones in tests. Every byte that must
 * survive is written through this table, so that a crash can be injected at every call. */
#ifndef VIADUCT_BASE_FS_H
#define VIADUCT_BASE_FS_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include "base/err.h"

struct fs {
    void *state;
    int (*open)(void *state, const char *path, int flags, int mode);         /* fd or -errno */
    ssize_t (*pwrite)(void *state, int fd, const void *p, size_t n, off_t at);/* bytes or -errno */
    ssize_t (*pread)(void *state, int fd, void *p, size_t n, off_t at);
    int (*fsync)(void *state, int fd);
    int (*close)(void *state, int fd);
    int (*rename)(void *state, const char *from, const char *to);
    int (*link)(void *state, const char *from, const char *to);
    int (*unlink)(void *state, const char *path);
    int (*mkdir)(void *state, const char *path, int mode);
    int (*rmdir)(void *state, const char *path);
    int64_t (*size)(void *state, const char *path);                          /* bytes or -errno */
};

extern const struct fs fs_real;

/* Whole-file helpers over the table. */
int fs_write_file(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err);   /* create or truncate, fsync, close */
int fs_read_file(const struct fs *fs, const char *path, size_t max_bytes, void **out, size_t *n, struct err *err);   /* *out: malloc, one NUL past the end */
/* The same of what has no size before its end: a pipe, a terminal; name is what errors call it. */
int fs_read_stream(int fd, const char *name, size_t max_bytes, void **out, size_t *n, struct err *err);
int fs_publish_file(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err); /* temporary beside it, fsync, rename, fsync folder */
int fs_publish_secret(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err);   /* likewise; only its owner may read it */
int fs_fsync_dir(const struct fs *fs, const char *dir, struct err *err);
int fs_fsync_parent(const struct fs *fs, const char *path, struct err *err);   /* path's own name */
int fs_mkdirs(const struct fs *fs, const char *path, struct err *err);
int fs_reserve(int fd, uint64_t bytes);   /* room for that many from the start, found out now; signals do not end it. 0 or an errno value */

uint64_t clock_now_ms(void);       /* monotonic */
uint64_t clock_now_ns(void);
void random_bytes(void *p, size_t n);

#endif
