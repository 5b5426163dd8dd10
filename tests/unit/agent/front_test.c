/* Where a host's front door stands: first where it was wanted, then for as long as the run goes on where it stood first. */
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include "agent/front.h"
#include "tests/unit/unit.h"

#define LIMIT_MS 30000

struct room { struct rundir run; struct log log; struct loop *loop; struct front *front; uint16_t port; bool answered; };

static int set_up(void **state)
{
    struct room *r = calloc(1, sizeof *r);
    struct err e = ERR_INIT;
    char path[600];
    snprintf(r->run.sockets, sizeof r->run.sockets, "/tmp/viaduct-door-XXXXXX");
    assert_non_null(mkdtemp(r->run.sockets));
    snprintf(r->run.path, sizeof r->run.path, "%s", r->run.sockets);
    snprintf(path, sizeof path, "%s/state", r->run.path);
    assert_ok(fs_mkdirs(&fs_real, path, &e));
    snprintf(path, sizeof path, "%s/log", r->run.path);
    assert_ok(log_open(&r->log, path, "test", "job"));
    r->log.stderr_level = LOG_ERROR;
    assert_ok(loop_new(&r->loop, &e));
    *state = r;
    return 0;
}

static int tear_down(void **state)
{
    struct room *r = *state;
    char command[600];
    front_close(r->front);
    loop_free(r->loop);
    log_close(&r->log);
    snprintf(command, sizeof command, "rm -rf '%s'", r->run.path);
    assert_int_equal(system(command), 0);
    free(r);
    return 0;
}

static int open_front(struct room *r, const char *host_port, struct err *err)
{
    return front_open(r->loop, &r->log, &r->run, "here", 3, (struct front_place){.host_port = host_port}, &r->front, err);
}

static struct sockaddr_in at_port(uint16_t port) { return (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port)}; }

static bool answers(uint16_t port)
{
    struct sockaddr_in at = at_port(port);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    bool there = connect(fd, (struct sockaddr *)&at, sizeof at) == 0;
    close(fd);
    return there;
}

static uint16_t door_port(const struct room *r)
{
    struct err e = ERR_INIT;
    char address[160];
    assert_ok(rundir_door(&r->run, "here", address, &e));
    assert_memory_equal(address, "tls:127.0.0.1:", 14);
    return (uint16_t)strtoul(address + 14, NULL, 10);
}

static int hold(uint16_t *port)
{
    struct sockaddr_in at = at_port(*port);
    socklen_t size = sizeof at;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof at), 0);
    assert_int_equal(listen(fd, 1), 0);
    assert_int_equal(getsockname(fd, (struct sockaddr *)&at, &size), 0);
    *port = ntohs(at.sin_port);
    return fd;
}

static void none_wanted(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    char address[160];
    assert_ok(open_front(r, NULL, &e));
    assert_null(r->front);
    assert_ok(open_front(r, "", &e));
    assert_null(r->front);
    assert_int_equal(rundir_door(&r->run, "here", address, &e), ERR_NOT_FOUND);
}

static void next_agent(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    assert_ok(open_front(r, "127.0.0.1:0", &e));
    uint16_t port = door_port(r);
    assert_true(answers(port));
    front_close(r->front);
    assert_false(answers(port));
    assert_ok(open_front(r, "127.0.0.1:0", &e));
    assert_int_equal(door_port(r), port);
    assert_true(answers(port));
}

/* Behind a router: others are told its address, the next agent stands where the first stood. */
static void another_address_for_others(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    char shown[160], stands[160];
    const struct front_place place = {"127.0.0.1:0", "outside.example:443"};
    for (unsigned turn = 0; turn < 2; turn++) {
        assert_ok(front_open(r->loop, &r->log, &r->run, "here", 3, place, &r->front, &e));
        assert_ok(rundir_door(&r->run, "here", shown, &e));
        assert_string_equal(shown, "tls:outside.example:443");
        assert_ok(rundir_door_stands(&r->run, "here", stands, &e));
        uint16_t port = (uint16_t)strtoul(strrchr(stands, ':') + 1, NULL, 10);
        assert_true(port > 0 && (turn == 0 || port == r->port) && answers(port));
        r->port = port;
        front_close(r->front);
    }
    assert_ok(front_open(r->loop, &r->log, &r->run, "there", 4, (struct front_place){"0.0.0.0:0", "outside.example:443"}, &r->front, &e));
}

static void on_check(void *arg)
{
    struct room *r = arg;
    r->answered = answers(r->port);
    if (r->answered)
        loop_stop(r->loop);
}

/* Somebody took the port in between: the agent works on without a door, and opens it when it can. */
static void port_taken_meanwhile(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    assert_ok(open_front(r, "127.0.0.1:0", &e));
    r->port = door_port(r);
    front_close(r->front);
    int other = hold(&r->port);
    assert_ok(open_front(r, "127.0.0.1:0", &e));
    assert_int_equal(door_port(r), r->port);
    timer_start(r->loop, 300, 0, (void (*)(void *))loop_stop, r->loop);
    loop_run(r->loop);
    close(other);
    assert_false(answers(r->port));
    struct timer *check = timer_start(r->loop, 20, 20, on_check, r), *limit = timer_start(r->loop, LIMIT_MS, 0, (void (*)(void *))loop_stop, r->loop);
    loop_run(r->loop);
    timer_stop(check);
    timer_stop(limit);
    assert_true(r->answered);
}

static void refused(void **state)
{
    struct room *r = *state;
    struct err e = ERR_INIT;
    uint16_t port = 0;
    int other = hold(&port);
    char wanted[40];
    snprintf(wanted, sizeof wanted, "127.0.0.1:%u", port);
    assert_int_equal(open_front(r, wanted, &e), ERR_CONFLICT);
    assert_null(r->front);
    assert_non_null(strstr(e.text, "front door of site 'here'"));
    close(other);
    assert_int_equal(open_front(r, "127.0.0.1", &e), ERR_USAGE);
    assert_int_equal(open_front(r, "127.0.0.1:0/../x", &e), ERR_USAGE);
    assert_int_equal(open_front(r, "0.0.0.0:0", &e), ERR_USAGE);
    assert_int_equal(open_front(r, "[::]:0", &e), ERR_USAGE);
    assert_int_equal(rundir_door(&r->run, "here", wanted, &e), ERR_NOT_FOUND);
    assert_ok(rundir_set_door(&r->run, "here", "", "", &e));
    assert_int_equal(open_front(r, "127.0.0.1:0", &e), ERR_CORRUPT);
    assert_non_null(strstr(e.text, "state/door-here"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, set_up, tear_down)
int main(void)
{
    const struct CMUnitTest tests[] = {T(none_wanted), T(next_agent), T(another_address_for_others), T(port_taken_meanwhile), T(refused)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
