/* `viaduct bench allreduce`: a whole all-reduce inside a site, as a gang's round does it, against what the memory of this machine allows for the same
 * bytes, or over several hosts what its TLS links allow. Both run in turn, in the same processes: every rank is a process, every rank gives one lane. */
#include <immintrin.h>
#include <inttypes.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"
#include "cli/bench.h"
#include "cli/bench_links.h"
#include "collectives/collectives.h"
#include "device/device.h"

#define PAIRS 15
#define WARMUP 2
#define CHUNK 4096u
#define TIMEOUT_MS 60000

enum contender { ALLREDUCE, LIMIT_PLAIN, LIMIT_STREAM, LIMIT_LINKS, CONTENDERS };
static const enum contender one_host[] = {ALLREDUCE, LIMIT_PLAIN, LIMIT_STREAM}, many_hosts[] = {ALLREDUCE, LIMIT_LINKS};

struct span { uint64_t begin, end, cpu_ns; };   /* cpu_ns: of all threads of the rank */
struct board {                        /* shared by the ranks; each writes its own column */
    struct span span[CONTENDERS][PAIRS][LANES_MAX];
    char text[LANES_MAX][512];        /* why a rank gave up */
    struct msg_gang where;            /* of several hosts: filled in by the ranks, */
    char links_address[LANES_MAX][ADDRESS_LIMIT];
    atomic_uint listening;            /* of which so many have done so */
    uint64_t payload[LANES_MAX][LANES_MAX];   /* of one round, from rank to rank */
};
struct rank {
    unsigned rank, ranks;
    bool apart;                       /* sums are made outside the weights and copied into them */
    struct board *board;
    struct coll *c;
    uint64_t elems, part;             /* part: of one array of the limit */
    float *a, *b, *d;                 /* the limit: a = b + d */
    unsigned hosts;
    const char *certificates;
    struct identity *identity;        /* hosts > 1, as the rest */
    struct coll_port *port;
    struct bench_links *links;
};

/* Value i of a lane in a turn: cheap, and every sum of it rounds. */
static float value(unsigned lane, uint64_t i, unsigned turn) { return (float)((uint32_t)(i + 7919u * lane + turn) * 2654435761u >> 8) * 1e-7f; }

/* ---- what is measured ---- */
static void limit_plain(float *restrict a, const float *restrict b, const float *restrict d, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        a[i] = b[i] + d[i];
}

/* The same without reading what is overwritten. */
static void limit_stream(float *restrict a, const float *restrict b, const float *restrict d, uint64_t n)
{
    for (uint64_t i = 0; i + 4 <= n; i += 4)
        _mm_stream_ps(a + i, _mm_add_ps(_mm_load_ps(b + i), _mm_load_ps(d + i)));
    _mm_sfence();
}

static int allreduce(struct rank *r, struct err *err)
{
    struct coll_sums sums;
    struct lane_totals totals = {.samples = 1};
    TRY(coll_reduce(r->c, &totals, &sums, err));
    if (r->apart)
        memcpy(coll_weights(r->c) + sums.first_offset, sums.sum[0], sums.elems * sizeof(float));
    return coll_gather(r->c, err);
}

static int limit_links(struct rank *r, struct err *err)
{
    uint64_t in[LANES_MAX] = {0};
    for (unsigned k = 0; k < r->ranks; k++)
        in[k] = r->board->payload[k][r->rank];
    return bench_links_run(r->links, r->board->payload[r->rank], in, err);
}

static int meet(struct rank *r, struct err *err)
{
    uint64_t all[LANES_MAX];
    return coll_exchange(r->c, 0, all, err);
}

static uint64_t cpu_now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int measure(struct rank *r, enum contender what, unsigned turn, struct err *err)
{
    float *lane = coll_lane_buffer(r->c, r->rank);
    if (what == ALLREDUCE)
        for (uint64_t i = 0; i < r->elems; i++)
            lane[i] = value(r->rank, i, turn);
    else if (what != LIMIT_LINKS)
        for (uint64_t i = 0; i < r->part; i++)
            r->b[i] = r->d[i] = value(r->rank, i, turn);
    TRY(meet(r, err));
    struct span s = {.cpu_ns = cpu_now_ns(), .begin = clock_now_ns()};
    if (what == ALLREDUCE)
        TRY(allreduce(r, err));
    else if (what == LIMIT_LINKS)
        TRY(limit_links(r, err));
    else if (what == LIMIT_PLAIN)
        limit_plain(r->a, r->b, r->d, r->part);
    else
        limit_stream(r->a, r->b, r->d, r->part);
    s.end = clock_now_ns();
    s.cpu_ns = cpu_now_ns() - s.cpu_ns;
    if (turn >= WARMUP)
        r->board->span[what][turn - WARMUP][r->rank] = s;
    return meet(r, err);
}

/* Every rank looks at the whole result: bits of the tree order. */
static int check(const struct rank *r, unsigned turn, struct err *err)
{
    static const unsigned most = LANES_MAX;
    const float *w = coll_weights(r->c), *part[LANES_MAX];
    struct lane_range leaf[LANES_MAX];
    float *lanes = malloc(CHUNK * (most + LANE_DEPTH_MAX + 1) * sizeof *lanes), *sum = lanes + (size_t)CHUNK * most;
    uint64_t wrong = 0;
    if (!lanes)
        return err_set(err, ERR_NO_MEMORY, "no memory to check the result");
    for (uint64_t at = 0; at < r->elems; at += CHUNK) {
        uint64_t n = MIN(CHUNK, r->elems - at);
        for (unsigned l = 0; l < r->ranks; l++) {
            leaf[l] = (struct lane_range){(uint16_t)l, (uint16_t)(l + 1)};
            part[l] = lanes + (size_t)l * CHUNK;
            for (uint64_t i = 0; i < n; i++)
                lanes[(size_t)l * CHUNK + i] = value(l, at + i, turn);
        }
        lane_sum_f32(r->ranks, (struct lane_range){0, (uint16_t)r->ranks}, leaf, part, r->ranks, sum, n, sum + CHUNK);
        wrong += memcmp(sum, w + at, n * sizeof *sum) != 0;
    }
    free(lanes);
    return wrong ? err_set(err, ERR_CORRUPT, "%" PRIu64 " pieces of the all-reduce differ from the sum in tree order", wrong) : 0;
}

/* What one round sends to each rank is what the links alone will carry. */
static int count_payload(struct rank *r, struct err *err)
{
    struct coll_traffic before[LANES_MAX], after;
    for (unsigned k = 0; k < r->ranks; k++)
        coll_traffic(r->c, k, &before[k]);
    TRY(allreduce(r, err));
    for (unsigned k = 0; k < r->ranks; k++) {
        coll_traffic(r->c, k, &after);
        r->board->payload[r->rank][k] = after.payload - before[k].payload;
    }
    return meet(r, err);
}

static int live(struct rank *r, struct err *err)
{
    unsigned turns = WARMUP + PAIRS, count = r->hosts > 1 ? ARRAY_LEN(many_hosts) : ARRAY_LEN(one_host);
    const enum contender *contender = r->hosts > 1 ? many_hosts : one_host;
    if (r->hosts > 1)
        TRY(count_payload(r, err));
    for (unsigned turn = 0; turn < turns; turn++)
        for (unsigned k = 0; k < count; k++)        /* the order turns round, so that none always follows the same one */
            TRY(measure(r, contender[(k + turn) % count], turn, err));
    return check(r, turns - 1, err);
}

/* ---- ranks ---- */
/* Each rank on a core of its own where there are enough: else the scheduler now and then wakes two on one, and the figure is about that. */
static void bind_rank(const struct rank *r)
{
    cpu_set_t mask, mine;
    if (r->hosts > 1 || sched_getaffinity(0, sizeof mask, &mask) < 0 || (unsigned)CPU_COUNT(&mask) < r->ranks)
        return;
    unsigned skip = r->rank, cpu = 0;
    while (!CPU_ISSET(cpu, &mask) || skip-- > 0)
        cpu++;
    CPU_ZERO(&mine);
    CPU_SET(cpu, &mine);
    sched_setaffinity(0, sizeof mine, &mine);
}

/* A rank reads its part of every lane and writes its part of the sum: ranks + 1 parts, here spread over three arrays. */
static int open_memory_limit(struct rank *r, struct err *err)
{
    r->part = (r->elems / r->ranks * (r->ranks + 1) / 3 + 15) / 16 * 16;
    size_t bytes = r->part * sizeof(float);
    r->a = mmap(NULL, 3 * bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);   /* shared, as the segment is: the same kind of pages */
    if (r->a == MAP_FAILED)
        return err_set(err, ERR_NO_MEMORY, "no memory for %zu bytes to measure the limit with", 3 * bytes);
    madvise(r->a, 3 * bytes, MADV_HUGEPAGE);
    memset(r->a, 0, 3 * bytes);
    r->b = r->a + r->part;
    r->d = r->b + r->part;
    return 0;
}

/* Every rank listens, twice, before any dials. */
static int open_links(struct rank *r, struct err *err)
{
    struct board *b = r->board;
    bool remote[LANES_MAX] = {false};
    TRY(identity_load(r->certificates, "bench", ROLE_WORKER, &r->identity, err));
    struct coll_port_config port = {.address = "tls:127.0.0.1:0", .identity = r->identity, .job = "bench", .site_name = "bench", .rank = (uint16_t)r->rank};
    TRY(coll_port_open(&port, &r->port, err));
    TRY(bench_links_open(r->identity, r->rank, &r->links, err));
    snprintf(b->where.address_tls[r->rank], ADDRESS_LIMIT, "%s", coll_port_address(r->port));
    snprintf(b->links_address[r->rank], ADDRESS_LIMIT, "%s", bench_links_address(r->links));
    atomic_fetch_add(&b->listening, 1);
    for (uint64_t until = clock_now_ms() + TIMEOUT_MS; atomic_load(&b->listening) < r->ranks; usleep(1000))
        if (clock_now_ms() > until)
            return err_set(err, ERR_TEMPORARY, "not all ranks came");
    for (unsigned k = 0; k < r->ranks; k++)
        remote[k] = b->where.host[k] != b->where.host[r->rank];
    return bench_links_connect(r->links, remote, b->links_address, err);
}

static int open_rank(struct rank *r, const char *segment, const struct layout *l, struct err *err)
{
    TRY(r->hosts > 1 ? open_links(r, err) : open_memory_limit(r, err));
    struct coll_config c = {.transport = r->hosts > 1 ? "tcp" : "shm", .segment = segment, .port = r->port, .where = &r->board->where, .rank = r->rank,
                            .ranks = r->ranks, .lanes = r->ranks, .gang = {0, (uint16_t)r->ranks}, .layout = l, .sums_in_weights = !r->apart,
                            .open_timeout_ms = TIMEOUT_MS, .timeout_ms = TIMEOUT_MS};
    return coll_open(&c, &r->c, err);
}

static int run_rank(struct rank r, const char *segment, const struct layout *l)
{
    struct err err = ERR_INIT;
    bind_rank(&r);
    int rc = open_rank(&r, segment, l, &err);
    if (rc == 0)
        rc = live(&r, &err);
    coll_close(r.c);
    coll_port_close(r.port);
    bench_links_close(r.links);
    identity_free(r.identity);
    if (rc < 0)
        snprintf(r.board->text[r.rank], sizeof r.board->text[0], "%.500s", err.text);
    return rc == 0 ? 0 : 1;
}

static void segment_of(char out[COLL_SEGMENT_BYTES], pid_t bench, unsigned host)
{
    char job[32];
    snprintf(job, sizeof job, "bench-%d", (int)bench);
    coll_segment_name(out, job, "bench", 0, 0, host);
}

static int run_ranks(const struct bench_allreduce *b, const char *certificates, uint64_t elems, struct board *board, struct err *err)
{
    unsigned ranks = b->ranks;
    char segment[COLL_SEGMENT_BYTES];
    pid_t pid[LANES_MAX];
    struct layout l;
    struct tensor_desc t = {.name = "gradient", .kind = TENSOR_PARAMETER, .dim_count = 1, .dims = {elems}};
    TRY(layout_init(&l, &t, 1, err));
    board->where.rank_count = (uint16_t)ranks;
    for (unsigned k = 0; k < ranks; k++)
        board->where.host[k] = (uint16_t)(k * b->hosts / ranks);
    fflush(NULL);
    int failed = 0;
    for (unsigned k = 0; k < ranks; k++) {
        segment_of(segment, getpid(), board->where.host[k]);
        pid[k] = fork();
        if (pid[k] == 0)
            _exit(run_rank((struct rank){.rank = k, .ranks = ranks, .apart = b->apart, .board = board, .elems = elems, .hosts = b->hosts,
                                          .certificates = certificates}, segment, &l));
        failed += pid[k] < 0;
    }
    for (unsigned k = 0; k < ranks; k++) {
        int status = 0;
        if (pid[k] > 0 && (waitpid(pid[k], &status, 0) < 0 || status != 0)) {
            if (failed++ == 0)
                err_set(err, ERR_FAILED, "rank %u gave up: %s", k, board->text[k][0] ? board->text[k] : "it was ended by a signal; is there memory enough?");
            segment_of(segment, getpid(), board->where.host[k]);
            coll_abort_segment(segment);
        }
    }
    layout_fini(&l);
    return failed ? ERR_FAILED : 0;
}

/* ---- the figure ---- */
static double pair_ms(const struct board *b, enum contender what, unsigned pair, unsigned ranks)
{
    uint64_t begin = UINT64_MAX, end = 0;
    for (unsigned k = 0; k < ranks; k++) {
        begin = MIN(begin, b->span[what][pair][k].begin);
        end = MAX(end, b->span[what][pair][k].end);
    }
    return (double)(end - begin) / 1e6;
}

static double pair_cpu_ms(const struct board *b, enum contender what, unsigned pair, unsigned ranks)
{
    uint64_t sum = 0;
    for (unsigned k = 0; k < ranks; k++)
        sum += b->span[what][pair][k].cpu_ns;
    return (double)sum / 1e6;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static void print(const struct board *b, const struct bench_allreduce *what, uint64_t bytes)
{
    unsigned ranks = what->ranks;
    double ours[PAIRS], limit[PAIRS], ratio[PAIRS], cpu_ratio[PAIRS];
    enum contender cheap = what->hosts > 1 ? LIMIT_LINKS : LIMIT_STREAM;
    struct machine m;
    struct err err = ERR_INIT;
    char cpu[300];
    for (unsigned i = 0; i < PAIRS; i++) {
        ours[i] = pair_ms(b, ALLREDUCE, i, ranks);
        limit[i] = what->hosts > 1 ? pair_ms(b, LIMIT_LINKS, i, ranks) : MIN(pair_ms(b, LIMIT_PLAIN, i, ranks), pair_ms(b, LIMIT_STREAM, i, ranks));
        ratio[i] = limit[i] / ours[i];
        cpu_ratio[i] = pair_cpu_ms(b, cheap, i, ranks) / pair_cpu_ms(b, ALLREDUCE, i, ranks);
    }
    qsort(ours, PAIRS, sizeof *ours, by_value);
    qsort(limit, PAIRS, sizeof *limit, by_value);
    qsort(ratio, PAIRS, sizeof *ratio, by_value);
    qsort(cpu_ratio, PAIRS, sizeof *cpu_ratio, by_value);
    json_quote(cpu, sizeof cpu, machine_probe(&m, &err) == 0 ? m.cpu_name : "?");
    uint64_t crosses = 0;
    for (unsigned i = 0; i < ranks * ranks; i++)
        crosses += b->payload[i / ranks][i % ranks];
    double at = ours[PAIRS / 2], best = limit[PAIRS / 2], gb = (double)bytes / 1e6;
    printf(what->json ? "{\"bench\": \"allreduce\", \"cpu\": %s, \"ranks\": %u, \"hosts\": %u, \"bytes_between_hosts\": %" PRIu64 ", \"bytes\": %" PRIu64 ", \"ms\": %.3f, \"gb_per_second\": %.2f, \"limit_ms\": %.3f, "
                  "\"limit_gb_per_second\": %.2f, \"apart\": %s, \"ratio\": %.3f, \"ratio_min\": %.3f, \"ratio_max\": %.3f, \"cpu_ratio\": %.3f, \"pairs\": %d}\n"
                : "cpu: %s\nranks: %u\nhosts: %u\nbytes_between_hosts: %" PRIu64 "\nbytes: %" PRIu64 "\nms: %.3f\ngb_per_second: %.2f\nlimit_ms: %.3f\nlimit_gb_per_second: %.2f\napart: %s\nratio: %.3f\n"
                  "ratio_min: %.3f\nratio_max: %.3f\ncpu_ratio: %.3f\npairs: %d\n",
           cpu, ranks, what->hosts, crosses, bytes, at, gb / at, best, gb / best, what->apart ? "true" : "false", ratio[PAIRS / 2], ratio[0], ratio[PAIRS - 1], cpu_ratio[PAIRS / 2], PAIRS);
}

/* ---- certificates of one benchmark ---- */
static int make_certificates(char *dir, struct err *err)
{
    if (!mkdtemp(dir))
        return err_set(err, ERR_IO, "cannot make a folder for certificates under /tmp");
    TRY(identity_make_ca(dir, "bench", err));
    return identity_issue(dir, "bench", "bench", ROLE_WORKER, err);
}

static void remove_certificates(const char *dir)
{
    static const char *const files[] = {"ca.pem", "ca.key", "worker-bench.pem", "worker-bench.key", "lock"};
    char path[100];
    for (unsigned i = 0; i < ARRAY_LEN(files); i++) {
        snprintf(path, sizeof path, "%s/%s", dir, files[i]);
        unlink(path);
    }
    rmdir(dir);
}

int bench_allreduce(const struct bench_allreduce *what, struct err *err)
{
    char certificates[] = "/tmp/viaduct-bench-XXXXXX";
    struct board *b = mmap(NULL, sizeof *b, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (b == MAP_FAILED)
        return err_set(err, ERR_NO_MEMORY, "no memory for the results");
    uint64_t bytes = (uint64_t)what->mib << 20;
    int rc = what->hosts > 1 ? make_certificates(certificates, err) : 0;
    if (rc == 0)
        rc = run_ranks(what, certificates, bytes / sizeof(float), b, err);
    if (what->hosts > 1)
        remove_certificates(certificates);
    if (rc == 0)
        print(b, what, bytes);
    munmap(b, sizeof *b);
    return rc;
}
