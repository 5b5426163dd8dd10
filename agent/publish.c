#include "agent/publish.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/base.h"
#include "ckpt/ckpt.h"

#define ASKS_MAX 16
#define FETCH_MS 5000            /* another site publishes its own copy first */
#define FETCH_AGAIN_MS 100

struct ask { struct msg_manifest m; char *manifest; size_t size; };

struct publisher {
    struct loop *loop;
    struct log *log;
    const char *run_dir, *site;
    uint8_t site_index;
    const struct job_spec *spec;
    void (*done)(void *arg, const struct msg_published *m);
    void *arg;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct ask ask[ASKS_MAX];
    unsigned head, count, waiting;
    bool stop;
};

struct answer { struct publisher *p; struct msg_published m; };

static void deliver(void *arg)
{
    struct answer *a = arg;
    pthread_mutex_lock(&a->p->lock);
    a->p->waiting--;
    pthread_mutex_unlock(&a->p->lock);
    a->p->done(a->p->arg, &a->m);
    free(a);
}

static void dir_of(const struct publisher *p, const char *site, const struct msg_manifest *m, char *out, size_t size)
{
    snprintf(out, size, "%s/ckpt/%s/step-%08llu", p->run_dir, site, (unsigned long long)m->step);
}

/* From the first site whose folder is readable here and whole. ERR_TEMPORARY: none is yet; tried: sites whose copy is not to be had. */
static int fetch_once(struct publisher *p, const struct ask *ask, const char *to, uint64_t *tried, struct err *bad, struct err *err)
{
    char from[1024];
    for (unsigned s = 0; s < p->spec->site_count; s++) {
        if (!(ask->m.site_mask & ~*tried & 1ull << s))
            continue;
        struct ckpt_manifest found;
        struct err why = ERR_INIT;
        dir_of(p, p->spec->sites[s].name, &ask->m, from, sizeof from);
        if (ckpt_open(&fs_real, from, &found, &why) < 0)
            continue;
        bool same = found.meta.generation == ask->m.generation;
        ckpt_manifest_fini(&found);
        if (!same)
            continue;
        int rc = ckpt_copy(&fs_real, from, to, err);
        if (rc == 0 || rc == ERR_CONFLICT)
            return rc;
        log_warn(p->log, "the copy of site %s cannot be taken, others are tried: %s", p->spec->sites[s].name, err->text);
        *tried |= 1ull << s;
        *bad = *err;
    }
    if (bad->code && (ask->m.site_mask & ~*tried) == 0)
        *err = *bad;
    else
        err_set(err, ERR_TEMPORARY, "no other site's folder with this checkpoint can be read from here%s%.300s", bad->code ? "; of one that can: " : "", bad->text);
    return err->code;
}

static int fetch(struct publisher *p, const struct ask *ask, const char *to, struct err *err)
{
    int rc;
    struct err bad = ERR_INIT;
    uint64_t until = clock_now_ms() + FETCH_MS, tried = 1ull << p->site_index;
    while ((rc = fetch_once(p, ask, to, &tried, &bad, err)) == ERR_TEMPORARY && clock_now_ms() < until)
        nanosleep(&(struct timespec){0, FETCH_AGAIN_MS * 1000000l}, NULL);
    return rc;
}

/* A rollback went below a checkpoint of this step: that one is void, and its manifest makes room. */
static bool older_generation(const char *dir, uint32_t generation)
{
    char path[1100];
    struct ckpt_manifest there;
    struct err err = ERR_INIT;
    if (ckpt_open(&fs_real, dir, &there, &err) < 0)
        return false;
    bool older = there.meta.generation < generation;
    ckpt_manifest_fini(&there);
    snprintf(path, sizeof path, "%s/manifest.json", dir);
    return older && fs_real.unlink(fs_real.state, path) == 0;
}

static int publish(struct publisher *p, const struct ask *ask, struct err *err)
{
    char dir[1024], site_dir[1024];
    dir_of(p, p->site, &ask->m, dir, sizeof dir);
    const char *visiting = getenv("VIADUCT_VISITING");
    if (!(ask->m.site_mask >> p->site_index & 1)) {
        if (visiting && *visiting)        /* it shares no folder with other sites, and nobody counts on its copy */
            return err_set(err, ERR_NOT_FOUND, "this site had no whole copy of that version");
        int fetched = fetch(p, ask, dir, err);
        if (fetched == ERR_CONFLICT && older_generation(dir, ask->m.generation))
            fetched = fetch(p, ask, dir, err);
        if (fetched < 0)
            return fetched;
    }
    struct ckpt_manifest m;
    TRY(ckpt_manifest_decode(ask->manifest, ask->size, &m, err));
    int rc = ckpt_publish(&fs_real, dir, &m, err);
    if (rc == ERR_CONFLICT && older_generation(dir, m.meta.generation))
        rc = ckpt_publish(&fs_real, dir, &m, err);
    uint64_t trained = job_steps(p->spec, m.meta.samples_per_pass);   /* what phase train ends with: the report tells of it */
    ckpt_manifest_fini(&m);
    if (rc < 0)
        return rc;
    snprintf(site_dir, sizeof site_dir, "%s/ckpt/%s", p->run_dir, p->site);
    struct err why = ERR_INIT;
    if (p->spec->checkpoint_keep && ckpt_prune(&fs_real, site_dir, p->spec->checkpoint_keep, trained, &why) < 0)
        log_warn(p->log, "older checkpoints stay: %s", why.text);
    return 0;
}

static void *serve(void *arg)
{
    struct publisher *p = arg;
    pthread_mutex_lock(&p->lock);
    while (!p->stop || p->count > 0) {
        if (p->count == 0) {
            pthread_cond_wait(&p->wake, &p->lock);
            continue;
        }
        struct ask ask = p->ask[p->head];
        p->head = (p->head + 1) % ASKS_MAX;
        p->count--;
        pthread_mutex_unlock(&p->lock);
        struct err err = ERR_INIT;
        struct answer *a = calloc(1, sizeof *a);
        CHECK(a != NULL);
        a->p = p;
        a->m = (struct msg_published){.site = p->site_index, .generation = ask.m.generation, .step = ask.m.step, .ok = publish(p, &ask, &err) == 0};
        snprintf(a->m.text, sizeof a->m.text, "%.*s", (int)sizeof a->m.text - 1, a->m.ok ? "" : err.text);
        free(ask.manifest);
        if (loop_post(p->loop, deliver, a) < 0)
            free(a);   /* the loop is ending */
        pthread_mutex_lock(&p->lock);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int publisher_open(struct loop *loop, struct log *log, const char *run_dir, const char *site, uint8_t site_index, const struct job_spec *spec,
                   void (*done)(void *arg, const struct msg_published *m), void *arg, struct publisher **out, struct err *err)
{
    struct publisher *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, ERR_NO_MEMORY, "no memory for the publisher");
    *p = (struct publisher){.loop = loop, .log = log, .run_dir = run_dir, .site = site, .site_index = site_index, .spec = spec, .done = done, .arg = arg};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->wake, NULL);
    int rc = pthread_create(&p->thread, NULL, serve, p);
    if (rc != 0) {
        free(p);
        return err_errno(err, rc, "cannot start a thread");
    }
    *out = p;
    return 0;
}

void publisher_close(struct publisher *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_signal(&p->wake);
    pthread_mutex_unlock(&p->lock);
    pthread_join(p->thread, NULL);
    pthread_cond_destroy(&p->wake);
    pthread_mutex_destroy(&p->lock);
    free(p);
}

unsigned publisher_waiting(struct publisher *p)
{
    pthread_mutex_lock(&p->lock);
    unsigned n = p->waiting;
    pthread_mutex_unlock(&p->lock);
    return n;
}

void publisher_ask(struct publisher *p, const struct msg_manifest *m, const void *manifest, size_t size)
{
    char *copy = malloc(size + 1);
    CHECK(copy != NULL);
    memcpy(copy, manifest, size);
    copy[size] = '\0';
    pthread_mutex_lock(&p->lock);
    if (p->count < ASKS_MAX) {
        p->ask[(p->head + p->count++) % ASKS_MAX] = (struct ask){.m = *m, .manifest = copy, .size = size};
        p->waiting++;
        copy = NULL;
        pthread_cond_signal(&p->wake);
    }
    pthread_mutex_unlock(&p->lock);
    if (copy)
        log_warn(p->log, "checkpoint of step %llu: too many wait to be published, this one is left out", (unsigned long long)m->step);
    free(copy);
}
