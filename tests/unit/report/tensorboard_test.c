/* Events files: every record is framed and summed as TFRecord asks; a new start leaves one file, without what was before. */
#include "tests/unit/unit.h"

#include <dirent.h>
#include <math.h>
#include <unistd.h>

#include "report/report.h"

static unsigned only_file(const char *dir, char path[400])
{
    unsigned files = 0;
    DIR *d = opendir(dir);
    assert_non_null(d);
    for (struct dirent *e; (e = readdir(d));)
        if (e->d_name[0] != '.') {
            files++;
            snprintf(path, 400, "%s/%.255s", dir, e->d_name);
        }
    closedir(d);
    return files;
}

struct read { unsigned records, steps, starts; uint64_t last_step; float loss; };

static void read_event(const uint8_t *data, size_t size, struct read *out)
{
    struct pb_reader r = pb_over(data, size), inner, value;
    struct pb_field f, g, v;
    while (pb_next(&r, &f)) {
        if (f.number == 2)
            out->last_step = f.value;
        out->starts += f.number == 7;
        out->steps += f.number == 5;
        inner = f.number == 5 ? pb_over(f.bytes, f.size) : pb_over(NULL, 0);
        while (pb_next(&inner, &g)) {
            bool loss = false;
            value = pb_over(g.bytes, g.size);
            while (pb_next(&value, &v)) {
                loss = loss || (v.number == 1 && v.size == 10 && memcmp(v.bytes, "train/loss", 10) == 0);
                uint32_t bits = (uint32_t)v.value;
                if (v.number == 2 && loss)
                    memcpy(&out->loss, &bits, sizeof bits);
            }
            assert_false(value.bad);
        }
        assert_false(inner.bad);
    }
    assert_false(r.bad);
}

static struct read read_all(const char *path)
{
    struct err e = ERR_INIT;
    struct read out = {0};
    void *bytes;
    size_t n;
    assert_ok(fs_read_file(&fs_real, path, 1 << 20, &bytes, &n, &e));
    struct reader r = reader_over(bytes, n);
    while (reader_left(&r)) {
        const uint8_t *at = r.data + r.pos;
        uint64_t size = get_u64(&r);
        assert_int_equal(get_u32(&r), crc32c_masked(at, 8));
        const uint8_t *data = get_bytes(&r, size);
        assert_non_null(data);
        assert_int_equal(get_u32(&r), crc32c_masked(data, size));
        read_event(data, size, &out);
        out.records++;
    }
    assert_true(reader_done(&r));
    free(bytes);
    return out;
}

static void checksums_are_the_standard_ones(void **state)
{
    uint8_t zeros[32] = {0}, rising[32];
    (void)state;
    for (unsigned i = 0; i < 32; i++)
        rising[i] = (uint8_t)i;
    assert_int_equal(crc32c_of("123456789", 9), 0xe3069283u);
    assert_int_equal(crc32c_of(zeros, 32), 0x8a9136aau);     /* RFC 3720, B.4 */
    assert_int_equal(crc32c_of(rising, 32), 0x46dd794eu);
    assert_int_equal(crc32c_of("", 0), 0);
}

static void one_file_holds_each_step_once(void **state)
{
    char dir[] = "/tmp/viaduct-tb-XXXXXX", path[400];
    struct err e = ERR_INIT;
    struct tb *t;
    (void)state;
    assert_non_null(mkdtemp(dir));
    struct metric m = {.epoch = 1, .samples = 4, .lr = 0.1, .accuracy = NAN, .part = {0.1, NAN, NAN, NAN, NAN}};
    for (unsigned start = 0; start < 3; start++) {
        assert_ok(tb_open(dir, 1, &t, &e));
        for (m.step = 1; m.step <= 5 - start; m.step++) {
            m.loss = start == 1 && m.step == 4 ? NAN : 0.5 * (double)m.step;
            tb_step(t, &m, 1e9 + (double)m.step, 100);
        }
        assert_true(tb_flush(t));
        tb_close(t);
        assert_int_equal(only_file(dir, path), 1);
        struct read got = read_all(path);
        assert_true(got.steps == 5 - start && got.starts == 1 && got.records == 7 - start && got.last_step == 5 - start);
        assert_true(got.loss == (start == 1 ? 1.5f : 0.5f * (float)(5 - start)));   /* what is not finite is left out */
    }
    unlink(path);
    assert_int_equal(rmdir(dir), 0);
    assert_int_equal(tb_open("/proc/none/tb", 1, &t, &e) < 0, 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(checksums_are_the_standard_ones), cmocka_unit_test(one_file_holds_each_step_once)};
    return cmocka_run_group_tests_name("tensorboard", tests, NULL, NULL);
}
