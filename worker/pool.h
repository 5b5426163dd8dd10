/* A small pool: runs job(arg, item, slot) for every item on its threads, each item once, and waits for all. */
#ifndef VIADUCT_WORKER_POOL_H
#define VIADUCT_WORKER_POOL_H

#include "base/err.h"

struct pool;
int pool_open(unsigned threads, struct pool **out, struct err *err);
void pool_close(struct pool *p);
void pool_run(struct pool *p, unsigned items, void (*job)(void *arg, unsigned item, unsigned slot), void *arg);

#endif
