/* One copy of one shard: the core decides (shard.h), this file holds the blocks and does it. Blocks of the shard lie one after the other without
 * padding, so a contribution, a pull and a sum are one run of floats each. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "ps/host_private.h"
#include "ps/rules.h"

#define RESEND_MS 2000

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

void host_fail(struct ps_host *h, int code, const char *text)
{
    h->config.fail(h->config.arg, code, ps_host_version(h), text);
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
    host_snapshot(h);
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

static void send_replicate(struct ps_host *h, const struct shard_action *a)
{
    struct msg_replicate m = a->u.replicate;
    if (!m.with_data[0] && !m.with_data[1]) {
        h->config.send(h->config.arg, a->slot, MSG_REPLICATE, &m, NULL, 0);
        return;
    }
    uint32_t at = 0, most = h->config.blocks_at_once ? h->config.blocks_at_once : PS_BLOCKS_AT_ONCE;
    do {
        m.block_first = at;
        m.block_count = MIN(h->block_count - at, most);
        struct bytes data = {h->contribution[a->name_index[0]] + h->start[at], bytes_of(h->start[at + m.block_count] - h->start[at])};
        h->config.send(h->config.arg, a->slot, MSG_REPLICATE, &m, &data, data.size > 0);
        at += m.block_count;
    } while (at < h->block_count);
}

static void act(struct ps_host *h, const struct shard_action *a)
{
    switch (a->kind) {
    case SHARD_LOAD_BASE:
        host_load_base(h, a->version);
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
        send_replicate(h, a);
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
        host_fail(h, ERR_JOB, a->u.text);
        break;
    }
}

void host_run(struct ps_host *h)
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
        host_fail(h, ERR_NO_MEMORY, err.text);
        return;
    }
    if (size)
        memcpy(h->contribution[index] + h->start[m->block_first], payload, size);
    failpoint(FAIL_PS_STORE);
    shard_stored(h->core, now(h), index, m->block_first, m->block_count, h->out);
    host_run(h);
}

static void on_replicate(struct ps_host *h, uint8_t slot, uint32_t instance, const struct msg_replicate *m, const uint8_t *payload, size_t size)
{
    uint16_t index[NAMES_LIMIT];
    struct err err = ERR_INIT;
    unsigned with_data = (unsigned)(__builtin_popcountll(m->with_data[0]) + __builtin_popcountll(m->with_data[1]));
    if (with_data > 1 || !sound(h, m->block_first, with_data ? m->block_count : 0, size)) {
        log_warn(h->config.log, "slot %u sent %zu bytes of shard %u, which are not its %u blocks: left out", slot, size, h->config.shard, m->block_count);
        return;
    }
    if (shard_on_replicate(h->core, slot, instance, m, index) != SHARD_STORE)
        return;
    for (unsigned n = 0; n < m->name_count; n++) {
        if (!(m->with_data[n / 64] >> (n % 64) & 1) || index[n] == UINT16_MAX)
            continue;
        if (!store_at(h, index[n], &err)) {
            host_fail(h, ERR_NO_MEMORY, err.text);
            return;
        }
        if (size)
            memcpy(h->contribution[index[n]] + h->start[m->block_first], payload, size);
    }
    shard_replicated(h->core, now(h), slot, m, index, h->out);
    host_run(h);
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
    host_run(h);
}

static void on_seed(struct ps_host *h, const struct msg_seed *m, const uint8_t *payload, size_t size)
{
    if (!sound(h, m->block_first, m->block_count, size) || shard_on_seed(h->core, m) != SHARD_STORE)
        return;
    if (size)
        memcpy(h->weights + h->start[m->block_first], payload, size);
    shard_seeded(h->core, now(h), m->block_first, m->block_count, h->out);
    host_run(h);
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
    case MSG_ACK: shard_on_ack(h->core, now(h), from_slot, from_instance, m, h->out); host_run(h); break;
    case MSG_SUM: shard_on_sum(h->core, now(h), m, h->out); host_run(h); break;
    case MSG_COMMIT: shard_on_commit(h->core, now(h), m, h->out); host_run(h); break;
    default: break;
    }
}

void ps_host_view(struct ps_host *h, const struct view *view)
{
    h->view = *view;
    shard_on_view(h->core, now(h), view, h->out);
    host_run(h);
}

void ps_host_linked(struct ps_host *h, uint8_t slot)
{
    shard_on_link(h->core, now(h), slot, h->out);
    host_run(h);
}

void ps_host_busy(struct ps_host *h, uint8_t slot) { shard_on_busy(h->core, now(h), slot); }

void ps_host_tick(struct ps_host *h)
{
    shard_on_tick(h->core, now(h), h->out);
    host_run(h);
}

uint64_t ps_host_version(const struct ps_host *h) { return shard_version(h->core); }

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
    host_drop_snapshots(h);
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
