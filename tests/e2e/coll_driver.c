/* A gang without a job: some rounds over any transport, then a hash of every sum, total and gathered weight that a rank saw.
 * coll_driver shm|mpi RANKS LANES LO HI ROUNDS [STALL-MS]: shm forks its ranks, mpi is one rank of a world. STALL-MS: the last rank stops for that long.
 * coll_driver tcp RANKS LANES LO HI ROUNDS STALL-MS TIMEOUT-MS DIR HOSTS HOST ADDRESS: forks the ranks of HOST out of HOSTS ("0,0,1,1", by rank), which listen at
 * ADDRESS; the hosts meet in DIR. coll_driver bytes RANKS LANES LO HI ROUNDS HOSTS FROM TO: what must cross from host to host. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "collectives/collectives.h"
#include "net/net.h"

#define JOB "driver"

struct plan {
    struct coll_config coll;
    unsigned rounds, host;
    uint64_t stall_ms;
    const char *dir, *address;        /* tcp */
    struct msg_gang where;
};

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

/* ---- several hosts: addresses go through files ---- */
static int tell_address(const struct plan *p, const char *address, struct err *err)
{
    char path[300];
    snprintf(path, sizeof path, "%s/rank-%u", p->dir, p->coll.rank);
    return fs_publish_file(&fs_real, path, address, strlen(address), err);
}

static int hear_addresses(struct plan *p, struct err *err)
{
    uint64_t until = clock_now_ms() + p->coll.open_timeout_ms;
    for (unsigned r = 0; r < p->coll.ranks;) {
        char path[300];
        void *text;
        size_t n;
        snprintf(path, sizeof path, "%s/rank-%u", p->dir, r);
        if (fs_read_file(&fs_real, path, ADDRESS_LIMIT - 1, &text, &n, err) == 0) {
            memcpy(p->where.address_tls[r++], text, n + 1);
            free(text);
        } else if (clock_now_ms() > until) {
            return err->code;
        } else {
            nanosleep(&(struct timespec){0, 10000000}, NULL);
        }
    }
    return 0;
}

static int over_hosts(struct plan p, struct err *err)
{
    char tls[300];
    struct identity *identity = NULL;
    struct coll_port *port = NULL;
    snprintf(tls, sizeof tls, "%s/tls", p.dir);
    TRY(identity_make_ca(tls, JOB, err));
    TRY(identity_issue(tls, JOB, "here", ROLE_WORKER, err));
    TRY(identity_load(tls, "here", ROLE_WORKER, &identity, err));
    struct coll_port_config c = {.address = p.address, .identity = identity, .job = JOB, .site_name = "here", .rank = (uint16_t)p.coll.rank};
    int rc = coll_port_open(&c, &port, err);
    if (rc == 0)
        rc = tell_address(&p, coll_port_address(port), err);
    if (rc == 0)
        rc = hear_addresses(&p, err);
    p.coll.port = port;
    p.coll.where = &p.where;
    if (rc == 0)
        rc = live(&p, err);
    coll_port_close(port);
    identity_free(identity);
    return rc;
}

static int rank_main(const struct plan *p)
{
    struct err err = ERR_INIT;
    if ((p->dir ? over_hosts(*p, &err) : live(p, &err)) == 0)
        return 0;
    fprintf(stderr, "rank %u: %s\n", p->coll.rank, err.text);
    return err_exit_code(err.code);
}

static int forked(struct plan p)
{
    pid_t pid[LANES_MAX] = {0};
    int worst = 0;
    for (unsigned r = 0; r < p.coll.ranks; r++)
        if ((!p.dir || p.where.host[r] == p.host) && (pid[r] = fork()) == 0) {
            p.coll.rank = r;
            int rc = rank_main(&p);
            fflush(NULL);
            _exit(rc);
        }
    for (unsigned r = 0; r < p.coll.ranks; r++) {
        int status = 1;
        if (!pid[r])
            continue;
        waitpid(pid[r], &status, 0);
        worst = status ? 1 : worst;
        if (WIFSIGNALED(status))
            coll_abort_segment(p.coll.segment);       /* as the agent does */
    }
    return worst;
}

static void read_hosts(struct plan *p, const char *text)
{
    char *end;
    p->where.rank_count = (uint16_t)p->coll.ranks;
    for (unsigned r = 0; r < p->coll.ranks; r++, text = *end ? end + 1 : end)
        p->where.host[r] = (uint16_t)strtoul(text, &end, 10);
}

static unsigned number(const char *text) { return (unsigned)strtoul(text, NULL, 10); }

int main(int argc, char **argv)
{
    static const struct tensor_desc t[] = {{.name = "a", .kind = TENSOR_PARAMETER, .dim_count = 2, .dims = {300, 500}},
                                           {.name = "b", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {33}},
                                           {.name = "c", .kind = TENSOR_STATE, .dim_count = 1, .dims = {1200007}}};
    struct layout l;
    struct err err = ERR_INIT;
    char segment[COLL_SEGMENT_BYTES], job[40];
    if (argc < 7 || layout_init(&l, t, 3, &err) < 0)
        return 2;
    snprintf(segment, sizeof segment, "/viaduct-driver-%d", (int)getpid());
    struct plan p = {.coll = {.transport = argv[1], .segment = segment, .ranks = number(argv[2]), .lanes = number(argv[3]),
                              .gang = {(uint16_t)number(argv[4]), (uint16_t)number(argv[5])}, .layout = &l, .open_timeout_ms = 20000, .timeout_ms = argc > 7 ? 700 : 20000},
                     .rounds = number(argv[6]), .stall_ms = argc > 7 ? number(argv[7]) : 0};
    bool tcp = strcmp(argv[1], "tcp") == 0 && argc == 13;
    if (strcmp(argv[1], "bytes") == 0 && argc == 10) {
        read_hosts(&p, argv[7]);
        p.coll.where = &p.where;
        printf("%llu\n", (unsigned long long)(p.rounds * coll_round_bytes(&p.coll, number(argv[8]), number(argv[9]))));
        return 0;
    }
    if (tcp) {
        p.coll.timeout_ms = number(argv[8]);
        p.dir = argv[9];
        read_hosts(&p, argv[10]);
        p.host = number(argv[11]);
        p.address = argv[12];
        snprintf(job, sizeof job, "driver%llx", (unsigned long long)xxh64_of(p.dir, strlen(p.dir), 0));
        coll_segment_name(segment, job, "here", 0, 0, p.host);
    }
    const char *rank = getenv("OMPI_COMM_WORLD_RANK");
    p.coll.rank = rank ? number(rank) : 0;
    int rc = tcp || strcmp(argv[1], "shm") == 0 ? forked(p) : rank_main(&p);
    layout_fini(&l);
    return rc;
}
