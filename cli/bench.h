/* Benchmarks that `viaduct bench NAME` knows besides training. */
#ifndef VIADUCT_CLI_BENCH_H
#define VIADUCT_CLI_BENCH_H

#include <stdbool.h>
#include "base/err.h"

/* In-site all-reduce of `mib` MiB of fp32 by `ranks` processes against the memory limit measured in the same run; prints to stdout. apart: sums are made
 * outside the weights and copied there, as a round has it whose optimizer stands between. hosts > 1: the ranks are on as many "hosts" of the loopback, and the
 * limit is what the TLS links of this machine take for the same bytes between the same processes. */
struct bench_allreduce { unsigned ranks, hosts, mib; bool apart, json; };
int bench_allreduce(const struct bench_allreduce *what, struct err *err);

#endif
