/* report: what a run leaves behind for people and scripts: report.json, events.jsonl, metrics.jsonl. Numbers that were not produced are null. */
#ifndef VIADUCT_REPORT_REPORT_H
#define VIADUCT_REPORT_REPORT_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include "base/err.h"

#define REPORT_SITES_MAX 8
#define REPORT_RATE_MS 1000

struct report {                       /* plain values; whoever fills them owns what they point to */
    const char *name, *status, *error;             /* error: NULL when none */
    uint64_t steps, samples, planned_steps;            /* planned 0: not known yet, null */
    double epochs, wall_seconds;                       /* NAN: not produced */
    double samples_per_second;                         /* samples after the newest start's first commit, over the time from that commit to the last one; NAN when that
                                                          is shorter than REPORT_RATE_MS: a rate over less says nothing */
    unsigned site_count, lanes;
    struct { const char *name; unsigned ranks; } site[REPORT_SITES_MAX];
    double train_loss;
    bool have_ledger;
    uint64_t passes, missing, duplicated;
    bool have_wan;                                     /* false: no process that trains has said what it sent, null */
    uint64_t wan_bytes_sent, wan_rounds;
    bool have_checkpoint;
    char checkpoint_path[256];
    uint64_t checkpoint_step, checkpoint_sites;        /* sites: bit set */
    char spec_sha256[65], data_sha256[65];             /* "": null */
};

/* Restarts live in a book of their own, which a later start of the same run continues. */
struct restarts;
struct restarts *restarts_open(const char *run_dir, bool keep_old);
void restarts_close(struct restarts *b);
double restarts_wall_before(const struct restarts *b);                 /* wall_seconds of earlier starts */
bool restarts_wan_before(const struct restarts *b, uint64_t *bytes);   /* wan.bytes_sent, likewise; false: null */
void restarts_died(struct restarts *b, const char *who, uint64_t at_step, const char *cause, uint64_t now_ms);
void restarts_back(struct restarts *b, const char *who, uint64_t now_ms);   /* closes the open entries of that name */
void restarts_lost(struct restarts *b, uint64_t steps);                /* a rollback: belongs to the newest entry */

void restarts_unmended(struct restarts *b, uint64_t steps);            /* the run ends while the newest entry is open: its lost steps */

/* RUN/report.json, whole or not at all; RUN/export/result.json is merged in when it is there. */
int report_write(const char *run_dir, const struct report *r, const struct restarts *b, struct err *err);

/* For a run whose coordinator ended without a word: a report that says "running", or none, gets that status and error (NULL: none). */
int report_close(const char *run_dir, const char *name, const char *status, const char *error, struct err *err);

/* Merges a renewed RUN/export/result.json into the report of a run that is over. */
int report_renew(const char *run_dir, struct err *err);

/* Lines, flushed one by one. */
void report_event(FILE *f, const char *kind, const char *who, uint64_t step, const char *text);
void report_metric(FILE *f, uint64_t step, uint64_t epoch, double loss, float lr, uint64_t samples, double seconds);

#endif
