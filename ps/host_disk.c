/* What the disk's thread does for a copy of a shard: reads the base of a generation, writes checkpoint parts. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ps/host_private.h"

#define SNAPSHOTS_WAITING 4
#define FOLDERS_MAX 256                   /* of one step: one a site, and sites that the spec had before */

/* ---- bases ---- */
struct load {
    struct ps_host *host;
    uint64_t version;
    uint32_t generation, base_generation;
    char root[600];
    float *weights, *slots;
    int rc;
    struct err err;
};

static int read_from(struct load *l, const char *dir, struct err *err)
{
    const struct ps_host *h = l->host;
    struct ckpt_manifest m;
    TRY(ckpt_open(&fs_real, dir, &m, err));
    uint32_t n = h->block_count;
    uint32_t *block = calloc(n + 1, sizeof *block);
    float **w = calloc(n + 1, sizeof *w), **s = calloc((size_t)n * h->slot_count + 1, sizeof *s);
    CHECK(block && w && s);
    for (uint32_t i = 0; i < n; i++) {
        block[i] = h->block_first + i;
        w[i] = l->weights + h->start[i];
        for (unsigned k = 0; k < h->slot_count; k++)
            s[(size_t)k * n + i] = l->slots + k * h->floats + h->start[i];
    }
    int rc = 0;
    if (m.meta.generation != l->base_generation || layout_hash(&m.layout) != layout_hash(h->layout))
        rc = err_set(err, ERR_NOT_FOUND, "%s is of another generation or model", dir);
    else if (n > 0)
        rc = ckpt_read_blocks(&fs_real, dir, &m, n, block, w, h->slot_count ? s : NULL, err);
    free(block);
    free(w);
    free(s);
    ckpt_manifest_fini(&m);
    return rc;
}

/* The own site's folder first, then any other that can be read here. */
static void load_work(void *arg)
{
    struct load *l = arg;
    struct ckpt_found *found = calloc(FOLDERS_MAX, sizeof *found);
    const char *own = l->host->config.plan->site_name[l->host->config.site];
    uint32_t count = 0;
    CHECK(found != NULL);
    l->rc = ckpt_list_step(l->root, l->version, found, FOLDERS_MAX, &count, &l->err);
    if (l->rc == 0)
        l->rc = err_set(&l->err, ERR_NOT_FOUND, "the checkpoint of step %llu, generation %u lies in no folder of %s", (unsigned long long)l->version,
                        l->base_generation, l->root);
    for (uint32_t k = 0; k < 2 * count && l->rc < 0; k++) {
        struct err why = ERR_INIT;
        uint32_t i = k % count;
        if (!found[i].published || (strcmp(found[i].site, own) == 0) != (k < count))
            continue;
        int rc = read_from(l, found[i].dir, &why);
        if (rc == 0 || rc != ERR_NOT_FOUND) {
            l->rc = rc;
            l->err = why;
        }
    }
    free(found);
}

static void free_load(struct load *l)
{
    const struct ps_host *h = l->host;
    pages_free(l->weights, bytes_of(h->floats + 16));
    pages_free(l->slots, bytes_of(h->floats * h->slot_count + 16));
    free(l);
}

static void load_done(void *arg)
{
    struct load *l = arg;
    struct ps_host *h = l->host;
    if (shard_state(h->core) == SHARD_LOADING && shard_generation(h->core) == l->generation) {
        if (l->rc < 0) {
            host_fail(h, l->rc, l->err.text);
        } else {
            memcpy(h->weights, l->weights, bytes_of(h->floats));
            memcpy(h->slots, l->slots, bytes_of(h->floats * h->slot_count));
            shard_loaded(h->core, now(h), l->version, h->out);
            host_run(h);
        }
    }
    free_load(l);
}

static void load_checkpoint(struct ps_host *h, uint64_t version)
{
    struct load *l = calloc(1, sizeof *l);
    struct err err = ERR_INIT;
    CHECK(l != NULL);
    *l = (struct load){.host = h, .version = version, .generation = shard_generation(h->core), .base_generation = h->view.base_generation};
    snprintf(l->root, sizeof l->root, "%s/ckpt", h->config.run_dir);
    l->weights = pages_alloc(bytes_of(h->floats + 16), &err);
    l->slots = pages_alloc(bytes_of(h->floats * h->slot_count + 16), &err);
    if (!l->weights || !l->slots) {
        host_fail(h, ERR_NO_MEMORY, err.text);
        free_load(l);
        return;
    }
    ps_disk_ask(h->config.disk, load_work, load_done, l);
}

void host_load_base(struct ps_host *h, uint64_t version)
{
    h->sum.have = false;
    if (h->view.base_from == BASE_SEED) {
        memset(h->slots, 0, bytes_of(h->floats * h->slot_count));
    } else if (h->view.base_from == BASE_CHECKPOINT) {
        load_checkpoint(h, version);
    } else if (!h->config.ram || !ps_ram_load(h->config.ram, version, h->view.base_generation, h->weights, h->floats, h->slots, h->floats * h->slot_count)) {
        host_fail(h, ERR_CORRUPT, "the RAM segment lost the version that it was said to hold; resume the run from its checkpoint");
    } else {
        h->base_loaded = true;            /* host_run() tells the core after the actions under way */
    }
}

/* ---- snapshots: copied at once, written by the disk's thread. A disk that cannot follow must not fill the memory: the newest few count ---- */
struct snapshot {
    struct ps_host *host;
    struct snapshot *next;
    struct msg_part part;
    struct ckpt_meta meta;
    char dir[700];
    float *memory;                        /* weights, then slots */
    int rc;
    struct err err;
};

static void snapshot_work(void *arg)
{
    struct snapshot *s = arg;
    const struct ps_host *h = s->host;
    uint32_t n = h->block_count;
    uint32_t *block = calloc(n + 1, sizeof *block);
    const float **w = calloc(n + 1, sizeof *w), **slot = calloc((size_t)n * h->slot_count + 1, sizeof *slot);
    struct ckpt_part written;
    CHECK(block && w && slot);
    for (uint32_t i = 0; i < n; i++) {
        block[i] = h->block_first + i;
        w[i] = s->memory + h->start[i];
        for (unsigned k = 0; k < h->slot_count; k++)
            slot[(size_t)k * n + i] = s->memory + (k + 1) * h->floats + h->start[i];
    }
    struct ckpt_part_data data = {.layout = h->layout, .block_count = n, .block = block, .weights = w, .slot_count = h->slot_count, .slots = slot};
    failpoint(FAIL_PS_SNAPSHOT);
    s->rc = ckpt_part_write(&fs_real, s->dir, s->part.generation, s->part.step, s->part.shard, &data, &s->meta, &written, &s->err);
    if (s->rc == 0) {
        s->part.size_bytes = written.size_bytes;
        memcpy(s->part.sha256, written.sha256, sizeof s->part.sha256);
    }
    free(block);
    free(w);
    free(slot);
    failpoint(FAIL_PS_PART);
}

static void free_snapshot(struct snapshot *s)
{
    const struct ps_host *h = s->host;
    pages_free(s->memory, bytes_of(h->floats * (1 + h->slot_count) + 16));
    free(s);
}

static struct snapshot *oldest_snapshot(struct ps_host *h)
{
    struct snapshot *s = h->waiting;
    if (s)
        h->waiting = s->next;
    return s;
}

static void snapshot_done(void *arg);

static void write_next(struct ps_host *h)
{
    struct snapshot *s = h->writing ? NULL : oldest_snapshot(h);
    if (!s)
        return;
    h->writing = true;
    ps_disk_ask(h->config.disk, snapshot_work, snapshot_done, s);
}

static void snapshot_done(void *arg)
{
    struct snapshot *s = arg;
    struct ps_host *h = s->host;
    h->writing = false;
    if (s->rc < 0) {
        err_wrap(&s->err, "checkpoint of step %llu", (unsigned long long)s->part.step);
        host_fail(h, s->rc, s->err.text);
    } else {
        h->part[h->part_seen++ % PARTS_KEPT] = s->part;
        h->part_count = MIN(h->part_count + 1, PARTS_KEPT);
        log_info(h->config.log, "wrote part %u of step %llu into %s", s->part.shard, (unsigned long long)s->part.step, s->dir);
        h->config.send(h->config.arg, PS_TO_COORDINATOR, MSG_PART, &s->part, NULL, 0);
    }
    free_snapshot(s);
    write_next(h);
}

static void enqueue(struct ps_host *h, struct snapshot *s)
{
    unsigned count = 0;
    struct snapshot **end = &h->waiting;
    for (; *end; end = &(*end)->next)
        count++;
    *end = s;
    if (count >= SNAPSHOTS_WAITING) {
        struct snapshot *old = oldest_snapshot(h);
        log_warn(h->config.log, "the disk is slower than checkpoint.every: no part of step %llu", (unsigned long long)old->part.step);
        free_snapshot(old);
    }
    write_next(h);
}

static void keep_held(struct ps_host *h, uint64_t round, uint64_t since_ns)
{
    h->held = (struct step_times){round, {-1, -1, -1, -1, (float)((double)(clock_now_ns() - since_ns) / 1e9)}};
    h->held_new = true;
}

bool ps_host_held(struct ps_host *h, struct step_times *out)
{
    bool any = h->held_new;
    *out = h->held;
    h->held_new = false;
    return any;
}

void host_snapshot(struct ps_host *h)
{
    uint64_t v = shard_version(h->core), since_ns = clock_now_ns();
    const struct record *r = v ? shard_record(h->core, v - 1) : NULL;
    if (!r || !(r->flags & RECORD_CHECKPOINT))
        return;
    struct snapshot *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    s->host = h;
    s->part = (struct msg_part){.site = h->config.site, .shard = h->config.shard, .generation = shard_generation(h->core), .step = v, .record_round = v - 1};
    s->meta = (struct ckpt_meta){.generation = s->part.generation, .step = v, .slot_count = h->slot_count};
    for (unsigned k = 0; k < h->slot_count; k++)
        snprintf(s->meta.slot_name[k], sizeof s->meta.slot_name[k], "%s", optim_slot_name(&h->optim, k));
    snprintf(s->dir, sizeof s->dir, "%s/ckpt/%s/step-%08llu", h->config.run_dir, h->config.plan->site_name[h->config.site], (unsigned long long)v);
    s->memory = pages_alloc(bytes_of(h->floats * (1 + h->slot_count) + 16), &s->err);
    if (!s->memory) {
        host_fail(h, ERR_NO_MEMORY, s->err.text);
        free(s);
        return;
    }
    memcpy(s->memory, h->weights, bytes_of(h->floats));
    memcpy(s->memory + h->floats, h->slots, bytes_of(h->floats * h->slot_count));
    enqueue(h, s);
    keep_held(h, v - 1, since_ns);
}

unsigned ps_host_parts(const struct ps_host *h, struct msg_part *out, unsigned max)
{
    unsigned n = MIN(max, h->part_count);
    for (unsigned i = 0; i < n; i++)
        out[i] = h->part[(h->part_seen - n + i) % PARTS_KEPT];
    return n;
}

void host_drop_snapshots(struct ps_host *h)
{
    while (h->waiting)
        free_snapshot(oldest_snapshot(h));
}
