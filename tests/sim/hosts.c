/* Shells around shard cores: in ps processes, and in the ranks of an embedded gang. What ps/host.c does with floats happens here with hashes. */
#include "tests/sim/sim.h"

#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "base/magnitude.h"

static unsigned block_count(const struct world *w, const struct host *h) { return w->k.shard_blocks[h->shard]; }
static unsigned block_first(const struct world *w, const struct host *h) { return w->k.shard_first[h->shard]; }

void host_free(struct host *h)
{
    free(h->core);
    free(h);
}

static void host_make(struct world *w, struct proc *p, uint8_t shard, uint8_t slot)
{
    struct host *h = calloc(1, sizeof *h);
    CHECK(h);
    h->shard = shard;
    h->slot = slot;
    struct shard_config config = {.slot = slot, .instance = p->instance, .shard = shard, .lanes = (uint16_t)w->k.lanes, .deterministic = w->k.deterministic,
                                  .block_count = w->k.shard_blocks[shard], .resend_ms = w->k.resend_ms};
    void *memory = malloc(shard_size(&config));
    CHECK(memory);
    h->core = shard_init(memory, &config);
    p->host[p->host_count++] = h;
}

void hosts_make(struct world *w, struct proc *p)
{
    if (p->host_count)
        return;
    if (p->kind == ROLE_PS)
        for (unsigned s = 0; s < w->k.shards; s++)
            host_make(w, p, (uint8_t)s, (uint8_t)p->index);
    else if (w->k.embedded)
        for (unsigned s = 0; s < w->k.shards; s++)
            host_make(w, p, (uint8_t)s, (uint8_t)s);
}

/* ---- actions ---- */
static int slot_pid(struct world *w, const struct proc *p, uint8_t slot)
{
    struct proc *q = proc_find(w, ROLE_PS, p->view.slot[slot].site, slot, p->view.slot[slot].instance);
    return q ? q->pid : 0;
}

static void apply(struct world *w, struct host *h, const struct shard_action *a)
{
    const struct record *r = &a->u.record;
    uint64_t sum[SIM_BLOCKS] = {0};
    for (unsigned i = 0; i < r->cover_count; i++)
        for (unsigned b = 0; b < block_count(w, h); b++)
            sum[b] += h->data[a->name_index[i]][b];
    for (unsigned b = 0; b < block_count(w, h); b++)
        h->w[b] = truth_mix(block_first(w, h) + b, h->w[b], sum[b], r);
    if (!h->node)
        return;
    h->node = truth_child(w, h->node, r);
    if (shard_state(h->core) != SHARD_SERVING)
        return;
    for (unsigned b = 0; b < block_count(w, h); b++)
        if (h->w[b] != h->node->w[block_first(w, h) + b])
            violate(w, "S1/S2: applying round %lu made other bits of block %u of shard %u than its record says", r->round, b, h->shard);
}

static void answer_pulls(struct world *w, struct proc *p, struct host *h)
{
    bool any;
    uint64_t version = shard_published(h->core, &any);
    bool seed = shard_needs_seed(h->core);
    for (unsigned i = 0; i < SIM_PULLS; i++) {
        struct pull *q = &h->pull[i];
        if (!q->used)
            continue;
        if (q->m.view != shard_view(h->core) || q->m.generation != shard_generation(h->core)) {
            q->used = q->m.view > shard_view(h->core);      /* one from a view that is still on its way here waits */
            continue;
        }
        if (!seed && (!any || version < q->m.version))
            continue;
        struct msg_pullreply m = {.view = q->m.view, .generation = q->m.generation, .shard = h->shard, .status = seed ? PULL_NEED_SEED : PULL_OK, .version = version,
                                  .block_first = q->m.block_first, .block_count = q->m.block_count};
        const struct record *made = seed || version == 0 ? NULL : shard_record(h->core, version - 1);
        if (made)
            m.record = *made;
        else
            m.record.round = UINT64_MAX;
        struct payload payload = {.node = h->node, .count = q->m.block_count};
        memcpy(payload.v, h->w + q->m.block_first, q->m.block_count * sizeof payload.v[0]);
        q->used = false;
        send_to(w, p, q->rank, h->slot, q->from_pid, MSG_PULLREPLY, &m, &payload);
        if (!p->alive)
            return;
    }
}

static void save_ram(struct world *w, struct proc *p, struct host *h)
{
    if (!w->k.embedded)
        return;
    unsigned turn = shard_version(h->core) % 2;
    w->site[p->site].ram[h->slot][turn].have = true;
    w->site[p->site].ram[h->slot][turn].version = shard_version(h->core);
    w->site[p->site].ram[h->slot][turn].generation = shard_generation(h->core);
    w->site[p->site].ram[h->slot][turn].node = h->node;
}

static void snapshot(struct world *w, struct proc *p, struct host *h)
{
    uint64_t v = shard_version(h->core);
    const struct record *r = v ? shard_record(h->core, v - 1) : NULL;
    if (!r || !(r->flags & RECORD_CHECKPOINT) || p->part_count >= SIM_PARTS)
        return;
    struct msg_part *m = &p->part[p->part_count];
    uint64_t d = 3;
    for (unsigned b = 0; b < block_count(w, h); b++)
        d = hash2(d, h->w[b]);
    *m = (struct msg_part){.site = p->site, .shard = h->shard, .generation = shard_generation(h->core), .step = v, .size_bytes = block_count(w, h) * 8, .record_round = v - 1};
    memcpy(m->sha256, &d, sizeof d);
    /* Its file is there after a while: c holds the place in the list, marked unwritten until then. */
    m->record_round |= 1ull << 63;
    at(w, 1000 + chance(w, 200000), EV_PART, p->pid, p->part_count++, 0, 0);
}

void host_part(struct world *w, struct proc *p, uint64_t index)
{
    struct msg_part *m = &p->part[index];
    m->record_round &= ~(1ull << 63);
    struct site *s = &w->site[p->site];
    struct disk_part *d = &s->disk[s->disk_next++ % SIM_PARTS];
    d->used = true;
    d->part = *m;
    if (p->linked_to)
        send_to(w, p, 0, (uint8_t)p->index, p->linked_to, MSG_PART, m, NULL);
}

static void load_base(struct world *w, struct proc *p, unsigned index, uint64_t version)
{
    if (p->view.base_from == BASE_SEED)
        return;
    at(w, 1000 + chance(w, 100000), EV_LOADED, p->pid, index, version, p->view.number);
}

static bool act(struct world *w, struct proc *p, unsigned index, const struct shard_action *a)
{
    struct host *h = p->host[index];
    if (!h->node && block_count(w, h) == 0 && a->kind != SHARD_LOAD_BASE && shard_version(h->core) == (a->kind == SHARD_APPLY))
        h->node = w->root;                               /* an empty copy of version 0 needs no block to be complete */
    switch (a->kind) {
    case SHARD_LOAD_BASE:
        h->node = p->view.base_from == BASE_SEED && block_count(w, h) == 0 ? w->root : NULL;
        load_base(w, p, index, a->version);
        break;
    case SHARD_APPLY:
        apply(w, h, a);
        break;
    case SHARD_DROP:
        break;
    case SHARD_PUBLISH:
        truth_published(w, h);
        save_ram(w, p, h);
        snapshot(w, p, h);
        answer_pulls(w, p, h);
        break;
    case SHARD_SEND_REPLICATE: {
        struct payload payload = {.node = h->node};
        struct msg_replicate m = a->u.replicate;
        unsigned blocks = block_count(w, h), at = 0;
        do {                                             /* in pieces, as the shell sends what is large */
            if (m.name_count) {
                m.block_first = at;
                m.block_count = payload.count = odds(w, 500) ? blocks - at : (blocks - at + 1) / 2;
                memcpy(payload.v, &h->data[a->name_index[0]][at], payload.count * sizeof payload.v[0]);
            }
            send_to(w, p, 0, h->slot, slot_pid(w, p, a->slot), MSG_REPLICATE, &m, &payload);
            at += m.block_count;
        } while (p->alive && at < blocks && m.name_count);
        break;
    }
    case SHARD_SEND_ACK:
        send_to(w, p, 0, h->slot, slot_pid(w, p, a->slot), MSG_ACK, &a->u.ack, NULL);
        break;
    case SHARD_SEND_BLOCK: {
        struct msg_block m = {.view = shard_view(h->core), .generation = shard_generation(h->core), .shard = h->shard, .version = a->version, .block = a->block};
        struct payload payload = {.node = h->node, .count = 1, .v = {h->w[a->block]}};
        if (a->version != shard_version(h->core))
            violate(w, "shell: a block is sent as version %lu when memory holds %lu", a->version, shard_version(h->core));
        send_to(w, p, 0, h->slot, slot_pid(w, p, a->slot), MSG_BLOCK, &m, &payload);
        break;
    }
    case SHARD_SEND_PREPARED: {
        struct msg_prepared m = a->u.prepared;
        struct payload payload = {.count = m.cover_count ? block_count(w, h) : 0};
        for (unsigned b = 0; b < payload.count; b++) {
            uint64_t sum = 0;
            for (unsigned i = 0; i < m.cover_count; i++)
                sum += h->data[a->name_index[i]][b];
            double norm2 = truth_norm2(sum);
            memcpy(&payload.v[b], &norm2, sizeof norm2);
        }
        m.norm_count = payload.count;
        struct phases phases = truth_phases(w);
        m.bin_count = m.cover_count && phases_ramp(&phases, m.version) > 0 ? MAGNITUDE_BINS : 0;
        for (unsigned b = 0; m.bin_count && b < block_count(w, h); b++)
            if (truth_prunable(block_first(w, h) + b))
                payload.weight[payload.weight_count++] = truth_weight(h->w[b]);
        if (p->linked_to)
            send_to(w, p, h->slot, h->slot, p->linked_to, MSG_PREPARED, &m, &payload);
        break;
    }
    case SHARD_FAIL:
        violate(w, "%s", a->u.text);
        break;
    }
    return p->alive;
}

static void run(struct world *w, struct proc *p, unsigned index)
{
    struct host *h = p->host[index];
    for (unsigned i = 0; i < w->shard_out->count; i++) {
        if (!act(w, p, index, &w->shard_out->action[i]))
            return;
        if (w->fuse && w->fuse_kind == (p->kind == ROLE_PS ? FAULT_PS : FAULT_GANG) && --w->fuse == 0) {
            proc_kill(w, p, "in the middle of its actions");
            return;
        }
    }
    if (h->node && h->node->version != shard_version(h->core))
        h->node = NULL;                                  /* a copying copy skipped ahead */
    answer_pulls(w, p, h);
}

/* ---- events ---- */
void hosts_view(struct world *w, struct proc *p)
{
    for (unsigned i = 0; p->alive && i < p->host_count; i++) {
        shard_on_view(p->host[i]->core, w->now_us / 1000, &p->view, w->shard_out);
        if (shard_state(p->host[i]->core) == SHARD_NONE)
            p->host[i]->node = NULL;
        for (unsigned k = 0; k < w->shard_out->count; k++)
            if (w->shard_out->action[k].kind == SHARD_DROP)
                p->host[i]->node = NULL;                 /* blank again */
        run(w, p, i);
    }
}

void hosts_tick(struct world *w, struct proc *p)
{
    for (unsigned i = 0; p->alive && i < p->host_count; i++) {
        shard_on_tick(p->host[i]->core, w->now_us / 1000, w->shard_out);
        run(w, p, i);
    }
}

void hosts_link(struct world *w, struct proc *p, uint8_t slot)
{
    for (unsigned i = 0; p->alive && i < p->host_count; i++) {
        shard_on_link(p->host[i]->core, w->now_us / 1000, slot, w->shard_out);
        run(w, p, i);
    }
}

void host_loaded(struct world *w, struct proc *p, unsigned index, uint64_t version, uint64_t view)
{
    if (index >= p->host_count)
        return;
    struct host *h = p->host[index];
    uint32_t generation = shard_generation(h->core);
    if (shard_state(h->core) != SHARD_LOADING)
        return;
    (void)view;
    struct node *n = truth_base(w, generation);
    if (!n || n->version != version)
        return;                                          /* a base of an older generation */
    h->node = n;
    memcpy(h->w, n->w + block_first(w, h), block_count(w, h) * sizeof h->w[0]);
    shard_loaded(h->core, w->now_us / 1000, version, w->shard_out);
    run(w, p, index);
}

static int host_index(const struct proc *p, uint8_t shard)
{
    for (unsigned i = 0; i < p->host_count; i++)
        if (p->host[i]->shard == shard)
            return (int)i;
    return -1;
}

static void on_contribute(struct world *w, struct proc *p, unsigned i, const struct packet *packet, const struct msg_contribute *m)
{
    struct host *h = p->host[i];
    uint16_t index;
    enum shard_verdict verdict = shard_on_contribute(h->core, m, &index);
    if (verdict == SHARD_STALE && shard_needs_seed(h->core) && m->view == shard_view(h->core)) {
        struct msg_pullreply reply = {.view = m->view, .generation = m->generation, .shard = h->shard, .status = PULL_NEED_SEED, .block_first = m->block_first,
                                      .block_count = m->block_count};
        reply.record.round = UINT64_MAX;
        send_to(w, p, packet->rank, h->slot, packet->from, MSG_PULLREPLY, &reply, NULL);
    }
    if (verdict != SHARD_STORE)
        return;
    memcpy(&h->data[index][m->block_first], packet->payload.v, m->block_count * sizeof(uint64_t));
    shard_stored(h->core, w->now_us / 1000, index, m->block_first, m->block_count, w->shard_out);
    run(w, p, i);
}

static void on_replicate(struct world *w, struct proc *p, unsigned i, const struct packet *packet, const struct msg_replicate *m)
{
    struct host *h = p->host[i];
    uint16_t index[NAMES_LIMIT];
    if (shard_on_replicate(h->core, packet->from_slot, packet->from_instance, m, index) != SHARD_STORE)
        return;
    for (unsigned n = 0; n < m->name_count; n++)
        if (index[n] != UINT16_MAX)
            memcpy(&h->data[index[n]][m->block_first], packet->payload.v, m->block_count * sizeof packet->payload.v[0]);
    shard_replicated(h->core, w->now_us / 1000, packet->from_slot, m, index, w->shard_out);
    run(w, p, i);
    if (p->alive && block_count(w, h) == 0 && shard_state(h->core) == SHARD_COPYING && shard_version(h->core) == m->version)
        h->node = packet->payload.node;                  /* no block will ever tell */
}

static void on_block(struct world *w, struct proc *p, unsigned i, const struct packet *packet, const struct msg_block *m)
{
    struct host *h = p->host[i];
    enum shard_verdict v = shard_on_block(h->core, packet->from_slot, packet->from_instance, m);
    if (v == SHARD_STORE) {
        if (h->node && h->node != packet->payload.node)
            violate(w, "S2: a copy of shard %u mixes blocks of two histories", h->shard);
        h->node = packet->payload.node;
        h->w[m->block] = packet->payload.v[0];
        if (shard_state(h->core) == SHARD_LOADING && packet->payload.node != w->root)
            violate(w, "S2: a copy of shard %u that waits for seeds got another version", h->shard);
    } else if (v != SHARD_DUPLICATE) {
        return;
    }
    shard_block_stored(h->core, w->now_us / 1000, m->block, w->shard_out);
    run(w, p, i);
}

static void on_seed(struct world *w, struct proc *p, unsigned i, const struct packet *packet, const struct msg_seed *m)
{
    struct host *h = p->host[i];
    if (shard_on_seed(h->core, m) != SHARD_STORE)
        return;
    memcpy(h->w + m->block_first, packet->payload.v, m->block_count * sizeof(uint64_t));
    shard_seeded(h->core, w->now_us / 1000, m->block_first, m->block_count, w->shard_out);
    if (!shard_needs_seed(h->core))
        h->node = w->root;
    run(w, p, i);
}

static void on_pull(struct world *w, struct proc *p, unsigned i, const struct packet *packet, const struct msg_pull *m)
{
    struct host *h = p->host[i];
    struct pull *place = NULL;
    for (unsigned k = 0; k < SIM_PULLS; k++) {
        struct pull *q = &h->pull[k];
        if (q->used && q->from_pid == packet->from && q->rank == packet->rank) {
            place = q;
            break;
        }
        if (!q->used && !place)
            place = q;
    }
    if (!place)
        return;
    *place = (struct pull){.used = true, .from_pid = packet->from, .rank = packet->rank, .m = *m};
    answer_pulls(w, p, h);
}

void host_packet(struct world *w, struct proc *p, const struct packet *packet, const struct msg_any *m)
{
    uint64_t now_ms = w->now_us / 1000;
    uint8_t shard;
    switch (packet->type) {
    case MSG_CONTRIBUTE: shard = m->u.contribute.shard; break;
    case MSG_REPLICATE: shard = m->u.replicate.shard; break;
    case MSG_BLOCK: shard = m->u.block.shard; break;
    case MSG_ACK: shard = m->u.ack.shard; break;
    case MSG_SUM: shard = m->u.sum.shard; break;
    case MSG_COMMIT: shard = m->u.commit.shard; break;
    case MSG_PULL: shard = m->u.pull.shard; break;
    case MSG_SEED: shard = m->u.seed.shard; break;
    default: return;
    }
    int i = host_index(p, shard);
    if (i < 0)
        return;
    struct shard *core = p->host[i]->core;
    switch (packet->type) {
    case MSG_CONTRIBUTE: on_contribute(w, p, (unsigned)i, packet, &m->u.contribute); break;
    case MSG_REPLICATE: on_replicate(w, p, (unsigned)i, packet, &m->u.replicate); break;
    case MSG_BLOCK: on_block(w, p, (unsigned)i, packet, &m->u.block); break;
    case MSG_SEED: on_seed(w, p, (unsigned)i, packet, &m->u.seed); break;
    case MSG_PULL: on_pull(w, p, (unsigned)i, packet, &m->u.pull); break;
    case MSG_ACK: shard_on_ack(core, now_ms, packet->from_slot, packet->from_instance, &m->u.ack, w->shard_out); run(w, p, (unsigned)i); break;
    case MSG_SUM: shard_on_sum(core, now_ms, &m->u.sum, w->shard_out); run(w, p, (unsigned)i); break;
    case MSG_COMMIT: shard_on_commit(core, now_ms, &m->u.commit, w->shard_out); run(w, p, (unsigned)i); break;
    default: break;
    }
}
