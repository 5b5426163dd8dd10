/* What the log says: the ledger counts what is missing and doubled, a rollback cuts, a restarted coordinator makes the same manifest. */
#include "tests/unit/unit.h"

#include <math.h>
#include <unistd.h>

#include "coordinator/shell.h"
#include "engine/engine.h"

static const struct msg_plan plan = {.rounds = 8, .samples_per_pass = 10, .batch = 4, .lanes = 8, .seed = 5, .shard_count = 2, .optim_kind = OPTIM_ADAMW};

static struct log_entry view_of(uint32_t generation, uint64_t base)
{
    struct log_entry e = {.kind = LOG_VIEW};
    e.u.view = (struct view){.number = generation, .generation = generation, .base = base};
    return e;
}

/* As the core makes it: passes of 4, 4 and 2 samples. */
static struct log_entry commit_of(uint64_t round)
{
    struct log_entry e = {.kind = LOG_COMMIT};
    uint64_t first = round % 3 * 4;
    uint32_t count = (uint32_t)MIN(4, 10 - first);
    e.u.record = (struct record){.round = round, .view = 3, .pass = (uint32_t)(round / 3), .first = first, .count = count, .lr = 0.5f,
                                 .totals = {.loss_sum = (double)count * (double)(round + 1), .samples = count}};
    return e;
}

static void put(struct history *h, struct log_entry e) { history_entry(h, &e, 1.5 * (double)h->count); }

static void ledger_is(const struct history *h, uint64_t passes, uint64_t missing, uint64_t duplicated)
{
    struct report r = {0};
    history_ledger(h, &plan, &r);
    assert_true(r.have_ledger);
    assert_int_equal(r.passes, passes);
    assert_int_equal(r.missing, missing);
    assert_int_equal(r.duplicated, duplicated);
}

static void sound_history(void **state)
{
    struct history h = {0};
    (void)state;
    put(&h, view_of(1, 0));
    for (uint64_t r = 0; r < 5; r++)
        put(&h, commit_of(r));
    ledger_is(&h, 2, 0, 0);
    assert_int_equal(history_samples(&h, &plan), 18);
    assert_true(history_last_pass_loss(&h, &plan) == 4.5);          /* 4 samples of 4, 4 of 5 */
    put(&h, view_of(1, 0));                                  /* another view of the same generation cuts nothing */
    assert_int_equal(h.count, 5);
    put(&h, view_of(2, 2));
    assert_int_equal(h.count, 2);
    put(&h, commit_of(4));                                   /* not the next one: of a line that is void */
    assert_int_equal(h.count, 2);
    for (uint64_t r = 2; r < 6; r++)
        put(&h, commit_of(r));
    ledger_is(&h, 2, 0, 0);
    history_free(&h);
    assert_true(isnan(history_last_pass_loss(&h, &plan)));
}

/* What training came to is told of phase train; what came after counts as samples and steps, and its checkpoints say so. */
static void a_phase_after_training(void **state)
{
    struct history h = {0};
    struct msg_plan two = plan;
    (void)state;
    two.phases = (struct phases){2, {{PHASE_TRAIN, 4}, {PHASE_PRUNE, 8}}, 0.5};
    put(&h, view_of(1, 0));
    for (uint64_t r = 0; r < 3; r++)
        put(&h, commit_of(r));
    assert_true(history_last_pass_loss(&h, &two) == (4 * 1 + 4 * 2 + 2 * 3) / 10.0);
    for (uint64_t r = 3; r < 8; r++)
        put(&h, commit_of(r));
    assert_true(history_last_pass_loss(&h, &two) == 4);      /* the one round of pass 2 that was of phase train */
    assert_int_equal(history_samples(&h, &two), 28);
    ledger_is(&h, 3, 0, 0);
    history_free(&h);
}

static void unsound_history(void **state)
{
    struct history h = {0};
    (void)state;
    put(&h, view_of(1, 0));
    put(&h, commit_of(0));
    struct log_entry twice = commit_of(1);
    twice.u.record.first = 2;                                /* 2 and 3 again, 6 and 7 never */
    put(&h, twice);
    put(&h, commit_of(2));
    ledger_is(&h, 1, 2, 2);
    struct log_entry elsewhere = commit_of(3);
    elsewhere.u.record.pass = 0;                             /* trained in a pass that was over */
    put(&h, elsewhere);
    ledger_is(&h, 2, 6, 6);
    history_free(&h);
    history_begin_at(&h, 2);                                 /* a log that begins at a checkpoint of another one: its manifest speaks for what came before */
    put(&h, commit_of(2));
    ledger_is(&h, 1, 0, 0);
    assert_int_equal(history_samples(&h, &plan), 10);
    struct log_entry late = commit_of(3);
    late.u.record.first = 6;                                 /* what the log itself says is counted as it is */
    put(&h, late);
    ledger_is(&h, 2, 4, 0);
    history_free(&h);
}

/* ---- manifests ---- */
static void manifests_repeat(void **state)
{
    static const struct tensor_desc tensors[] = {{.name = "w", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {70, 1001}},
                                                 {.name = "m", .kind = TENSOR_STATE, .dim_count = 1, .dims = {10}}};
    struct err e = ERR_INIT;
    struct declaration d = {.model = "{\"family\":\"mlp\"}"};
    char *text[2];
    size_t size[2];
    struct ckpt_manifest m;
    (void)state;
    snprintf(d.data_sha256, sizeof d.data_sha256, "%064d", 7);
    assert_ok(layout_init(&d.layout, tensors, 2, &e));
    struct log_entry checkpoint = {.kind = LOG_CHECKPOINT, .position = 9};
    checkpoint.u.checkpoint = (struct checkpoint_entry){.generation = 1, .step = 4, .site_mask = 3, .part_count = 2,
                                                        .part = {{.shard = 0, .size_bytes = 100, .sha256 = {1}}, {.shard = 1, .size_bytes = 200, .sha256 = {2}}}};
    for (unsigned start = 0; start < 2; start++) {           /* the second time as a restarted coordinator, which has read further */
        struct history h = {0};
        struct msg_plan two = plan;
        struct manifest_source from = {&h, &two, &d, "viaduct: v1\n", "job"};
        two.phases = (struct phases){2, {{PHASE_TRAIN, 3}, {PHASE_PRUNE, 8}}, 0.5};
        put(&h, view_of(1, 0));
        for (uint64_t r = 0; r < 4; r++)
            put(&h, commit_of(r));
        put(&h, checkpoint);
        for (uint64_t r = 4; start && r < 7; r++)
            put(&h, commit_of(r));
        assert_ok(history_manifest(&from, &checkpoint.u.checkpoint, &text[start], &size[start], &e));
        history_free(&h);
    }
    assert_int_equal(size[0], size[1]);
    assert_memory_equal(text[0], text[1], size[0]);
    assert_ok(ckpt_manifest_decode(text[0], size[0], &m, &e));
    assert_true(m.meta.step == 4 && m.meta.pass == 1 && m.meta.position == 4 && m.meta.view == 3 && m.meta.log_position == 9 && m.meta.slot_count == 2);
    assert_string_equal(m.meta.phase, "prune");
    assert_int_equal(m.part_count, 2);
    assert_int_equal(m.part_of_block[0], 0);
    assert_int_equal(m.part_of_block[m.layout.block_count - 1], 1);
    ckpt_manifest_fini(&m);
    layout_fini(&d.layout);
    free(text[0]);
    free(text[1]);
}

/* ---- metrics.jsonl ---- */
static unsigned lines_of(const char *path)
{
    unsigned lines = 0;
    FILE *f = fopen(path, "r");
    assert_non_null(f);
    for (int c; (c = fgetc(f)) != EOF;)
        lines += c == '\n';
    fclose(f);
    return lines;
}

static void metrics_follow_the_log(void **state)
{
    char path[] = "/tmp/viaduct-metrics-XXXXXX";
    struct err e = ERR_INIT;
    struct history h = {0}, again = {0};
    FILE *out = NULL;
    (void)state;
    close(mkstemp(path));
    put(&h, view_of(1, 0));
    for (uint64_t r = 0; r < 5; r++)
        put(&h, commit_of(r));
    assert_ok(history_write_metrics(&h, path, &out, &e));
    assert_int_equal(lines_of(path), 5);
    put(&h, view_of(2, 3));
    assert_ok(history_write_metrics(&h, path, &out, &e));
    assert_int_equal(lines_of(path), 3);
    report_metric(out, 4, 2, 1, 1, 4, 99);
    assert_int_equal(lines_of(path), 4);
    struct log_entry first = view_of(1, 0);
    history_entry(&again, &first, 0);
    for (uint64_t r = 0; r < 3; r++) {                       /* a restart: the log knows no seconds, the file does */
        struct log_entry c = commit_of(r);
        history_entry(&again, &c, 0);
    }
    assert_true(history_read_seconds(&again, path) == 99);
    for (uint64_t r = 0; r < 3; r++)
        assert_true(again.round[r].seconds == h.round[r].seconds);
    fclose(out);
    history_free(&h);
    history_free(&again);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(sound_history), cmocka_unit_test(a_phase_after_training), cmocka_unit_test(unsound_history), cmocka_unit_test(manifests_repeat),
                                       cmocka_unit_test(metrics_follow_the_log)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
