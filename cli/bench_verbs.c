/* `viaduct bench train`: one process trains a spec and measures itself. With --full it trains the whole run, evaluates, and prints the hash of the
 * weights, which is the same for every number of threads. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/base.h"
#include "ckpt/ckpt.h"
#include "cli/bench.h"
#include "cli/cli.h"
#include "worker/worker.h"

#define WARMUP_STEPS 5
#define STEPS_MAX 1000000

struct bench { uint64_t steps, warmup; unsigned threads; bool full, json; };

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return x < y ? -1 : x > y;
}

static int measure(struct solo *s, const struct trainee *t, const struct bench *b, struct err *err)
{
    uint64_t steps = b->full ? solo_steps(s) : b->steps, samples = 0;
    double *ms = malloc(steps * sizeof *ms), loss = 0;
    if (!ms)
        return err_set(err, ERR_NO_MEMORY, "no memory for %" PRIu64 " timings", steps);
    int rc = 0;
    struct lane_metrics m;
    for (uint64_t i = 0; i < (b->full ? 0 : b->warmup) && rc == 0; i++)
        rc = solo_step(s, &m, err);
    uint64_t begin = clock_now_ns();
    for (uint64_t i = 0; i < steps && rc == 0; i++) {
        uint64_t start = clock_now_ns();
        rc = solo_step(s, &m, err);
        ms[i] = (double)(clock_now_ns() - start) / 1e6;
        samples += m.samples;
        loss = m.loss_sum / (double)m.samples;
        if (rc == 0 && b->full && !b->json && (i + 1) % 100 == 0)
            fprintf(stderr, "step %" PRIu64 "/%" PRIu64 "  loss %.4f\n", i + 1, steps, loss);
    }
    double seconds = (double)(clock_now_ns() - begin) / 1e9;
    if (rc == 0) {
        qsort(ms, steps, sizeof *ms, by_value);
        struct rusage use;
        getrusage(RUSAGE_SELF, &use);
        double rate = (double)samples / seconds, gflops = rate * solo_flops_per_sample(s) / 1e9;
        printf(b->json ? "{\"samples_per_second\": %.1f, \"step_ms_median\": %.3f, \"peak_rss_bytes\": %llu, \"loss\": %.6f, \"gflops\": %.2f"
                       : "samples_per_second: %.1f\nstep_ms_median: %.3f\npeak_rss_bytes: %llu\nloss: %.6f\ngflops: %.2f\n",
               rate, ms[steps / 2], (unsigned long long)use.ru_maxrss * 1024, loss, gflops);
        char hash[SHA256_HEX];
        weights_sha256(&t->layout, solo_weights(s), TENSOR_PARAMETER, hash);
        printf(b->json ? ", \"weights_sha256\": \"%s\"" : "weights_sha256: %s\n", hash);
        if (b->full && t->eval.count && (rc = solo_eval(s, &m, err)) == 0)
            printf(b->json ? ", \"eval_loss\": %.6f, \"eval_accuracy\": %.4f" : "eval_loss: %.6f\neval_accuracy: %.4f\n", m.loss_sum / (double)m.samples,
                   (double)m.correct / (double)m.samples);
        if (b->json)
            printf("}\n");
    }
    free(ms);
    return rc;
}

static int train(const struct job *job, const struct bench *b, struct err *err)
{
    struct trainee t;
    struct solo *s;
    TRY(trainee_open(&t, &job->spec, "cpu", err));
    int rc = solo_open(&t, &job->spec, b->threads, &s, err);
    if (rc == 0) {
        rc = measure(s, &t, b, err);
        solo_close(s);
    }
    trainee_close(&t);
    return rc;
}

static int allreduce_main(const struct args *a)
{
    struct err err = ERR_INIT;
    uint64_t ranks = 2, hosts = 1, mib = 64;
    int rc = args_number(a, "--ranks", LANES_MAX, &ranks, &err);
    if (rc == 0)
        rc = args_number(a, "--hosts", ranks, &hosts, &err);
    if (rc == 0)
        rc = args_number(a, "--mib", 4096, &mib, &err);
    if (rc == 0)
        rc = bench_allreduce(&(struct bench_allreduce){(unsigned)ranks, (unsigned)hosts, (unsigned)mib, args_value(a, "--apart") != NULL, args_value(a, "--json") != NULL}, &err);
    return rc < 0 ? cli_fail("bench", &err) : 0;
}

static int train_main(const struct args *a)
{
    struct err err = ERR_INIT;
    uint64_t steps = 50, threads = 1;
    int rc = args_number(a, "--steps", STEPS_MAX, &steps, &err);
    if (rc == 0)
        rc = args_number(a, "--threads", 64, &threads, &err);
    if (rc < 0)
        return cli_fail("bench", &err);
    struct job *job = calloc(1, sizeof *job);
    CHECK(job != NULL);
    rc = cli_load_spec("bench", job, a->positional[1], a, true);
    if (rc == 0) {
        struct bench b = {.steps = steps, .warmup = WARMUP_STEPS, .threads = (unsigned)threads, .full = args_value(a, "--full") != NULL, .json = args_value(a, "--json") != NULL};
        rc = train(job, &b, &err);
        if (rc < 0)
            cli_fail("bench", &err);
    }
    job_fini(job);
    free(job);
    return err_exit_code(rc);
}

int verb_bench(int argc, char **argv)
{
    struct args a;
    struct err err = ERR_INIT;
    if (args_parse(&a, argc, argv, &err) < 0)
        return cli_fail("bench", &err);
    if (a.positional_count == 1 && strcmp(a.positional[0], "allreduce") == 0)
        return allreduce_main(&a);
    if (a.positional_count == 2 && strcmp(a.positional[0], "train") == 0)
        return train_main(&a);
    args_usage(&a, &err);
    return cli_fail("bench", &err);
}
