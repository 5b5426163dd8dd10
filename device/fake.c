/* The fake device: every buffer is one memory file mapped twice. The addresses that callers see are inaccessible; the stream's thread alone
 * knows the other mapping and translates pointers before it calls a kernel. A host touch of a device pointer is a segmentation fault. */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "device/device_ops.h"

#define REGIONS_MAX 4096
#define QUEUE_MAX 256

struct region { unsigned char *shown, *alias; size_t size_bytes; };

struct fake {
    pthread_mutex_t lock;
    struct region region[REGIONS_MAX];
    unsigned region_count;
};

struct fake_stream {
    struct fake *fake;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    struct launch_call queue[QUEUE_MAX];
    uint64_t submitted, finished;     /* tickets are 1, 2, ... */
    bool aborted, closing;
};

static int fake_open(struct device *d, struct err *err)
{
    struct fake *f = calloc(1, sizeof *f);
    if (!f)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    pthread_mutex_init(&f->lock, NULL);
    d->state = f;
    return 0;
}

static void fake_close(struct device *d)
{
    struct fake *f = d->state;
    for (unsigned i = 0; i < f->region_count; i++) {
        munmap(f->region[i].shown, f->region[i].size_bytes);
        munmap(f->region[i].alias, f->region[i].size_bytes);
    }
    pthread_mutex_destroy(&f->lock);
    free(f);
}

static int map_twice(size_t size_bytes, struct region *out, struct err *err)
{
    int fd = memfd_create("viaduct-fake-device", MFD_CLOEXEC);
    if (fd < 0)
        return err_errno(err, errno, "cannot create a memory file");
    struct region r = {.size_bytes = size_bytes, .shown = MAP_FAILED, .alias = MAP_FAILED};
    if (ftruncate(fd, (off_t)size_bytes) == 0) {
        r.shown = mmap(NULL, size_bytes, PROT_NONE, MAP_SHARED, fd, 0);
        r.alias = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    }
    int why = errno;
    close(fd);
    if (r.shown == MAP_FAILED || r.alias == MAP_FAILED) {
        if (r.shown != MAP_FAILED)
            munmap(r.shown, size_bytes);
        return err_set(err, ERR_NO_MEMORY, "cannot map %zu bytes: %s", size_bytes, strerror(why));
    }
    *out = r;
    return 0;
}

static int fake_alloc(struct device *d, size_t size_bytes, void **out, struct err *err)
{
    struct fake *f = d->state;
    struct region r;
    TRY(map_twice(size_bytes, &r, err));
    pthread_mutex_lock(&f->lock);
    bool room = f->region_count < REGIONS_MAX;
    if (room)
        f->region[f->region_count++] = r;
    pthread_mutex_unlock(&f->lock);
    if (!room) {
        munmap(r.shown, size_bytes);
        munmap(r.alias, size_bytes);
        return err_set(err, ERR_NO_MEMORY, "more than %d device buffers", REGIONS_MAX);
    }
    *out = r.shown;
    return 0;
}

static void fake_free(struct device *d, void *p, size_t size_bytes)
{
    struct fake *f = d->state;
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->region_count; i++)
        if (f->region[i].shown == p) {
            munmap(f->region[i].shown, size_bytes);
            munmap(f->region[i].alias, size_bytes);
            f->region[i] = f->region[--f->region_count];
            break;
        }
    pthread_mutex_unlock(&f->lock);
}

static void *translate(struct fake *f, void *p)
{
    unsigned char *at = p, *found = NULL;
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->region_count && !found; i++) {
        struct region *r = &f->region[i];
        if (at >= r->shown && at < r->shown + r->size_bytes)
            found = r->alias + (at - r->shown);
    }
    pthread_mutex_unlock(&f->lock);
    CHECK(found != NULL);   /* a host pointer was passed as a device pointer */
    return found;
}

static void *run_stream(void *arg)
{
    struct fake_stream *s = arg;
    pthread_mutex_lock(&s->lock);
    for (;;) {
        while (!s->aborted && s->finished == s->submitted && !s->closing)
            pthread_cond_wait(&s->changed, &s->lock);
        if (s->aborted || s->finished == s->submitted)
            break;
        struct launch_call call = s->queue[s->finished % QUEUE_MAX];
        pthread_mutex_unlock(&s->lock);
        for (unsigned i = 0; i < call.count; i++)
            if (!(call.host_mask >> i & 1) && call.pointer[i])
                call.pointer[i] = translate(s->fake, call.pointer[i]);
        call.fn(call.pointer, call.params);
        pthread_mutex_lock(&s->lock);
        s->finished++;
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return NULL;
}

static int fake_stream_open(struct device *d, struct stream *out, struct err *err)
{
    struct fake_stream *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory");
    s->fake = d->state;
    pthread_mutex_init(&s->lock, NULL);
    pthread_condattr_t monotonic;
    pthread_condattr_init(&monotonic);
    pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
    pthread_cond_init(&s->changed, &monotonic);
    pthread_condattr_destroy(&monotonic);
    int rc = pthread_create(&s->thread, NULL, run_stream, s);
    if (rc != 0) {
        free(s);
        return err_errno(err, rc, "cannot start the stream's thread");
    }
    out->state = s;
    return 0;
}

static void fake_stream_close(struct stream *stream)
{
    struct fake_stream *s = stream->state;
    pthread_mutex_lock(&s->lock);
    s->closing = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
    pthread_join(s->thread, NULL);
    pthread_cond_destroy(&s->changed);
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static int fake_submit(struct stream *stream, const struct launch_call *call, struct handle *out, struct err *err)
{
    struct fake_stream *s = stream->state;
    pthread_mutex_lock(&s->lock);
    while (!s->aborted && s->submitted - s->finished == QUEUE_MAX)
        pthread_cond_wait(&s->changed, &s->lock);
    bool aborted = s->aborted;
    if (!aborted) {
        s->queue[s->submitted % QUEUE_MAX] = *call;
        *out = (struct handle){.stream = stream, .ticket = ++s->submitted};
        pthread_cond_broadcast(&s->changed);
    }
    pthread_mutex_unlock(&s->lock);
    return aborted ? err_set(err, ERR_ABORTED, "the stream was aborted") : 0;
}

static bool fake_done(struct handle h)
{
    struct fake_stream *s = h.stream->state;
    pthread_mutex_lock(&s->lock);
    bool done = s->finished >= h.ticket;
    pthread_mutex_unlock(&s->lock);
    return done;
}

static int fake_wait(struct handle h, uint64_t timeout_ms, struct err *err)
{
    struct fake_stream *s = h.stream->state;
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    bool bounded = timeout_ms < UINT64_MAX / 2;
    if (bounded) {
        until.tv_sec += (time_t)(timeout_ms / 1000);
        until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
        if (until.tv_nsec >= 1000000000) {
            until.tv_sec++;
            until.tv_nsec -= 1000000000;
        }
    }
    int rc = 0;
    pthread_mutex_lock(&s->lock);
    while (s->finished < h.ticket && !s->aborted && rc != ETIMEDOUT)
        rc = bounded ? pthread_cond_timedwait(&s->changed, &s->lock, &until) : pthread_cond_wait(&s->changed, &s->lock);
    bool done = s->finished >= h.ticket, aborted = s->aborted;
    pthread_mutex_unlock(&s->lock);
    if (done)
        return 0;
    return aborted ? err_set(err, ERR_ABORTED, "the stream was aborted")
                   : err_set(err, ERR_ABORTED, "a device call took longer than %llu ms", (unsigned long long)timeout_ms);
}

static void fake_abort(struct stream *stream)
{
    struct fake_stream *s = stream->state;
    pthread_mutex_lock(&s->lock);
    s->aborted = true;
    pthread_cond_broadcast(&s->changed);
    pthread_mutex_unlock(&s->lock);
}

const struct device_ops device_fake = {
    "fake", SPACE_DEVICE, fake_open, fake_close, fake_alloc, fake_free, fake_stream_open, fake_stream_close, fake_submit, fake_done, fake_wait, fake_abort,
};
