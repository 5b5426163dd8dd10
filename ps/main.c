/* `viaduct ps`: one process that holds copies of shards. Threads: this loop, and the disk's. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "ps/ps.h"

#define TICK_MS 100
#define GUESTS_MAX 1024
#define PARTS_TOLD 32
#define FAREWELL_MS 30

struct guest { struct link *link; struct process_id who; };   /* somebody who dialled us */

struct ps {
    struct loop *loop;
    struct log log;
    struct rundir run;
    const char *site;
    uint16_t slot;
    uint32_t instance;
    struct identity *identity;
    struct msg_hello hello;
    struct ps_disk *disk;
    struct ps_member *member;
    struct ps_peers *peers;
    struct listener *listen_unix, *listen_tls;
    struct guest guest[GUESTS_MAX];
    struct log_few strangers, refused;    /* anybody may dial */
    uint64_t guest_wan;                   /* of guests of other sites whose links are closed */
    bool have_plan, have_view;
    struct msg_plan plan;
    struct declaration declaration;
    struct msg_view view;
    struct ps_host *host[SHARDS_LIMIT];
    struct msg_failed failed;             /* code < 0: told again over each new link to the coordinator */
    int exit_code;
    struct err end;                       /* why, when not in good order */
};

static void finish(struct ps *p, int code)
{
    p->exit_code = code;
    loop_stop(p->loop);
}

/* ---- what hosts ask of us ---- */
static void host_send(void *arg, uint8_t slot, enum msg_type type, const void *m, const struct bytes *payload, unsigned pieces)
{
    struct ps *p = arg;
    if (slot == PS_TO_COORDINATOR)
        ps_member_send(p->member, type, p->view.view.number, m, payload, pieces);
    else
        ps_peers_send(p->peers, slot, type, p->view.view.number, m, payload, pieces);
}

static void host_reply(void *arg, void *peer, const struct msg_pullreply *m, const struct bytes *payload, unsigned pieces)
{
    struct ps *p = arg;
    struct err err = ERR_INIT;
    if (link_send(peer, MSG_PULLREPLY, m->view, m, payload, pieces, &err) < 0)
        log_warn(&p->log, "a pull stays unanswered: %s", err.text);
}

static bool host_busy(void *arg, void *peer)
{
    (void)arg;
    return link_under_way(peer) > 0;
}

static void host_fail(void *arg, int code, uint64_t step, const char *text)
{
    struct ps *p = arg;
    struct msg_failed *m = &p->failed;
    *m = (struct msg_failed){.who = p->hello.who, .code = code, .step = step};
    snprintf(m->text, sizeof m->text, "%.*s", (int)sizeof m->text - 1, text);
    log_error(&p->log, "%s", text);
    ps_member_send(p->member, MSG_FAILED, p->view.view.number, m, NULL, 0);
}

static void make_hosts(struct ps *p)
{
    for (unsigned s = 0; s < p->plan.shard_count; s++) {
        struct ps_host_config c = {.loop = p->loop, .disk = p->disk, .log = &p->log, .plan = &p->plan, .declaration = &p->declaration, .run_dir = p->run.path,
                                   .job = p->run.job, .site = p->hello.who.site, .slot = (uint8_t)p->slot, .shard = (uint8_t)s, .instance = p->instance,
                                   .send = host_send, .reply = host_reply, .busy = host_busy, .fail = host_fail, .arg = p};
        struct err err = ERR_INIT;
        if (ps_host_open(&c, &p->host[s], &err) < 0) {
            host_fail(p, err.code, 0, err.text);
            return;
        }
    }
}

static void adopt(struct ps *p, const struct guest *g);

static void show_view(struct ps *p)
{
    ps_peers_view(p->peers, &p->view);
    for (unsigned i = 0; i < GUESTS_MAX; i++)
        if (p->guest[i].link)
            adopt(p, &p->guest[i]);
    for (unsigned s = 0; s < SHARDS_LIMIT; s++)
        if (p->host[s])
            ps_host_view(p->host[s], &p->view.view);
}

/* ---- the coordinator ---- */
static void fill_join(void *arg, struct msg_join *join, struct bytes *payload)
{
    struct ps *p = arg;
    (void)payload;
    snprintf(join->address_unix, sizeof join->address_unix, "%s", listener_address(p->listen_unix));
    if (p->listen_tls)
        snprintf(join->address_tls, sizeof join->address_tls, "%s", listener_address(p->listen_tls));
}

static void on_linked(void *arg)
{
    struct ps *p = arg;
    struct msg_part part[PARTS_TOLD];
    if (p->failed.code < 0)
        ps_member_send(p->member, MSG_FAILED, p->view.view.number, &p->failed, NULL, 0);
    for (unsigned s = 0; s < SHARDS_LIMIT; s++) {
        if (!p->host[s])
            continue;
        unsigned n = ps_host_parts(p->host[s], part, PARTS_TOLD);
        for (unsigned i = 0; i < n; i++)
            ps_member_send(p->member, MSG_PART, p->view.view.number, &part[i], NULL, 0);
        ps_host_linked(p->host[s], PS_TO_COORDINATOR);
    }
}

static void on_plan(struct ps *p, const struct msg_plan *m, const uint8_t *payload, size_t size)
{
    struct err err = ERR_INIT;
    if (p->have_plan)
        return;
    if (declaration_decode(&p->declaration, payload, size, &err) < 0) {
        host_fail(p, err.code, 0, err.text);
        return;
    }
    p->plan = *m;
    p->have_plan = true;
    ps_peers_expect(p->peers, PS_QUEUE_MODELS * p->declaration.layout.elems * sizeof(float));
    make_hosts(p);
    if (p->have_view)
        show_view(p);
}

static void heartbeat(void *arg, struct msg_heartbeat *m)
{
    struct ps *p = arg;
    m->version = p->host[0] ? ps_host_version(p->host[0]) : 0;
    m->wan_sent_bytes = ps_peers_wan_bytes(p->peers) + p->guest_wan;
    for (unsigned i = 0; i < GUESTS_MAX; i++)
        if (p->guest[i].link && p->guest[i].who.site != p->hello.who.site) {
            uint64_t sent, received;
            link_traffic(p->guest[i].link, &sent, &received);
            m->wan_sent_bytes += sent;
        }
}

static void tell_times(struct ps *p)
{
    struct msg_times m = {.generation = p->view.view.generation};
    for (unsigned s = 0; s < SHARDS_LIMIT; s++)
        m.count += p->host[s] && ps_host_held(p->host[s], &m.step[m.count]);
    if (m.count)
        ps_member_send(p->member, MSG_TIMES, p->view.view.number, &m, NULL, 0);
}

static void on_coordinator(void *arg, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct ps *p = arg;
    if (type == MSG_PLAN) {
        on_plan(p, m, payload, size);
    } else if (type == MSG_VIEW) {
        const struct msg_view *v = m;
        if (p->have_view && v->view.number < p->view.view.number)
            return;
        p->view = *v;
        p->have_view = true;
        if (p->have_plan)
            show_view(p);
        else
            ps_peers_view(p->peers, &p->view);
    } else if (type == MSG_COMMIT && ((struct msg_commit *)m)->shard < SHARDS_LIMIT) {
        if (p->host[((struct msg_commit *)m)->shard])
            ps_host_message(p->host[((struct msg_commit *)m)->shard], PS_TO_COORDINATOR, 0, NULL, type, m, payload, size);
    } else if (type == MSG_SUM && ((struct msg_sum *)m)->shard < SHARDS_LIMIT) {
        if (p->host[((struct msg_sum *)m)->shard])
            ps_host_message(p->host[((struct msg_sum *)m)->shard], PS_TO_COORDINATOR, 0, NULL, type, m, payload, size);
    } else if (type == MSG_STOP) {
        struct msg_leave leave = {.who = p->hello.who};
        struct msg_heartbeat last = {.who = p->hello.who};
        heartbeat(p, &last);
        tell_times(p);
        ps_member_send(p->member, MSG_HEARTBEAT, 0, &last, NULL, 0);
        ps_member_send(p->member, MSG_LEAVE, 0, &leave, NULL, 0);
        timer_start(p->loop, FAREWELL_MS, 0, (void (*)(void *))loop_stop, p->loop);   /* the last words go out first */
    }
}

static void on_over(void *arg, const struct err *why)
{
    struct ps *p = arg;
    p->end = *why;
    finish(p, err_exit_code(why->code));
}

/* ---- other processes ---- */
static struct ps_host *host_of(struct ps *p, enum msg_type type, const void *m)
{
    uint8_t shard = UINT8_MAX;
    switch (type) {
    case MSG_CONTRIBUTE: shard = ((const struct msg_contribute *)m)->shard; break;
    case MSG_REPLICATE: shard = ((const struct msg_replicate *)m)->shard; break;
    case MSG_BLOCK: shard = ((const struct msg_block *)m)->shard; break;
    case MSG_ACK: shard = ((const struct msg_ack *)m)->shard; break;
    case MSG_PULL: shard = ((const struct msg_pull *)m)->shard; break;
    case MSG_SEED: shard = ((const struct msg_seed *)m)->shard; break;
    default: break;
    }
    return shard < SHARDS_LIMIT ? p->host[shard] : NULL;
}

/* Its certificate says of which site it is, and the view of which site the slot. Without a view no message changes anything. */
static bool may_hold(const struct ps *p, const struct process_id *who)
{
    return who->role == ROLE_PS && who->index < SLOTS_LIMIT && (!p->have_view || p->view.view.slot[who->index].site == who->site);
}

static void adopt(struct ps *p, const struct guest *g)
{
    if (p->have_view && may_hold(p, &g->who))
        ps_peers_adopt(p->peers, (uint8_t)g->who.index, g->who.instance, g->link);
}

static void guest_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct ps *p = arg;
    if (link_is_tls(link) && rundir_site(&p->run, link_peer_site(link)) != peer->who.site) {
        log_warn_few(&p->log, &p->refused, "a process with a certificate of site '%s' says it is of another: link closed", link_peer_site(link));
        link_close(link);
        return;
    }
    for (unsigned i = 0; i < GUESTS_MAX; i++)
        if (!p->guest[i].link) {
            p->guest[i] = (struct guest){link, peer->who};
            adopt(p, &p->guest[i]);
            return;
        }
    log_warn_few(&p->log, &p->refused, "more than %d processes want a link: one is refused", GUESTS_MAX);
    link_close(link);
}

static void guest_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct ps *p = arg;
    const struct process_id *who = &link_peer(link)->who;
    bool from_copy = type == MSG_REPLICATE || type == MSG_BLOCK || type == MSG_ACK;
    bool from_rank = type == MSG_CONTRIBUTE || type == MSG_PULL || type == MSG_SEED || (type == MSG_WARM && ((struct msg_warm *)m)->back <= WARM_BYTES_MAX);
    struct ps_host *h = host_of(p, type, m);
    struct err err = ERR_INIT;
    if ((from_copy && !may_hold(p, who)) || (from_rank && who->role != ROLE_WORKER) || (!from_copy && !from_rank)) {
        log_warn_few(&p->log, &p->refused, "a %s message from a process that may not send it: link closed", msg_type_name(type));
        link_close(link);
        return;
    }
    if (type == MSG_WARM && ps_warm(link, ((struct msg_warm *)m)->back, &err) < 0)
        log_warn(&p->log, "a link is not warmed: %s", err.text);
    if (h)
        ps_host_message(h, (uint8_t)who->index, who->instance, link, type, m, payload, size);
}

static void guest_closed(void *arg, struct link *link, const struct err *why)
{
    struct ps *p = arg;
    ps_peers_closed(p->peers, link);
    for (unsigned i = 0; i < GUESTS_MAX; i++)
        if (p->guest[i].link == link) {
            uint64_t sent = 0, received;
            link_traffic(link, &sent, &received);
            p->guest_wan += p->guest[i].who.site != p->hello.who.site ? sent : 0;
            p->guest[i].link = NULL;
        }
    for (unsigned s = 0; s < SHARDS_LIMIT; s++)
        if (p->host[s])
            ps_host_forget(p->host[s], link);
    if (why->code == ERR_CORRUPT || why->code == ERR_DENIED)
        log_warn_few(&p->log, &p->strangers, "%s", why->text);
}

static const struct link_ops guest_ops = {guest_opened, guest_message, guest_closed};

static void peer_opened(void *arg, uint8_t slot)
{
    struct ps *p = arg;
    for (unsigned s = 0; s < SHARDS_LIMIT; s++)
        if (p->host[s])
            ps_host_linked(p->host[s], slot);
}

/* Peers send over links of their own; only to a visiting site, which nobody can dial, over those that it dialled. */
static void peer_message(void *arg, uint8_t slot, uint32_t instance, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct ps *p = arg;
    struct ps_host *h = type == MSG_REPLICATE || type == MSG_BLOCK || type == MSG_ACK ? host_of(p, type, m) : NULL;
    if (h)
        ps_host_message(h, slot, instance, NULL, type, m, payload, size);
}

static void on_tick(void *arg)
{
    struct ps *p = arg;
    for (unsigned s = 0; s < SHARDS_LIMIT; s++) {
        for (unsigned slot = 0; p->host[s] && slot < SLOTS_LIMIT; slot++)
            if (ps_peers_queued(p->peers, (uint8_t)slot) > 0)
                ps_host_busy(p->host[s], (uint8_t)slot);
        if (p->host[s])
            ps_host_tick(p->host[s]);
    }
    tell_times(p);
}

static void on_term(void *arg, int signo)
{
    finish(arg, 128 + signo);
}

/* Where other sites dial us: nowhere at a visiting site; behind the front door of this host, where its agent has one; else at a port of our own, at
 * VIADUCT_HOST_ADDRESS when sites are on other hosts. */
static int listen_outside(struct ps *p, uint8_t site_index, struct err *err)
{
    char address[ADDRESS_LIMIT], passing[108], name[160];
    const char *visiting = getenv("VIADUCT_VISITING"), *host = getenv("VIADUCT_HOST_ADDRESS");
    struct err none = ERR_INIT;
    if (visiting && *visiting)
        return 0;
    int rc = rundir_door(&p->run, p->site, address, &none);
    if (rc == ERR_NOT_FOUND) {
        snprintf(address, sizeof address, "tls:%.120s:0", host && *host ? host : "127.0.0.1");
        return net_listen(p->loop, address, p->identity, &p->hello, &guest_ops, p, &p->listen_tls, err);
    }
    if (rc < 0)
        return *err = none, rc;
    rundir_door_socket(&p->run, site_index, passing);
    snprintf(name, sizeof name, "ps-%u.%s.%s", p->slot, p->site, p->run.job);
    const struct door_place place = {.address = address, .passing = passing, .name = name};
    return net_listen_at_door(p->loop, &place, p->identity, &p->hello, &guest_ops, p, &p->listen_tls, err);
}

static int set_up(struct ps *p, uint8_t site_index, struct err *err)
{
    char path[700];
    TRY(loop_new(&p->loop, err));
    p->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .features = FEATURE_WARM,
                                  .who = {.role = ROLE_PS, .site = site_index, .index = p->slot, .instance = p->instance}};
    snprintf(p->hello.job, sizeof p->hello.job, "%s", p->run.job);
    snprintf(p->hello.build, sizeof p->hello.build, "%s", VIADUCT_VERSION);
    snprintf(path, sizeof path, "%s/state/tls", p->run.path);
    TRY(identity_load(path, p->site, ROLE_PS, &p->identity, err));
    snprintf(path, sizeof path, "unix:%s/ps-%u-%u", p->run.sockets, p->slot, p->instance);
    TRY(net_listen(p->loop, path, p->identity, &p->hello, &guest_ops, p, &p->listen_unix, err));
    TRY(listen_outside(p, site_index, err));
    TRY(ps_disk_open(p->loop, &p->disk, err));
    struct ps_peers_config peers = {.loop = p->loop, .run = &p->run, .identity = p->identity, .hello = &p->hello, .log = &p->log, .own_slot = (uint8_t)p->slot,
                                    .opened = peer_opened, .message = peer_message, .arg = p};
    TRY(ps_peers_open(&peers, &p->peers, err));
    failpoint(FAIL_PS_JOIN);
    struct ps_member_config member = {.loop = p->loop, .run = &p->run, .identity = p->identity, .hello = &p->hello, .log = &p->log, .fill_join = fill_join,
                                      .linked = on_linked, .message = on_coordinator, .heartbeat = heartbeat, .over = on_over, .arg = p};
    TRY(ps_member_open(&member, &p->member, err));
    /* Ignored from the start (under Slurm): the agent says when we end. */
    struct sigaction was;
    if (sigaction(SIGTERM, NULL, &was) == 0 && was.sa_handler != SIG_IGN)
        TRY(loop_on_signal(p->loop, SIGTERM, on_term, p, err));
    timer_start(p->loop, TICK_MS, TICK_MS, on_tick, p);
    return 0;
}

static int parse(struct ps *p, int argc, char **argv, struct err *err)
{
    const char *run = NULL;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (strcmp(argv[i], "--run") == 0)
            run = argv[i + 1];
        else if (strcmp(argv[i], "--site") == 0)
            p->site = argv[i + 1];
        else if (strcmp(argv[i], "--slot") == 0)
            p->slot = (uint16_t)strtoul(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--instance") == 0)
            p->instance = (uint32_t)strtoul(argv[i + 1], NULL, 10);
    }
    if (!run || !p->site || p->slot >= SLOTS_LIMIT || !p->instance)
        return err_set(err, ERR_USAGE, "ps: --run, --site, --slot and --instance are needed; agents start this process by themselves");
    return rundir_open(&p->run, run, err);
}

static void tear_down(struct ps *p)
{
    ps_disk_close(p->disk);               /* parts under way are finished */
    if (p->loop)
        loop_free(p->loop);
    ps_member_close(p->member);
    ps_peers_close(p->peers);
    for (unsigned s = 0; s < SHARDS_LIMIT; s++)
        ps_host_close(p->host[s]);
    identity_free(p->identity);
    declaration_fini(&p->declaration);
    log_close(&p->log);
}

int ps_main(int argc, char **argv)
{
    struct err err = ERR_INIT;
    struct ps *p = calloc(1, sizeof *p);
    CHECK(p != NULL);
    int rc = parse(p, argc, argv, &err), site = -1;
    if (rc == 0) {
        char path[700], who[80];
        snprintf(path, sizeof path, "%s/log/ps-%s-%u.jsonl", p->run.path, p->site, p->slot);
        snprintf(who, sizeof who, "ps %s/%u", p->site, p->slot);
        log_open(&p->log, path, who, p->run.job);
        snprintf(path, sizeof path, "%s/state", p->run.path);
        const char *wrong = failpoint_init(path);
        site = rundir_site(&p->run, p->site);
        rc = wrong ? err_set(&err, ERR_USAGE, "%s", wrong) : site < 0 ? err_set(&err, ERR_USAGE, "%s has no site '%s'", p->run.path, p->site) :
             set_up(p, (uint8_t)site, &err);
    }
    if (rc == 0) {
        log_info(&p->log, "slot %u, instance %u, pid %d", p->slot, p->instance, (int)getpid());
        loop_run(p->loop);
        if (p->end.code < 0)
            fprintf(stderr, "viaduct: ps: %s\n", p->end.text);
    } else {
        fprintf(stderr, "viaduct: ps: %s\n", err.text);
        p->exit_code = err_exit_code(rc);
    }
    tear_down(p);
    int code = p->exit_code;
    free(p);
    return code;
}
