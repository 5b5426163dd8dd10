/* What arrives from ranks on other hosts, and how a gang ends: mostly the port's thread. */
#include "collectives/tcp.h"

#include <stdio.h>
#include <string.h>

#include "base/base.h"

const struct operation_text tcp_operations[OPERATIONS] = {
    {"opening", INSITE_OPEN, NO_BODY}, {"sums", INSITE_TOTALS, INSITE_SUMS}, {"weights", INSITE_READY, INSITE_WEIGHTS}, {"agreement", INSITE_VALUE, NO_BODY}};

/* ---- names ---- */
void tcp_rank_text(const void *tcp, unsigned rank, char out[256])
{
    const struct msg_gang *where = ((const struct tcp *)tcp)->c->cfg.where;
    snprintf(out, 256, "rank %u (host %u, %s)", rank, where->host[rank], where->address_tls[rank]);
}

/* ---- the end ---- */
int tcp_give_up(struct tcp *t, const char *why, struct err *err)
{
    segment_abort(&t->segment, why);
    segment_given_up(&t->segment, err);
    pthread_mutex_lock(&t->lock);
    bool tell = t->attached && !t->told;
    t->told = true;
    pthread_cond_broadcast(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (tell)
        port_tell(t->c->cfg.port, err->text);
    return err->code;
}

static void end_gang(struct tcp *t, const char *why)
{
    struct err unused = ERR_INIT;
    tcp_give_up(t, why, &unused);
}

/* ---- what is due ---- */
static uint64_t elems_due(const struct tcp *t, enum operation op, unsigned from)
{
    if (op == OP_REDUCE)
        return hosts_sums(&t->hosts, t->run, from, t->c->cfg.rank).count;
    return op == OP_GATHER ? hosts_weights(&t->hosts, t->run, from, t->c->cfg.rank).count : 0;
}

bool tcp_all_of(const struct tcp *t, unsigned from)
{
    const struct incoming *in = &t->in[(t->begun - 1) & 1][from];
    bool heard = in->head || (t->op != OP_OPEN && !hosts_hears(&t->hosts, from, t->c->cfg.rank));
    return heard && in->elems == elems_due(t, t->op, from);
}

/* ---- what arrives: the port's thread ---- */
static enum operation operation_of(uint8_t kind)
{
    enum operation op = OP_OPEN;
    while (tcp_operations[op].head != kind && tcp_operations[op].body != kind)
        op++;
    return op;
}

/* Locked. */
static const char *refuse(struct tcp *t, unsigned rank, const struct msg_insite *m)
{
    uint64_t first = t->busy ? t->begun - 1 : t->begun;
    struct incoming *in = &t->in[m->round & 1][rank];
    enum operation op = operation_of(m->kind);
    bool head = m->kind == tcp_operations[op].head;
    if (m->round < first || m->round > t->begun)
        return "a message of a round that is over, or far ahead";
    if ((in->any && in->op != op) || (m->round < t->begun && t->op != op))
        return "a message of another operation than this rank is in";
    if (m->round == t->begun && t->busy && op == OP_REDUCE && t->op == OP_REDUCE)
        return "sums where an agreement was due";
    if (head && (in->head || (op != OP_OPEN && !hosts_hears(&t->hosts, rank, t->c->cfg.rank))))
        return "a message twice";
    if (op == OP_OPEN && m->value != t->shape)
        return "it has other lanes, another model or other hosts than this rank";
    in->any = true;
    in->op = op;
    return NULL;
}

static const char *take_head(struct tcp *t, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    struct segment_head *h = t->segment.head;
    struct lane_range lanes = coll_lanes_of(&t->c->cfg, rank);
    size_t due = m->kind == INSITE_TOTALS ? (size_t)(lanes.hi - lanes.lo) * sizeof(struct lane_totals) : 0;
    if (size != due || (m->kind == INSITE_TOTALS && m->first != lanes.lo))
        return "totals of other lanes";
    if (due > 0)
        memcpy(&h->totals[m->round & 1][lanes.lo], payload, due);
    if (m->kind == INSITE_VALUE)
        h->exchange[m->round & 1][rank] = m->value;
    return NULL;
}

/* Chunks come in order, so that none is counted twice. */
static const char *take_body(struct tcp *t, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    bool sums = m->kind == INSITE_SUMS;
    unsigned host = t->hosts.of[rank], self = t->c->cfg.rank, nodes = sums ? t->hosts.node_count[host] : 1;
    struct part due = sums ? hosts_sums(&t->hosts, t->run, rank, self) : hosts_weights(&t->hosts, t->run, rank, self);
    uint64_t had = t->in[m->round & 1][rank].elems;
    if (m->first != due.first + had || m->count > due.count - had || size != (size_t)m->count * nodes * sizeof(float))
        return "elements that were not due";
    const float *from = (const float *)(const void *)payload;
    if (!sums)
        memcpy(t->c->weights + t->run[rank].first_offset + m->first, from, size);
    for (unsigned k = 0; sums && k < nodes; k++)
        memcpy(t->received + (t->received_at[host] + k) * t->c->owned_elems + m->first, from + (size_t)k * m->count, m->count * sizeof(float));
    return NULL;
}

static const char *take(void *arg, unsigned rank, const struct msg_insite *m, const uint8_t *payload, size_t size)
{
    struct tcp *t = arg;
    if (rank >= t->hosts.ranks || !tcp_is_remote(t, rank))
        return "it is no rank of another host";
    bool head = m->kind == tcp_operations[operation_of(m->kind)].head;
    pthread_mutex_lock(&t->lock);
    const char *wrong = refuse(t, rank, m);
    pthread_mutex_unlock(&t->lock);
    if (!wrong)                       /* only this thread changes what is due of a rank */
        wrong = head ? take_head(t, rank, m, payload, size) : take_body(t, rank, m, payload, size);
    if (wrong)
        return wrong;
    pthread_mutex_lock(&t->lock);
    struct incoming *in = &t->in[m->round & 1][rank];
    in->head = in->head || head;
    in->elems += head ? 0 : m->count;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    return NULL;
}

static void sent(void *arg, unsigned rank, uint16_t tag)
{
    struct tcp *t = arg;
    pthread_mutex_lock(&t->lock);
    t->unsent--;
    t->unsent_to[rank]--;
    if (tag != NO_SLOT)
        t->free_slots |= 1u << tag;
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
}

static void gone(void *arg, unsigned rank, const struct err *why)
{
    struct tcp *t = arg;
    char who[256], text[SEGMENT_WHY_BYTES];
    tcp_rank_text(t, rank, who);
    snprintf(text, sizeof text, "%.140s: %.250s", who, why->text);
    pthread_mutex_lock(&t->lock);
    t->gone[rank] = true;
    if (!t->first_gone[0])
        memcpy(t->first_gone, text, sizeof text);
    pthread_cond_signal(&t->wake);
    pthread_mutex_unlock(&t->lock);
    if (why->code == ERR_CORRUPT || why->code == ERR_DENIED || why->code == ERR_USAGE)
        end_gang(t, text);
}

static void unreachable(void *arg, unsigned rank, const struct err *why)
{
    struct tcp *t = arg;
    char who[256];
    tcp_rank_text(t, rank, who);
    pthread_mutex_lock(&t->lock);
    snprintf(t->unreachable, sizeof t->unreachable, "%.140s: %.240s", who, why->text);
    pthread_mutex_unlock(&t->lock);
}

/* Whoever tells may only have seen its host's ranks wake, and then names nobody; a link that broke before says more. */
static void told(void *arg, unsigned rank, const char *why)
{
    struct tcp *t = arg;
    char who[256], text[SEGMENT_WHY_BYTES];
    bool names = strncmp(why, "rank ", 5) == 0;
    tcp_rank_text(t, rank, who);
    pthread_mutex_lock(&t->lock);
    if (t->first_gone[0] && !names)
        memcpy(text, t->first_gone, sizeof text);
    else
        snprintf(text, sizeof text, "%.140s%s%.250s", names ? "" : who, names ? "" : ": ", why);
    pthread_mutex_unlock(&t->lock);
    end_gang(t, text);
}

const struct port_ops tcp_port_ops = {take, sent, gone, unreachable, told};
