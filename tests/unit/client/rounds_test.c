/* What a rank believes of the answers to its pulls: those of its view and generation, of its blocks, of the version it wants or a newer one. */
#include "tests/unit/unit.h"

#include <unistd.h>

#include "client/client.h"

enum { BLOCKS = 3 };                                      /* the last one of 64 elements */
struct rig { struct viaduct v; struct coll *coll; char segment[80]; float payload[2 * BLOCK_ELEMS + 64]; };

static int set_up(void **state)
{
    struct rig *r = calloc(1, sizeof *r);
    struct viaduct *v = &r->v;
    struct err e = ERR_INIT;
    struct tensor_desc t = {.name = "w", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {2 * BLOCK_ELEMS + 64}};
    assert_ok(layout_init(&v->layout, &t, 1, &e));
    assert_ok(loop_new(&v->loop, &e));
    log_open(&v->log, NULL, "test", "");
    pthread_mutex_init(&v->lock, NULL);
    pthread_cond_init(&v->wake, NULL);
    snprintf(r->segment, sizeof r->segment, "/viaduct-rounds-test-%d", (int)getpid());
    struct coll_config c = {.transport = "shm", .segment = r->segment, .rank = 0, .ranks = 1, .lanes = 4, .gang = {0, 4}, .layout = &v->layout, .open_timeout_ms = 1000,
                            .timeout_ms = 1000};
    assert_ok(coll_open(&c, &v->coll, &e));
    v->hello.who = (struct process_id){.role = ROLE_WORKER, .instance = 3};
    v->have_plan = v->have_view = true;
    v->plan.shard_count = 1;
    v->plan.lanes = 4;
    v->view.view.number = 7;
    v->view.view.generation = 2;
    v->view.view.gang[0].incarnation = 3;
    v->shard_first = calloc(SHARDS_LIMIT, sizeof *v->shard_first);
    v->held = calloc(BLOCKS, sizeof *v->held);
    v->phase = CLIENT_WAITING;
    v->target = 5;
    rounds_set_pieces(v);
    for (unsigned i = 0; i < ARRAY_LEN(r->payload); i++)
        r->payload[i] = (float)i;
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct rig *r = *state;
    coll_close(r->v.coll);
    loop_free(r->v.loop);
    ps_peers_close(r->v.peers);
    layout_fini(&r->v.layout);
    free(r->v.shard_first);
    free(r->v.held);
    free(r);
    return 0;
}

static struct msg_pullreply good(void)
{
    return (struct msg_pullreply){.view = 7, .generation = 2, .version = 5, .block_count = BLOCKS, .record = {.round = 4}};
}

static bool taken(struct rig *r, const struct msg_pullreply *m, size_t size)
{
    r->v.piece[0].have = false;
    memset(r->v.held, 0, BLOCKS * sizeof *r->v.held);
    rounds_reply(&r->v, m, (const uint8_t *)r->payload, size);
    return r->v.piece[0].have;
}

static void an_answer_of_this_view_is_taken(void **state)
{
    struct rig *r = *state;
    struct msg_pullreply m = good();
    assert_true(taken(r, &m, sizeof r->payload));
    assert_true(coll_weights(r->v.coll)[63] == 63.0f);
}

static void an_answer_of_another_view_is_dropped(void **state)
{
    struct rig *r = *state;
    struct msg_pullreply m = good();
    m.view = 6;
    assert_false(taken(r, &m, sizeof r->payload));
}

static void an_answer_of_another_generation_is_dropped(void **state)
{
    struct rig *r = *state;
    struct msg_pullreply m = good();
    m.generation = 1;
    assert_false(taken(r, &m, sizeof r->payload));
}

static void an_older_version_other_blocks_and_wrong_sizes_are_dropped(void **state)
{
    struct rig *r = *state;
    struct msg_pullreply m = good();
    m.version = 4;
    assert_false(taken(r, &m, sizeof r->payload));
    m = good();
    m.block_count = BLOCKS + 1;
    assert_false(taken(r, &m, sizeof r->payload));
    m = good();
    assert_false(taken(r, &m, sizeof r->payload - 4));
    m.shard = 1;
    assert_false(taken(r, &m, sizeof r->payload));
}

static void nothing_is_written_while_the_trainer_computes(void **state)
{
    struct rig *r = *state;
    struct msg_pullreply m = good();
    r->v.phase = CLIENT_COMPUTING;
    assert_false(taken(r, &m, sizeof r->payload));
}

static bool comes(struct rig *r, uint64_t version, uint32_t first, uint32_t count)
{
    struct msg_pullreply m = good();
    m.version = version;
    m.block_first = first;
    m.block_count = count;
    rounds_reply(&r->v, &m, (const uint8_t *)(r->payload + first * BLOCK_ELEMS), (first + count == BLOCKS ? (count - 1) * BLOCK_ELEMS + 64 : count * BLOCK_ELEMS) * sizeof(float));
    return r->v.piece[0].have;
}

/* From another site weights come in chunks. One of a newer version makes those of the older one void. */
static void chunks_of_one_version_make_a_piece(void **state)
{
    struct rig *r = *state;
    assert_false(comes(r, 5, 0, 1));
    assert_false(comes(r, 5, 0, 1));
    assert_false(comes(r, 6, 2, 1));
    assert_int_equal(r->v.target, 6);
    assert_false(comes(r, 5, 1, 1));
    assert_false(comes(r, 6, 1, 1));
    assert_true(comes(r, 6, 0, 1));
    assert_true(coll_weights(r->v.coll)[BLOCK_ELEMS + 1] == (float)(BLOCK_ELEMS + 1));
    rounds_set_pieces(&r->v);                             /* a gang that opens anew has none of them */
    assert_false(comes(r, 6, 0, 1));
}

/* A new view may be of another generation, whose versions bear the same numbers. */
static void a_view_makes_chunks_void(void **state)
{
    struct rig *r = *state;
    assert_false(comes(r, 5, 0, 2));
    r->v.phase = CLIENT_COMPUTING;                        /* else it would ask, and nobody is linked here */
    rounds_view(&r->v);
    r->v.phase = CLIENT_WAITING;
    assert_false(comes(r, 5, 2, 1));
}

/* ---- weights from another site: slot 1 holds the shard there, and is not linked ---- */
static void move_away(struct rig *r)
{
    struct viaduct *v = &r->v;
    struct err e = ERR_INIT;
    struct ps_peers_config c = {.loop = v->loop, .hello = &v->hello, .log = &v->log, .own_slot = UINT8_MAX};
    assert_ok(ps_peers_open(&c, &v->peers, &e));
    v->view.view.shard[0] = (struct view_shard){1, {{1, COPY_PRIMARY}}};
    v->view.view.slot[1].site = 1;
    v->view.view.gang[0].lanes = v->gang_lanes = (struct lane_range){0, 4};
}

/* The version is there when a rank gets its first lanes, and what was asked for before it was known is of that version too. */
static void the_first_weights_are_asked_for_at_once_and_once(void **state)
{
    struct rig *r = *state;
    move_away(r);
    rounds_view(&r->v);
    assert_int_equal(r->v.piece[0].flying, 2);
    assert_false(comes(r, 9, 0, 2));
    assert_int_equal(r->v.target, 9);
    assert_int_equal(r->v.piece[0].flying, 1);
    assert_true(comes(r, 9, 2, 1));
}

static void a_version_that_moves_on_meanwhile_is_asked_for_again(void **state)
{
    struct rig *r = *state;
    move_away(r);
    rounds_view(&r->v);
    assert_false(comes(r, 9, 0, 2));
    assert_false(comes(r, 10, 2, 1));
    assert_int_equal(r->v.piece[0].flying, 1);            /* its first chunk; the last one is here */
    assert_true(comes(r, 10, 0, 2));
}

static void later_ones_come_after_the_first_chunk(void **state)
{
    struct rig *r = *state;
    move_away(r);
    r->v.works = true;
    rounds_view(&r->v);
    assert_int_equal(r->v.piece[0].flying, 1);
    assert_false(comes(r, 5, 0, 2));
    assert_int_equal(r->v.piece[0].flying, 1);
    assert_true(comes(r, 5, 2, 1));
}

/* What comes before the gang is opened anew would be lost. */
static void a_view_with_other_lanes_asks_for_nothing(void **state)
{
    struct rig *r = *state;
    move_away(r);
    r->v.gang_lanes = (struct lane_range){0, 0};
    rounds_view(&r->v);
    assert_int_equal(r->v.piece[0].flying, 0);
}

static void a_trainer_that_gives_no_first_values_is_told(void **state)
{
    struct viaduct *v = NULL;
    struct viaduct_config c = {.rank = -1, .incarnation = -1};
    struct viaduct_error e = {0};
    (void)state;
    assert_int_equal(viaduct_join(&c, &v, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "init"));
    assert_null(v);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(an_answer_of_this_view_is_taken, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_of_another_view_is_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_answer_of_another_generation_is_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_older_version_other_blocks_and_wrong_sizes_are_dropped, set_up, tear_down),
        cmocka_unit_test_setup_teardown(chunks_of_one_version_make_a_piece, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_view_makes_chunks_void, set_up, tear_down),
        cmocka_unit_test_setup_teardown(the_first_weights_are_asked_for_at_once_and_once, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_version_that_moves_on_meanwhile_is_asked_for_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(later_ones_come_after_the_first_chunk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_view_with_other_lanes_asks_for_nothing, set_up, tear_down),
        cmocka_unit_test(a_trainer_that_gives_no_first_values_is_told),
        cmocka_unit_test_setup_teardown(nothing_is_written_while_the_trainer_computes, set_up, tear_down),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
