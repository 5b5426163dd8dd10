/* `viaduct top`: a run on the whole terminal. Signals come through a descriptor, so there is one wait and one way out, which gives the terminal back. */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/cli.h"
#include "cli/live.h"
#include "cli/rundirs.h"
#include "cli/top.h"

#define REFRESH_MS 1000
#define PLAIN_MS 2000

struct screen { struct termios before; int signals; struct top_look look; };

static bool speaks_unicode(void)
{
    static const char *const names[] = {"LC_ALL", "LC_CTYPE", "LANG"};
    const char *v = NULL;
    for (unsigned i = 0; i < ARRAY_LEN(names) && !(v && *v); i++)
        v = getenv(names[i]);
    return v && (strstr(v, "UTF-8") || strstr(v, "utf8") || strstr(v, "UTF8") || strstr(v, "utf-8"));
}

static struct top_look look_of(int fd)
{
    struct winsize w = {0};
    bool terminal = ioctl(fd, TIOCGWINSZ, &w) == 0 && w.ws_col > 0;
    const char *columns = getenv("COLUMNS");
    long asked = columns ? strtol(columns, NULL, 10) : 0;
    return (struct top_look){.width = terminal ? w.ws_col : asked >= 20 && asked < 1000 ? (unsigned)asked : 100,
                             .height = terminal ? w.ws_row : 0, .unicode = speaks_unicode(), .colour = terminal && !getenv("NO_COLOR")};
}

/* ---- the terminal ---- */
static int screen_open(struct screen *t, struct err *err)
{
    sigset_t wanted;
    struct termios raw;
    sigemptyset(&wanted);
    static const int signals[] = {SIGINT, SIGTERM, SIGHUP, SIGWINCH};
    for (unsigned i = 0; i < ARRAY_LEN(signals); i++)
        sigaddset(&wanted, signals[i]);
    if (tcgetattr(STDIN_FILENO, &t->before) < 0)
        return err_errno(err, errno, "cannot ask the terminal");
    if (sigprocmask(SIG_BLOCK, &wanted, NULL) < 0 || (t->signals = signalfd(-1, &wanted, SFD_CLOEXEC | SFD_NONBLOCK)) < 0)
        return err_errno(err, errno, "cannot wait for signals");
    raw = t->before;
    raw.c_lflag &= ~(tcflag_t)(ICANON | ECHO);
    raw.c_cc[VMIN] = 0;
    raw.c_cc[VTIME] = 0;
    if (tcsetattr(STDIN_FILENO, TCSANOW, &raw) < 0)
        return err_errno(err, errno, "cannot set the terminal");
    fputs("\033[?1049h\033[?25l\033[2J", stdout);
    return 0;
}

static void screen_close(struct screen *t)
{
    fputs("\033[0m\033[?25h\033[?1049l", stdout);
    fflush(stdout);
    tcsetattr(STDIN_FILENO, TCSANOW, &t->before);
    close(t->signals);
}

/* Lines over what stood there, so that nothing flickers. */
static void screen_show(struct screen *t, const struct top_state *s)
{
    char *text, *rest;
    unsigned line = 0;
    t->look = look_of(STDOUT_FILENO);
    top_draw(s, &t->look, &text);
    rest = text;
    fputs("\033[H", stdout);
    for (char *l; line + 1 < t->look.height && (l = strsep(&rest, "\n")); line++)
        printf("%s\033[0m\033[K\r\n", l);
    printf("\033[J\033[%u;1H%s%.*s%s\033[K", t->look.height, t->look.colour ? "\033[2m" : "", (int)t->look.width, "q quits", "\033[0m");
    fflush(stdout);
    free(text);
}

/* -1: go on; else the exit code. Shows again at once when the window has another size. */
static int look_at_input(struct screen *t, const struct top_state *s)
{
    struct signalfd_siginfo info;
    char key;
    while (read(t->signals, &info, sizeof info) == (ssize_t)sizeof info) {
        if (info.ssi_signo != SIGWINCH)
            return info.ssi_signo == SIGINT ? 0 : 128 + (int)info.ssi_signo;
        screen_show(t, s);
    }
    ssize_t n;
    while ((n = read(STDIN_FILENO, &key, 1)) == 1)
        if (key == 'q' || key == 'Q' || key == 3)
            return 0;
    return n < 0 && errno != EAGAIN && errno != EINTR ? 0 : -1;   /* the terminal is gone */
}

static int full_screen(const struct rundir *run, struct top_state *s, struct err *err)
{
    struct screen t = {0};
    int code = -1;
    TRY(screen_open(&t, err));
    while (code < 0) {
        top_read(run, s);
        screen_show(&t, s);
        for (uint64_t until = clock_now_ms() + REFRESH_MS, now; code < 0 && (now = clock_now_ms()) < until;) {
            struct pollfd wait[2] = {{.fd = STDIN_FILENO, .events = POLLIN}, {.fd = t.signals, .events = POLLIN}};
            if (poll(wait, 2, (int)(until - now)) > 0)
                code = wait[0].revents & (POLLHUP | POLLERR | POLLNVAL) ? 128 + SIGHUP : look_at_input(&t, s);
        }
    }
    screen_close(&t);
    return code;
}

/* ---- without a terminal ---- */
static int plain_lines(const struct rundir *run)
{
    char *json = NULL, line[512], last[512] = "";
    struct err err = ERR_INIT;
    while (live_ask(run, PLAIN_MS, &json, &err) == 0) {
        live_line(json, 0, line, sizeof line);
        free(json);
        json = NULL;
        if (strcmp(line, last) != 0 && (puts(line) < 0 || fflush(stdout) != 0))
            return 0;                 /* the reader of a pipe has gone */
        snprintf(last, sizeof last, "%s", line);
        nanosleep(&(struct timespec){PLAIN_MS / 1000, 0}, NULL);
    }
    return 0;
}

/* What `status --json` says, a line each time, until the run is over; one whose coordinator is being started again is not. */
static int json_lines(const struct rundir *run, bool once, struct err *err)
{
    char *json = NULL;
    struct err none = ERR_INIT;
    for (int rc; (rc = live_ask(run, PLAIN_MS, &json, &none)) == 0 || rundirs_lives(run->path); nanosleep(&(struct timespec){PLAIN_MS / 1000, 0}, NULL)) {
        bool gone = rc == 0 && (puts(json) < 0 || fflush(stdout) != 0);
        free(json);
        json = NULL;
        if (gone || (rc == 0 && once))
            return 0;
    }
    return cli_status_of_ended(run->path, true, err);
}

static int once(const struct rundir *run, struct top_state *s)
{
    struct top_look look = look_of(STDOUT_FILENO);
    char *text;
    look.height = 0;
    top_read(run, s);
    top_draw(s, &look, &text);
    fputs(text, stdout);
    free(text);
    return 0;
}

int verb_top(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    struct rundir run;
    struct top_state *s = calloc(1, sizeof *s);
    CHECK(s != NULL);
    int rc = args_parse(&a, argc, argv, &err);
    if (rc == 0)
        rc = a.positional_count == 1 ? rundir_open(&run, a.positional[0], &err) : err_set(&err, ERR_USAGE, "one run directory is needed: viaduct top RUN");
    if (rc == 0 && args_value(&a, "--json"))
        rc = json_lines(&run, args_value(&a, "--once") != NULL, &err);
    else if (rc == 0 && args_value(&a, "--once"))
        rc = once(&run, s);
    else if (rc == 0 && isatty(STDIN_FILENO) && isatty(STDOUT_FILENO))
        rc = full_screen(&run, s, &err);
    else if (rc == 0 && (rc = plain_lines(&run)) == 0)
        rc = once(&run, s);
    free(s);
    return rc < 0 ? cli_fail("top", &err) : rc;
}
