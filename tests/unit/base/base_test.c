/* Base: errors, cursors, lanes, layout, randomness, protobuf, files. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/base.h"

static void test_err_chain(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    assert_int_equal(err_set(&e, ERR_CORRUPT, "byte %d is wrong", 7), ERR_CORRUPT);
    assert_int_equal(err_wrap(&e, "part %s", "a"), ERR_CORRUPT);
    assert_string_equal(e.text, "part a: byte 7 is wrong");
    for (int i = 0; i < 300; i++)
        err_wrap(&e, "outer%d", i);
    assert_true(strlen(e.text) < sizeof e.text);
    assert_memory_equal(e.text, "outer299: ", 10);
    assert_int_equal(err_exit_code(ERR_ABORTED), 75);
    assert_int_equal(err_errno(&e, 2, "x"), ERR_NOT_FOUND);
}

static void test_cursor_round_trip_and_limits(void **state)
{
    (void)state;
    uint8_t bytes[64];
    struct writer w = writer_over(bytes, sizeof bytes);
    put_u8(&w, 1); put_u16(&w, 0x203); put_u32(&w, 0x4050607); put_u64(&w, 0x8090a0b0c0d0e0full); put_f32(&w, -1.5f); put_f64(&w, 2.25); put_str(&w, "name");
    assert_false(w.bad);
    static const uint8_t head[] = {1, 3, 2, 7, 6, 5, 4};
    assert_memory_equal(bytes, head, sizeof head);   /* little-endian on the wire */
    struct reader r = reader_over(bytes, w.pos);
    char s[5];
    assert_int_equal(get_u8(&r), 1); assert_int_equal(get_u16(&r), 0x203); assert_int_equal(get_u32(&r), 0x4050607);
    assert_true(get_u64(&r) == 0x8090a0b0c0d0e0full); assert_true(get_f32(&r) == -1.5f); assert_true(get_f64(&r) == 2.25);
    get_str(&r, s, sizeof s);
    assert_string_equal(s, "name");
    assert_true(reader_done(&r));
    get_u8(&r);
    assert_true(r.bad);
    r = reader_over(bytes, w.pos - 1);   /* every prefix is refused, none read past its end */
    for (size_t n = 0; n < w.pos; n++) {
        r = reader_over(bytes, n);
        get_u8(&r); get_u16(&r); get_u32(&r); get_u64(&r); get_f32(&r); get_f64(&r); get_str(&r, s, sizeof s);
        assert_true(r.bad);
    }
    w = writer_over(bytes, 3);
    put_u32(&w, 1);
    assert_true(w.bad);
    assert_int_equal(w.pos, 0);
}

static void test_lane_nodes_cover_exactly(void **state)
{
    (void)state;
    for (unsigned lanes = 1; lanes <= LANES_MAX; lanes++)
        for (unsigned lo = 0; lo <= lanes; lo++)
            for (unsigned hi = lo; hi <= lanes; hi++) {
                struct lane_range out[LANE_NODES_MAX], range = {(uint16_t)lo, (uint16_t)hi};
                unsigned n = lane_nodes(lanes, range, out), at = lo;
                for (unsigned i = 0; i < n; i++) {
                    assert_int_equal(out[i].lo, at);
                    assert_true(lane_is_node(lanes, out[i]));
                    at = out[i].hi;
                }
                assert_int_equal(at, hi > lo ? hi : lo);
            }
    assert_false(lane_is_node(8, (struct lane_range){1, 3}));
    assert_true(lane_mask((struct lane_range){0, 64}) == ~0ull);
    assert_true(lane_mask((struct lane_range){2, 4}) == 12);
}

/* The bits of the total do not depend on which nodes arrive as parts. */
static void test_lane_sum_is_the_same_for_every_split(void **state)
{
    (void)state;
    enum { N = 37 };
    for (unsigned lanes = 1; lanes <= 13; lanes++) {
        float *leaf = calloc(lanes * N, sizeof *leaf), scratch[LANE_DEPTH_MAX * N], want[N], got[N];
        const float *parts[LANES_MAX];
        struct lane_range nodes[LANES_MAX], total = {0, (uint16_t)lanes};
        for (unsigned i = 0; i < lanes * N; i++)
            leaf[i] = philox_unit(philox4x32(7, i, 0, 0, 0).v[0]) - 0.5f;
        for (unsigned l = 0; l < lanes; l++) {
            nodes[l] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            parts[l] = leaf + l * N;
        }
        lane_sum_f32(lanes, total, nodes, parts, lanes, want, N, scratch);
        for (unsigned ranks = 1; ranks <= lanes; ranks++) {
            float *sums = calloc(lanes * N, sizeof *sums);
            unsigned count = 0;
            struct lane_range all[LANES_MAX];
            const float *all_parts[LANES_MAX];
            for (unsigned r = 0; r < ranks; r++) {
                struct lane_range range = lanes_of_part(lanes, r, ranks), mine[LANE_NODES_MAX];
                unsigned n = lane_nodes(lanes, range, mine);
                for (unsigned i = 0; i < n; i++, count++) {
                    lane_sum_f32(lanes, mine[i], nodes, parts, lanes, sums + count * N, N, scratch);
                    all[count] = mine[i];
                    all_parts[count] = sums + count * N;
                }
            }
            lane_sum_f32(lanes, total, all, all_parts, count, got, N, scratch);
            assert_memory_equal(got, want, sizeof got);
            free(sums);
        }
        free(leaf);
    }
}

/* Every cut into n ranges: turns of the busiest part and nodes; a cut in which somebody is idle though there are lanes enough does not count. */
struct every { unsigned lanes, n, most_turns, fewest_nodes, fewest_turns; const uint32_t *units; };

static void try_cuts(struct every *e, unsigned part, unsigned lo, unsigned turns, unsigned nodes, unsigned enough)
{
    struct lane_range node[LANE_NODES_MAX];
    if (part == e->n) {
        if (lo != e->lanes)
            return;
        e->fewest_turns = turns < e->fewest_turns ? turns : e->fewest_turns;
        if (turns <= e->most_turns && nodes < e->fewest_nodes)
            e->fewest_nodes = nodes;
        return;
    }
    uint32_t units = e->units[part];
    for (unsigned hi = lo + (enough ? units : units > 0); hi <= (units ? e->lanes : lo); hi++) {
        unsigned mine = units ? (hi - lo + units - 1) / units : 0;
        try_cuts(e, part + 1, hi, mine > turns ? mine : turns, nodes + lane_nodes(e->lanes, (struct lane_range){(uint16_t)lo, (uint16_t)hi}, node), enough);
    }
}

static void test_lanes_over_parts_are_quick_cuts_of_fewest_nodes(void **state)
{
    (void)state;
    struct lane_range out[LANE_PARTS_MAX], node[LANE_NODES_MAX];
    for (unsigned lanes = 1; lanes <= 18; lanes++)
        for (unsigned mix = 1; mix < 6 * 6 * 6; mix++) {
            const uint32_t units[3] = {mix % 6, mix / 6 % 6, mix / 36};
            uint32_t total = units[0] + units[1] + units[2], parts = (units[0] > 0) + (units[1] > 0) + (units[2] > 0);
            if (parts > lanes)
                continue;
            unsigned turns = 0, nodes = 0, lo = 0;
            lanes_over(lanes, units, 3, out);
            for (unsigned i = 0; i < 3; i++) {
                unsigned width = out[i].hi - out[i].lo;
                assert_int_equal(out[i].lo, lo);
                assert_true(units[i] ? width >= (total <= lanes ? units[i] : 1) : width == 0);
                lo = out[i].hi;
                turns = units[i] && (width + units[i] - 1) / units[i] > turns ? (width + units[i] - 1) / units[i] : turns;
                nodes += lane_nodes(lanes, out[i], node);
            }
            assert_int_equal(lo, lanes);
            struct every e = {lanes, 3, 0, UINT32_MAX, UINT32_MAX, units};
            try_cuts(&e, 0, 0, 0, 0, total <= lanes);
            e.most_turns = e.fewest_turns + e.fewest_turns / 8;
            try_cuts(&e, 0, 0, 0, 0, total <= lanes);
            assert_true(turns <= e.most_turns);
            assert_int_equal(nodes, e.fewest_nodes);
        }
}

static void test_lanes_over_known_parts(void **state)
{
    (void)state;
    struct lane_range out[LANE_PARTS_MAX];
    const uint32_t one_two[] = {1, 2}, even[] = {2, 0, 2}, nobody[] = {0, 0}, eight[] = {9, 9, 9, 9, 9, 9, 9, 9};
    lanes_over(4, one_two, 2, out);                       /* a third would be [0, 1) and two sums for the other; this takes two turns as well */
    assert_true(lane_range_eq(out[0], (struct lane_range){0, 2}) && lane_range_eq(out[1], (struct lane_range){2, 4}));
    lanes_over(64, one_two, 2, out);
    assert_true(lane_range_eq(out[0], (struct lane_range){0, 16}) && lane_range_eq(out[1], (struct lane_range){16, 64}));
    lanes_over(8, even, 3, out);
    assert_true(lane_range_eq(out[0], (struct lane_range){0, 4}) && out[1].lo == out[1].hi && lane_range_eq(out[2], (struct lane_range){4, 8}));
    lanes_over(8, nobody, 2, out);
    assert_true(out[0].hi == 0 && out[1].hi == 0);
    lanes_over(64, eight, 8, out);
    assert_true(lane_range_eq(out[7], (struct lane_range){56, 64}));
    lanes_over(3, eight, 8, out);                         /* more parts than lanes */
    assert_int_equal(out[7].hi, 3);
}

static void test_lane_samples_partition(void **state)
{
    (void)state;
    for (uint32_t n = 0; n < 70; n++) {
        uint64_t at = 0;
        for (unsigned l = 0; l < 8; l++) {
            struct sample_span s = lane_samples(n, 8, l);
            assert_int_equal(s.first, at);
            at += s.count;
        }
        assert_int_equal(at, n);
    }
}

static void test_permutation_is_a_bijection(void **state)
{
    (void)state;
    static const uint64_t sizes[] = {1, 2, 3, 17, 1000, 60000};
    for (unsigned k = 0; k < ARRAY_LEN(sizes); k++) {
        uint8_t *seen = calloc(sizes[k], 1);
        unsigned moved = 0;
        for (uint64_t i = 0; i < sizes[k]; i++) {
            uint64_t j = permute(philox_key(1, STREAM_ORDER), 3, sizes[k], i);
            assert_true(j < sizes[k]);
            assert_int_equal(seen[j]++, 0);
            moved += j != i;
        }
        assert_true(sizes[k] < 17 || moved > sizes[k] / 2);
        free(seen);
    }
    assert_true(permute(1, 0, 60000, 5) != permute(1, 1, 60000, 5) || permute(1, 0, 60000, 6) != permute(1, 1, 60000, 6));
}

static void test_philox_known_answers(void **state)
{
    (void)state;
    /* Known answers published with Random123: philox4x32-10, all zeros and all ones. */
    struct philox z = philox4x32(0, 0, 0, 0, 0), o = philox4x32(~0ull, ~0u, ~0u, ~0u, ~0u);
    static const uint32_t zero[4] = {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}, ones[4] = {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd};
    assert_memory_equal(z.v, zero, sizeof zero);
    assert_memory_equal(o.v, ones, sizeof ones);
}

static void test_layout(void **state)
{
    (void)state;
    struct tensor_desc t[3] = {{.name = "w", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {300, 500}},
                               {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {7}},
                               {.name = "mean", .kind = TENSOR_STATE, .dim_count = 1, .dims = {65537}}};
    struct layout l, back;
    struct err e = ERR_INIT;
    assert_int_equal(layout_init(&l, t, 3, &e), 0);
    assert_int_equal(l.block_count, 3 + 1 + 2);
    assert_int_equal(l.blocks[2].elems, 150000 - 2 * BLOCK_ELEMS);
    assert_int_equal(l.tensors[1].offset % LAYOUT_ALIGN, 0);
    assert_int_equal(l.blocks[5].elems, 1);
    assert_int_equal(layout_find(&l, "mean"), 2);
    uint8_t bytes[256];
    struct writer w = writer_over(bytes, sizeof bytes);
    layout_encode(&l, &w);
    struct reader r = reader_over(bytes, w.pos);
    assert_int_equal(layout_decode(&back, &r, &e), 0);
    assert_true(layout_hash(&l) == layout_hash(&back));
    layout_fini(&back);
    for (size_t n = 0; n < w.pos; n++) {
        r = reader_over(bytes, n);
        assert_int_equal(layout_decode(&back, &r, &e), ERR_CORRUPT);
    }
    uint32_t shard[6];
    layout_shards(&l, 2, shard);
    for (int i = 1; i < 6; i++)
        assert_true(shard[i] >= shard[i - 1]);
    assert_int_equal(shard[0], 0);
    assert_int_equal(shard[5], 1);
    layout_fini(&l);
    snprintf(t[1].name, sizeof t[1].name, "w");
    assert_int_equal(layout_init(&l, t, 3, &e), ERR_USAGE);
    assert_non_null(strstr(e.text, "'w'"));
    t[1].dims[0] = 0;
    assert_int_equal(layout_init(&l, t, 3, &e), ERR_USAGE);
}

static void test_sha256_and_hex(void **state)
{
    (void)state;
    uint8_t d[SHA256_BYTES], back[SHA256_BYTES];
    char hex[SHA256_HEX];
    sha256_of("abc", 3, d);
    hex_of(d, sizeof d, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    assert_int_equal(hex_read(hex, back, sizeof back), 0);
    assert_memory_equal(d, back, sizeof d);
    assert_int_equal(hex_read("zz", back, 1), -1);
    assert_int_equal(hex_read("abc", back, 1), -1);
}

static void test_protobuf(void **state)
{
    (void)state;
    struct pb b = {0}, inner = {0};
    pb_uint(&inner, 1, 300);
    pb_float(&inner, 2, 1.5f);
    pb_message(&b, 7, &inner);
    pb_string(&b, 3, "hi");
    pb_double(&b, 4, -2.0);
    struct pb_reader r = pb_over(b.data, b.size), n;
    struct pb_field f;
    assert_true(pb_next(&r, &f));
    assert_int_equal(f.number, 7);
    n = pb_over(f.bytes, f.size);
    assert_true(pb_next(&n, &f));
    assert_int_equal(f.value, 300);
    assert_true(pb_next(&n, &f));
    assert_int_equal(f.value, 0x3fc00000);
    assert_false(pb_next(&n, &f));
    assert_false(n.bad);
    for (size_t k = 1; k < b.size; k++) {   /* a cut message is bad or ends at a field's border */
        r = pb_over(b.data, k);
        while (pb_next(&r, &f)) { }
        assert_true(r.bad || r.pos == k);
    }
    static const uint8_t endless[] = {0x08, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x01};
    r = pb_over(endless, sizeof endless);
    assert_false(pb_next(&r, &f));
    assert_true(r.bad);
    pb_free(&b);
}

static void test_files(void **state)
{
    (void)state;
    char dir[] = "/tmp/viaduct-base-XXXXXX", path[128], deep[160];
    assert_non_null(mkdtemp(dir));
    struct err e = ERR_INIT;
    snprintf(deep, sizeof deep, "%s/a/b/c", dir);
    assert_int_equal(fs_mkdirs(&fs_real, deep, &e), 0);
    assert_int_equal(fs_mkdirs(&fs_real, deep, &e), 0);
    snprintf(path, sizeof path, "%s/f", dir);
    assert_int_equal(fs_publish_file(&fs_real, path, "one", 3, &e), 0);
    assert_int_equal(fs_publish_file(&fs_real, path, "three", 5, &e), 0);
    void *p;
    size_t n;
    assert_int_equal(fs_read_file(&fs_real, path, 100, &p, &n, &e), 0);
    assert_int_equal(n, 5);
    assert_string_equal(p, "three");
    free(p);
    assert_int_equal(fs_read_file(&fs_real, path, 4, &p, &n, &e), ERR_CORRUPT);
    assert_int_equal(fs_read_file(&fs_real, "/nonexistent/x", 4, &p, &n, &e), ERR_NOT_FOUND);
    char command[200];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    assert_int_equal(system(command), 0);
}

static void test_json_quote(void **state)
{
    (void)state;
    char out[64];
    assert_int_equal(json_quote(out, sizeof out, "a\"b\\\n\x01"), 16);
    assert_string_equal(out, "\"a\\\"b\\\\\\n\\u0001\"");
    assert_true(json_quote(out, 4, "long text") > 4);
    assert_int_equal(strlen(out), 3);
    json_quote(out, sizeof out, "\xc3\xa9\xff\xe2\x82");
    assert_string_equal(out, "\"\xc3\xa9???\"");
}

/* What a terminal shows of a text that somebody else wrote. */
static void test_text_plain(void **state)
{
    (void)state;
    static const struct { const char *in, *out; } cases[] = {
        {"plain\ttext\n", "plain\ttext\n"}, {"\x1b]0;title\x07", "?]0;title?"}, {"\x7f", "?"}, {"\xc2\x9b", "??"}, {"\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82", "\xc3\xa9 \xe2\x82\xac \xf0\x9f\x99\x82"},
        {"\xc3", "?"}, {"\xe2\x82", "??"}, {"\xc0\xaf", "??"}, {"\xe0\x80\x80", "???"}, {"\xed\xa0\x80", "???"}, {"\xf4\x90\x80\x80", "????"}, {"\xff\xfe", "??"}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        char text[32];
        snprintf(text, sizeof text, "%s", cases[i].in);
        assert_string_equal(text_plain(text), cases[i].out);
    }
}

static void test_numbers_are_short_and_read_back(void **state)
{
    (void)state;
    static const struct { double v; const char *text; } exact[] = {{0.9, "0.9"}, {1e-2, "0.01"}, {1e-8, "1.0e-08"}, {1.5e-9, "1.5e-09"}, {1e6, "1000000"}, {0, "0"}, {-3, "-3"},
                                                                 {1e15, "1.0e+15"}, {0.1 + 0.2, "0.30000000000000004"}, {1e300, "1.0e+300"}};
    char text[NUMBER_TEXT_BYTES];
    for (unsigned i = 0; i < ARRAY_LEN(exact); i++) {
        number_text(text, exact[i].v);
        assert_string_equal(text, exact[i].text);
    }
    number_text_float(text, 0.01f);
    assert_string_equal(text, "0.01");
    number_text_float(text, 3e-6f);
    assert_string_equal(text, "3.0e-06");
    for (unsigned i = 0; i < 100000; i++) {
        double v = ldexp((double)(i * 2654435761u % 1000003u) + 0.37 * i, (int)(i % 200) - 100) * (i & 1 ? -1 : 1);
        number_text(text, v);
        assert_true(strtod(text, NULL) == v && strlen(text) < NUMBER_TEXT_BYTES);
    }
}

static unsigned interruptions;

/* As some kernels do it for shared memory, whatever signal comes. */
int posix_fallocate(int fd, off_t at, off_t bytes)
{
    if (interruptions > 0 && interruptions--)
        return EINTR;
    return fallocate(fd, 0, at, bytes) == 0 ? 0 : errno;
}

static void test_signals_do_not_end_a_reservation(void **state)
{
    (void)state;
    struct stat st;
    int fd = memfd_create("reserved", MFD_CLOEXEC);
    assert_true(fd >= 0);
    interruptions = 3;
    assert_int_equal(fs_reserve(fd, 1 << 20), 0);
    assert_int_equal(interruptions, 0);
    assert_true(fstat(fd, &st) == 0 && st.st_size == 1 << 20 && st.st_blocks * 512 >= 1 << 20);
    close(fd);
}

static void touched_pages_keep_what_they_hold(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    const size_t size = 3 << 20;
    uint8_t *p = pages_alloc(size, &e);
    assert_non_null(p);
    p[4097] = 7;
    pages_touch(p + 1, size - 2);
    pages_touch(NULL, 0);
    assert_int_equal(p[4097], 7);
    assert_int_equal(p[size - 1], 0);
    pages_free(p, size);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(touched_pages_keep_what_they_hold),
        cmocka_unit_test(test_err_chain), cmocka_unit_test(test_cursor_round_trip_and_limits), cmocka_unit_test(test_lane_nodes_cover_exactly),
        cmocka_unit_test(test_lane_sum_is_the_same_for_every_split), cmocka_unit_test(test_lanes_over_parts_are_quick_cuts_of_fewest_nodes), cmocka_unit_test(test_lanes_over_known_parts),
        cmocka_unit_test(test_lane_samples_partition),
        cmocka_unit_test(test_permutation_is_a_bijection), cmocka_unit_test(test_philox_known_answers), cmocka_unit_test(test_layout),
        cmocka_unit_test(test_sha256_and_hex), cmocka_unit_test(test_protobuf), cmocka_unit_test(test_files), cmocka_unit_test(test_json_quote), cmocka_unit_test(test_text_plain),
        cmocka_unit_test(test_numbers_are_short_and_read_back), cmocka_unit_test(test_signals_do_not_end_a_reservation),
    };
    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
