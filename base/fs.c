#include "base/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define OR_ERRNO(call) do { __typeof__(call) r_ = (call); return r_ < 0 ? (__typeof__(r_))-errno : r_; } while (0)

static int real_open(void *s, const char *path, int flags, int mode) { (void)s; OR_ERRNO(open(path, flags | O_CLOEXEC, mode)); }
static ssize_t real_pwrite(void *s, int fd, const void *p, size_t n, off_t at) { (void)s; OR_ERRNO(pwrite(fd, p, n, at)); }
static ssize_t real_pread(void *s, int fd, void *p, size_t n, off_t at) { (void)s; OR_ERRNO(pread(fd, p, n, at)); }
static int real_fsync(void *s, int fd) { (void)s; OR_ERRNO(fsync(fd)); }
static int real_close(void *s, int fd) { (void)s; OR_ERRNO(close(fd)); }
static int real_rename(void *s, const char *a, const char *b) { (void)s; OR_ERRNO(rename(a, b)); }
static int real_link(void *s, const char *a, const char *b) { (void)s; OR_ERRNO(link(a, b)); }
static int real_unlink(void *s, const char *path) { (void)s; OR_ERRNO(unlink(path)); }
static int real_mkdir(void *s, const char *path, int mode) { (void)s; OR_ERRNO(mkdir(path, (mode_t)mode)); }
static int real_rmdir(void *s, const char *path) { (void)s; OR_ERRNO(rmdir(path)); }

static int64_t real_size(void *s, const char *path)
{
    (void)s;
    struct stat st;
    if (stat(path, &st) < 0)
        return -errno;
    return st.st_size;
}

const struct fs fs_real = {
    .open = real_open, .pwrite = real_pwrite, .pread = real_pread, .fsync = real_fsync, .close = real_close, .rename = real_rename,
    .link = real_link, .unlink = real_unlink, .mkdir = real_mkdir, .rmdir = real_rmdir, .size = real_size,
};

static int write_all(const struct fs *fs, int fd, const char *path, const void *p, size_t n, struct err *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k = fs->pwrite(fs->state, fd, (const char *)p + done, n - done, (off_t)done);
        if (k == -EINTR)
            continue;
        if (k <= 0)
            return err_errno(err, k < 0 ? (int)-k : EIO, "cannot write %s", path);
        done += (size_t)k;
    }
    return 0;
}

static int write_file(const struct fs *fs, const char *path, int mode, const void *p, size_t n, struct err *err)
{
    int fd = fs->open(fs->state, path, O_WRONLY | O_CREAT | O_TRUNC, mode);
    if (fd < 0)
        return err_errno(err, -fd, "cannot create %s", path);
    int rc = write_all(fs, fd, path, p, n, err);
    if (rc == 0) {
        int sync = fs->fsync(fs->state, fd);   /* after a failed fsync the pages are gone: the file is garbage, never retried */
        if (sync < 0)
            rc = err_errno(err, -sync, "cannot sync %s", path);
    }
    int closed = fs->close(fs->state, fd);
    if (rc == 0 && closed < 0)
        rc = err_errno(err, -closed, "cannot close %s", path);
    return rc;
}

int fs_write_file(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err) { return write_file(fs, path, 0644, p, n, err); }

static int read_all(const struct fs *fs, int fd, const char *path, uint8_t *out, size_t n, struct err *err)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k = fs->pread(fs->state, fd, out + done, n - done, (off_t)done);
        if (k == -EINTR)
            continue;
        if (k < 0)
            return err_errno(err, (int)-k, "cannot read %s", path);
        if (k == 0)
            return err_set(err, ERR_CORRUPT, "%s ends after %zu of %zu bytes", path, done, n);
        done += (size_t)k;
    }
    return 0;
}

int fs_read_file(const struct fs *fs, const char *path, size_t max_bytes, void **out, size_t *n, struct err *err)
{
    int64_t size = fs->size(fs->state, path);
    if (size < 0)
        return err_errno(err, (int)-size, "cannot read %s", path);
    if ((uint64_t)size > max_bytes)
        return err_set(err, ERR_CORRUPT, "%s holds %lld bytes, at most %zu are allowed", path, (long long)size, max_bytes);
    int fd = fs->open(fs->state, path, O_RDONLY, 0);
    if (fd < 0)
        return err_errno(err, -fd, "cannot open %s", path);
    uint8_t *bytes = malloc((size_t)size + 1);
    int rc = bytes ? read_all(fs, fd, path, bytes, (size_t)size, err) : err_set(err, ERR_NO_MEMORY, "no memory for %s", path);
    fs->close(fs->state, fd);
    if (rc < 0) {
        free(bytes);
        return rc;
    }
    bytes[size] = 0;
    *out = bytes;
    *n = (size_t)size;
    return 0;
}

int fs_read_stream(int fd, const char *name, size_t max_bytes, void **out, size_t *n, struct err *err)
{
    uint8_t *bytes = malloc(max_bytes + 1);
    size_t done = 0;
    int rc = bytes ? 0 : err_set(err, ERR_NO_MEMORY, "no memory for %s", name);
    for (ssize_t k = 1; rc == 0 && k != 0 && done <= max_bytes;) {
        k = read(fd, bytes + done, max_bytes + 1 - done);
        if (k < 0 && errno != EINTR)
            rc = err_errno(err, errno, "cannot read %s", name);
        else if (k > 0)
            done += (size_t)k;
    }
    if (rc == 0 && done > max_bytes)
        rc = err_set(err, ERR_CORRUPT, "%s holds more than the %zu bytes that are allowed", name, max_bytes);
    if (rc < 0) {
        free(bytes);
        return rc;
    }
    bytes[done] = 0;
    *out = bytes;
    *n = done;
    return 0;
}

static void parent_of(const char *path, char out[PATH_MAX])
{
    snprintf(out, PATH_MAX, "%s", path);
    char *slash = strrchr(out, '/');
    if (!slash)
        snprintf(out, PATH_MAX, ".");
    else if (slash == out)
        out[1] = '\0';
    else
        *slash = '\0';
}

int fs_fsync_dir(const struct fs *fs, const char *dir, struct err *err)
{
    int fd = fs->open(fs->state, dir, O_RDONLY | O_DIRECTORY, 0);
    if (fd < 0)
        return err_errno(err, -fd, "cannot open folder %s", dir);
    int rc = fs->fsync(fs->state, fd);
    fs->close(fs->state, fd);
    return rc < 0 ? err_errno(err, -rc, "cannot sync folder %s", dir) : 0;
}

int fs_fsync_parent(const struct fs *fs, const char *path, struct err *err)
{
    char dir[PATH_MAX];
    parent_of(path, dir);
    return fs_fsync_dir(fs, dir, err);
}

static int publish(const struct fs *fs, const char *path, int mode, const void *p, size_t n, struct err *err)
{
    char temporary[PATH_MAX];
    uint32_t id;
    random_bytes(&id, sizeof id);
    if (snprintf(temporary, sizeof temporary, "%s.tmp-%08x", path, id) >= (int)sizeof temporary)
        return err_set(err, ERR_FAILED, "the path is too long: %s", path);
    int rc = write_file(fs, temporary, mode, p, n, err);
    if (rc == 0) {
        int renamed = fs->rename(fs->state, temporary, path);
        if (renamed < 0)
            rc = err_errno(err, -renamed, "cannot rename %s to its final name", temporary);
    }
    if (rc < 0) {
        fs->unlink(fs->state, temporary);
        return rc;
    }
    return fs_fsync_parent(fs, path, err);
}

int fs_publish_file(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err) { return publish(fs, path, 0644, p, n, err); }
int fs_publish_secret(const struct fs *fs, const char *path, const void *p, size_t n, struct err *err) { return publish(fs, path, 0600, p, n, err); }

int fs_mkdirs(const struct fs *fs, const char *path, struct err *err)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part)
        return err_set(err, ERR_FAILED, "the path is too long: %s", path);
    for (char *p = part + 1;; p++) {
        if (*p != '/' && *p != '\0')
            continue;
        char was = *p;
        *p = '\0';
        int rc = fs->mkdir(fs->state, part, 0755);
        if (rc < 0 && rc != -EEXIST)
            return err_errno(err, -rc, "cannot create folder %s", part);
        *p = was;
        if (was == '\0')
            return 0;
    }
}

int fs_reserve(int fd, uint64_t bytes)
{
    int why;
    do
        why = posix_fallocate(fd, 0, (off_t)bytes);
    while (why == EINTR);
    return why;
}

uint64_t clock_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

uint64_t clock_now_ms(void) { return clock_now_ns() / 1000000; }

void random_bytes(void *p, size_t n)
{
    size_t done = 0;
    while (done < n) {
        ssize_t k = getrandom((char *)p + done, n - done, 0);
        CHECK(k > 0 || errno == EINTR);
        if (k > 0)
            done += (size_t)k;
    }
}
