/* One copy of one shard: the core decides (shard.h), this file holds the blocks and does it. Blocks of the shard lie one after the other without
 * padding, so a contribution, a pull and a sum are one run of floats each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "base/magnitude.h"
#include "engine/engine.h"
#include "ps/ps.h"
#include "ps/rules.h"

#define RESEND_MS 2000
#define PARTS_KEPT 32
#define SNAPSHOTS_WAITING 4
#define FOLDERS_MAX 256                   /* of one step: one a site, and sites that the spec had before */

struct pull { struct pull *next; void *peer; struct msg_pull m; bool answered; };   /* the newest of a peer for these blocks */

struct sum {                              /* of one cover, kept for PREPARED's repeats and for APPLY */
    bool have;
    uint64_t version;
    uint16_t count;
    struct name cover[COVER_LIMIT];
    const float *floats;                  /* memory of the sum, or the only contribution */
    bool measured;                        /* norms and the two below are of it */
    uint64_t nonfinite;
    uint32_t nonfinite_block;
};

struct ps_host {
    struct ps_host_config config;
    struct shard *core;
    struct shard_out *out;
    const struct layout *layout;
    struct optim_config optim;
    uint32_t block_first, block_count;    /* in the layout */
    uint64_t *start;                      /* [block_count + 1] first float of a block */
    uint64_t floats;
    unsigned slot_count;
    float *weights, *slots, *sum_memory, *scratch;   /* slots: slot-major */
    float *contribution[NAMES_LIMIT];     /* allocated when first used, kept */
    struct sum sum;
    double *norms;
    uint32_t bins[MAGNITUDE_BINS];
    struct view view;
    bool base_loaded;                     /* by an action that is being executed */
    struct pull *pulls;
    struct snapshot *waiting;             /* oldest first; one more is with the disk when `writing` */
    bool writing;
    struct msg_part part[PARTS_KEPT];
    unsigned part_count;
    uint64_t part_seen;
    struct step_times held;               /* by the newest snapshot */
    bool held_new;
};

static uint64_t now(const struct ps_host *h) { return loop_now_ms(h->config.loop); }
static size_t bytes_of(uint64_t floats) { return (size_t)floats * sizeof(float); }
static const struct block_desc *block_at(const struct ps_host *h, uint32_t i) { return &h->layout->blocks[h->block_first + i]; }
static const struct tensor_desc *tensor_of(const struct ps_host *h, uint32_t i) { return &h->layout->tensors[block_at(h, i)->tensor]; }
static enum tensor_kind kind_of(const struct ps_host *h, uint32_t i) { return tensor_of(h, i)->kind; }

void ps_shard_blocks(const struct layout *l, uint32_t shards, uint32_t shard, uint32_t *first, uint32_t *count)
{
    uint32_t *of = calloc(l->block_count ? l->block_count : 1, sizeof *of);
    CHECK(of != NULL);
    layout_shards(l, shards, of);
    *first = *count = 0;
    for (uint32_t b = 0; b < l->block_count; b++)
        if (of[b] == shard && (*count)++ == 0)
            *first = b;
    free(of);
}

static void fail(struct ps_host *h, int code, const char *text)
{
    h->config.fail(h->config.arg, code, ps_host_version(h), text);
}

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

static void run(struct ps_host *h);

static void load_done(void *arg)
{
    struct load *l = arg;
    struct ps_host *h = l->host;
    if (shard_state(h->core) == SHARD_LOADING && shard_generation(h->core) == l->generation) {
        if (l->rc < 0) {
            fail(h, l->rc, l->err.text);
        } else {
            memcpy(h->weights, l->weights, bytes_of(h->floats));
            memcpy(h->slots, l->slots, bytes_of(h->floats * h->slot_count));
            shard_loaded(h->core, now(h), l->version, h->out);
            run(h);
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
        fail(h, ERR_NO_MEMORY, err.text);
        free_load(l);
        return;
    }
    ps_disk_ask(h->config.disk, load_work, load_done, l);
}

static void load_base(struct ps_host *h, uint64_t version)
{
    h->sum.have = false;
    if (h->view.base_from == BASE_SEED) {
        memset(h->slots, 0, bytes_of(h->floats * h->slot_count));
    } else if (h->view.base_from == BASE_CHECKPOINT) {
        load_checkpoint(h, version);
    } else if (!h->config.ram || !ps_ram_load(h->config.ram, version, h->view.base_generation, h->weights, h->floats, h->slots, h->floats * h->slot_count)) {
        fail(h, ERR_CORRUPT, "the RAM segment lost the version that it was said to hold; resume the run from its checkpoint");
    } else {
        h->base_loaded = true;            /* run() tells the core after the actions under way */
    }
}

/* ---- sums ---- */
static bool sum_is(const struct ps_host *h, uint64_t version, const struct name *cover, uint16_t count)
{
    const struct sum *s = &h->sum;
    if (!s->have || s->version != version || s->count != count)
        return false;
    for (uint16_t i = 0; i < count; i++)
        if (!lane_range_eq(s->cover[i].lanes, cover[i].lanes) || s->cover[i].attempt != cover[i].attempt)
            return false;
    return true;
}

static void make_sum(struct ps_host *h, uint64_t version, const struct name *cover, uint16_t count, const uint16_t *index)
{
    struct sum *s = &h->sum;
    struct lane_range node[COVER_LIMIT];
    const float *part[COVER_LIMIT];
    if (sum_is(h, version, cover, count))
        return;
    *s = (struct sum){.have = true, .version = version, .count = count};
    memcpy(s->cover, cover, count * sizeof *cover);
    for (uint16_t i = 0; i < count; i++) {
        node[i] = cover[i].lanes;
        part[i] = h->contribution[index[i]];
    }
    s->floats = count == 1 ? part[0] : h->sum_memory;
    if (count > 1 && h->floats > 0)
        lane_sum_f32(h->config.plan->lanes, (struct lane_range){0, h->config.plan->lanes}, node, part, count, h->sum_memory, h->floats, h->scratch);
}

/* For reports; a copy that only applies a record needs none of it. */
static void measure_sum(struct ps_host *h)
{
    struct sum *s = &h->sum;
    if (s->measured)
        return;
    s->measured = true;
    for (uint32_t b = 0; b < h->block_count; b++) {
        uint32_t bad = 0;
        double square = block_square_sum(s->floats + h->start[b], h->start[b + 1] - h->start[b], &bad);
        h->norms[b] = kind_of(h, b) == TENSOR_PARAMETER ? square : 0;
        if (bad && s->nonfinite == 0)
            s->nonfinite_block = h->block_first + b;
        s->nonfinite += bad;
    }
}

static void apply(struct ps_host *h, const struct shard_action *a)
{
    const struct record *r = &a->u.record;
    make_sum(h, r->round, r->cover, r->cover_count, a->name_index);
    for (uint32_t b = 0; b < h->block_count; b++) {
        uint64_t at = h->start[b];
        float *slot[CKPT_SLOTS_MAX] = {0};
        for (unsigned k = 0; k < h->slot_count; k++)
            slot[k] = h->slots + k * h->floats + at;
        uint64_t n = h->start[b + 1] - at;
        if (r->flags & RECORD_MASKED && tensor_prunable(tensor_of(h, b)))
            optim_apply_masked(&h->optim, h->weights + at, slot, h->sum.floats + at, n, (double)r->count, r->lr, r->clip, r->round + 1, r->threshold);
        else
            optim_apply(&h->optim, kind_of(h, b), h->weights + at, slot, h->sum.floats + at, n, (double)r->count, r->lr, r->clip, r->round + 1);
    }
    h->sum.have = false;
    failpoint(FAIL_PS_APPLY);
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
        fail(h, s->rc, s->err.text);
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

static void snapshot(struct ps_host *h)
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
        fail(h, ERR_NO_MEMORY, s->err.text);
        free(s);
        return;
    }
    memcpy(s->memory, h->weights, bytes_of(h->floats));
    memcpy(s->memory + h->floats, h->slots, bytes_of(h->floats * h->slot_count));
    enqueue(h, s);
    keep_held(h, v - 1, since_ns);
}

/* ---- pulls ---- */
static void send_reply(struct ps_host *h, void *peer, const struct msg_pull *m, uint8_t status, uint64_t version)
{
    struct msg_pullreply r = {.view = m->view, .generation = m->generation, .shard = h->config.shard, .status = status, .version = version,
                              .block_first = m->block_first, .block_count = m->block_count};
    const struct record *made = status == PULL_OK && version > 0 ? shard_record(h->core, version - 1) : NULL;
    if (made)
        r.record = *made;
    else
        r.record.round = UINT64_MAX;
    struct bytes data = {0};
    if (status == PULL_OK && m->block_count > 0)
        data = (struct bytes){h->weights + h->start[m->block_first], bytes_of(h->start[m->block_first + m->block_count] - h->start[m->block_first])};
    h->config.reply(h->config.arg, peer, &r, &data, data.size > 0);
}

static void answer_pulls(struct ps_host *h)
{
    bool any, seed = shard_needs_seed(h->core);
    uint64_t version = shard_published(h->core, &any);
    for (struct pull **at = &h->pulls; *at;) {
        struct pull *p = *at;
        if (p->answered) {
            at = &p->next;
            continue;
        }
        bool mine = p->m.view == shard_view(h->core) && p->m.generation == shard_generation(h->core);
        bool early = !mine && p->m.view > shard_view(h->core);   /* its view is still on its way here */
        if (early || (mine && !seed && (!any || version < p->m.version))) {
            at = &p->next;
            continue;
        }
        if (mine)
            send_reply(h, p->peer, &p->m, seed ? PULL_NEED_SEED : PULL_OK, version);
        p->answered = mine && !seed;
        if (p->answered) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        free(p);
    }
}

void ps_host_forget(struct ps_host *h, void *peer)
{
    for (struct pull **at = &h->pulls; *at;) {
        struct pull *p = *at;
        if (p->peer != peer) {
            at = &p->next;
            continue;
        }
        *at = p->next;
        free(p);
    }
}

/* ---- actions ---- */
static void publish(struct ps_host *h)
{
    uint64_t v = shard_version(h->core);
    uint32_t every = h->config.plan->ram_every;
    if (h->config.ram && every && v % every == 0)
        ps_ram_save(h->config.ram, v, shard_generation(h->core), h->weights, h->floats, h->slots, h->floats * h->slot_count);
    failpoint(FAIL_PS_PUBLISH);
    snapshot(h);
    answer_pulls(h);
}

static void send_block(struct ps_host *h, const struct shard_action *a)
{
    struct msg_block m = {.view = shard_view(h->core), .generation = shard_generation(h->core), .shard = h->config.shard, .version = a->version, .block = a->block};
    uint64_t at = h->start[a->block], n = h->start[a->block + 1] - at;
    struct bytes piece[1 + CKPT_SLOTS_MAX] = {{h->weights + at, bytes_of(n)}};
    for (unsigned k = 0; k < h->slot_count; k++)
        piece[1 + k] = (struct bytes){h->slots + k * h->floats + at, bytes_of(n)};
    failpoint(FAIL_PS_COPY);
    h->config.send(h->config.arg, a->slot, MSG_BLOCK, &m, piece, 1 + h->slot_count);
}

/* The histogram that a threshold is made of: this version's prunable weights. */
static void count_magnitudes(struct ps_host *h)
{
    memset(h->bins, 0, sizeof h->bins);
    for (uint32_t b = 0; b < h->block_count; b++)
        if (tensor_prunable(tensor_of(h, b)))
            magnitude_count(h->bins, h->weights + h->start[b], h->start[b + 1] - h->start[b]);
}

static void send_prepared(struct ps_host *h, const struct shard_action *a)
{
    struct msg_prepared m = a->u.prepared;
    struct bytes pieces[2] = {0};
    unsigned count = 0;
    if (m.cover_count > 0) {
        make_sum(h, m.version, m.cover, m.cover_count, a->name_index);
        measure_sum(h);
        m.nonfinite = h->sum.nonfinite;
        m.nonfinite_block = h->sum.nonfinite_block;
        m.norm_count = h->block_count;
        if (h->block_count > 0)
            pieces[count++] = (struct bytes){h->norms, h->block_count * sizeof(double)};
        if (phases_ramp(&h->config.plan->phases, m.version) > 0) {
            count_magnitudes(h);
            m.bin_count = MAGNITUDE_BINS;
            pieces[count++] = (struct bytes){h->bins, sizeof h->bins};
        }
        failpoint(FAIL_PS_PREPARED);
    }
    h->config.send(h->config.arg, PS_TO_COORDINATOR, MSG_PREPARED, &m, pieces, count);
}

static void act(struct ps_host *h, const struct shard_action *a)
{
    struct bytes data = {0};
    switch (a->kind) {
    case SHARD_LOAD_BASE:
        load_base(h, a->version);
        break;
    case SHARD_APPLY:
        apply(h, a);
        break;
    case SHARD_DROP:
        h->sum.have = false;
        break;
    case SHARD_PUBLISH:
        publish(h);
        break;
    case SHARD_SEND_REPLICATE:
        if (a->u.replicate.with_data[0] || a->u.replicate.with_data[1])
            data = (struct bytes){h->contribution[a->name_index[0]], bytes_of(h->floats)};
        h->config.send(h->config.arg, a->slot, MSG_REPLICATE, &a->u.replicate, &data, data.size > 0);
        break;
    case SHARD_SEND_ACK:
        h->config.send(h->config.arg, a->slot, MSG_ACK, &a->u.ack, NULL, 0);
        break;
    case SHARD_SEND_BLOCK:
        send_block(h, a);
        break;
    case SHARD_SEND_PREPARED:
        send_prepared(h, a);
        break;
    case SHARD_FAIL:
        fail(h, ERR_JOB, a->u.text);
        break;
    }
}

static void run(struct ps_host *h)
{
    for (;;) {
        h->base_loaded = false;
        for (unsigned i = 0; i < h->out->count; i++)
            act(h, &h->out->action[i]);
        if (!h->base_loaded)
            break;
        shard_loaded(h->core, now(h), h->view.base, h->out);
    }
    answer_pulls(h);
}

/* ---- events ---- */
static bool store_at(struct ps_host *h, uint16_t index, struct err *err)
{
    if (!h->contribution[index])
        h->contribution[index] = pages_alloc(bytes_of(h->floats + 16), err);
    return h->contribution[index] != NULL;
}

/* Blocks [first, first + count) of this shard, and exactly their floats as payload. */
static bool sound(const struct ps_host *h, uint32_t first, uint32_t count, size_t payload_size)
{
    return first <= h->block_count && count <= h->block_count - first && payload_size == bytes_of(h->start[first + count] - h->start[first]);
}

static void on_contribute(struct ps_host *h, void *peer, const struct msg_contribute *m, const uint8_t *payload, size_t size)
{
    uint16_t index;
    struct err err = ERR_INIT;
    if (!sound(h, m->block_first, m->block_count, size)) {
        log_warn(h->config.log, "a contribution to shard %u has %zu bytes, which are not its %u blocks: left out", h->config.shard, size, m->block_count);
        return;
    }
    enum shard_verdict verdict = shard_on_contribute(h->core, m, &index);
    if (verdict == SHARD_STALE && shard_needs_seed(h->core) && m->view == shard_view(h->core) && RULE_NEEDSEED) {
        struct msg_pull like = {.view = m->view, .generation = m->generation, .block_first = m->block_first, .block_count = m->block_count};
        send_reply(h, peer, &like, PULL_NEED_SEED, 0);
    }
    if (verdict != SHARD_STORE)
        return;
    if (!store_at(h, index, &err)) {
        fail(h, ERR_NO_MEMORY, err.text);
        return;
    }
    if (size)
        memcpy(h->contribution[index] + h->start[m->block_first], payload, size);
    failpoint(FAIL_PS_STORE);
    shard_stored(h->core, now(h), index, m->block_first, m->block_count, h->out);
    run(h);
}

static void on_replicate(struct ps_host *h, uint8_t slot, uint32_t instance, const struct msg_replicate *m, const uint8_t *payload, size_t size)
{
    uint16_t index[NAMES_LIMIT];
    struct err err = ERR_INIT;
    unsigned with_data = (unsigned)(__builtin_popcountll(m->with_data[0]) + __builtin_popcountll(m->with_data[1]));
    if (size != with_data * bytes_of(h->floats)) {
        log_warn(h->config.log, "slot %u sent %zu bytes of shard %u where %zu were due: left out", slot, size, h->config.shard, with_data * bytes_of(h->floats));
        return;
    }
    if (shard_on_replicate(h->core, slot, instance, m, index) != SHARD_STORE)
        return;
    for (unsigned n = 0, at = 0; n < m->name_count; n++) {
        bool here = m->with_data[n / 64] >> (n % 64) & 1;
        if (here && index[n] != UINT16_MAX) {
            if (!store_at(h, index[n], &err)) {
                fail(h, ERR_NO_MEMORY, err.text);
                return;
            }
            memcpy(h->contribution[index[n]], payload + at * bytes_of(h->floats), bytes_of(h->floats));
        }
        at += here;
    }
    shard_replicated(h->core, now(h), slot, m, index, h->out);
    run(h);
}

static void on_block(struct ps_host *h, uint8_t slot, uint32_t instance, const struct msg_block *m, const uint8_t *payload, size_t size)
{
    if (m->block >= h->block_count)
        return;
    uint64_t at = h->start[m->block], n = h->start[m->block + 1] - at;
    if (size != bytes_of(n) * (1 + h->slot_count))
        return;
    enum shard_verdict v = shard_on_block(h->core, slot, instance, m);
    if (v != SHARD_STORE && v != SHARD_DUPLICATE)
        return;
    if (v == SHARD_STORE) {
        memcpy(h->weights + at, payload, bytes_of(n));
        for (unsigned k = 0; k < h->slot_count; k++)
            memcpy(h->slots + k * h->floats + at, payload + (k + 1) * bytes_of(n), bytes_of(n));
        failpoint(FAIL_PS_COPY);
    }
    shard_block_stored(h->core, now(h), m->block, h->out);
    run(h);
}

static void on_seed(struct ps_host *h, const struct msg_seed *m, const uint8_t *payload, size_t size)
{
    if (!sound(h, m->block_first, m->block_count, size) || shard_on_seed(h->core, m) != SHARD_STORE)
        return;
    if (size)
        memcpy(h->weights + h->start[m->block_first], payload, size);
    shard_seeded(h->core, now(h), m->block_first, m->block_count, h->out);
    run(h);
}

static void on_pull(struct ps_host *h, void *peer, const struct msg_pull *m)
{
    if (m->block_first > h->block_count || m->block_count > h->block_count - m->block_first)
        return;
    struct pull *p = h->pulls;
    while (p && (p->peer != peer || p->m.block_first != m->block_first))
        p = p->next;
    if (!p) {
        p = calloc(1, sizeof *p);
        CHECK(p != NULL);
        p->peer = peer;
        p->next = h->pulls;
        h->pulls = p;
    }
    bool again = p->answered && p->m.view == m->view && p->m.version == m->version && p->m.block_count == m->block_count;
    if (again && h->config.busy && h->config.busy(h->config.arg, peer))
        return;                               /* the answer is on its way out of here */
    p->m = *m;
    p->answered = false;
    answer_pulls(h);
}

void ps_host_message(struct ps_host *h, uint8_t from_slot, uint32_t from_instance, void *peer, enum msg_type type, const void *m, const uint8_t *payload, size_t size)
{
    log_debug(h->config.log, "%s for shard %u from slot %u; state %d, version %llu", msg_type_name(type), h->config.shard, from_slot, shard_state(h->core),
              (unsigned long long)shard_version(h->core));
    switch (type) {
    case MSG_CONTRIBUTE: on_contribute(h, peer, m, payload, size); break;
    case MSG_REPLICATE: on_replicate(h, from_slot, from_instance, m, payload, size); break;
    case MSG_BLOCK: on_block(h, from_slot, from_instance, m, payload, size); break;
    case MSG_SEED: on_seed(h, m, payload, size); break;
    case MSG_PULL: on_pull(h, peer, m); break;
    case MSG_ACK: shard_on_ack(h->core, now(h), from_slot, from_instance, m, h->out); run(h); break;
    case MSG_SUM: shard_on_sum(h->core, now(h), m, h->out); run(h); break;
    case MSG_COMMIT: shard_on_commit(h->core, now(h), m, h->out); run(h); break;
    default: break;
    }
}

void ps_host_view(struct ps_host *h, const struct view *view)
{
    h->view = *view;
    shard_on_view(h->core, now(h), view, h->out);
    run(h);
}

void ps_host_linked(struct ps_host *h, uint8_t slot)
{
    shard_on_link(h->core, now(h), slot, h->out);
    run(h);
}

void ps_host_busy(struct ps_host *h, uint8_t slot) { shard_on_busy(h->core, now(h), slot); }

void ps_host_tick(struct ps_host *h)
{
    shard_on_tick(h->core, now(h), h->out);
    run(h);
}

uint64_t ps_host_version(const struct ps_host *h) { return shard_version(h->core); }

unsigned ps_host_parts(const struct ps_host *h, struct msg_part *out, unsigned max)
{
    unsigned n = MIN(max, h->part_count);
    for (unsigned i = 0; i < n; i++)
        out[i] = h->part[(h->part_seen - n + i) % PARTS_KEPT];
    return n;
}

/* ---- opening ---- */
static int allocate(struct ps_host *h, const struct shard_config *core, struct err *err)
{
    h->start = calloc(h->block_count + 1, sizeof *h->start);
    h->norms = calloc(h->block_count + 1, sizeof *h->norms);
    h->out = malloc(sizeof *h->out);
    void *memory = aligned_alloc(16, (shard_size(core) + 15) & ~(size_t)15);
    if (!h->start || !h->norms || !h->out || !memory) {
        free(memory);
        return err_set(err, ERR_NO_MEMORY, "no memory for shard %u", h->config.shard);
    }
    h->core = shard_init(memory, core);
    for (uint32_t b = 0; b < h->block_count; b++)
        h->start[b + 1] = h->start[b] + block_at(h, b)->elems;
    h->floats = h->start[h->block_count];
    bool travels = !h->config.plan->embedded;   /* an embedded shard talks to its own rank only */
    if (travels && (bytes_of(h->floats) > FRAME_PAYLOAD_MAX || bytes_of(BLOCK_ELEMS) * (1 + h->slot_count) > FRAME_PAYLOAD_MAX))
        return err_set(err, ERR_USAGE, "shard %u holds %zu MiB, a frame at most %u: give the sites more ps_shards", h->config.shard, bytes_of(h->floats) >> 20,
                       FRAME_PAYLOAD_MAX >> 20);
    struct { float **to; uint64_t floats; } wanted[] = {{&h->weights, h->floats + 16}, {&h->slots, h->floats * h->slot_count + 16},
                                                        {&h->sum_memory, h->floats + 16}, {&h->scratch, h->floats * LANE_DEPTH_MAX + 16}};
    for (unsigned i = 0; i < ARRAY_LEN(wanted); i++) {
        *wanted[i].to = pages_alloc(bytes_of(wanted[i].floats), err);
        if (!*wanted[i].to)
            return ERR_NO_MEMORY;
    }
    return 0;
}

static struct optim_config optim_of(const struct msg_plan *p)
{
    return (struct optim_config){.kind = (enum optim_kind)p->optim_kind, .weight_decay = p->weight_decay, .beta1 = p->beta1, .beta2 = p->beta2, .eps = p->eps,
                                 .momentum = p->momentum, .nesterov = p->nesterov, .state_momentum = p->state_momentum};
}

uint64_t ps_state_floats(const struct msg_plan *plan, const struct layout *l, uint32_t shard)
{
    struct optim_config optim = optim_of(plan);
    uint32_t first, count;
    uint64_t floats = 0;
    ps_shard_blocks(l, plan->shard_count, shard, &first, &count);
    for (uint32_t b = first; b < first + count; b++)
        floats += l->blocks[b].elems;
    return floats * (1 + optim_slots(&optim));
}

int ps_host_open(const struct ps_host_config *config, struct ps_host **out, struct err *err)
{
    const struct msg_plan *p = config->plan;
    struct ps_host *h = calloc(1, sizeof *h);
    if (!h)
        return err_set(err, ERR_NO_MEMORY, "no memory for shard %u", config->shard);
    h->config = *config;
    h->layout = &config->declaration->layout;
    h->optim = optim_of(p);
    h->slot_count = optim_slots(&h->optim);
    ps_shard_blocks(h->layout, p->shard_count, config->shard, &h->block_first, &h->block_count);
    struct shard_config core = {.slot = config->slot, .instance = config->instance, .shard = config->shard, .lanes = p->lanes, .deterministic = p->deterministic,
                                .block_count = h->block_count, .resend_ms = RESEND_MS};
    int rc = allocate(h, &core, err);
    if (rc < 0) {
        ps_host_close(h);
        return rc;
    }
    *out = h;
    return 0;
}

void ps_host_close(struct ps_host *h)
{
    if (!h)
        return;
    while (h->pulls) {
        struct pull *p = h->pulls;
        h->pulls = p->next;
        free(p);
    }
    while (h->waiting)
        free_snapshot(oldest_snapshot(h));
    pages_free(h->weights, bytes_of(h->floats + 16));
    pages_free(h->slots, bytes_of(h->floats * h->slot_count + 16));
    pages_free(h->sum_memory, bytes_of(h->floats + 16));
    pages_free(h->scratch, bytes_of(h->floats * LANE_DEPTH_MAX + 16));
    for (unsigned i = 0; i < NAMES_LIMIT; i++)
        pages_free(h->contribution[i], bytes_of(h->floats + 16));
    free(h->core);
    free(h->start);
    free(h->norms);
    free(h->out);
    free(h);
}
