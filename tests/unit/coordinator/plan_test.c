/* The plan that people see: it is the coordinator's own placement, its bytes follow from that, its JSON parses, its times come from a probe. */
#include "tests/unit/unit.h"

#include <jansson.h>
#include <unistd.h>

#include "coordinator/coordinator.h"

static char images[64];

static int set_up(void **state)
{
    (void)state;
    static const uint8_t header[16] = {0, 0, 8, 3, 0, 0, 3, 232, 0, 0, 0, 12, 0, 0, 0, 12};   /* 1000 images of 12 x 12: a plan reads no more */
    snprintf(images, sizeof images, "/tmp/viaduct-plan-XXXXXX");
    int fd = mkstemp(images);
    bool written = fd >= 0 && write(fd, header, sizeof header) == (ssize_t)sizeof header;
    close(fd);
    return written ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    return unlink(images);
}

static void load(struct job *job, const char *rest)
{
    char text[2000];
    struct err e = ERR_INIT;
    snprintf(text, sizeof text, "viaduct: v1\nname: sample\nmodel: {family: mlp, classes: 4, input: [1, 12, 12], hidden: 600}\n"
             "data: {train: {format: idx, images: %s, labels: %s}}\n%s", images, images, rest);
    if (job_load_text(job, "test.yaml", text, strlen(text), NULL, 0, false, &e) < 0) {
        problems_print(&job->problems, stderr);
        fail_msg("%s", e.text);
    }
}

static json_t *plan_of(const struct job *job, char **text)
{
    struct err e = ERR_INIT;
    struct run_plan *p;
    char *json = NULL;
    size_t size;
    json_error_t where;
    assert_ok(run_plan_make(&job->spec, &p, &e));
    FILE *f = open_memstream(&json, &size);
    assert_int_equal(run_plan_print_json(p, f), 0);
    fclose(f);
    f = open_memstream(text, &size);
    run_plan_print(p, f);
    fclose(f);
    run_plan_free(p);
    json_t *root = json_loads(json, 0, &where);
    if (!root)
        fail_msg("%s at %d: %s", where.text, where.position, json);
    free(json);
    return root;
}

static json_int_t number(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    if (!json_is_integer(v))
        fail_msg("%s is no whole number", key);
    return json_integer_value(v);
}

static json_int_t lane(const json_t *range, size_t end) { return json_integer_value(json_array_get(range, end)); }

/* Lanes of sites follow each other and are cut into those of ranks; returns how many there are. */
static json_int_t check_lanes(const json_t *root)
{
    size_t i, r;
    json_t *site, *range;
    json_int_t at = 0;
    json_array_foreach(json_object_get(root, "sites"), i, site) {
        const json_t *lanes = json_object_get(site, "lanes"), *ranks = json_object_get(site, "rank_lanes");
        assert_int_equal(lane(lanes, 0), at);
        assert_int_equal(json_array_size(ranks), number(site, "ranks"));
        assert_true(number(site, "memory_per_rank_bytes") > 1000 * 145);
        json_array_foreach(ranks, r, range) {
            assert_int_equal(lane(range, 0), at);
            at = lane(range, 1);
        }
        assert_int_equal(lane(lanes, 1), at);
    }
    return at;
}

static void test_two_sites(void **state)
{
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    char *text;
    load(job, "train: {epochs: 2, batch: 96, lanes: 6}\nsites:\n  - {name: a, via: local, ranks: 2, threads: 1, ps_shards: 1}\n"
              "  - {name: b, via: local, ranks: 1, threads: 1, ps_shards: 1}\n");
    json_t *root = plan_of(job, &text), *shard;
    json_int_t bytes = 0, blocks = 0, contributed = 0;
    size_t i;
    assert_int_equal(check_lanes(root), 6);
    json_array_foreach(json_object_get(root, "shards"), i, shard) {
        const char *home = json_string_value(json_object_get(json_object_get(shard, "primary"), "site"));
        const json_t *copies = json_object_get(shard, "replicas");
        assert_int_equal(json_array_size(copies), 1);
        assert_string_not_equal(home, json_string_value(json_object_get(json_array_get(copies, 0), "site")));
        bytes += number(shard, "bytes");
        blocks += number(shard, "blocks");
        struct lane_range node[LANE_NODES_MAX];
        const json_t *other = json_object_get(json_array_get(json_object_get(root, "sites"), *home == 'a'), "lanes");
        contributed += number(shard, "bytes") * lane_nodes(6, (struct lane_range){(uint16_t)lane(other, 0), (uint16_t)lane(other, 1)}, node);
    }
    json_int_t parameters = 144 * 600 + 600 + 600 * 4 + 4;
    assert_int_equal(number(root, "parameters"), parameters);
    assert_int_equal(bytes, parameters * 4);
    assert_int_equal(blocks, 2 + 1 + 1 + 1);
    const json_t *wan = json_object_get(root, "wan");
    assert_int_equal(number(wan, "contributed"), contributed);
    assert_int_equal(number(wan, "pulled"), 0);
    assert_int_equal(number(root, "wan_bytes_per_step"), number(wan, "contributed") + number(wan, "replicated"));
    assert_int_equal(number(root, "steps"), 2 * 11);
    assert_int_equal(number(root, "samples_per_pass"), 1000);
    assert_true(json_number_value(json_object_get(root, "step_seconds_predicted")) > 0);
    assert_non_null(strstr(text, "why:"));
    assert_non_null(strstr(text, "between sites"));
    free(text);
    json_decref(root);
    job_fini(job);
    free(job);
}

static void test_one_site_sends_nothing(void **state)
{
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    char *text;
    load(job, "train: {steps: 7, batch: 30, lanes: 5}\nsites: [{name: only, via: local, ranks: 3, threads: 4}]\n");
    json_t *root = plan_of(job, &text), *shard;
    size_t i;
    assert_int_equal(check_lanes(root), 5);
    assert_int_equal(number(root, "wan_bytes_per_step"), 0);
    assert_int_equal(number(root, "steps"), 7);
    assert_int_equal(json_array_size(json_object_get(root, "shards")), 3);
    json_array_foreach(json_object_get(root, "shards"), i, shard)
        assert_int_equal(json_array_size(json_object_get(shard, "replicas")), 0);
    assert_int_equal(number(json_object_get(root, "parallel"), "data"), 3);
    assert_non_null(strstr(text, "12 compute threads"));   /* a limit is named: 5 lanes at the least do not feed them */
    free(text);
    json_decref(root);
    job_fini(job);
    free(job);
}

static void test_phases_are_named(void **state)
{
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    char *text;
    load(job, "train: {steps: 7, batch: 100, lanes: 5}\nexport: {prune: {sparsity: 0.5, epochs: 2}}\n");
    json_t *root = plan_of(job, &text);
    const json_t *phases = json_object_get(root, "phases"), *second = json_array_get(phases, 1);
    assert_int_equal(json_array_size(phases), 2);
    assert_int_equal(number(json_array_get(phases, 0), "last_step"), 7);
    assert_string_equal(json_string_value(json_object_get(second, "name")), "prune");
    assert_int_equal(number(second, "first_step"), 8);
    assert_int_equal(number(second, "last_step"), 27);       /* two passes of 1,000 samples */
    assert_int_equal(number(second, "weights"), 144 * 600 + 600 * 4);
    assert_int_equal(number(root, "steps"), 27);
    assert_non_null(strstr(text, "prune and fine-tune, steps 8-27"));
    free(text);
    json_decref(root);
    job_fini(job);
    free(job);
}

static void test_missing_data_is_named(void **state)
{
    (void)state;
    struct job *job = calloc(1, sizeof *job);
    struct err e = ERR_INIT;
    struct run_plan *p;
    load(job, "");
    job->spec.train.images = "/nowhere/images";
    assert_int_equal(run_plan_make(&job->spec, &p, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "/nowhere/images"));
    job_fini(job);
    free(job);
}

/* What joins later is no part of what the run costs at its start. */
static void test_a_site_that_joins_later(void **state)
{
    (void)state;
    static struct job joined;
    char *text;
    load(&joined, "coordinator: {listen: 'localhost:7000', address: 'localhost:7000'}\nsites: [{name: home, ranks: 2}, {name: edge, via: join, ranks: 3, threads: 64}]\n");
    json_t *b = plan_of(&joined, &text);
    json_t *edge = json_array_get(json_object_get(b, "sites"), 1);
    assert_true(json_is_true(json_object_get(edge, "joins_later")));
    assert_int_equal(json_integer_value(json_object_get(json_object_get(b, "parallel"), "data")), 2);
    assert_int_equal(json_integer_value(json_object_get(b, "wan_bytes_per_step")), 0);
    assert_int_equal(json_array_size(json_object_get(json_array_get(json_object_get(b, "shards"), 0), "replicas")), 0);
    int64_t shards = json_integer_value(json_object_get(json_array_get(json_object_get(b, "shards"), 0), "memory_bytes"));
    int64_t ranks = 2 * json_integer_value(json_object_get(json_array_get(json_object_get(b, "sites"), 0), "memory_per_rank_bytes"));
    assert_int_equal(json_integer_value(json_object_get(b, "memory_bytes")), shards + ranks);
    assert_non_null(strstr(text, "edge joins later, with 3 ranks"));
    assert_null(strstr(text, "get no lane"));
    assert_null(strstr(text, "192"));                     /* its threads */
    assert_null(strstr(text, "any one site may vanish"));
    json_decref(b);
    free(text);
    job_fini(&joined);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_two_sites), cmocka_unit_test(test_one_site_sends_nothing),
                                       cmocka_unit_test(test_phases_are_named), cmocka_unit_test(test_a_site_that_joins_later), cmocka_unit_test(test_missing_data_is_named)};
    return cmocka_run_group_tests_name("plan", tests, set_up, tear_down);
}
