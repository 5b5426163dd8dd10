/* Links to slots: over TLS, who answers must be of the site that the view names for the slot; and bytes both ways before a link counts. */
#include "tests/unit/unit.h"

#include "ps/ps.h"

#define LIMIT_MS 300000                   /* only a hang meets it */

struct room {
    struct rundir run;
    struct loop *loop;
    struct log log;
    struct identity *ours, *theirs;
    struct msg_hello hello, answer;
    struct listener *listener;
    struct ps_peers *peers;
    struct msg_view *view;
    unsigned opened, refused;
    size_t came, went;                    /* bytes of MSG_WARM: to us, to the other end */
    unsigned asked;
};

static void peer_opened(void *arg, uint8_t slot)
{
    struct room *r = arg;
    assert_int_equal(slot, 1);
    r->opened++;
    loop_stop(r->loop);
}
static void peer_message(void *arg, uint8_t slot, uint32_t instance, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct room *r = arg;
    (void)instance, (void)m, (void)payload;
    assert_int_equal(type, MSG_WARM);
    r->came += size;
    if (ps_peers_warmed(r->peers, slot, 1))
        loop_stop(r->loop);
}
static void guest_opened(void *arg, struct link *link, const struct msg_hello *hello) { (void)arg, (void)link, (void)hello; }
static void guest_message(void *arg, struct link *link, enum msg_type type, void *m, const uint8_t *payload, size_t size)
{
    struct room *r = arg;
    struct err e = ERR_INIT;
    (void)payload;
    assert_int_equal(type, MSG_WARM);
    r->went += size;
    r->asked += ((struct msg_warm *)m)->back > 0;
    assert_ok(ps_warm(link, ((struct msg_warm *)m)->back, &e));
}
static void guest_closed(void *arg, struct link *link, const struct err *why)
{
    struct room *r = arg;
    (void)link, (void)why;
    r->refused++;
    loop_stop(r->loop);
}
static const struct link_ops guest_ops = {guest_opened, guest_message, guest_closed};

static void on_limit(void *arg) { loop_stop(((struct room *)arg)->loop); }

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    struct err e = ERR_INIT;
    char path[600];
    snprintf(r->run.path, sizeof r->run.path, "/tmp/viaduct-test-XXXXXX");
    assert_non_null(mkdtemp(r->run.path));
    snprintf(path, sizeof path, "%s/state", r->run.path);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/state/sites", r->run.path);
    assert_ok(fs_publish_file(&fs_real, path, "onprem\ncloud\n", 13, &e));
    snprintf(path, sizeof path, "%s/state/tls", r->run.path);
    assert_ok(identity_make_ca(path, "job", &e));
    assert_ok(identity_issue(path, "job", "onprem", ROLE_PS, &e));
    assert_ok(identity_issue(path, "job", "cloud", ROLE_PS, &e));
    assert_ok(identity_load(path, "onprem", ROLE_PS, &r->ours, &e));
    assert_ok(identity_load(path, "cloud", ROLE_PS, &r->theirs, &e));
    log_open(&r->log, NULL, "ps", "job");
    r->log.stderr_level = LOG_ERROR;
    assert_ok(loop_new(&r->loop, &e));
    r->hello = (struct msg_hello){.version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .who = {.role = ROLE_PS, .instance = 1}, .job = "job", .build = "test"};
    r->answer = r->hello;
    r->answer.who = (struct process_id){.role = ROLE_PS, .site = 1, .index = 1, .instance = 1};
    r->view = calloc(1, sizeof *r->view);
    r->view->view.slot_count = 2;
    r->view->view.slot[0] = (struct view_slot){.site = 0, .instance = 1, .up = true};
    r->view->view.slot[1] = (struct view_slot){.site = 1, .instance = 1, .up = true};
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char command[600];
    loop_free(r->loop);
    ps_peers_close(r->peers);
    identity_free(r->ours);
    identity_free(r->theirs);
    log_close(&r->log);
    snprintf(command, sizeof command, "rm -rf '%s'", r->run.path);
    assert_int_equal(system(command), 0);
    free(r->view);
    free(r);
    return 0;
}

/* Slot 1 is of site cloud; it says so itself, whoever it is. */
static void answers(struct room *r, const struct identity *with)
{
    struct err e = ERR_INIT;
    assert_ok(net_listen(r->loop, "tls:127.0.0.1:0", with, &r->answer, &guest_ops, r, &r->listener, &e));
    snprintf(r->view->address_tls[1], ADDRESS_LIMIT, "%s", listener_address(r->listener));
    const struct ps_peers_config c = {.loop = r->loop, .run = &r->run, .identity = r->ours, .hello = &r->hello, .log = &r->log, .opened = peer_opened,
                                      .message = peer_message, .arg = r};
    assert_ok(ps_peers_open(&c, &r->peers, &e));
    ps_peers_view(r->peers, r->view);
    struct timer *limit = timer_start(r->loop, LIMIT_MS, 0, on_limit, r);
    loop_run(r->loop);
    timer_stop(limit);
}

static void the_slots_site_is_let_in(void **state)
{
    struct room *r = *state;
    answers(r, r->theirs);
    assert_int_equal(r->opened, 1);
}

static void a_certificate_of_another_site_is_not(void **state)
{
    struct room *r = *state;
    answers(r, r->ours);
    assert_int_equal(r->opened, 0);
    assert_int_equal(r->refused, 1);
}

/* As much comes as goes, in that order, and only once a link. */
static void a_link_is_warmed_both_ways(void **state)
{
    struct room *r = *state;
    const size_t bytes = 3 * WARM_PIECE_BYTES / 2;
    r->answer.features = FEATURE_WARM;
    answers(r, r->theirs);
    assert_false(ps_peers_warmed(r->peers, 1, bytes));
    assert_false(ps_peers_warmed(r->peers, 1, bytes));
    struct timer *limit = timer_start(r->loop, LIMIT_MS, 0, on_limit, r);
    loop_run(r->loop);
    timer_stop(limit);
    assert_true(ps_peers_warmed(r->peers, 1, bytes));
    assert_int_equal(r->went, bytes);
    assert_int_equal(r->came, bytes + 1);
    assert_int_equal(r->asked, 2);
}

static void a_process_that_does_not_warm_counts_at_once(void **state)
{
    struct room *r = *state;
    assert_false(r->peers && ps_peers_warmed(r->peers, 1, 100));
    answers(r, r->theirs);
    assert_false(ps_peers_warmed(r->peers, 0, 100));
    assert_true(ps_peers_warmed(r->peers, 1, 100));
    assert_int_equal(r->went + r->asked, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(the_slots_site_is_let_in, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_certificate_of_another_site_is_not, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_link_is_warmed_both_ways, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_process_that_does_not_warm_counts_at_once, set_up, tear_down),
    };
    return cmocka_run_group_tests_name("peers", tests, NULL, NULL);
}
