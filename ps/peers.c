/* Links to slots. Each process sends over links that it dialled itself and takes messages from those that others dialled: so a link has one owner. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/base.h"
#include "ps/ps.h"

#define REDIAL_MS 200

struct peer {
    struct ps_peers *owner;
    uint8_t slot, site;
    bool known, open, away, theirs;       /* away: at another site; theirs: the link is one that they dialled, because nobody can dial them */
    size_t warm_bytes;                    /* of MSG_WARM each way over the present link; 0: not begun */
    bool came, went, warm;                /* those from there; those there, sent and received */
    uint32_t instance;
    char address[ADDRESS_LIMIT];
    struct link *link;                    /* the newest one dialled */
    uint64_t wan_before;                  /* of links that are closed */
};

struct ps_peers {
    struct ps_peers_config config;
    size_t queue_max;
    struct log_few few;
    struct peer peer[SLOTS_LIMIT];
};

static uint64_t sent_over(const struct link *link)
{
    uint64_t sent = 0, received;
    if (link)
        link_traffic(link, &sent, &received);
    return sent;
}

static void on_opened(void *arg, struct link *link, const struct msg_hello *hello)
{
    struct peer *p = arg;
    if (link != p->link)
        return;
    if (link_is_tls(link) && rundir_site(p->owner->config.run, link_peer_site(link)) != p->site) {
        log_warn(p->owner->config.log, "a process with a certificate of site '%s' answers where slot %u of another should: link closed", link_peer_site(link), p->slot);
        link_close(link);
        return;
    }
    if (hello->who.role != ROLE_PS || hello->who.index != p->slot || hello->who.instance != p->instance) {
        link_close(link);                 /* its address was taken over by another launch: the next view tells */
        return;
    }
    p->open = true;
    p->warm_bytes = 0;
    p->came = p->went = p->warm = false;
    p->owner->config.opened(p->owner->config.arg, p->slot);
}

static int send_warm(struct link *link, size_t bytes, bool to_shard, struct err *err)
{
    static const uint8_t nothing[WARM_PIECE_BYTES];
    for (size_t left = bytes; left > 0;) {
        struct bytes piece = {nothing, MIN(left, sizeof nothing)};
        left -= piece.size;
        struct msg_warm m = {.back = to_shard ? left == 0 : (uint32_t)left};
        TRY(link_send(link, MSG_WARM, 0, &m, &piece, 1, err));
    }
    return 0;
}

int ps_warm(struct link *link, size_t bytes, struct err *err) { return send_warm(link, bytes, false, err); }

/* What was asked for has come; then a byte, which says that what went is there. Links share what is narrow: none goes before all have come. */
static void on_warm(struct ps_peers *p, struct peer *from)
{
    struct err err = ERR_INIT;
    from->warm = from->came;
    from->came = true;
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        if (p->peer[s].open && p->peer[s].warm_bytes && !p->peer[s].came)
            return;
    for (unsigned s = 0; s < SLOTS_LIMIT; s++) {
        struct peer *q = &p->peer[s];
        if (!q->open || !q->warm_bytes || q->warm || q->went)
            continue;
        q->went = true;
        q->warm = send_warm(q->link, q->warm_bytes, true, &err) < 0;   /* a full queue: this link is busy enough */
    }
}

static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t payload_size)
{
    struct peer *p = arg;
    if (link != p->link || !p->open)
        return;
    if (type == MSG_WARM && ((struct msg_warm *)m)->back == 0)
        on_warm(p->owner, p);
    p->owner->config.message(p->owner->config.arg, p->slot, p->instance, type, m, payload, payload_size);
}

static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct peer *p = arg;
    if (p->away)
        p->wan_before += sent_over(link);
    if (link != p->link)
        return;
    if (p->open)
        log_info(p->owner->config.log, "link to slot %u closed: %s", p->slot, why->text);
    p->link = NULL;
    p->open = false;
}

static const struct link_ops peer_ops = {on_opened, on_message, on_closed};

void ps_peers_adopt(struct ps_peers *p, uint8_t slot, uint32_t instance, struct link *link)
{
    struct peer *q = &p->peer[slot];
    if (slot >= SLOTS_LIMIT || !q->known || q->instance != instance || q->address[0] || q->link)
        return;
    q->link = link;
    q->open = q->theirs = true;
    p->config.opened(p->config.arg, slot);
}

void ps_peers_closed(struct ps_peers *p, const struct link *link)
{
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        if (p->peer[s].link == link) {
            p->peer[s].link = NULL;
            p->peer[s].open = p->peer[s].theirs = false;
        }
}

static void dial(struct ps_peers *p, struct peer *q)
{
    struct err err = ERR_INIT;
    if (!q->known || q->link || !q->address[0])
        return;
    if (net_dial(p->config.loop, q->address, p->config.identity, p->config.hello, &peer_ops, q, &q->link, &err) < 0) {
        log_info(p->config.log, "slot %u: %s", q->slot, err.text);
        q->link = NULL;
    }
}

static void on_timer(void *arg)
{
    struct ps_peers *p = arg;
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        dial(p, &p->peer[s]);
}

int ps_peers_open(const struct ps_peers_config *config, struct ps_peers **out, struct err *err)
{
    struct ps_peers *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(err, ERR_NO_MEMORY, "no memory for links");
    p->config = *config;
    p->queue_max = LINK_QUEUE_MAX;
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        p->peer[s] = (struct peer){.owner = p, .slot = (uint8_t)s};
    timer_start(config->loop, REDIAL_MS, REDIAL_MS, on_timer, p);
    *out = p;
    return 0;
}

void ps_peers_close(struct ps_peers *p) { free(p); }

void ps_peers_expect(struct ps_peers *p, uint64_t bytes) { p->queue_max = MAX(LINK_QUEUE_MAX, (size_t)bytes); }

void ps_peers_view(struct ps_peers *p, const struct msg_view *m)
{
    for (unsigned s = 0; s < m->view.slot_count; s++) {
        struct peer *q = &p->peer[s];
        const struct view_slot *slot = &m->view.slot[s];
        bool near = slot->site == p->config.hello->who.site && m->address_unix[s][0] && !p->config.other_host;
        const char *address = near ? m->address_unix[s] : m->address_tls[s];
        bool same = q->known && q->instance == slot->instance && strcmp(q->address, address) == 0;
        if (s == p->config.own_slot || same)
            continue;
        if (q->link) {
            struct link *old = q->link;
            q->link = NULL;
            q->open = q->theirs = false;
            link_close(old);
        }
        q->known = slot->up;
        q->instance = slot->instance;
        q->site = slot->site;
        q->away = slot->site != p->config.hello->who.site;
        snprintf(q->address, sizeof q->address, "%s", address);
        dial(p, q);
    }
}

bool ps_peers_send(struct ps_peers *p, uint8_t slot, enum msg_type type, uint32_t view, const void *msg, const struct bytes *payload, unsigned pieces)
{
    struct err err = ERR_INIT;
    struct peer *q = &p->peer[slot];
    if (slot >= SLOTS_LIMIT || !q->open)
        return false;
    link_limit_queue(q->link, p->queue_max);
    if (link_send(q->link, type, view, msg, payload, pieces, &err) == 0)
        return true;
    log_warn_few(p->config.log, &p->few, "slot %u: %s", slot, err.text);
    return false;
}

bool ps_peers_linked(const struct ps_peers *p, uint8_t slot) { return slot < SLOTS_LIMIT && p->peer[slot].open; }

uint64_t ps_peers_received(const struct ps_peers *p, uint8_t slot)
{
    uint64_t sent, received = 0;
    if (ps_peers_linked(p, slot))
        link_traffic(p->peer[slot].link, &sent, &received);
    return received;
}

size_t ps_peers_queued(const struct ps_peers *p, uint8_t slot)
{
    return slot < SLOTS_LIMIT && p->peer[slot].open ? link_under_way(p->peer[slot].link) : 0;
}

bool ps_peers_warmed(struct ps_peers *p, uint8_t slot, size_t bytes)
{
    if (!ps_peers_linked(p, slot))
        return false;
    struct peer *q = &p->peer[slot];
    struct msg_warm m = {.back = (uint32_t)bytes};
    if (!q->away || q->theirs || bytes == 0 || !(link_peer(q->link)->features & FEATURE_WARM))
        return true;
    if (q->warm_bytes == 0 && ps_peers_send(p, slot, MSG_WARM, 0, &m, NULL, 0))
        q->warm_bytes = bytes;
    return q->warm;
}

uint64_t ps_peers_wan_bytes(const struct ps_peers *p)
{
    uint64_t sum = 0;
    for (unsigned s = 0; s < SLOTS_LIMIT; s++)
        sum += p->peer[s].wan_before + (p->peer[s].away && !p->peer[s].theirs ? sent_over(p->peer[s].link) : 0);
    return sum;
}
