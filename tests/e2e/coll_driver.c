/* A gang without a job: some rounds over any transport, then a hash of every sum, total and gathered weight that a rank saw.
 * coll_driver shm|mpi RANKS LANES LO HI ROUNDS [STALL-MS]: shm forks its ranks, mpi is one rank of a world. STALL-MS: the last rank stops for that long. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "collectives/collectives.h"

struct plan { struct coll_config coll; unsigned rounds; uint64_t stall_ms; };

static float value(unsigned lane, uint64_t i, unsigned round) { return philox_unit(philox4x32(lane * 1000 + round, (uint32_t)i, 0, 0, 0).v[0]) - 0.5f; }

static void fill(struct coll *c, const struct layout *l, unsigned round, struct lane_totals *totals)
{
    struct lane_range mine = coll_rank_lanes(c);
    for (unsigned lane = mine.lo; lane < mine.hi; lane++) {
        float *g = coll_lane_buffer(c, lane);
        for (uint64_t i = 0; i < l->elems; i++)
            g[i] = i % 7 ? (float)(lane + i % 100) / 3 : value(lane, i, round);
        totals[lane - mine.lo] = (struct lane_totals){0.1 * (lane + 1), lane, 32, lane == 1};
    }
}

/* Weights become a value that depends on each node's sum and on the order of nodes. */
static void step(struct coll *c, const struct coll_sums *s)
{
    float *w = coll_weights(c) + s->first_offset;
    for (unsigned n = 0; n < s->count; n++)
        for (uint64_t i = 0; i < s->elems; i++)
            w[i] = w[i] / 3 + s->sum[n][i];
}

static int round_of(struct coll *c, const struct plan *p, unsigned round, uint64_t *hash, struct err *err)
{
    struct lane_totals totals[LANES_MAX] = {{0}};
    struct coll_sums sums;
    const struct layout *l = p->coll.layout;
    fill(c, l, round, totals);
    if (p->stall_ms && round == 1 && p->coll.rank == p->coll.ranks - 1)
        nanosleep(&(struct timespec){(time_t)(p->stall_ms / 1000), (long)(p->stall_ms % 1000) * 1000000}, NULL);
    TRY(coll_reduce(c, totals, &sums, err));
    step(c, &sums);
    for (unsigned n = 0; n < sums.count; n++)
        *hash = xxh64_of(&sums.totals[n], sizeof sums.totals[n], *hash);
    TRY(coll_gather(c, err));
    for (uint32_t b = 0; b < l->block_count; b++)
        *hash = xxh64_of(coll_weights(c) + l->blocks[b].offset, l->blocks[b].elems * sizeof(float), *hash);
    return 0;
}

static int live(const struct plan *p, struct err *err)
{
    struct coll *c;
    uint64_t hash = 0, all[LANES_MAX];
    TRY(coll_open(&p->coll, &c, err));
    int rc = 0;
    for (unsigned round = 0; round < p->rounds && rc == 0; round++)
        rc = round_of(c, p, round, &hash, err);
    if (rc == 0)
        rc = coll_exchange(c, hash, all, err);
    for (unsigned r = 0; r < p->coll.ranks && rc == 0; r++)
        if (all[r] != hash)
            rc = err_set(err, ERR_CORRUPT, "rank %u saw other values than rank %u", r, p->coll.rank);
    coll_close(c);
    if (rc == 0 && p->coll.rank == 0)
        printf("%016llx\n", (unsigned long long)hash);
    return rc;
}

static int rank_main(const struct plan *p)
{
    struct err err = ERR_INIT;
    if (live(p, &err) == 0)
        return 0;
    fprintf(stderr, "rank %u: %s\n", p->coll.rank, err.text);
    return err_exit_code(err.code);
}

static int forked(struct plan p)
{
    pid_t pid[LANES_MAX];
    int worst = 0;
    for (unsigned r = 0; r < p.coll.ranks; r++)
        if ((pid[r] = fork()) == 0) {
            p.coll.rank = r;
            int rc = rank_main(&p);
            fflush(NULL);
            _exit(rc);
        }
    for (unsigned r = 0; r < p.coll.ranks; r++) {
        int status = 1;
        waitpid(pid[r], &status, 0);
        worst = status ? 1 : worst;
    }
    return worst;
}

int main(int argc, char **argv)
{
    static const struct tensor_desc t[] = {{.name = "a", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {300, 500}},
                                           {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {33}},
                                           {.name = "c", .kind = TENSOR_STATE, .dim_count = 1, .dims = {1200007}}};
    struct layout l;
    struct err err = ERR_INIT;
    char segment[64];
    if (argc < 7 || layout_init(&l, t, 3, &err) < 0)
        return 2;
    snprintf(segment, sizeof segment, "/viaduct-driver-%d", (int)getpid());
    struct plan p = {.coll = {.transport = argv[1], .segment = segment, .ranks = (unsigned)strtoul(argv[2], NULL, 10), .lanes = (unsigned)strtoul(argv[3], NULL, 10),
                              .gang = {(uint16_t)strtoul(argv[4], NULL, 10), (uint16_t)strtoul(argv[5], NULL, 10)}, .layout = &l, .open_timeout_ms = 20000,
                              .timeout_ms = argc > 7 ? 700 : 20000},
                     .rounds = (unsigned)strtoul(argv[6], NULL, 10), .stall_ms = argc > 7 ? strtoull(argv[7], NULL, 10) : 0};
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    p.coll.rank = rank ? (unsigned)strtoul(rank, NULL, 10) : 0;
    int rc = strcmp(argv[1], "shm") == 0 ? forked(p) : rank_main(&p);
    layout_fini(&l);
    return rc;
}
