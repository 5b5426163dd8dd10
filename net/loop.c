/* The event loop over libuv: posts, timers, signals, deaths of processes, lines from pipes, readiness of sockets. Only this file knows libuv. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "base/err.h"
#include "base/fs.h"
#include "net/loop.h"

#define POSTS_MAX 4096
#define LINE_BYTES 4096

struct post { void (*fn)(void *arg); void *arg; };

struct loop {
    uv_loop_t uv;
    uv_async_t wake;
    bool stopping;
    struct owned owned;          /* list head */
    pthread_mutex_t lock;        /* of the posts */
    unsigned first_post, post_count;
    struct post posts[POSTS_MAX];
};

/* Every object below starts with its libuv handle and dies with it. */
static void free_object(uv_handle_t *h)
{
    free(h);
}

static void close_object(void *object)
{
    uv_handle_t *h = object;
    if (h && !uv_is_closing(h))
        uv_close(h, free_object);
}

/* ---- life ---- */
static bool next_post(struct loop *l, struct post *out)
{
    pthread_mutex_lock(&l->lock);
    bool any = l->post_count > 0;
    if (any) {
        *out = l->posts[l->first_post];
        l->first_post = (l->first_post + 1) % POSTS_MAX;
        l->post_count--;
    }
    pthread_mutex_unlock(&l->lock);
    return any;
}

static unsigned posts_waiting(struct loop *l)
{
    pthread_mutex_lock(&l->lock);
    unsigned n = l->post_count;
    pthread_mutex_unlock(&l->lock);
    return n;
}

/* Runs what waits now; a post that posts again comes in the next turn, so that sockets get theirs. */
static void run_posts(struct loop *l)
{
    struct post p;
    for (unsigned n = posts_waiting(l); n > 0 && !l->stopping && next_post(l, &p); n--)
        p.fn(p.arg);
    if (posts_waiting(l) > 0)
        uv_async_send(&l->wake);
}

static void on_wake(uv_async_t *wake)
{
    run_posts(wake->data);
}

int loop_new(struct loop **out, struct err *err)
{
    struct loop *l = calloc(1, sizeof *l);
    if (!l)
        return err_set(err, ERR_NO_MEMORY, "no memory for an event loop");
    int rc = uv_loop_init(&l->uv);
    if (rc < 0) {
        free(l);
        return err_errno(err, -rc, "cannot start an event loop");
    }
    rc = uv_async_init(&l->uv, &l->wake, on_wake);
    if (rc < 0) {
        uv_loop_close(&l->uv);
        free(l);
        return err_errno(err, -rc, "cannot start an event loop");
    }
    l->wake.data = l;
    uv_unref((uv_handle_t *)&l->wake);
    owned_init(&l->owned);
    pthread_mutex_init(&l->lock, NULL);
    *out = l;
    return 0;
}

static void close_left(uv_handle_t *h, void *arg)
{
    struct loop *l = arg;
    if (!uv_is_closing(h))
        uv_close(h, h == (uv_handle_t *)&l->wake ? NULL : free_object);
}

void loop_free(struct loop *l)
{
    if (!l)
        return;
    owned_drop_all(&l->owned);
    uv_walk(&l->uv, close_left, l);
    while (uv_run(&l->uv, UV_RUN_DEFAULT) != 0)
        continue;
    CHECK(uv_loop_close(&l->uv) == 0);
    pthread_mutex_destroy(&l->lock);
    free(l);
}

void loop_run(struct loop *l)
{
    while (!l->stopping) {
        int alive = uv_run(&l->uv, UV_RUN_DEFAULT);   /* may return early for a stop that was meant for an earlier run */
        if (!l->stopping && posts_waiting(l) > 0)
            run_posts(l);
        else if (!alive)
            break;
    }
    l->stopping = false;
}

void loop_stop(struct loop *l)
{
    l->stopping = true;
    uv_stop(&l->uv);
}

uint64_t loop_now_ms(struct loop *l)
{
    (void)l;                     /* the loop's own clock stands still during a callback */
    return clock_now_ms();
}

int loop_post(struct loop *l, void (*fn)(void *arg), void *arg)
{
    pthread_mutex_lock(&l->lock);
    bool room = l->post_count < POSTS_MAX;
    if (room)
        l->posts[(l->first_post + l->post_count++) % POSTS_MAX] = (struct post){fn, arg};
    pthread_mutex_unlock(&l->lock);
    if (!room)
        return ERR_TEMPORARY;
    uv_async_send(&l->wake);
    return 0;
}

/* ---- owned things ---- */
void owned_init(struct owned *list)
{
    list->prev = list->next = list;
}

void owned_add(struct owned *list, struct owned *o, void (*drop)(struct owned *o))
{
    o->drop = drop;
    o->prev = list->prev;
    o->next = list;
    o->prev->next = o->next->prev = o;
}

void owned_remove(struct owned *o)
{
    if (!o->next)
        return;
    o->prev->next = o->next;
    o->next->prev = o->prev;
    o->prev = o->next = NULL;
}

void owned_drop_all(struct owned *list)
{
    while (list->next != list)
        list->next->drop(list->next);
}

void loop_own(struct loop *l, struct owned *o, void (*drop)(struct owned *o))
{
    owned_add(&l->owned, o, drop);
}

/* ---- timers ---- */
struct timer { uv_timer_t uv; void (*fn)(void *arg); void *arg; };

static void on_timer(uv_timer_t *uv)
{
    struct timer *t = (struct timer *)uv;
    bool once = uv_timer_get_repeat(uv) == 0;
    t->fn(t->arg);
    if (once)
        close_object(t);
}

struct timer *timer_start(struct loop *l, uint64_t after_ms, uint64_t every_ms, void (*fn)(void *arg), void *arg)
{
    struct timer *t = calloc(1, sizeof *t);
    CHECK(t);
    t->fn = fn;
    t->arg = arg;
    uv_update_time(&l->uv);      /* a long callback must not shorten the wait */
    uv_timer_init(&l->uv, &t->uv);
    uv_timer_start(&t->uv, on_timer, after_ms, every_ms);
    return t;
}

void timer_stop(struct timer *t)
{
    close_object(t);
}

/* ---- signals ---- */
struct signal_watch { uv_signal_t uv; void (*fn)(void *arg, int signo); void *arg; };

static void on_signal(uv_signal_t *uv, int signo)
{
    struct signal_watch *s = (struct signal_watch *)uv;
    s->fn(s->arg, signo);
}

int loop_on_signal(struct loop *l, int signo, void (*fn)(void *arg, int signo), void *arg, struct err *err)
{
    struct signal_watch *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to watch signal %d", signo);
    s->fn = fn;
    s->arg = arg;
    int rc = uv_signal_init(&l->uv, &s->uv);
    if (rc < 0) {
        free(s);
        return err_errno(err, -rc, "cannot watch signal %d", signo);
    }
    rc = uv_signal_start(&s->uv, on_signal, signo);
    if (rc < 0) {
        close_object(s);
        return err_errno(err, -rc, "cannot watch signal %d", signo);
    }
    uv_unref((uv_handle_t *)&s->uv);
    return 0;
}

/* ---- readiness ---- */
struct watch { uv_poll_t uv; watch_fn fn; void *arg; int events; };

static void on_ready(uv_poll_t *uv, int status, int events)
{
    struct watch *w = (struct watch *)uv;
    w->fn(w->arg, status < 0 || (events & UV_READABLE), status < 0 || (events & UV_WRITABLE));
    /* libuv stops watching a descriptor that reports an error; bytes may still wait in front of it. */
    if (status < 0 && !uv_is_closing((uv_handle_t *)uv) && w->events)
        uv_poll_start(uv, w->events, on_ready);
}

int watch_start(struct loop *l, int fd, watch_fn fn, void *arg, struct watch **out, struct err *err)
{
    struct watch *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ERR_NO_MEMORY, "no memory to watch a descriptor");
    int rc = uv_poll_init(&l->uv, &w->uv, fd);
    if (rc < 0) {
        free(w);
        return err_errno(err, -rc, "cannot watch descriptor %d", fd);
    }
    w->fn = fn;
    w->arg = arg;
    *out = w;
    return 0;
}

void watch_set(struct watch *w, bool read, bool write)
{
    int events = (read ? UV_READABLE : 0) | (write ? UV_WRITABLE : 0);
    if (events == w->events)
        return;
    w->events = events;
    if (events)
        uv_poll_start(&w->uv, events, on_ready);
    else
        uv_poll_stop(&w->uv);
}

void watch_stop(struct watch *w)
{
    close_object(w);
}

/* ---- deaths ---- */
struct process_watch {
    struct owned owned;
    pid_t pid;
    int fd;
    struct watch *watch;
    struct timer *soon;          /* instead of the two, when the process is gone already */
    void (*fn)(void *arg, pid_t pid, int code, int signo);
    void *arg;
};

static void process_watch_drop(struct owned *o)
{
    process_unwatch((struct process_watch *)o);
}

static void report_death(struct process_watch *w)
{
    siginfo_t info = {0};
    int code = -1, signo = -1;
    if (waitid(P_PID, (id_t)w->pid, &info, WEXITED | WNOHANG) == 0 && info.si_pid == w->pid) {
        bool exited = info.si_code == CLD_EXITED;
        code = exited ? info.si_status : -1;
        signo = exited ? 0 : info.si_status;
    }
    void (*fn)(void *arg, pid_t pid, int c, int s) = w->fn;
    void *arg = w->arg;
    pid_t pid = w->pid;
    process_unwatch(w);
    fn(arg, pid, code, signo);
}

static void on_gone(void *arg)
{
    struct process_watch *w = arg;
    w->soon = NULL;
    report_death(w);
}

static void on_pidfd(void *arg, bool readable, bool writable)
{
    (void)writable;
    if (readable)
        report_death(arg);
}

int process_watch(struct loop *l, pid_t pid, void (*fn)(void *arg, pid_t pid, int code, int signo), void *arg,
                  struct process_watch **out, struct err *err)
{
    struct process_watch *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ERR_NO_MEMORY, "no memory to watch process %d", (int)pid);
    *w = (struct process_watch){.pid = pid, .fn = fn, .arg = arg};
    w->fd = (int)syscall(SYS_pidfd_open, pid, 0);
    int rc = 0;
    if (w->fd >= 0)
        rc = watch_start(l, w->fd, on_pidfd, w, &w->watch, err);
    else if (errno == ESRCH)
        w->soon = timer_start(l, 0, 0, on_gone, w);
    else
        rc = err_errno(err, errno, "cannot watch process %d", (int)pid);
    if (rc < 0) {
        if (w->fd >= 0)
            close(w->fd);
        free(w);
        return rc;
    }
    if (w->watch)
        watch_set(w->watch, true, false);
    loop_own(l, &w->owned, process_watch_drop);
    *out = w;
    return 0;
}

void process_signal(const struct process_watch *w, int signo)
{
    if (w->fd >= 0)
        syscall(SYS_pidfd_send_signal, w->fd, signo, NULL, 0);
}

void process_unwatch(struct process_watch *w)
{
    if (!w)
        return;
    timer_stop(w->soon);
    watch_stop(w->watch);
    if (w->fd >= 0)
        close(w->fd);
    owned_remove(&w->owned);
    free(w);
}

/* ---- lines ---- */
struct lines {
    struct owned owned;
    int fd;
    struct watch *watch;
    void (*fn)(void *arg, const char *line);
    void *arg;
    size_t used;
    char line[LINE_BYTES + 1];
};

static void lines_drop(struct owned *o)
{
    struct lines *s = (struct lines *)o;
    watch_stop(s->watch);
    close(s->fd);
    owned_remove(o);
    free(s);
}

static void line_end(struct lines *s)
{
    s->line[s->used] = '\0';
    s->used = 0;
    s->fn(s->arg, s->line);
}

static void lines_add(struct lines *s, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '\n')
            line_end(s);
        else if (s->used < LINE_BYTES)
            s->line[s->used++] = p[i];   /* the rest of a longer line is skipped */
    }
}

static void on_lines(void *arg, bool readable, bool writable)
{
    struct lines *s = arg;
    char chunk[LINE_BYTES];
    (void)writable;
    if (!readable)
        return;
    ssize_t n = read(s->fd, chunk, sizeof chunk);
    if (n > 0)
        lines_add(s, chunk, (size_t)n);
    if (n > 0 || (n < 0 && (errno == EAGAIN || errno == EINTR)))
        return;
    if (s->used > 0)
        line_end(s);
    void (*fn)(void *a, const char *line) = s->fn;
    void *fn_arg = s->arg;
    lines_drop(&s->owned);
    fn(fn_arg, NULL);
}

int loop_read_lines(struct loop *l, int fd, void (*fn)(void *arg, const char *line), void *arg, struct err *err)
{
    struct lines *s = calloc(1, sizeof *s);
    if (!s)
        return err_set(err, ERR_NO_MEMORY, "no memory to read descriptor %d", fd);
    s->fd = fd;
    s->fn = fn;
    s->arg = arg;
    int rc = watch_start(l, fd, on_lines, s, &s->watch, err);
    if (rc < 0) {
        free(s);
        return rc;
    }
    watch_set(s->watch, true, false);
    loop_own(l, &s->owned, lines_drop);
    return 0;
}

/* ---- names ---- */
struct resolving { uv_getaddrinfo_t uv; void (*fn)(void *arg, const struct resolved *r); void *arg; };

static void on_resolved(uv_getaddrinfo_t *uv, int status, struct addrinfo *list)
{
    struct resolving *r = (struct resolving *)uv;
    struct resolved out = {.why = status < 0 ? uv_strerror(status) : "no address"};
    for (struct addrinfo *a = list; a && out.count < RESOLVED_MAX; a = a->ai_next) {
        memcpy(&out.list[out.count], a->ai_addr, a->ai_addrlen);
        out.size[out.count++] = a->ai_addrlen;
    }
    uv_freeaddrinfo(list);
    if (r->fn)
        r->fn(r->arg, &out);
    free(r);
}

struct resolving *loop_resolve(struct loop *l, const char *host, const char *port, void (*fn)(void *arg, const struct resolved *r), void *arg,
                               struct err *err)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    struct resolving *r = calloc(1, sizeof *r);
    if (!r) {
        err_set(err, ERR_NO_MEMORY, "no memory to resolve %s", host);
        return NULL;
    }
    r->fn = fn;
    r->arg = arg;
    int rc = uv_getaddrinfo(&l->uv, &r->uv, on_resolved, host, port, &hints);
    if (rc < 0) {
        free(r);
        err_set(err, ERR_TEMPORARY, "cannot resolve %s: %s", host, uv_strerror(rc));
        return NULL;
    }
    return r;
}

void resolving_drop(struct resolving *r)
{
    if (!r)
        return;
    r->fn = NULL;
    uv_cancel((uv_req_t *)&r->uv);
}
