/* The ranks of MPI_COMM_WORLD as a gang, on one host or many. MPI moves bytes and adds nothing: each rank gets the partial sums of its own blocks from
 * everybody (all-to-all) and completes the tree itself, so the bits are those of shared memory. Every wait tests and sleeps, because ranks may outnumber
 * cores, and gives up at its deadline; MPI itself ends the whole world when a rank dies. */
#include <limits.h>
#include <mpi.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/arena.h"
#include "base/fs.h"
#include "collectives/transport.h"

#define YIELDS 100                    /* tests in a row before a wait sleeps */
#define SLEEP_US_MAX 200

struct shape { uint64_t layout, lanes, lo, hi; };

struct world {                        /* struct coll's state; whatever MPI writes lies here or in what it owns */
    atomic_bool aborted;
    bool pending;                     /* a request was given up: all of this stays, MPI may still write here */
    struct shape shape, shapes[LANES_MAX];
    uint64_t given, exchanged[LANES_MAX];
    struct lane_totals own_totals[LANES_MAX], totals[LANES_MAX];
    struct coll_run run[LANES_MAX];
    float *flat;                      /* weights, then the own lanes */
    size_t flat_bytes;
    float *send, *receive;            /* partial sums: [to or from rank][node][its elements] */
    size_t send_bytes, receive_bytes;
    int send_count[LANES_MAX], send_at[LANES_MAX], receive_count[LANES_MAX], receive_at[LANES_MAX];
    int weight_count[LANES_MAX], weight_at[LANES_MAX], totals_count[LANES_MAX], totals_at[LANES_MAX];
};

/* MPI is one for the process, and so is this: a given-up request must keep MPI_Finalize from waiting for it at exit. */
static atomic_bool given_up;

/* ---- waiting ---- */
static int refused(int code, const char *what, struct err *err)
{
    char text[MPI_MAX_ERROR_STRING] = "";
    int n;
    MPI_Error_string(code, text, &n);
    err_set(err, ERR_ABORTED, "MPI: %s: %.400s", what, text);
    return err_scope(err, SCOPE_SITE);
}

static int wait_for(struct coll *c, MPI_Request *request, uint64_t timeout_ms, const char *what, struct err *err)
{
    struct world *w = c->state;
    uint64_t until = clock_now_ms() + timeout_ms;
    for (unsigned turn = 0;; turn++) {
        int done = 0, rc = MPI_Test(request, &done, MPI_STATUS_IGNORE);
        if (rc == MPI_SUCCESS && done)
            return 0;
        if (rc != MPI_SUCCESS || atomic_load(&w->aborted) || clock_now_ms() > until) {
            w->pending = true;
            atomic_store(&given_up, true);
            atomic_store(&w->aborted, true);
            if (rc != MPI_SUCCESS)
                return refused(rc, what, err);
            err_set(err, ERR_ABORTED, "MPI: %s: the gang was given up: a rank died, or was slower than its deadline", what);
            return err_scope(err, SCOPE_SITE);
        }
        struct timespec nap = {0, turn < YIELDS ? 0 : 1000L * (turn - YIELDS < SLEEP_US_MAX ? turn - YIELDS + 1 : SLEEP_US_MAX)};
        if (turn < YIELDS)
            sched_yield();
        else
            nanosleep(&nap, NULL);
    }
}

/* Submits and waits: WAIT(c, timeout, "what", MPI_I...(..., &request)). */
#define WAIT(timeout_ms, what, call) do { MPI_Request request; int submit_rc_ = (call); \
        if (submit_rc_ != MPI_SUCCESS) return refused(submit_rc_, what, err); \
        TRY(wait_for(c, &request, timeout_ms, what, err)); } while (0)

/* ---- opening ---- */
static void finish_mpi(void)
{
    if (!atomic_load(&given_up))      /* else mpirun sees an exit without it, and ends what is left of the world */
        MPI_Finalize();
}

static int start_mpi(struct coll *c, struct err *err)
{
    int started = 0, level = 0, rank, ranks;
    MPI_Initialized(&started);
    if (!started) {
        int rc = MPI_Init_thread(NULL, NULL, MPI_THREAD_FUNNELED, &level);
        if (rc != MPI_SUCCESS)
            return err_set(err, ERR_FAILED, "MPI does not start (code %d); start the ranks by mpirun", rc);
        atexit(finish_mpi);
    }
    MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
    MPI_Comm_rank(MPI_COMM_WORLD, &rank);
    MPI_Comm_size(MPI_COMM_WORLD, &ranks);
    if ((unsigned)rank != c->cfg.rank || (unsigned)ranks != c->cfg.ranks)
        return err_set(err, ERR_CONFLICT, "this process is rank %d of %d in MPI's world, but rank %u of %u of its gang; start as many MPI ranks as the site has",
                       rank, ranks, c->cfg.rank, c->cfg.ranks);
    return 0;
}

static int agree(struct coll *c, struct err *err)
{
    struct world *w = c->state;
    w->shape = (struct shape){layout_hash(c->cfg.layout), c->cfg.lanes, c->cfg.gang.lo, c->cfg.gang.hi};
    WAIT(c->cfg.open_timeout_ms, "opening the gang",
         MPI_Iallgather(&w->shape, sizeof w->shape, MPI_BYTE, w->shapes, sizeof w->shape, MPI_BYTE, MPI_COMM_WORLD, &request));
    const struct shape *all = w->shapes;
    for (unsigned r = 0; r < c->cfg.ranks; r++)
        if (memcmp(&all[r], &w->shape, sizeof *all) != 0)
            return err_set(err, ERR_CONFLICT, "rank %u has lanes %u-%u of %u and layout %016llx, this rank has %u-%u of %u and %016llx", r, (unsigned)all[r].lo,
                           (unsigned)all[r].hi, (unsigned)all[r].lanes, (unsigned long long)all[r].layout, c->cfg.gang.lo, c->cfg.gang.hi, c->cfg.lanes,
                           (unsigned long long)w->shape.layout);
    return 0;
}

/* Counts and places of one exchange; MPI counts in int. */
static int lay_out(struct coll *c, struct world *w, struct err *err)
{
    struct lane_range node[LANE_NODES_MAX];
    uint64_t own_nodes = lane_nodes(c->cfg.lanes, c->mine, node), send = 0, receive = 0;
    for (unsigned r = 0; r < c->cfg.ranks; r++) {
        struct lane_range lanes = coll_lanes_of(&c->cfg, r);
        uint64_t out = own_nodes * w->run[r].elems, in = lane_nodes(c->cfg.lanes, lanes, node) * c->owned_elems;
        if (send + out > INT_MAX || receive + in > INT_MAX || c->cfg.layout->elems > INT_MAX)
            return err_set(err, ERR_USAGE, "the model is too large for MPI's counts: more than %d partial sums a rank; use more ranks", INT_MAX);
        w->send_count[r] = (int)out;
        w->send_at[r] = (int)send;
        w->receive_count[r] = (int)in;
        w->receive_at[r] = (int)receive;
        w->weight_count[r] = (int)w->run[r].elems;
        w->weight_at[r] = (int)w->run[r].first_offset;
        w->totals_count[r] = (int)((lanes.hi - lanes.lo) * sizeof(struct lane_totals));
        w->totals_at[r] = (int)(lanes.lo * sizeof(struct lane_totals));
        send += out;
        receive += in;
    }
    w->send_bytes = send * sizeof(float);
    w->receive_bytes = receive * sizeof(float);
    return 0;
}

static int allocate(struct coll *c, struct world *w, struct err *err)
{
    size_t flat = coll_flat_bytes(&c->cfg);
    w->flat_bytes = flat * (1u + c->mine.hi - c->mine.lo);
    w->flat = pages_alloc(w->flat_bytes, err);
    w->send = pages_alloc(w->send_bytes, err);
    w->receive = pages_alloc(w->receive_bytes, err);
    if (!w->flat || !w->send || !w->receive)
        return ERR_NO_MEMORY;
    c->weights = w->flat;
    c->stride = flat / sizeof(float);
    c->lane = w->flat + c->stride;
    c->lane_first = c->mine.lo;
    return 0;
}

static int mpi_open(struct coll *c, struct err *err)
{
    struct world *w = calloc(1, sizeof *w);
    if (!w)
        return err_set(err, ERR_NO_MEMORY, "no memory for a communicator");
    c->state = w;
    TRY(start_mpi(c, err));
    TRY(agree(c, err));
    TRY(coll_runs(&c->cfg, w->run, err));
    TRY(lay_out(c, w, err));
    return allocate(c, w, err);
}

static void mpi_close(struct coll *c)
{
    struct world *w = c->state;
    if (!w || w->pending)
        return;
    pages_free(w->flat, w->flat_bytes);
    pages_free(w->send, w->send_bytes);
    pages_free(w->receive, w->receive_bytes);
    free(w);
}

static void mpi_abort(struct coll *c) { atomic_store(&((struct world *)c->state)->aborted, true); }

/* ---- rounds ---- */
/* Partial sums of the own lanes, for each rank those of its blocks. */
static void sum_own_lanes(struct coll *c, struct world *w)
{
    struct lane_range node[LANE_NODES_MAX], leaf[LANES_MAX];
    const float *part[LANES_MAX];
    unsigned nodes = lane_nodes(c->cfg.lanes, c->mine, node);
    for (unsigned r = 0; r < c->cfg.ranks; r++)
        for (unsigned k = 0; k < nodes; k++) {
            unsigned count = 0;
            for (unsigned l = node[k].lo; l < node[k].hi; l++, count++) {
                leaf[count] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
                part[count] = c->lane + (l - c->lane_first) * c->stride + w->run[r].first_offset;
            }
            coll_sum(c->cfg.lanes, node[k], leaf, part, count, w->send + w->send_at[r] + k * w->run[r].elems, w->run[r].elems);
        }
}

/* The gang's nodes from everybody's partial sums. */
static void sum_partials(struct coll *c, const struct world *w)
{
    struct lane_range node[LANES_MAX], from[LANE_NODES_MAX];
    const float *part[LANES_MAX];
    unsigned all = 0;
    for (unsigned r = 0; r < c->cfg.ranks; r++) {
        unsigned nodes = lane_nodes(c->cfg.lanes, coll_lanes_of(&c->cfg, r), from);
        for (unsigned k = 0; k < nodes; k++, all++) {
            node[all] = from[k];
            part[all] = w->receive + w->receive_at[r] + k * c->owned_elems;
        }
    }
    for (unsigned n = 0, first = 0; n < c->node_count; n++) {
        unsigned end = first;
        while (end < all && node[end].hi <= c->node[n].hi)
            end++;
        coll_sum(c->cfg.lanes, c->node[n], node + first, part + first, end - first, c->sum[n], c->owned_elems);
        first = end;
    }
}

static int mpi_reduce(struct coll *c, const struct lane_totals *totals, struct err *err)
{
    struct world *w = c->state;
    sum_own_lanes(c, w);
    memcpy(w->own_totals, totals, (c->mine.hi - c->mine.lo) * sizeof *totals);
    WAIT(c->cfg.timeout_ms, "totals of a round", MPI_Iallgatherv(w->own_totals, w->totals_count[c->cfg.rank], MPI_BYTE, w->totals, w->totals_count, w->totals_at,
                                                                MPI_BYTE, MPI_COMM_WORLD, &request));
    memcpy(c->totals, w->totals, sizeof c->totals);
    WAIT(c->cfg.timeout_ms, "sums of a round", MPI_Ialltoallv(w->send, w->send_count, w->send_at, MPI_FLOAT, w->receive, w->receive_count, w->receive_at, MPI_FLOAT,
                                                              MPI_COMM_WORLD, &request));
    sum_partials(c, w);
    return 0;
}

static int mpi_gather(struct coll *c, struct err *err)
{
    struct world *w = c->state;
    WAIT(c->cfg.timeout_ms, "weights of a round", MPI_Iallgatherv(MPI_IN_PLACE, 0, MPI_FLOAT, c->weights, w->weight_count, w->weight_at, MPI_FLOAT, MPI_COMM_WORLD,
                                                                 &request));
    return 0;
}

static int mpi_exchange(struct coll *c, uint64_t mine, uint64_t *all, struct err *err)
{
    struct world *w = c->state;
    w->given = mine;
    WAIT(c->cfg.timeout_ms, "agreement of ranks", MPI_Iallgather(&w->given, 1, MPI_UINT64_T, w->exchanged, 1, MPI_UINT64_T, MPI_COMM_WORLD, &request));
    memcpy(all, w->exchanged, c->cfg.ranks * sizeof *all);
    return 0;
}

static const struct coll_ops ops = {"mpi", mpi_open, mpi_close, mpi_abort, mpi_reduce, mpi_gather, mpi_exchange, NULL};
extern const struct coll_plugin viaduct_coll_plugin;
__attribute__((visibility("default"))) const struct coll_plugin viaduct_coll_plugin = {COLL_PLUGIN_ABI, &ops};
