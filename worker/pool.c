#include "worker/pool.h"

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

struct hand { struct pool *pool; unsigned slot; pthread_t thread; };

struct pool {
    pthread_mutex_t lock;
    pthread_cond_t work, done;
    unsigned threads, next, items, busy;
    uint64_t turn;                    /* counts pool_run calls: a hand works once for each */
    bool stop;
    void (*job)(void *arg, unsigned item, unsigned slot);
    void *arg;
    struct hand *hand;
};

static void work_off(struct pool *p, unsigned slot)
{
    while (p->next < p->items) {
        unsigned item = p->next++;
        pthread_mutex_unlock(&p->lock);
        p->job(p->arg, item, slot);
        pthread_mutex_lock(&p->lock);
    }
}

static void *serve(void *arg)
{
    struct hand *h = arg;
    struct pool *p = h->pool;
    uint64_t turn = 0;
    pthread_mutex_lock(&p->lock);
    for (;;) {
        while (p->turn == turn && !p->stop)
            pthread_cond_wait(&p->work, &p->lock);
        if (p->stop)
            break;
        turn = p->turn;
        work_off(p, h->slot);
        if (--p->busy == 0)
            pthread_cond_signal(&p->done);
    }
    pthread_mutex_unlock(&p->lock);
    return NULL;
}

int pool_open(unsigned threads, struct pool **out, struct err *err)
{
    CHECK(threads > 0);
    struct pool *p = calloc(1, sizeof *p);
    struct hand *hands = calloc(threads, sizeof *hands);
    if (!p || !hands) {
        free(p);
        free(hands);
        return err_set(err, ERR_NO_MEMORY, "no memory for %u threads", threads);
    }
    *p = (struct pool){.hand = hands, .threads = 1};
    pthread_mutex_init(&p->lock, NULL);
    pthread_cond_init(&p->work, NULL);
    pthread_cond_init(&p->done, NULL);
    for (unsigned i = 1; i < threads; i++) {   /* the caller is hand 0 */
        hands[i] = (struct hand){.pool = p, .slot = i};
        int rc = pthread_create(&hands[i].thread, NULL, serve, &hands[i]);
        if (rc != 0) {
            pool_close(p);
            return err_errno(err, rc, "cannot start thread %u of %u", i, threads);
        }
        p->threads++;
    }
    *out = p;
    return 0;
}

void pool_close(struct pool *p)
{
    if (!p)
        return;
    pthread_mutex_lock(&p->lock);
    p->stop = true;
    pthread_cond_broadcast(&p->work);
    pthread_mutex_unlock(&p->lock);
    for (unsigned i = 1; i < p->threads; i++)
        pthread_join(p->hand[i].thread, NULL);
    pthread_cond_destroy(&p->work);
    pthread_cond_destroy(&p->done);
    pthread_mutex_destroy(&p->lock);
    free(p->hand);
    free(p);
}

void pool_run(struct pool *p, unsigned items, void (*job)(void *arg, unsigned item, unsigned slot), void *arg)
{
    pthread_mutex_lock(&p->lock);
    p->job = job;
    p->arg = arg;
    p->items = items;
    p->next = 0;
    p->busy = p->threads - 1;
    p->turn++;
    pthread_cond_broadcast(&p->work);
    work_off(p, 0);
    while (p->busy)
        pthread_cond_wait(&p->done, &p->lock);
    pthread_mutex_unlock(&p->lock);
}
