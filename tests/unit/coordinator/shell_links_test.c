/* Who may say what to a coordinator: its links' shell over real local links, with a home site and one that visits. */
#include "tests/unit/unit.h"

#include <math.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "coordinator/shell.h"

enum { HOME, GUEST };
#define PEERS_MAX (MEMBERS_MAX + 16)
#define LIMIT_MS 300000                   /* only a hang meets it */

struct room;
struct peer { struct room *room; struct link *link; struct process_id who; bool opened, closed; unsigned heard[MSG_TYPES]; };
struct room {
    struct shell *s;
    struct listener *listener;
    struct msg_join *join;
    struct peer peer[PEERS_MAX];
    unsigned peers;
    bool (*until)(const struct peer *p);
    const struct peer *of;
};

static float rate(const void *arg, const struct phases *phases, uint64_t round) { (void)arg, (void)phases, (void)round; return 0.5f; }

static void look(struct room *r)
{
    if (r->until && r->until(r->of))
        loop_stop(r->s->loop);
}
static void on_opened(void *arg, struct link *link, const struct msg_hello *hello)
{
    struct peer *p = arg;
    (void)link, (void)hello;
    p->opened = true;
    look(p->room);
}
static void on_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct peer *p = arg;
    (void)link, (void)m, (void)payload, (void)size;
    p->heard[type]++;
    look(p->room);
}
static void on_closed(void *arg, struct link *link, const struct err *why)
{
    struct peer *p = arg;
    (void)link, (void)why;
    p->closed = true;
    look(p->room);
}
static const struct link_ops peer_ops = {on_opened, on_message, on_closed};

static void on_limit(void *arg) { loop_stop(((struct room *)arg)->s->loop); }

static void wait_until(struct room *r, bool (*until)(const struct peer *p), const struct peer *of)
{
    struct timer *limit = timer_start(r->s->loop, LIMIT_MS, 0, on_limit, r);
    r->until = until;
    r->of = of;
    if (!until(of))
        loop_run(r->s->loop);
    r->until = NULL;
    timer_stop(limit);
    assert_true(until(of));
}

static bool is_open(const struct peer *p) { return p->opened; }
static bool answered(const struct peer *p) { return p->closed || p->heard[MSG_STATUSREPLY] > 0; }

static struct msg_hello hello_of(struct process_id who)
{
    return (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = who, .job = "job", .build = "test"};
}

static struct peer *dial(struct room *r, enum role role, uint8_t site, uint32_t instance)
{
    struct err e = ERR_INIT;
    struct peer *p = &r->peer[r->peers++];
    *p = (struct peer){.room = r, .who = {.role = (uint8_t)role, .site = site, .instance = instance}};
    struct msg_hello hello = hello_of(p->who);
    assert_ok(net_dial(r->s->loop, listener_address(r->listener), NULL, &hello, &peer_ops, p, &p->link, &e));
    wait_until(r, is_open, p);
    return p;
}

static void say(struct peer *p, enum msg_type type, const void *m)
{
    struct err e = ERR_INIT;
    assert_ok(link_send(p->link, type, 0, m, NULL, 0, &e));
}

/* Messages are taken in order: with the answer to this, those before it have been. A link that was closed is one too. */
static void settled(struct room *r, struct peer *p)
{
    struct msg_status ask = {0};
    say(p, MSG_STATUS, &ask);
    wait_until(r, answered, p);
    p->heard[MSG_STATUSREPLY] = 0;
}

/* data: of a rank's declaration; NULL: an agent. */
static void join(struct room *r, struct peer *p, const char *data)
{
    static const struct tensor_desc tensor = {.name = "w", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {10}};
    struct err e = ERR_INIT;
    struct layout l;
    void *image = NULL;
    size_t size = 0;
    memset(r->join, 0, sizeof *r->join);
    r->join->who = p->who;
    r->join->samples_per_pass = 20;
    if (data) {
        assert_ok(layout_init(&l, &tensor, 1, &e));
        assert_ok(declaration_encode(&l, data, "", &image, &size, &e));
        r->join->layout_hash = layout_hash(&l);
        layout_fini(&l);
    }
    struct bytes payload = {image, size};
    assert_ok(link_send(p->link, MSG_JOIN, 0, r->join, &payload, size > 0, &e));
    free(image);
    settled(r, p);
}

static struct peer *agent(struct room *r, uint8_t site)
{
    struct peer *p = dial(r, ROLE_AGENT, site, 0);
    join(r, p, NULL);
    return p;
}

static struct peer *rank(struct room *r, uint8_t site, const char *data)
{
    struct peer *p = dial(r, ROLE_WORKER, site, core_view(r->s->core)->gang[site].incarnation);
    join(r, p, data);
    return p;
}

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    struct shell *s = r->s = calloc(1, sizeof *s);
    struct err e = ERR_INIT;
    uint64_t leader;
    char path[700];
    r->join = calloc(1, sizeof *r->join);
    snprintf(s->run.path, sizeof s->run.path, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(s->run.path));
    snprintf(path, sizeof path, "%s/state", s->run.path);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/events.jsonl", s->run.path);
    s->events = fopen(path, "ae");
    assert_non_null(s->events);
    log_open(&s->log, NULL, "coordinator", "job");
    s->log.stderr_level = LOG_ERROR;
    s->restarts = restarts_open(s->run.path, false);
    s->report.samples_per_second = s->report.train_loss = s->report.epochs = NAN;
    s->job.spec = (struct job_spec){.name = "small", .site_count = 2, .sites = {{.name = "home", .nodes = 1}, {.name = "guest", .via = VIA_JOIN, .nodes = 1}}};
    s->config = (struct core_config){.copies = 2, .checkpoint_replicas = 1, .steps = 4, .lease_ms = LIMIT_MS, .relaunch_ms = LIMIT_MS, .fresh = true, .lr = rate, .visiting = 1 << GUEST};
    s->config.plan = (struct msg_plan){.batch = 8, .lanes = 4, .checkpoint_every = 2, .shard_count = 1, .slot_count = 2, .site_count = 2, .slot_site = {HOME, GUEST}, .clip = 1.0};
    s->config.gang[HOME] = s->config.gang[GUEST] = (struct view_gang){.ranks = 1};
    s->config.gang[HOME].lanes = (struct lane_range){0, 4};
    assert_ok(loop_new(&s->loop, &e));
    snprintf(path, sizeof path, "%s/decisions.db", s->run.path);
    assert_ok(decision_log_sqlite.open(path, &s->db, &e));
    assert_ok(decision_log_sqlite.take_over(s->db, &leader, &e));
    s->core = core_init(calloc(1, core_size()), &s->config);
    s->out = calloc(1, sizeof *s->out);
    core_start(s->core, loop_now_ms(s->loop), s->out);
    shell_run(s);
    s->hello = hello_of((struct process_id){.role = ROLE_COORDINATOR});
    snprintf(path, sizeof path, "unix:%s/c", s->run.path);
    assert_ok(net_listen(s->loop, path, NULL, &s->hello, &shell_link_ops, s, &r->listener, &e));
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    struct shell *s = r->s;
    char command[600];
    loop_free(s->loop);
    decision_log_sqlite.close(s->db);
    fclose(s->events);
    shell_metrics_close(s);
    restarts_close(s->restarts);
    declaration_fini(&s->declaration);
    free(s->declaration_bytes);
    history_free(&s->history);
    free(s->wan);
    free(s->core);
    free(s->out);
    log_close(&s->log);
    snprintf(command, sizeof command, "rm -rf '%s'", s->run.path);
    assert_int_equal(system(command), 0);
    free(s);
    free(r->join);
    free(r);
    return 0;
}

static bool wanted(const struct room *r, uint8_t site) { return core_view(r->s->core)->gang[site].wanted; }

/* What the run trains on, a site that stays says: a visitor that is quicker waits for it, and is sent away when it has something else. */
static void a_visitor_declares_nothing(void **state)
{
    struct room *r = *state;
    agent(r, HOME);
    struct peer *guest = agent(r, GUEST);
    assert_true(wanted(r, GUEST));
    assert_true(rank(r, GUEST, "bbbb")->closed);
    assert_null(r->s->declaration_bytes);
    assert_false(rank(r, HOME, "aaaa")->closed);
    assert_string_equal(r->s->declaration.data_sha256, "aaaa");
    assert_int_not_equal(core_phase(r->s->core), CORE_FAILED);
    assert_false(guest->closed);
    assert_int_equal(guest->heard[MSG_STOP], 0);
    rank(r, GUEST, "bbbb");
    assert_int_not_equal(core_phase(r->s->core), CORE_FAILED);
    assert_false(wanted(r, GUEST));
    settled(r, guest);
    assert_int_equal(guest->heard[MSG_STOP], 1);
}

/* A visitor may only leave; under Slurm it is a home site's agent that learns first that the nodes are taken. */
static void a_visitor_does_not_stop_the_run(void **state)
{
    struct room *r = *state;
    struct msg_stop stop = {.why = STOP_REQUESTED};
    struct msg_drain drain = {.site = GUEST};
    char path[700];
    shell_stop_path(r->s, path);
    struct peer *home = agent(r, HOME);
    rank(r, HOME, "aaaa");
    struct peer *guest = agent(r, GUEST);
    say(guest, MSG_STOP, &stop);
    settled(r, guest);
    assert_true(guest->closed);
    assert_int_not_equal(access(path, F_OK), 0);
    guest = agent(r, GUEST);
    say(guest, MSG_DRAIN, &drain);
    settled(r, guest);
    assert_false(guest->closed);
    assert_false(wanted(r, GUEST));
    assert_int_not_equal(access(path, F_OK), 0);
    say(home, MSG_STOP, &stop);
    settled(r, home);
    assert_int_equal(access(path, F_OK), 0);
}

/* A rank tells its last times in a thread that knows nothing of its leaving. */
static void what_comes_after_a_leave_is_no_fault(void **state)
{
    struct room *r = *state;
    agent(r, HOME);
    struct peer *p = rank(r, HOME, "aaaa");
    struct msg_leave leave = {.who = p->who};
    struct msg_times times = {.generation = 1, .count = 1};
    say(p, MSG_LEAVE, &leave);
    say(p, MSG_TIMES, &times);
    settled(r, p);
    assert_false(p->closed);
    join(r, p, "aaaa");
    say(p, MSG_PREPARED, &(struct msg_prepared){.norm_count = 1});   /* it is a member again, and judged as one */
    settled(r, p);
    assert_true(p->closed);
}

/* What nobody has said yet is not known, which is not zero. */
static void bytes_that_nobody_has_told_are_unknown(void **state)
{
    struct room *r = *state;
    char text[8192];
    agent(r, HOME);
    struct peer *p = rank(r, HOME, "aaaa");
    shell_status(r->s, text, sizeof text);
    assert_non_null(strstr(text, "\"wan_bytes_per_second\":null"));
    assert_true(isnan(shell_wan_sent(r->s, HOME)));
    for (uint64_t sent = 100; sent <= 150; sent += 50) {
        say(p, MSG_HEARTBEAT, &(struct msg_heartbeat){.who = p->who, .wan_sent_bytes = sent});
        settled(r, p);
    }
    assert_true(shell_wan_sent(r->s, HOME) == 50);
    assert_true(isnan(shell_wan_sent(r->s, GUEST)));
}

static bool is_closed(const struct peer *p) { return p->closed; }

/* Who holds a certificate, even that of a token which is used, can open links as it likes: it takes nobody's place who has joined or will join. */
static void links_that_never_join_make_room(void **state)
{
    struct room *r = *state;
    struct rlimit files;
    if (getrlimit(RLIMIT_NOFILE, &files) < 0 || (files.rlim_max != RLIM_INFINITY && files.rlim_max < 3 * MEMBERS_MAX)) {
        test_skip("this process may not open so many files");
        return;
    }
    files.rlim_cur = 3 * MEMBERS_MAX;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &files), 0);
    struct peer *home = agent(r, HOME), *token = NULL, *first = NULL;
    for (unsigned i = 0; i < 12; i++) {
        struct peer *p = dial(r, ROLE_JOIN, GUEST, 0);
        token = token ? token : p;
    }
    wait_until(r, is_closed, token);      /* of tokens a few ask at once */
    assert_false(home->closed);
    for (unsigned i = 0; i < MEMBERS_MAX; i++) {
        struct peer *p = dial(r, ROLE_AGENT, GUEST, 0);
        first = first ? first : p;
    }
    wait_until(r, is_closed, first);
    settled(r, home);
    assert_false(home->closed);
    assert_false(rank(r, HOME, "aaaa")->closed);
    assert_true(shell_site_up(r->s, HOME).ranks == 1);
}

static void a_token_sends_nothing_but_its_question(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    static const uint8_t much[4096];
    struct bytes payload = {much, sizeof much};
    struct msg_enrol m = {.site = "guest"};
    struct peer *p = dial(r, ROLE_JOIN, GUEST, 0);
    assert_ok(link_send(p->link, MSG_ENROL, 0, &m, &payload, 1, &e));
    wait_until(r, is_closed, p);
    assert_int_equal(p->heard[MSG_FAILED], 0);
}

static bool refused(const struct peer *p) { return p->heard[MSG_FAILED] > 0; }

/* The run cannot give what the token is for (a file is gone): it can still be used when that is mended. */
static void a_token_that_bought_nothing_is_still_good(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    struct msg_enrol m = {.site = "guest", .secret = "secret"};
    char path[700], hash[SHA256_HEX];
    uint8_t digest[SHA256_BYTES];
    snprintf(path, sizeof path, "%s/state/tokens", r->s->run.path);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/state/tokens/guest.sha256", r->s->run.path);
    sha256_of(m.secret, strlen(m.secret), digest);
    hex_of(digest, sizeof digest, hash);
    assert_ok(fs_publish_file(&fs_real, path, hash, strlen(hash), &e));
    struct peer *p = dial(r, ROLE_JOIN, GUEST, 0);
    say(p, MSG_ENROL, &m);
    wait_until(r, refused, p);
    assert_int_equal(access(path, F_OK), 0);
}

/* Each costs a stranger nothing, and must not fill the disk. */
static void strangers_are_told_sparingly(void **state)
{
    struct room *r = *state;
    char path[700], line[2048];
    unsigned lines = 0;
    struct sockaddr_un at = {.sun_family = AF_UNIX};
    snprintf(path, sizeof path, "%s/log", r->s->run.path);
    log_close(&r->s->log);
    assert_int_equal(log_open(&r->s->log, path, "coordinator", "job"), 0);
    r->s->log.stderr_level = LOG_ERROR;
    snprintf(at.sun_path, sizeof at.sun_path, "%s", listener_address(r->listener) + strlen("unix:"));
    for (unsigned i = 0; i < 50; i++) {
        int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        assert_true(fd >= 0 && connect(fd, (struct sockaddr *)&at, sizeof at) == 0 && send(fd, path, 64, MSG_NOSIGNAL) == 64);
        agent(r, HOME);                   /* what came before it has been looked at */
        close(fd);
    }
    FILE *f = fopen(path, "re");
    assert_non_null(f);
    while (fgets(line, sizeof line, f))
        lines += strstr(line, "\"warn\"") != NULL;
    fclose(f);
    assert_int_equal(lines, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(a_visitor_declares_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_visitor_does_not_stop_the_run, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_comes_after_a_leave_is_no_fault, set_up, tear_down),
        cmocka_unit_test_setup_teardown(bytes_that_nobody_has_told_are_unknown, set_up, tear_down),
        cmocka_unit_test_setup_teardown(links_that_never_join_make_room, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_token_sends_nothing_but_its_question, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_token_that_bought_nothing_is_still_good, set_up, tear_down),
        cmocka_unit_test_setup_teardown(strangers_are_told_sparingly, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("shell_links", tests, NULL, NULL);
}
