/* The disk thread: work in order, answers in the loop's thread. */
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "ps/ps.h"

struct task {
    struct task *next;
    void (*work)(void *arg);
    void (*done)(void *arg);
    void *arg;
};

struct ps_disk {
    struct loop *loop;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t wake;
    struct task *head, **tail;
    bool stop;
};

static bool stopping(struct ps_disk *d)
{
    pthread_mutex_lock(&d->lock);
    bool stop = d->stop;
    pthread_mutex_unlock(&d->lock);
    return stop;
}

static void answer(struct ps_disk *d, const struct task *t)
{
    /* The loop's queue is bounded: an answer that found no room must not be lost, but nobody empties it at the end. */
    while (loop_post(d->loop, t->done, t->arg) < 0 && !stopping(d))
        nanosleep(&(struct timespec){0, 1000000}, NULL);
}

static void *serve(void *arg)
{
    struct ps_disk *d = arg;
    pthread_mutex_lock(&d->lock);
    for (;;) {
        while (!d->head && !d->stop)
            pthread_cond_wait(&d->wake, &d->lock);
        struct task *t = d->head;
        if (!t)
            break;
        d->head = t->next;
        if (!d->head)
            d->tail = &d->head;
        bool answered = !d->stop;
        pthread_mutex_unlock(&d->lock);
        t->work(t->arg);
        if (answered)
            answer(d, t);
        free(t);
        pthread_mutex_lock(&d->lock);
    }
    pthread_mutex_unlock(&d->lock);
    return NULL;
}

int ps_disk_open(struct loop *loop, struct ps_disk **out, struct err *err)
{
    struct ps_disk *d = calloc(1, sizeof *d);
    if (!d)
        return err_set(err, ERR_NO_MEMORY, "no memory for the disk thread");
    d->loop = loop;
    d->tail = &d->head;
    pthread_mutex_init(&d->lock, NULL);
    pthread_cond_init(&d->wake, NULL);
    int rc = pthread_create(&d->thread, NULL, serve, d);
    if (rc != 0) {
        free(d);
        return err_errno(err, rc, "cannot start the disk thread");
    }
    *out = d;
    return 0;
}

void ps_disk_close(struct ps_disk *d)
{
    if (!d)
        return;
    pthread_mutex_lock(&d->lock);
    d->stop = true;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
    pthread_join(d->thread, NULL);
    pthread_cond_destroy(&d->wake);
    pthread_mutex_destroy(&d->lock);
    free(d);
}

void ps_disk_ask(struct ps_disk *d, void (*work)(void *arg), void (*done)(void *arg), void *arg)
{
    struct task *t = calloc(1, sizeof *t);
    CHECK(t != NULL);
    *t = (struct task){.work = work, .done = done, .arg = arg};
    pthread_mutex_lock(&d->lock);
    *d->tail = t;
    d->tail = &t->next;
    pthread_cond_signal(&d->wake);
    pthread_mutex_unlock(&d->lock);
}
