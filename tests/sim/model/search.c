/* Breadth-first search with 64-bit hash compaction; then backwards from the goal for what can never reach it again. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "model.h"

enum { EDGES_A_STATE = 32 };                              /* on average, at most */

struct level { char *at; uint64_t count, room; };
struct search {
    uint64_t states_max, states, transitions, mask, edge_count;
    uint64_t *key, *edge_first;
    uint32_t *parent, *table, *edge;
    uint16_t *ordinal;                                   /* which of its parent's steps made a state */
    bool *good;
    struct level now, next;
    uint32_t self;
    uint16_t step;
    bool full, found_on_edge;
    const char *violation;
    uint32_t found;
    unsigned pick;                                       /* of a trace: which step to take */
    struct state picked;
    char picked_label[256];
};

static uint64_t hash(const struct state *s, size_t bytes)
{
    enum { WORDS = (sizeof *s + 31) / 32 * 4 };
    uint64_t w[WORDS], h[4] = {0x9e3779b97f4a7c15ull, 0xc2b2ae3d27d4eb4full, 0x165667b19e3779f9ull, 0x27d4eb2f165667c5ull}, all = 0;
    size_t words = (bytes + 31) / 32 * 4;
    w[words - 4] = w[words - 3] = w[words - 2] = w[words - 1] = 0;
    memcpy(w, s, bytes);
    for (size_t i = 0; i < words; i += 4)                /* four chains that do not wait for each other */
        for (unsigned k = 0; k < 4; k++) {
            h[k] = (h[k] ^ w[i + k]) * 0xff51afd7ed558ccdull;
            h[k] ^= h[k] >> 32;
        }
    for (unsigned k = 0; k < 4; k++) {
        all = (all ^ h[k]) * 0xc4ceb9fe1a85ec53ull;
        all ^= all >> 31;
    }
    return all;
}

static void *space(uint64_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        perror("model");
        exit(2);
    }
    return p;
}

static void push(struct level *l, const struct state *s, size_t bytes)
{
    if (l->count == l->room) {
        l->room = l->room ? l->room * 3 / 2 : 1024;
        l->at = realloc(l->at, l->room * bytes);
        if (!l->at) {
            perror("model");
            exit(2);
        }
    }
    memcpy(l->at + l->count++ * bytes, s, bytes);
}

static void visit(struct model *m, const struct state *s, bool fault)
{
    struct search *x = m->search;
    uint64_t h = hash(s, m->bytes), i = h & x->mask;
    uint16_t step = x->step++;
    uint32_t index;
    x->transitions++;
    while (x->table[i] && x->key[x->table[i] - 1] != h)
        i = (i + 1) & x->mask;
    if (x->table[i]) {
        index = x->table[i] - 1;
    } else {
        if (x->states == x->states_max) {
            x->full = true;
            m->broken = NULL;
            return;
        }
        index = (uint32_t)x->states++;
        x->table[i] = index + 1;
        x->key[index] = h;
        x->parent[index] = x->self;
        x->ordinal[index] = step;
        if (!m->broken)
            check_state(m, s);
        x->good[index] = reached_goal(m, s);
        push(&x->next, s, m->bytes);
    }
    if (m->broken && !x->violation) {
        x->violation = m->broken;
        x->found = index;
        x->found_on_edge = x->parent[index] != x->self || x->ordinal[index] != step;
        if (x->found_on_edge) {                          /* the step broke it, though it led to a known state: the trace ends with this step */
            x->found = x->self;
            x->pick = step;
        }
    }
    m->broken = NULL;
    if (!fault && x->edge_count < x->states_max * EDGES_A_STATE)
        x->edge[x->edge_count++] = index;
    else if (!fault)
        x->full = true;
}

/* ---- the trace ---- */
static void pick_step(struct model *m, const struct state *s, bool fault)
{
    struct search *x = m->search;
    (void)fault;
    if (x->step++ == x->pick) {
        x->picked = *s;
        snprintf(x->picked_label, sizeof x->picked_label, "%s", m->label);
    }
}

static void print_step(struct model *m, struct state *s, unsigned step, unsigned number, FILE *out)
{
    struct search *x = m->search;
    x->pick = step;
    x->step = 0;
    moves(m, s);
    m->broken = NULL;
    *s = x->picked;
    fprintf(out, "  %3u %s\n", number, x->picked_label);
}

static void print_trace(struct model *m, FILE *out)
{
    struct search *x = m->search;
    unsigned depth = 0, last = x->pick;
    struct state s;
    for (uint32_t i = x->found; i; i = x->parent[i])
        depth++;
    uint16_t *path = malloc((depth + 1) * sizeof *path);
    if (!path)
        return;
    unsigned n = depth;
    for (uint32_t i = x->found; i; i = x->parent[i])
        path[--n] = x->ordinal[i];
    first_state(m, &s);
    m->tell = true;
    m->emit = pick_step;
    for (n = 0; n < depth; n++)
        print_step(m, &s, path[n], n + 1, out);
    if (x->found_on_edge)
        print_step(m, &s, last, depth + 1, out);
    free(path);
}

/* ---- L1 ---- */
static bool goal_always_reachable(struct search *x)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (uint64_t i = x->states; i-- > 0;)
            for (uint64_t e = x->edge_first[i]; !x->good[i] && e < x->edge_first[i + 1]; e++)
                if (x->good[x->edge[e]])
                    changed = x->good[i] = true;
    }
    for (uint64_t i = 0; i < x->states; i++)
        if (!x->good[i]) {
            x->found = (uint32_t)i;
            x->violation = "L1: from here on the run can never finish, though no fault follows";
            return false;
        }
    return true;
}

struct outcome explore(const struct bound *bound, uint64_t rules, uint64_t states_max, FILE *trace)
{
    struct search x = {.states_max = states_max};
    struct model m = {.bound = *bound, .rules = rules, .emit = visit, .search = &x};
    m.bytes = bound->late ? sizeof(struct state) : offsetof(struct state, late);
    struct state state;
    struct timespec start, stop;
    uint64_t slots = 1u << 16, done = 0, depth = 0;
    clock_gettime(CLOCK_MONOTONIC, &start);
    while (slots < states_max * 3 / 2)
        slots *= 2;
    x.mask = slots - 1;
    x.key = space(states_max * sizeof *x.key);
    x.parent = space(states_max * sizeof *x.parent);
    x.ordinal = space(states_max * sizeof *x.ordinal);
    x.good = space(states_max * sizeof *x.good);
    x.table = space(slots * sizeof *x.table);
    x.edge = space(states_max * EDGES_A_STATE * sizeof *x.edge);
    x.edge_first = space((states_max + 1) * sizeof *x.edge_first);
    first_state(&m, &state);
    visit(&m, &state, true);
    while (x.next.count > 0 && !x.violation && !x.full) {
        struct level done_level = x.now;
        x.now = x.next;
        x.next = (struct level){.at = done_level.at, .room = done_level.room};
        depth++;
        for (uint64_t i = 0; i < x.now.count && !x.violation && !x.full; i++) {
            x.self = (uint32_t)done;
            x.edge_first[done++] = x.edge_count;
            x.step = 0;
            memcpy(&state, x.now.at + i * m.bytes, m.bytes);
            moves(&m, &state);
        }
    }
    x.edge_first[done] = x.edge_count;
    if (!x.violation && !x.full)
        goal_always_reachable(&x);
    clock_gettime(CLOCK_MONOTONIC, &stop);
    if (x.violation && trace)
        print_trace(&m, trace);
    munmap(x.key, states_max * sizeof *x.key);
    munmap(x.parent, states_max * sizeof *x.parent);
    munmap(x.ordinal, states_max * sizeof *x.ordinal);
    munmap(x.good, states_max * sizeof *x.good);
    munmap(x.table, slots * sizeof *x.table);
    munmap(x.edge, states_max * EDGES_A_STATE * sizeof *x.edge);
    munmap(x.edge_first, (states_max + 1) * sizeof *x.edge_first);
    free(x.now.at);
    free(x.next.at);
    return (struct outcome){.violation = x.violation, .states = x.states, .transitions = x.transitions, .depth = depth, .cut = m.cut, .full = x.full,
                            .seconds = (double)(stop.tv_sec - start.tv_sec) + (double)(stop.tv_nsec - start.tv_nsec) * 1e-9};
}
