/* Data: IDX files good and broken, normalization, order, the feeder. */
#include "tests/unit/unit.h"

#include <math.h>
#include <unistd.h>
#include <zlib.h>

#include "data/data.h"

static char dir[64];
static int set_up(void **state)
{
    (void)state;
    snprintf(dir, sizeof dir, "/tmp/viaduct-data-XXXXXX");
    return mkdtemp(dir) ? 0 : -1;
}

static int tear_down(void **state)
{
    (void)state;
    char command[100];
    snprintf(command, sizeof command, "rm -rf %s", dir);
    return system(command);
}

static const char *write_bytes(const char *name, const void *bytes, size_t n)
{
    static char path[2][128];
    static int turn;
    char *p = path[turn++ % 2];
    snprintf(p, sizeof path[0], "%s/%s", dir, name);
    FILE *f = fopen(p, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(bytes, 1, n, f), n);
    fclose(f);
    return p;
}

/* 3 images of 2 x 2 and their labels */
static const uint8_t images[] = {0, 0, 8, 3, 0, 0, 0, 3, 0, 0, 0, 2, 0, 0, 0, 2, 0, 255, 0, 255, 10, 20, 30, 40, 1, 2, 3, 4};
static const uint8_t labels[] = {0, 0, 8, 1, 0, 0, 0, 3, 0, 2, 1};

static void test_good_files(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct dataset d, zipped;
    assert_ok(dataset_open_idx(&d, write_bytes("i", images, sizeof images), write_bytes("l", labels, sizeof labels), 1, 2, 2, 3, &e));
    assert_int_equal(d.count, 3);
    assert_int_equal(d.classes, 3);
    assert_int_equal(d.pixels[4], 10);
    assert_int_equal(d.labels[1], 2);
    char path[128];
    snprintf(path, sizeof path, "%s/i.gz", dir);
    gzFile f = gzopen(path, "wb");
    gzwrite(f, images, sizeof images);
    gzclose(f);
    assert_ok(dataset_open_idx(&zipped, path, write_bytes("l", labels, sizeof labels), 1, 2, 2, 3, &e));
    assert_memory_equal(d.sha256, zipped.sha256, sizeof d.sha256);
    float mean[4], deviation[4];
    dataset_normalization(&d, mean, deviation);
    double m = (0 + 255 + 0 + 255 + 100 + 10) / 12.0, s = (2 * 65025.0 + 100 + 400 + 900 + 1600 + 30) / 12 - m * m;
    assert_true(fabs((double)mean[0] - m / 255) < 1e-6);
    assert_true(fabs((double)deviation[0] - sqrt(s) / 255) < 1e-6);
    dataset_close(&d);
    dataset_close(&zipped);
}

static void refuse(const uint8_t *i, size_t ni, const uint8_t *l, size_t nl, uint32_t classes, int code, const char *text)
{
    struct err e = ERR_INIT;
    struct dataset d;
    assert_int_equal(dataset_open_idx(&d, write_bytes("i", i, ni), write_bytes("l", l, nl), 0, 0, 0, classes, &e), code);
    if (!strstr(e.text, text))
        fail_msg("'%s' is not in: %s", text, e.text);
}

static void test_broken_files(void **state)
{
    (void)state;
    uint8_t bytes[64];
    for (size_t n = 0; n < sizeof images; n++)   /* cut off anywhere */
        refuse(images, n, labels, sizeof labels, 3, ERR_CORRUPT, "cut off");
    memcpy(bytes, images, sizeof images);
    bytes[sizeof images] = 1;
    refuse(bytes, sizeof images + 1, labels, sizeof labels, 3, ERR_CORRUPT, "goes on after byte 28");
    bytes[2] = 9;
    refuse(bytes, sizeof images, labels, sizeof labels, 3, ERR_CORRUPT, "no IDX file");
    memcpy(bytes, images, sizeof images);
    memset(bytes + 4, 0xff, 12);   /* four billion images of four billion pixels: refused before memory is asked for */
    refuse(bytes, sizeof images, labels, sizeof labels, 3, ERR_CORRUPT, "too large");
    memcpy(bytes, images, sizeof images);
    bytes[5] = 1;            /* 65,539 images: within limits, but not in 28 bytes */
    refuse(bytes, sizeof images, labels, sizeof labels, 3, ERR_CORRUPT, "promises 262156 bytes");
    refuse(images, sizeof images, images, sizeof images, 3, ERR_CORRUPT, "swapped");
    refuse(images, sizeof images, labels, sizeof labels, 2, ERR_CORRUPT, "label 2 at byte 9");
    static const uint8_t two[] = {0, 0, 8, 1, 0, 0, 0, 2, 0, 1};
    refuse(images, sizeof images, two, sizeof two, 3, ERR_CORRUPT, "2 labels");
    struct err e = ERR_INIT;
    struct dataset d;
    assert_int_equal(dataset_open_idx(&d, "/nonexistent/x", "/nonexistent/y", 0, 0, 0, 0, &e), ERR_NOT_FOUND);
}

static void test_fashion_mnist(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct dataset d;
    const char *i = "/usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz", *l = "/usr/share/datasets/fashion-mnist/train-labels-idx1-ubyte.gz";
    if (access(i, R_OK) != 0)
        test_skip("Fashion-MNIST is not installed (dataset-fashion-mnist)");
    assert_ok(dataset_open_idx(&d, i, l, 1, 28, 28, 10, &e));
    float mean[4], deviation[4];
    dataset_normalization(&d, mean, deviation);
    assert_true(fabsf(mean[0] - 0.2860f) < 1e-4f);   /* the figures everybody uses for this set */
    assert_true(fabsf(deviation[0] - 0.3530f) < 1e-4f);
    dataset_close(&d);
}

static void test_feeder_gives_what_was_requested(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct test_random r = {test_seed(), 0};
    uint8_t pixels[500 * 3], label[500];
    struct dataset d = {.count = 500, .channels = 1, .height = 1, .width = 3, .sample_bytes = 3, .pixels = pixels, .labels = label};
    for (unsigned i = 0; i < 500; i++) {
        label[i] = (uint8_t)i;
        memset(pixels + 3 * i, (int)(i * 7 & 255), 3);
    }
    struct feeder *f;
    assert_ok(feeder_open(&d, 9, 16, 5, &f, &e));
    for (int turn = 0; turn < 400; turn++) {
        struct lane_request q[4];
        for (int k = 0; k < 4; k++)
            q[k] = (struct lane_request){test_u32(&r) % 3, test_u32(&r) % 480, 1 + test_u32(&r) % 16};
        feeder_ask(f, q, test_u32(&r) % 5);
        for (int k = 0; k < 4; k++) {
            const uint8_t *p, *l;
            feeder_take(f, q[k], (unsigned)k % 2, &p, &l);
            for (uint32_t i = 0; i < q[k].count; i++) {
                uint64_t s = sample_at(9, 500, q[k].pass, q[k].first + i);
                assert_int_equal(l[i], label[s]);
                assert_memory_equal(p + 3 * i, pixels + 3 * s, 3);
            }
        }
    }
    feeder_close(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_good_files), cmocka_unit_test(test_broken_files), cmocka_unit_test(test_fashion_mnist),
        cmocka_unit_test(test_feeder_gives_what_was_requested),
    };
    return cmocka_run_group_tests_name("data", tests, set_up, tear_down);
}
