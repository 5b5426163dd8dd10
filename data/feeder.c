/* The feeder: gathers the samples of coming lanes in a thread of its own. A cell is empty, being filled, or full; take waits for the cell
 * that holds its request, or fills one itself. What is taken depends on the request alone, never on what was asked or when. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "base/arena.h"
#include "data/data.h"

enum cell_state { CELL_EMPTY, CELL_WANTED, CELL_FILLING, CELL_FULL, CELL_TAKEN };

struct cell {
    enum cell_state state;
    struct lane_request request;
    unsigned slot;                    /* that took it */
    uint8_t *pixels, *labels;
};

struct feeder {
    const struct dataset *data;
    uint64_t seed;
    unsigned cell_count;
    struct cell *cell;
    uint8_t *memory;
    size_t memory_bytes;
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    bool stop;
};

static bool same(struct lane_request a, struct lane_request b) { return a.pass == b.pass && a.first == b.first && a.count == b.count; }

static void fill(const struct feeder *f, struct cell *c)
{
    const struct dataset *d = f->data;
    for (uint32_t i = 0; i < c->request.count; i++) {
        uint64_t s = sample_at(f->seed, d->count, c->request.pass, c->request.first + i);
        memcpy(c->pixels + (size_t)i * d->sample_bytes, d->pixels + s * d->sample_bytes, d->sample_bytes);
        c->labels[i] = d->labels[s];
    }
}

static struct cell *find(struct feeder *f, enum cell_state state)
{
    for (unsigned i = 0; i < f->cell_count; i++)
        if (f->cell[i].state == state)
            return &f->cell[i];
    return NULL;
}

static void *gather(void *arg)
{
    struct feeder *f = arg;
    pthread_mutex_lock(&f->lock);
    while (!f->stop) {
        struct cell *c = find(f, CELL_WANTED);
        if (!c) {
            pthread_cond_wait(&f->changed, &f->lock);
            continue;
        }
        c->state = CELL_FILLING;
        pthread_mutex_unlock(&f->lock);
        fill(f, c);
        pthread_mutex_lock(&f->lock);
        c->state = CELL_FULL;
        pthread_cond_broadcast(&f->changed);
    }
    pthread_mutex_unlock(&f->lock);
    return NULL;
}

int feeder_open(const struct dataset *d, uint64_t seed, uint32_t lane_batch_max, unsigned depth, struct feeder **out, struct err *err)
{
    struct feeder *f = calloc(1, sizeof *f);
    struct cell *cells = calloc(depth, sizeof *cells);
    size_t each = (size_t)lane_batch_max * (d->sample_bytes + 1u);
    uint8_t *memory = f && cells ? pages_alloc(each * depth, err) : NULL;
    if (!memory) {
        free(f);
        free(cells);
        return err_set(err, ERR_NO_MEMORY, "no memory to read %u samples ahead", lane_batch_max * depth);
    }
    *f = (struct feeder){.data = d, .seed = seed, .cell_count = depth, .cell = cells, .memory = memory, .memory_bytes = each * depth};
    for (unsigned i = 0; i < depth; i++) {
        cells[i].pixels = memory + each * i;
        cells[i].labels = cells[i].pixels + (size_t)lane_batch_max * d->sample_bytes;
    }
    pthread_mutex_init(&f->lock, NULL);
    pthread_cond_init(&f->changed, NULL);
    int rc = pthread_create(&f->thread, NULL, gather, f);
    if (rc != 0) {
        pages_free(memory, f->memory_bytes);
        free(cells);
        free(f);
        return err_errno(err, rc, "cannot start the reading thread");
    }
    *out = f;
    return 0;
}

void feeder_close(struct feeder *f)
{
    if (!f)
        return;
    pthread_mutex_lock(&f->lock);
    f->stop = true;
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
    pthread_join(f->thread, NULL);
    pthread_cond_destroy(&f->changed);
    pthread_mutex_destroy(&f->lock);
    pages_free(f->memory, f->memory_bytes);
    free(f->cell);
    free(f);
}

void feeder_ask(struct feeder *f, const struct lane_request *requests, unsigned count)
{
    pthread_mutex_lock(&f->lock);
    for (unsigned i = 0; i < f->cell_count; i++) {   /* what was asked and is not asked any more makes room */
        struct cell *c = &f->cell[i];
        bool wanted = false;
        for (unsigned k = 0; k < count; k++)
            wanted = wanted || same(c->request, requests[k]);
        if (!wanted && (c->state == CELL_WANTED || c->state == CELL_FULL))
            c->state = CELL_EMPTY;
    }
    for (unsigned k = 0; k < count; k++) {
        bool there = false;
        for (unsigned i = 0; i < f->cell_count; i++)
            there = there || (f->cell[i].state != CELL_EMPTY && f->cell[i].state != CELL_TAKEN && same(f->cell[i].request, requests[k]));
        struct cell *c = there ? NULL : find(f, CELL_EMPTY);
        if (c) {
            c->request = requests[k];
            c->state = CELL_WANTED;
        }
    }
    pthread_cond_broadcast(&f->changed);
    pthread_mutex_unlock(&f->lock);
}

void feeder_take(struct feeder *f, struct lane_request request, unsigned slot, const uint8_t **pixels, const uint8_t **labels)
{
    pthread_mutex_lock(&f->lock);
    struct cell *mine = NULL;
    for (unsigned i = 0; i < f->cell_count; i++)
        if (f->cell[i].state == CELL_TAKEN && f->cell[i].slot == slot)
            f->cell[i].state = CELL_EMPTY;   /* the slot's last one */
    for (unsigned i = 0; i < f->cell_count && !mine; i++)
        if ((f->cell[i].state == CELL_WANTED || f->cell[i].state == CELL_FILLING || f->cell[i].state == CELL_FULL) && same(f->cell[i].request, request))
            mine = &f->cell[i];
    while (mine && mine->state == CELL_FILLING)
        pthread_cond_wait(&f->changed, &f->lock);
    bool full = mine && mine->state == CELL_FULL;
    if (!mine)
        mine = find(f, CELL_EMPTY);
    if (!mine)
        mine = find(f, CELL_WANTED);
    while (!mine) {   /* every cell is taken, or filled with what others asked for */
        mine = find(f, CELL_FULL);
        if (!mine)
            pthread_cond_wait(&f->changed, &f->lock);
    }
    mine->request = request;
    mine->slot = slot;
    mine->state = CELL_TAKEN;
    pthread_mutex_unlock(&f->lock);
    if (!full)
        fill(f, mine);
    *pixels = mine->pixels;
    *labels = mine->labels;
}
