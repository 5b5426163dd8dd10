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
    const char *name, *status, *error, *error_code;    /* error: NULL when none; its code: err_code_name's */
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

/* ---- topology.json: who holds what ---- */
#define REPORT_SHARDS_MAX 32
#define REPORT_COPIES_MAX 4
struct topology {                     /* plain values, as struct report */
    bool embedded;                    /* shards live in the ranks: slot i is rank i of the only site */
    unsigned site_count, shard_count;
    struct { const char *name; unsigned ranks; uint64_t wan_sent_bytes; } site[REPORT_SITES_MAX];
    struct { unsigned copy_count; struct { unsigned site, slot; bool primary; } copy[REPORT_COPIES_MAX]; } shard[REPORT_SHARDS_MAX];
};
int topology_write(const char *run_dir, const struct topology *t, struct err *err);
uint64_t topology_sent_before(const char *run_dir, const char *site);   /* of an earlier topology.json; 0: none */

/* ---- the run page ---- */
/* RUN/report.html from the files of the run: one file that needs nothing else. Works on a run that still goes or died. ERR_NOT_FOUND: no report.json. */
int page_write(const char *run_dir, struct err *err);

/* Lines, flushed one by one. */
void report_event(FILE *f, const char *kind, const char *who, uint64_t step, const char *text);

/* ---- anomalies: a value far above what was usual just now. Pure ---- */
#define ANOMALY_WINDOW 64
enum anomaly_kind { ANOMALY_LOSS, ANOMALY_STEP_SECONDS, ANOMALY_KINDS };
struct anomaly_series { double window[ANOMALY_WINDOW]; unsigned count, next, high_in_a_row, quiet; };
struct anomaly { struct anomaly_series series[ANOMALY_KINDS]; };     /* zeroed: nothing seen yet */
struct anomaly_seen { double value, median, z; };
/* One step's value; it joins the window in every case. True: alarming, and none of this kind was reported in the last steps. Not finite: left out. */
bool anomaly_see(struct anomaly *a, enum anomaly_kind kind, double value, struct anomaly_seen *out);
void anomaly_forget(struct anomaly *a);                  /* what comes next is not comparable: a rollback, a resume */

/* ---- metrics.jsonl: one line a step ---- */
enum { METRIC_PARTS = 5 };                /* where a step's time went: computing, sums inside a site, between sites, waiting for data, checkpoint */
extern const char *const metric_part_name[METRIC_PARTS];
struct metric {                           /* NAN: not measured, null in the file */
    uint64_t step, epoch, samples;        /* step, epoch: from 1 */
    double loss, lr, accuracy;            /* accuracy: of this step's samples */
    double seconds;                       /* since the start of the run */
    double part[METRIC_PARTS], part_max[METRIC_PARTS];   /* seconds: mean over ranks, and the slowest rank's */
};
void report_metric(FILE *f, const struct metric *m);
void report_anomaly(FILE *f, uint64_t step, enum anomaly_kind kind, const struct anomaly_seen *seen, char text[200]);   /* an event; text: what it says */
bool metric_read(const char *line, struct metric *m);    /* false: no whole line of metrics.jsonl */

/* ---- TensorBoard: RUN/tb ---- */
struct tb;
/* A new events file in `dir`, whose first step will be first_step; then the older ones of ours go. */
int tb_open(const char *dir, uint64_t first_step, struct tb **out, struct err *err);
void tb_close(struct tb *t);
void tb_step(struct tb *t, const struct metric *m, double wall, double samples_per_second);   /* wall: seconds since 1970 */
bool tb_flush(struct tb *t);                             /* false: the disk did not take it */

/* ---- what a scraper reads ---- */
enum scrape_role { SCRAPE_COORDINATOR, SCRAPE_AGENT, SCRAPE_WORKER, SCRAPE_PS, SCRAPE_EXPORT, SCRAPE_SLURM, SCRAPE_ROLES };
extern const char *const scrape_role_name[SCRAPE_ROLES];
enum { SCRAPE_PHASES = 6, SCRAPE_TRAINING = 2, SCRAPE_BUCKETS = 14 };
enum scrape_timing { TIMING_STEP, TIMING_LOG, SCRAPE_TIMINGS };
struct scrape {                           /* kept by who runs: counters count from its own start; NAN: not known, so no sample */
    const char *run, *job, *site[REPORT_SITES_MAX];
    unsigned site_count;
    double one;                           /* of the info lines */
    double phase[SCRAPE_PHASES], training[SCRAPE_TRAINING];                   /* 1 of the one that it is in */
    double step, steps_planned, epoch, epochs_planned, loss, accuracy, lr;
    double steps, samples, part[METRIC_PARTS], part_max[METRIC_PARTS];        /* counters */
    double ranks[REPORT_SITES_MAX], ranks_wanted[REPORT_SITES_MAX], shards[REPORT_SITES_MAX], shards_wanted[REPORT_SITES_MAX], lanes[REPORT_SITES_MAX];
    double site_up[REPORT_SITES_MAX], wan_sent[REPORT_SITES_MAX], durable[REPORT_SITES_MAX];
    double view, generation, rollbacks, lost_steps, restarts[SCRAPE_ROLES], anomalies[ANOMALY_KINDS];
    double checkpoint_step, checkpoint_time, checkpoint_every, start_time;
    struct { uint64_t count[SCRAPE_BUCKETS + 1]; double sum; } timing[SCRAPE_TIMINGS];
};
void scrape_time(struct scrape *s, enum scrape_timing of, double seconds);
/* Prometheus' text format 0.0.4, or OpenMetrics 1.0.0. Bytes written; 0: no room. */
size_t scrape_write(const struct scrape *s, bool openmetrics, char *out, size_t size);
double restarts_count(const struct restarts *b, const char *role);   /* of all starts of the run; who is "ROLE" or "ROLE site/index" */

#endif
