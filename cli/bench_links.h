/* The limit of sums over several hosts: the links of net/ alone, carrying the same bytes between the same processes at the same time. */
#ifndef VIADUCT_CLI_BENCH_LINKS_H
#define VIADUCT_CLI_BENCH_LINKS_H

#include "net/net.h"

struct bench_links;
int bench_links_open(const struct identity *identity, unsigned rank, struct bench_links **out, struct err *err);
const char *bench_links_address(const struct bench_links *b);
/* Links to the ranks r with remote[r], of which the lower dials; returns when all are open. */
int bench_links_connect(struct bench_links *b, const bool *remote, char (*address)[ADDRESS_LIMIT], struct err *err);
/* Sends out[r] bytes to each rank r and returns when in[r] bytes have come from each. */
int bench_links_run(struct bench_links *b, const uint64_t *out, const uint64_t *in, struct err *err);
void bench_links_close(struct bench_links *b);

#endif
