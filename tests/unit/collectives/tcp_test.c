/* In-site sums by real processes on several "hosts" (segments of their own, TLS links over the loopback): the bits of shared memory for any split of ranks
 * over hosts, the bytes that must cross and no others, dead, paused and foreign peers. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "collectives/collectives.h"
#include "net/net.h"

#define JOB "testjob"
#define RANKS_LIMIT 8

static struct layout layout;
static char tls[64];
static unsigned turn;

static int set_up(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    static const struct tensor_desc t[] = {{.name = "a", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {300, 500}},
                                           {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {33}},
                                           {.name = "c", .kind = TENSOR_STATE, .dim_count = 1, .dims = {270001}}};
    snprintf(tls, sizeof tls, "/tmp/viaduct-tcp-XXXXXX");
    assert_non_null(mkdtemp(tls));
    assert_ok(identity_make_ca(tls, JOB, &e));
    assert_ok(identity_issue(tls, JOB, "here", ROLE_WORKER, &e));
    return layout_init(&layout, t, 3, &e);
}

static int tear_down(void **state)
{
    (void)state;
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", tls);
    layout_fini(&layout);
    return system(command);
}

/* ---- a gang ---- */
struct result { uint64_t hash; double loss; int code; char text[768]; struct coll_traffic to[RANKS_LIMIT]; };
struct board {                        /* shared by the ranks */
    char address[RANKS_LIMIT][ADDRESS_LIMIT];
    volatile bool ready[RANKS_LIMIT], asleep;
    struct result result[RANKS_LIMIT];
};
enum fate { LIVE, DIE, PAUSE, ABORT, OTHER_LANES };
struct setting {
    unsigned ranks, lanes, rounds;
    struct lane_range gang;
    uint16_t host[RANKS_LIMIT];
    bool in_weights, twice;           /* twice: two reduces in a row */
    int victim;
    enum fate fate;
    uint64_t timeout_ms, open_timeout_ms;
};

static float value(unsigned lane, uint64_t i, unsigned round) { return philox_unit(philox4x32(lane * 1000 + round, (uint32_t)i, 0, 0, 0).v[0]) - 0.5f; }

static void meet_fate(struct coll *k, const struct setting *s, struct board *b, unsigned rank, unsigned round)
{
    if (s->fate == LIVE || (int)rank != s->victim || round != 1)
        return;
    if (s->fate == DIE)
        kill(getpid(), SIGKILL);
    if (s->fate == ABORT)
        coll_abort(k);
    if (s->fate == PAUSE) {
        b->asleep = true;
        kill(getpid(), SIGSTOP);
    }
}

static int rounds(struct coll *k, const struct setting *s, struct board *b, unsigned rank, struct err *err)
{
    struct lane_range mine = coll_rank_lanes(k);
    for (unsigned round = 0; round < s->rounds; round++) {
        struct lane_totals totals[LANES_MAX];
        struct coll_sums sums;
        for (unsigned l = mine.lo; l < mine.hi; l++) {
            float *g = coll_lane_buffer(k, l);
            for (uint64_t i = 0; i < layout.elems; i++)
                g[i] = i % 5 ? (float)((l + 3) * (i % 97)) / 7 : value(l, i, round);
            totals[l - mine.lo] = (struct lane_totals){0.1 * l, l, 1, 0};
        }
        meet_fate(k, s, b, rank, round);
        for (unsigned i = 0; i < 1u + s->twice; i++)
            TRY(coll_reduce(k, totals, &sums, err));
        float *w = coll_weights(k);
        for (uint64_t i = 0; i < sums.elems; i++) {
            float total = 0;
            for (unsigned n = 0; n < sums.count; n++)
                total += sums.sum[n][i];
            w[sums.first_offset + i] = total;
        }
        b->result[rank].loss = 0;
        for (unsigned n = 0; n < sums.count; n++)
            b->result[rank].loss += sums.totals[n].loss_sum + (double)sums.totals[n].correct;
        TRY(coll_gather(k, err));
    }
    uint64_t hash = 0, all[LANES_MAX];
    for (uint32_t i = 0; i < layout.block_count; i++)
        hash = xxh64_of(coll_weights(k) + layout.blocks[i].offset, layout.blocks[i].elems * 4, hash);
    for (unsigned r = 0; r < s->ranks; r++)
        coll_traffic(k, r, &b->result[rank].to[r]);
    TRY(coll_exchange(k, hash, all, err));
    for (unsigned r = 0; r < s->ranks; r++)
        if (all[r] != hash)
            return err_set(err, ERR_CORRUPT, "rank %u has other weights than rank %u", r, rank);
    b->result[rank].hash = hash;
    return 0;
}

static int live(const struct setting *s, struct board *b, unsigned rank, const char *segment, struct err *err)
{
    struct coll_port *port = NULL;
    struct coll *k = NULL;
    struct identity *identity = NULL;
    static struct msg_gang where;
    TRY(identity_load(tls, "here", ROLE_WORKER, &identity, err));
    struct coll_port_config p = {.address = "tls:127.0.0.1:0", .identity = identity, .job = JOB, .site_name = "here", .site = 1, .rank = (uint16_t)rank, .incarnation = 7};
    TRY(coll_port_open(&p, &port, err));
    snprintf(b->address[rank], ADDRESS_LIMIT, "%s", coll_port_address(port));
    b->ready[rank] = true;
    for (unsigned r = 0; r < s->ranks; r++)
        while (!b->ready[r])
            usleep(1000);
    where = (struct msg_gang){.site = 1, .incarnation = 7, .rank_count = (uint16_t)s->ranks};
    memcpy(where.host, s->host, sizeof s->host);
    memcpy(where.address_tls, b->address, sizeof b->address);
    struct coll_config c = {.transport = "tcp", .segment = segment, .port = port, .where = &where, .rank = rank, .ranks = s->ranks, .lanes = s->lanes, .gang = s->gang,
                            .layout = &layout, .sums_in_weights = s->in_weights, .open_timeout_ms = s->open_timeout_ms ? s->open_timeout_ms : 20000, .timeout_ms = s->timeout_ms ? s->timeout_ms : 20000};
    if (s->fate == OTHER_LANES && (int)rank == s->victim)
        c.gang.hi--;
    int rc = coll_open(&c, &k, err);
    if (rc == 0)
        rc = rounds(k, s, b, rank, err);
    coll_close(k);
    coll_port_close(port);
    identity_free(identity);
    return rc;
}

static void segment_of(char out[COLL_SEGMENT_BYTES], unsigned host)
{
    char job[32];
    snprintf(job, sizeof job, "test-%d", (int)getpid());
    coll_segment_name(out, job, "here", turn, 0, host);
}

static void gang(const struct setting *s, struct result *out)
{
    struct board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char segment[COLL_SEGMENT_BYTES];
    pid_t pid[RANKS_LIMIT];
    turn++;
    for (unsigned r = 0; r < s->ranks; r++) {
        segment_of(segment, s->host[r]);
        fflush(NULL);
        if ((pid[r] = fork()) == 0) {
            struct err e = ERR_INIT;
            b->result[r].code = live(s, b, r, segment, &e);
            memcpy(b->result[r].text, e.text, sizeof e.text);
            _exit(0);
        }
    }
    for (unsigned r = 0; r < s->ranks; r++) {
        int status;
        if (s->fate == PAUSE && (int)r == s->victim)
            continue;
        waitpid(pid[r], &status, 0);
        if (s->fate == DIE && (int)r == s->victim) {
            assert_true(WIFSIGNALED(status));
            segment_of(segment, s->host[r]);
            coll_abort_segment(segment);          /* as the agent does */
        } else {
            assert_true(WIFEXITED(status));
        }
    }
    if (s->fate == PAUSE) {
        assert_true(b->asleep);
        kill(pid[s->victim], SIGKILL);
        waitpid(pid[s->victim], NULL, 0);
    }
    memcpy(out, b->result, s->ranks * sizeof *out);
    munmap(b, sizeof *b);
    for (unsigned r = 0; r < s->ranks; r++) {
        char path[COLL_SEGMENT_BYTES + 16];
        segment_of(segment, s->host[r]);
        if (s->fate == PAUSE)
            coll_abort_segment(segment);
        snprintf(path, sizeof path, "/dev/shm%s", segment);
        assert_int_not_equal(access(path, F_OK), 0);   /* the last one out removed it */
    }
}

static const struct { unsigned ranks; uint16_t host[RANKS_LIMIT]; } splits[] = {
    {4, {0, 0, 1, 1}}, {3, {0, 1, 2}}, {4, {0, 1, 1, 1}}, {4, {5, 5, 5, 2}}, {3, {0, 1, 0}}, {2, {1, 1}}, {5, {0, 1, 1, 2, 2}}};

/* ---- the same bits, and what crosses ---- */
static void test_same_bits_for_any_split_over_hosts(void **state)
{
    (void)state;
    static const struct { unsigned lanes; struct lane_range gang; } cases[] = {{8, {0, 8}}, {7, {1, 6}}, {8, {4, 4}}, {5, {2, 4}}};
    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct result one[RANKS_LIMIT], many[RANKS_LIMIT];
        struct setting s = {.ranks = 1, .lanes = cases[k].lanes, .gang = cases[k].gang, .rounds = 3};
        gang(&s, one);
        assert_string_equal(one[0].text, "");
        for (unsigned i = 0; i < ARRAY_LEN(splits); i++) {
            s.ranks = splits[i].ranks;
            s.in_weights = i % 2;
            memcpy(s.host, splits[i].host, sizeof s.host);
            gang(&s, many);
            for (unsigned r = 0; r < s.ranks; r++) {
                assert_string_equal(many[r].text, "");
                assert_true(many[r].hash == one[0].hash && many[r].loss == one[0].loss);
            }
        }
    }
}

static void test_two_reduces_in_a_row(void **state)
{
    (void)state;
    struct result one[RANKS_LIMIT], twice[RANKS_LIMIT];
    struct setting s = {.ranks = 1, .lanes = 6, .gang = {0, 6}, .rounds = 3};
    gang(&s, one);
    s.ranks = 3;
    s.host[0] = 1;
    s.twice = true;
    gang(&s, twice);
    for (unsigned r = 0; r < 3; r++) {
        assert_string_equal(twice[r].text, "");
        assert_true(twice[r].hash == one[0].hash);
    }
}

static void test_only_bytes_that_must_cross(void **state)
{
    (void)state;
    for (unsigned i = 0; i < ARRAY_LEN(splits); i++) {
        struct result r[RANKS_LIMIT];
        struct msg_gang where = {.rank_count = (uint16_t)splits[i].ranks};
        struct setting s = {.ranks = splits[i].ranks, .lanes = 8, .gang = {0, 8}, .rounds = 4};
        memcpy(s.host, splits[i].host, sizeof s.host);
        memcpy(where.host, s.host, sizeof s.host);
        struct coll_config c = {.where = &where, .ranks = s.ranks, .lanes = s.lanes, .gang = s.gang, .layout = &layout};
        gang(&s, r);
        for (unsigned from = 0; from <= 5; from++)
            for (unsigned to = 0; to <= 5; to++) {
                struct coll_traffic sum = {0};
                unsigned links = 0;
                for (unsigned a = 0; a < s.ranks; a++)
                    for (unsigned b = 0; b < s.ranks; b++)
                        if (s.host[a] == from && s.host[b] == to) {
                            sum.payload += r[a].to[b].payload;
                            sum.wire += r[a].to[b].wire;
                            links++;
                        }
                if (links == 0)
                    continue;
                if (from == to) {
                    assert_true(sum.wire == 0);
                    continue;
                }
                /* Each chunk has a header and a body of 100 bytes, a start 300; TLS adds 22 bytes to 16 KiB; a handshake has certificates. */
                uint64_t least = s.rounds * coll_round_bytes(&c, from, to);
                assert_true(sum.payload == least);
                assert_true(sum.wire <= least + least / 200 + links * (s.rounds * 1500 + 8000));
            }
    }
    /* Two hosts with half of one tree each: a host's half of the sums, and its own weights. */
    struct msg_gang two = {.rank_count = 4, .host = {0, 0, 1, 1}};
    struct coll_config c = {.where = &two, .ranks = 4, .lanes = 8, .gang = {0, 8}, .layout = &layout};
    uint64_t both = coll_round_bytes(&c, 0, 1) + coll_round_bytes(&c, 1, 0);
    assert_true(both <= 2 * layout.elems * sizeof(float) + 8 * sizeof(struct lane_totals));
    assert_true(both > 2 * (layout.elems - 4 * LAYOUT_ALIGN) * sizeof(float));
}

/* ---- what goes wrong ---- */
static void test_a_killed_rank_ends_the_gang_and_is_named(void **state)
{
    (void)state;
    static const struct { unsigned ranks; uint16_t host[4]; int victim; } cases[] = {{4, {0, 0, 1, 1}, 3}, {4, {0, 0, 1, 1}, 0}, {3, {0, 1, 2}, 1}, {4, {0, 1, 1, 1}, 2}};
    for (unsigned k = 0; k < ARRAY_LEN(cases); k++) {
        struct result r[RANKS_LIMIT];
        struct setting s = {.ranks = cases[k].ranks, .lanes = 8, .gang = {0, 8}, .rounds = 3, .victim = cases[k].victim, .fate = DIE};
        char name[16], host[16];
        memcpy(s.host, cases[k].host, sizeof cases[k].host);
        snprintf(name, sizeof name, "rank %d (host", s.victim);
        snprintf(host, sizeof host, "(host %u,", s.host[s.victim]);
        uint64_t begin = clock_now_ms();
        gang(&s, r);
        assert_true(clock_now_ms() - begin < 15000);   /* not by the deadline */
        for (int i = 0; i < (int)s.ranks; i++) {
            if (i == s.victim)
                continue;
            assert_int_equal(r[i].code, ERR_ABORTED);
            /* On its own host the agent's abort may come first, and be told to others before they see its link break. */
            bool first = strstr(r[i].text, "a rank died") && (s.host[i] == s.host[s.victim] || strstr(r[i].text, host));
            if (!strstr(r[i].text, name) && !first)
                fail_msg("rank %d of case %u is told: %s", i, k, r[i].text);
        }
    }
}

static void test_a_paused_rank_meets_the_deadline(void **state)
{
    (void)state;
    struct result r[RANKS_LIMIT];
    struct setting s = {.ranks = 4, .lanes = 8, .gang = {0, 8}, .rounds = 3, .host = {0, 0, 1, 2}, .victim = 2, .fate = PAUSE, .timeout_ms = 1500};
    gang(&s, r);
    for (int i = 0; i < 4; i++) {
        if (i == 2)
            continue;
        assert_int_equal(r[i].code, ERR_ABORTED);
        assert_non_null(strstr(r[i].text, "rank 2 (host 1"));
        assert_non_null(strstr(r[i].text, "slower than the deadline of 1500 ms"));
    }
}

static void test_an_abort_reaches_every_host(void **state)
{
    (void)state;
    struct result r[RANKS_LIMIT];
    struct setting s = {.ranks = 4, .lanes = 8, .gang = {0, 8}, .rounds = 3, .host = {0, 0, 1, 2}, .victim = 1, .fate = ABORT};
    gang(&s, r);
    for (int i = 0; i < 4; i++) {
        assert_int_equal(r[i].code, ERR_ABORTED);
        assert_non_null(strstr(r[i].text, "rank 1 (host 0"));
    }
}

/* Whoever had no link yet when the others left only meets the deadline. */
static void test_ranks_of_another_shape_are_refused(void **state)
{
    (void)state;
    struct result r[RANKS_LIMIT];
    struct setting s = {.ranks = 3, .lanes = 8, .gang = {0, 8}, .rounds = 1, .host = {0, 1, 2}, .victim = 2, .fate = OTHER_LANES, .open_timeout_ms = 3000};
    bool said = false;
    gang(&s, r);
    for (int i = 0; i < 3; i++) {
        assert_int_equal(r[i].code, ERR_ABORTED);
        assert_non_null(strstr(r[i].text, "rank "));
        said = said || strstr(r[i].text, "other lanes");
    }
    assert_true(said);
}

/* ---- ports ---- */
struct stray { struct loop *loop; struct msg_hello hello; struct msg_insite m; unsigned opened, closed; char failed[TEXT_LIMIT]; };

static void stray_opened(void *arg, struct link *link, const struct msg_hello *peer)
{
    struct stray *s = arg;
    struct err e = ERR_INIT;
    (void)peer;
    s->opened++;
    assert_ok(link_send(link, MSG_INSITE, 0, &s->m, NULL, 0, &e));
}

static void stray_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct stray *s = arg;
    (void)link, (void)payload, (void)size;
    if (type == MSG_FAILED)
        memcpy(s->failed, ((struct msg_failed *)m)->text, sizeof s->failed);
}

static void stray_closed(void *arg, struct link *link, const struct err *why)
{
    struct stray *s = arg;
    (void)link, (void)why;
    s->closed++;
    loop_stop(s->loop);
}

/* Dials the port as `who` and sends `m`; the port must end that link. */
static void stray(const char *address, const struct identity *identity, struct process_id who, struct msg_insite m, struct stray *s)
{
    static const struct link_ops ops = {stray_opened, stray_message, stray_closed};
    struct err e = ERR_INIT;
    struct link *link;
    *s = (struct stray){.m = m, .hello = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = who, .job = JOB}};
    assert_ok(loop_new(&s->loop, &e));
    assert_ok(net_dial(s->loop, address, identity, &s->hello, &ops, s, &link, &e));
    loop_run(s->loop);
    loop_free(s->loop);
    assert_int_equal(s->closed, 1);
}

static void test_frames_of_other_launches_and_rounds_are_refused(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct identity *identity;
    struct coll_port *port;
    struct stray s;
    assert_ok(identity_load(tls, "here", ROLE_WORKER, &identity, &e));
    struct coll_port_config p = {.address = "tls:127.0.0.1:0", .identity = identity, .job = JOB, .site_name = "here", .site = 1, .rank = 3, .incarnation = 7};
    assert_ok(coll_port_open(&p, &port, &e));
    const char *at = coll_port_address(port);
    struct process_id rank0 = {ROLE_WORKER, 1, 0, 7}, late = {ROLE_WORKER, 1, 0, 6}, higher = {ROLE_WORKER, 1, 4, 7}, elsewhere = {ROLE_WORKER, 2, 0, 7};
    struct msg_insite open = {.site = 1, .incarnation = 7, .kind = INSITE_OPEN}, other = open, ahead = open, sums = open;
    other.incarnation = 6;
    ahead.round = 1;
    sums.kind = INSITE_SUMS;
    sums.count = 5;
    stray(at, identity, late, open, &s);           /* its HELLO says another launch */
    assert_string_equal(s.failed, "");
    stray(at, identity, higher, open, &s);         /* the lower rank dials */
    stray(at, identity, elsewhere, open, &s);
    stray(at, identity, rank0, other, &s);
    assert_non_null(strstr(s.failed, "another launch"));
    stray(at, identity, rank0, ahead, &s);
    assert_non_null(strstr(s.failed, "before the gang is open"));
    stray(at, identity, rank0, sums, &s);
    assert_non_null(strstr(s.failed, "before the gang is open"));
    coll_port_close(port);
    identity_free(identity);
}

/* ---- a rank that breaks the protocol once the gang is open ---- */
struct rogue { struct stray s; struct msg_insite bad; size_t bad_size; bool sent; };

static void rogue_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    static const uint8_t zeros[1 << 20];
    struct rogue *r = arg;
    struct err e = ERR_INIT;
    struct bytes bad = {zeros, r->bad_size};
    stray_message(&r->s, link, type, m, payload, size);
    if (type != MSG_INSITE || r->sent)
        return;
    r->sent = true;
    assert_int_equal(((struct msg_insite *)m)->kind, INSITE_OPEN);
    assert_ok(link_send(link, MSG_INSITE, 0, m, NULL, 0, &e));     /* what it says of its gang is true of ours */
    assert_ok(link_send(link, MSG_INSITE, 0, &r->bad, &bad, bad.size > 0, &e));
}

static void rogue_opened(void *arg, struct link *link, const struct msg_hello *peer) { (void)arg, (void)link, (void)peer; }

/* Rank 0 is the rogue; rank 1 runs rounds on another host. Returns what rank 1 says. */
static struct result against(struct msg_insite bad, size_t bad_size)
{
    static const struct link_ops ops = {rogue_opened, rogue_message, stray_closed};
    struct setting s = {.ranks = 2, .lanes = 8, .gang = {0, 8}, .rounds = 2, .host = {0, 1}, .victim = -1};
    struct board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    char segment[COLL_SEGMENT_BYTES];
    struct rogue r = {.bad = bad, .bad_size = bad_size, .s.hello = {.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {ROLE_WORKER, 1, 0, 7}, .job = JOB}};
    struct err e = ERR_INIT;
    struct identity *identity;
    struct link *link;
    turn++;
    segment_of(segment, 1);
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        b->result[1].code = live(&s, b, 1, segment, &e);
        memcpy(b->result[1].text, e.text, sizeof e.text);
        _exit(0);
    }
    while (!b->ready[1])
        usleep(1000);
    b->ready[0] = true;
    assert_ok(identity_load(tls, "here", ROLE_WORKER, &identity, &e));
    assert_ok(loop_new(&r.s.loop, &e));
    assert_ok(net_dial(r.s.loop, b->address[1], identity, &r.s.hello, &ops, &r, &link, &e));
    loop_run(r.s.loop);
    loop_free(r.s.loop);
    identity_free(identity);
    waitpid(pid, NULL, 0);
    struct result out = b->result[1];
    munmap(b, sizeof *b);
    return out;
}

static void test_messages_that_are_not_due_end_the_gang(void **state)
{
    (void)state;
    struct msg_insite m = {.site = 1, .incarnation = 7};
    const struct { struct msg_insite m; size_t size; const char *text; } cases[] = {
        {{.round = 0, .kind = INSITE_OPEN}, 0, "message"},                                            /* twice, or of a round that is over */
        {{.round = 5, .kind = INSITE_TOTALS}, 0, "far ahead"},
        {{.round = 1, .kind = INSITE_TOTALS, .count = 1}, 32, "totals of other lanes"},
        {{.round = 1, .kind = INSITE_TOTALS, .first = 1, .count = 4}, 128, "totals of other lanes"},
        {{.round = 1, .kind = INSITE_SUMS, .first = 64, .count = 16}, 64, "not due"},                 /* a hole before it */
        {{.round = 1, .kind = INSITE_SUMS, .count = 16}, 60, "not due"},                              /* shorter than it says */
        {{.round = 1, .kind = INSITE_SUMS, .count = INSITE_LIMIT}, 64, "not due"},
        {{.round = 1, .kind = INSITE_VALUE, .value = 1}, 0, "operation"},                             /* while the others sum */
        {{.round = 2, .kind = INSITE_SUMS, .count = 16}, 64, ""}};                                    /* before anyone has entered it, or for a reduce after a reduce */
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct msg_insite bad = cases[i].m;
        bad.site = m.site;
        bad.incarnation = m.incarnation;
        struct result r = against(bad, cases[i].size);
        assert_int_equal(r.code, ERR_ABORTED);
        assert_non_null(strstr(r.text, "rank 0 (host 0"));
        if (!strstr(r.text, cases[i].text))
            fail_msg("case %u: %s", i, r.text);
    }
    m.incarnation = 6;
    m.round = 1;
    m.kind = INSITE_TOTALS;
    assert_non_null(strstr(against(m, 0).text, "another launch"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_same_bits_for_any_split_over_hosts), cmocka_unit_test(test_two_reduces_in_a_row), cmocka_unit_test(test_only_bytes_that_must_cross),
        cmocka_unit_test(test_a_killed_rank_ends_the_gang_and_is_named), cmocka_unit_test(test_a_paused_rank_meets_the_deadline),
        cmocka_unit_test(test_an_abort_reaches_every_host), cmocka_unit_test(test_ranks_of_another_shape_are_refused),
        cmocka_unit_test(test_frames_of_other_launches_and_rounds_are_refused),
        cmocka_unit_test(test_messages_that_are_not_due_end_the_gang)};
    return cmocka_run_group_tests_name("collectives over hosts", tests, set_up, tear_down);
}
