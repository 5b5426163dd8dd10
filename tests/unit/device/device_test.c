/* Devices: order, copies in every direction, abort, deadlines, and that a fake pointer cannot be touched from the host. */
#include "tests/unit/unit.h"

#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "device/device.h"

struct add_params { float value; };
static void add_one(void *const *p, const void *params)
{
    float *x = p[0];
    x[0] = x[0] * 2 + ((const struct add_params *)params)->value;
}

static void test_order(void **state)
{
    struct err e = ERR_INIT;
    struct device *d;
    struct stream *s;
    void *x;
    float host = 1, back = 0;
    struct handle h;
    assert_ok(device_open(*state, &d, &e));
    assert_ok(stream_open(d, &s, &e));
    assert_ok(device_alloc(d, 4096, &x, &e));
    assert_ok(stream_copy(s, x, device_space(d), &host, SPACE_HOST, 4, &h, &e));
    float want = 1;
    for (int i = 0; i < 40; i++) {
        struct add_params p = {(float)(i % 3)};
        want = want * 2 + p.value;
        assert_ok(stream_launch(s, add_one, &x, 1, 0, &p, sizeof p, &h, &e));
        if (i == 20)
            want = want / 1048576, p.value = 0;
        if (i == 20) {
            assert_ok(stream_copy(s, &back, SPACE_HOST, x, device_space(d), 4, &h, &e));
            assert_ok(handle_wait(h, 5000, &e));
            back /= 1048576;
            assert_ok(stream_copy(s, x, device_space(d), &back, SPACE_HOST, 4, &h, &e));
        }
    }
    assert_ok(stream_copy(s, &back, SPACE_HOST, x, device_space(d), 4, &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
    assert_true(handle_done(h));
    assert_true(back == want);
    stream_close(s);
    device_free(d, x, 4096);
    device_close(d);
}

static void test_copy_between_device_buffers(void **state)
{
    struct err e = ERR_INIT;
    struct device *d;
    struct stream *s;
    void *a, *b;
    char in[100], out[100] = {0};
    struct handle h;
    memset(in, 7, sizeof in);
    assert_ok(device_open(*state, &d, &e));
    assert_ok(stream_open(d, &s, &e));
    assert_ok(device_alloc(d, 8192, &a, &e));
    assert_ok(device_alloc(d, 8192, &b, &e));
    assert_ok(stream_copy(s, (char *)a + 4000, device_space(d), in, SPACE_HOST, sizeof in, &h, &e));
    assert_ok(stream_copy(s, (char *)b + 10, device_space(d), (char *)a + 4000, device_space(d), sizeof in, &h, &e));
    assert_ok(stream_copy(s, out, SPACE_HOST, (char *)b + 10, device_space(d), sizeof in, &h, &e));
    assert_ok(handle_wait(h, 5000, &e));
    assert_memory_equal(in, out, sizeof in);
    stream_close(s);
    device_close(d);
}

static void test_host_touch_faults(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct device *d;
    void *x;
    assert_ok(device_open("fake", &d, &e));
    assert_ok(device_alloc(d, 4096, &x, &e));
    pid_t pid = fork();
    if (pid == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile char *)x = 1;
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true((WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV) || (WIFEXITED(status) && WEXITSTATUS(status) != 0));
    device_close(d);
}

static void nap(void *const *p, const void *params)
{
    (void)p;
    (void)params;
    usleep(100000);
}

static void test_deadline_and_abort(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct device *d;
    struct stream *s;
    struct handle h, last;
    assert_ok(device_open("fake", &d, &e));
    assert_ok(stream_open(d, &s, &e));
    assert_ok(stream_launch(s, nap, NULL, 0, 0, NULL, 0, &h, &e));
    assert_ok(stream_launch(s, nap, NULL, 0, 0, NULL, 0, &last, &e));
    assert_int_equal(handle_wait(last, 1, &e), ERR_ABORTED);
    stream_abort(s);
    assert_int_equal(handle_wait(last, UINT64_MAX, &e), ERR_ABORTED);
    assert_int_equal(stream_launch(s, nap, NULL, 0, 0, NULL, 0, &h, &e), ERR_ABORTED);
    stream_close(s);
    device_close(d);
}

static void test_unknown_kind(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct device *d;
    assert_int_equal(device_open("gpu", &d, &e), ERR_NOT_FOUND);
    assert_non_null(strstr(e.text, "'gpu'"));
}

static void test_machine(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct machine m;
    assert_ok(machine_probe(&m, &e));
    assert_true(m.threads >= 1 && m.cores >= 1 && m.memory_bytes > 1 << 20);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(test_order, (void *)"cpu"), cmocka_unit_test_prestate(test_order, (void *)"fake"),
        cmocka_unit_test_prestate(test_copy_between_device_buffers, (void *)"cpu"),
        cmocka_unit_test_prestate(test_copy_between_device_buffers, (void *)"fake"), cmocka_unit_test(test_host_touch_faults),
        cmocka_unit_test(test_deadline_and_abort), cmocka_unit_test(test_unknown_kind), cmocka_unit_test(test_machine),
    };
    return cmocka_run_group_tests_name("device", tests, NULL, NULL);
}
