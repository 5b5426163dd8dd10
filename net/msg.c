/* The codec: one function per struct names each field once, for both directions. A decoder checks counts and enumerations as it goes; after a bad
 * field everything reads as zero, so loops end, and msg_decode refuses the whole. */
#include <string.h>

#include "net/msg.h"

/* ---- fields ---- */
static void u8(struct codec *c, uint8_t *v) { if (c->w) put_u8(c->w, *v); else *v = get_u8(c->r); }
static void u16(struct codec *c, uint16_t *v) { if (c->w) put_u16(c->w, *v); else *v = get_u16(c->r); }
static void u32(struct codec *c, uint32_t *v) { if (c->w) put_u32(c->w, *v); else *v = get_u32(c->r); }
static void i32(struct codec *c, int32_t *v) { uint32_t u = (uint32_t)*v; u32(c, &u); *v = (int32_t)u; }
static void u64(struct codec *c, uint64_t *v) { if (c->w) put_u64(c->w, *v); else *v = get_u64(c->r); }
static void f32(struct codec *c, float *v) { if (c->w) put_f32(c->w, *v); else *v = get_f32(c->r); }
static void f64(struct codec *c, double *v) { if (c->w) put_f64(c->w, *v); else *v = get_f64(c->r); }

static void refuse(struct codec *c)
{
    if (c->r)
        c->r->bad = true;
    else
        c->w->bad = true;
}

static void flag(struct codec *c, bool *v)
{
    uint8_t b = *v;
    u8(c, &b);
    if (b > 1)
        refuse(c);
    *v = b == 1;
}

static void choice(struct codec *c, uint8_t *v, uint8_t max)
{
    u8(c, v);
    if (*v > max)
        refuse(c);
}

static void count8(struct codec *c, uint8_t *v, unsigned limit)
{
    u8(c, v);
    if (*v > limit) {
        refuse(c);
        *v = 0;
    }
}

static void count16(struct codec *c, uint16_t *v, unsigned limit)
{
    u16(c, v);
    if (*v > limit) {
        refuse(c);
        *v = 0;
    }
}

static void text(struct codec *c, char *s, size_t size)
{
    if (c->w)
        put_str(c->w, s);
    else
        get_str(c->r, s, size);
}

static void raw(struct codec *c, uint8_t *p, size_t n)
{
    if (c->w) {
        put_bytes(c->w, p, n);
    } else {
        const uint8_t *from = get_bytes(c->r, n);
        if (from)
            memcpy(p, from, n);
    }
}

/* ---- parts ---- */
static void process(struct codec *c, struct process_id *p)
{
    choice(c, &p->role, ROLE_JOIN);
    u8(c, &p->site);
    u16(c, &p->index);
    u32(c, &p->instance);
}

static void lanes(struct codec *c, struct lane_range *l)
{
    u16(c, &l->lo);
    u16(c, &l->hi);
    if (l->lo > l->hi || l->hi > LANES_MAX)
        refuse(c);
}

static void name(struct codec *c, struct name *n)
{
    lanes(c, &n->lanes);
    u32(c, &n->attempt);
}

static void totals(struct codec *c, struct totals *t)
{
    f64(c, &t->loss_sum);
    u64(c, &t->correct);
    u64(c, &t->samples);
    u64(c, &t->nonfinite);
}

static void cover(struct codec *c, uint16_t *count, struct name *names)
{
    count16(c, count, COVER_LIMIT);
    for (unsigned i = 0; i < *count; i++)
        name(c, &names[i]);
}

static void names(struct codec *c, uint16_t *count, struct name *list)
{
    count16(c, count, NAMES_LIMIT);
    for (unsigned i = 0; i < *count; i++)
        name(c, &list[i]);
}

void code_record(struct codec *c, struct record *r)
{
    u64(c, &r->round);
    u32(c, &r->generation);
    u32(c, &r->view);
    u32(c, &r->pass);
    u64(c, &r->first);
    u32(c, &r->count);
    f32(c, &r->lr);
    f32(c, &r->clip);
    f64(c, &r->norm);
    choice(c, &r->flags, RECORD_CHECKPOINT | RECORD_LAST | RECORD_MASKED);
    f32(c, &r->threshold);
    totals(c, &r->totals);
    cover(c, &r->cover_count, r->cover);
}

static void records(struct codec *c, uint8_t *count, struct record *list)
{
    count8(c, count, RECORDS_LIMIT);
    for (unsigned i = 0; i < *count; i++)
        code_record(c, &list[i]);
}

static void fence(struct codec *c, uint32_t *view, uint32_t *generation, uint8_t *shard)
{
    u32(c, view);
    u32(c, generation);
    count8(c, shard, SHARDS_LIMIT - 1);
}

void code_view(struct codec *c, struct view *v)
{
    u32(c, &v->number);
    u32(c, &v->generation);
    u64(c, &v->base);
    choice(c, &v->base_from, BASE_RAM);
    u32(c, &v->base_generation);
    u64(c, &v->log_position);
    count8(c, &v->shard_count, SHARDS_LIMIT);
    count8(c, &v->slot_count, SLOTS_LIMIT);
    count8(c, &v->site_count, SITES_LIMIT);
    for (unsigned s = 0; s < v->shard_count; s++) {
        count8(c, &v->shard[s].copy_count, COPIES_LIMIT);
        for (unsigned k = 0; k < v->shard[s].copy_count; k++) {
            count8(c, &v->shard[s].copy[k].slot, SLOTS_LIMIT - 1);
            choice(c, &v->shard[s].copy[k].role, COPY_COPYING);
        }
    }
    for (unsigned s = 0; s < v->slot_count; s++) {
        count8(c, &v->slot[s].site, SITES_LIMIT - 1);
        flag(c, &v->slot[s].up);
        u32(c, &v->slot[s].instance);
    }
    for (unsigned s = 0; s < v->site_count; s++) {
        lanes(c, &v->gang[s].lanes);
        u16(c, &v->gang[s].ranks);
        u32(c, &v->gang[s].incarnation);
        flag(c, &v->gang[s].wanted);
    }
}

/* ---- messages ---- */
void code_hello(struct codec *c, struct msg_hello *m)
{
    u16(c, &m->version_min);
    u16(c, &m->version_max);
    u64(c, &m->features);
    process(c, &m->who);
    text(c, m->job, sizeof m->job);
    text(c, m->build, sizeof m->build);
}

void code_join(struct codec *c, struct msg_join *m)
{
    process(c, &m->who);
    u64(c, &m->layout_hash);
    u64(c, &m->samples_per_pass);
    for (unsigned i = 0; i < 2; i++) {
        u64(c, &m->ram_version[i]);
        u32(c, &m->ram_generation[i]);
    }
    text(c, m->data_sha256, sizeof m->data_sha256);
    text(c, m->address_unix, sizeof m->address_unix);
    text(c, m->address_tls, sizeof m->address_tls);
    count16(c, &m->host, HOSTS_LIMIT - 1);
    count16(c, &m->alive_count, SLOTS_LIMIT + LANES_MAX);
    for (unsigned i = 0; i < m->alive_count; i++)
        process(c, &m->alive[i]);
}

static void phases(struct codec *c, struct phases *p)
{
    count8(c, &p->count, PHASES_MAX);
    for (unsigned i = 0; i < p->count; i++) {
        choice(c, &p->at[i].kind, PHASE_KINDS - 1);
        u64(c, &p->at[i].end);
    }
    f64(c, &p->sparsity);
}

void code_plan(struct codec *c, struct msg_plan *m)
{
    u64(c, &m->rounds);
    phases(c, &m->phases);
    u64(c, &m->samples_per_pass);
    u32(c, &m->batch);
    count16(c, &m->lanes, LANES_MAX);
    flag(c, &m->deterministic);
    u64(c, &m->seed);
    u32(c, &m->checkpoint_every);
    u32(c, &m->ram_every);
    count8(c, &m->shard_count, SHARDS_LIMIT);
    count8(c, &m->slot_count, SLOTS_LIMIT);
    count8(c, &m->site_count, SITES_LIMIT);
    flag(c, &m->embedded);
    for (unsigned i = 0; i < m->slot_count; i++)
        count8(c, &m->slot_site[i], SITES_LIMIT - 1);
    for (unsigned i = 0; i < m->site_count; i++)
        text(c, m->site_name[i], sizeof m->site_name[i]);
    u8(c, &m->optim_kind);
    f32(c, &m->weight_decay);
    f32(c, &m->beta1);
    f32(c, &m->beta2);
    f32(c, &m->eps);
    f32(c, &m->momentum);
    f32(c, &m->state_momentum);
    flag(c, &m->nesterov);
    f64(c, &m->clip);
    u64(c, &m->layout_hash);
}

void code_msg_view(struct codec *c, struct msg_view *m)
{
    code_view(c, &m->view);
    for (unsigned i = 0; i < m->view.slot_count; i++) {
        text(c, m->address_unix[i], sizeof m->address_unix[i]);
        text(c, m->address_tls[i], sizeof m->address_tls[i]);
    }
}

void code_contribute(struct codec *c, struct msg_contribute *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->round);
    name(c, &m->name);
    totals(c, &m->totals);
    u32(c, &m->block_first);
    u32(c, &m->block_count);
}

void code_replicate(struct codec *c, struct msg_replicate *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    u64(c, &m->stable);
    u64(c, &m->synced);
    names(c, &m->name_count, m->name);
    for (unsigned i = 0; i < m->name_count; i++)
        totals(c, &m->totals[i]);
    u64(c, &m->with_data[0]);
    u64(c, &m->with_data[1]);
    u32(c, &m->block_first);
    u32(c, &m->block_count);
    records(c, &m->record_count, m->record);
}

void code_block(struct codec *c, struct msg_block *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    u32(c, &m->block);
}

void code_ack(struct codec *c, struct msg_ack *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    u64(c, &m->records);
    flag(c, &m->complete);
    names(c, &m->name_count, m->name);
}

void code_prepared(struct codec *c, struct msg_prepared *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    names(c, &m->name_count, m->name);
    cover(c, &m->cover_count, m->cover);
    totals(c, &m->totals);
    u64(c, &m->nonfinite);
    u32(c, &m->nonfinite_block);
    u32(c, &m->norm_count);
    u32(c, &m->bin_count);
    u8(c, &m->complete_mask);
    records(c, &m->record_count, m->record);
}

void code_sum(struct codec *c, struct msg_sum *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    cover(c, &m->cover_count, m->cover);
}

void code_commit(struct codec *c, struct msg_commit *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->synced);
    records(c, &m->record_count, m->record);
}

void code_pull(struct codec *c, struct msg_pull *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u64(c, &m->version);
    u32(c, &m->block_first);
    u32(c, &m->block_count);
}

void code_pullreply(struct codec *c, struct msg_pullreply *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    choice(c, &m->status, PULL_NEED_SEED);
    u64(c, &m->version);
    code_record(c, &m->record);
    u32(c, &m->block_first);
    u32(c, &m->block_count);
}

void code_seed(struct codec *c, struct msg_seed *m)
{
    fence(c, &m->view, &m->generation, &m->shard);
    u32(c, &m->block_first);
    u32(c, &m->block_count);
}

void code_part(struct codec *c, struct msg_part *m)
{
    count8(c, &m->site, SITES_LIMIT - 1);
    count8(c, &m->shard, SHARDS_LIMIT - 1);
    u32(c, &m->generation);
    u64(c, &m->step);
    u64(c, &m->size_bytes);
    raw(c, m->sha256, sizeof m->sha256);
    u64(c, &m->record_round);
}

void code_manifest(struct codec *c, struct msg_manifest *m)
{
    u32(c, &m->generation);
    u64(c, &m->step);
    u64(c, &m->site_mask);
}

void code_published(struct codec *c, struct msg_published *m)
{
    count8(c, &m->site, SITES_LIMIT - 1);
    u32(c, &m->generation);
    u64(c, &m->step);
    flag(c, &m->ok);
    text(c, m->text, sizeof m->text);
}

void code_exited(struct codec *c, struct msg_exited *m)
{
    process(c, &m->who);
    i32(c, &m->code);
    i32(c, &m->signal);
    text(c, m->text, sizeof m->text);
}

void code_launch(struct codec *c, struct msg_launch *m)
{
    choice(c, &m->what, LAUNCH_EXPORT);
    u32(c, &m->attempt);
    u64(c, &m->step);
    u32(c, &m->generation);
}

void code_stop(struct codec *c, struct msg_stop *m) { choice(c, &m->why, STOP_DRAINED); }

void code_failed(struct codec *c, struct msg_failed *m)
{
    process(c, &m->who);
    i32(c, &m->code);
    u64(c, &m->step);
    text(c, m->text, sizeof m->text);
}

void code_heartbeat(struct codec *c, struct msg_heartbeat *m)
{
    process(c, &m->who);
    u64(c, &m->version);
    u64(c, &m->wan_sent_bytes);
}

void code_leave(struct codec *c, struct msg_leave *m) { process(c, &m->who); }
void code_status(struct codec *c, struct msg_status *m) { u8(c, &m->what); }
void code_statusreply(struct codec *c, struct msg_statusreply *m) { u8(c, &m->phase); }

void code_enrol(struct codec *c, struct msg_enrol *m)
{
    text(c, m->site, sizeof m->site);
    text(c, m->secret, sizeof m->secret);
}

void code_enrolled(struct codec *c, struct msg_enrolled *m) { text(c, m->name, sizeof m->name); }
void code_drain(struct codec *c, struct msg_drain *m) { u8(c, &m->site); }
void code_brings(struct codec *c, struct msg_brings *m) { count16(c, &m->ranks, LANES_MAX); }

void code_gang(struct codec *c, struct msg_gang *m)
{
    count8(c, &m->site, SITES_LIMIT - 1);
    u32(c, &m->incarnation);
    count16(c, &m->rank_count, LANES_MAX);
    for (unsigned i = 0; i < m->rank_count; i++) {
        count16(c, &m->host[i], HOSTS_LIMIT - 1);
        text(c, m->address_tls[i], sizeof m->address_tls[i]);
    }
}

void code_insite(struct codec *c, struct msg_insite *m)
{
    count8(c, &m->site, SITES_LIMIT - 1);
    u32(c, &m->incarnation);
    u32(c, &m->turn);
    u64(c, &m->round);
    choice(c, &m->kind, INSITE_VALUE);
    u64(c, &m->first);
    u32(c, &m->count);
    if (m->count > INSITE_LIMIT)
        refuse(c);
    u64(c, &m->value);
}

void code_times(struct codec *c, struct msg_times *m)
{
    u32(c, &m->generation);
    count8(c, &m->count, TIMES_LIMIT);
    for (unsigned i = 0; i < m->count; i++) {
        u64(c, &m->step[i].round);
        for (unsigned k = 0; k < TIME_PARTS; k++)
            f32(c, &m->step[i].seconds[k]);
    }
}

void code_ready(struct codec *c, struct msg_ready *m) { process(c, &m->who); }
void code_warm(struct codec *c, struct msg_warm *m) { u32(c, &m->back); }

/* ---- dispatch ---- */
typedef void (*code_fn)(struct codec *c, void *m);
/* Each row's shim gives the typed function the table's signature. */
#define ROWS(X)                                                                                                                                      \
    X(MSG_HELLO, hello) X(MSG_JOIN, join) X(MSG_PLAN, plan) X(MSG_HEARTBEAT, heartbeat) X(MSG_LEAVE, leave) X(MSG_CONTRIBUTE, contribute)            \
    X(MSG_REPLICATE, replicate) X(MSG_BLOCK, block) X(MSG_ACK, ack) X(MSG_PREPARED, prepared) X(MSG_SUM, sum) X(MSG_COMMIT, commit)                  \
    X(MSG_PULL, pull) X(MSG_PULLREPLY, pullreply) X(MSG_SEED, seed) X(MSG_PART, part) X(MSG_MANIFEST, manifest) X(MSG_PUBLISHED, published)          \
    X(MSG_EXITED, exited) X(MSG_LAUNCH, launch) X(MSG_STOP, stop) X(MSG_FAILED, failed) X(MSG_STATUS, status) X(MSG_STATUSREPLY, statusreply)                   \
    X(MSG_ENROL, enrol) X(MSG_ENROLLED, enrolled) X(MSG_DRAIN, drain) X(MSG_GANG, gang) X(MSG_INSITE, insite) X(MSG_TIMES, times)                                 \
    X(MSG_BRINGS, brings) X(MSG_READY, ready) X(MSG_WARM, warm)
#define SHIM(type, word) static void any_##word(struct codec *c, void *m) { code_##word(c, m); }
ROWS(SHIM)
static void any_view(struct codec *c, void *m) { code_msg_view(c, m); }

struct row { const char *name; size_t size; code_fn code; };
#define ROW(type, word) [type] = {#word, sizeof(struct msg_##word), any_##word},
static const struct row rows[MSG_TYPES] = {ROWS(ROW)[MSG_VIEW] = {"view", sizeof(struct msg_view), any_view}};

static const struct row *row_of(enum msg_type type)
{
    return (unsigned)type < MSG_TYPES && rows[type].code ? &rows[type] : NULL;
}

const char *msg_type_name(enum msg_type type)
{
    const struct row *r = row_of(type);
    return r ? r->name : "unknown";
}

size_t msg_struct_size(enum msg_type type)
{
    const struct row *r = row_of(type);
    return r ? r->size : 0;
}

bool msg_encode(enum msg_type type, const void *m, struct writer *w)
{
    const struct row *r = row_of(type);
    struct codec c = {.w = w};
    if (!r)
        return false;
    r->code(&c, (void *)(uintptr_t)m);   /* a writing codec changes nothing */
    return !w->bad;
}

bool msg_decode(enum msg_type type, struct reader *reader, void *m)
{
    const struct row *r = row_of(type);
    struct codec c = {.r = reader};
    if (!r)
        return false;
    memset(m, 0, r->size);
    r->code(&c, m);
    return reader_done(reader);
}
