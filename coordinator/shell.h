/* The inside of the coordinator's process: main.c (start, end), shell.c (the core's actions), shell_links.c (links and messages in),
 * shell_report.c (what people are told), shell_metrics.c (what is written of each step), shell_scrape.c (what Prometheus reads), history.c (what the log says, as manifests, metrics and the ledger
 * need it). One loop's thread does all of it. */
#ifndef VIADUCT_COORDINATOR_SHELL_H
#define VIADUCT_COORDINATOR_SHELL_H

#include "base/base.h"
#include "base/declaration.h"
#include "ckpt/ckpt.h"
#include "coordinator/coordinator.h"
#include "coordinator/log.h"
#include "jobs/jobs.h"
#include "net/net.h"
#include "report/report.h"

/* ---- history: the committed rounds of the present generation's line ---- */
struct past {
    uint64_t first, samples, correct;
    uint32_t pass, count, view;
    float lr;
    bool checkpoint;                  /* this round's version is written aside */
    uint16_t told;                    /* ranks that told their times */
    float part[TIME_PARTS], part_max[TIME_PARTS];   /* seconds: mean, largest; -1: not told */
    double loss_sum, seconds;
};
struct history {
    struct past *round;               /* samples 0: a round that the log does not tell of (it began at a checkpoint of another log) */
    uint64_t count, room;
    uint32_t generation;              /* of the newest view; 0: none yet */
    struct { uint64_t step, position; } checkpoint[16];   /* log positions of decided checkpoints, newest last */
    unsigned checkpoint_count;
    bool counts_correct;              /* the trainer says how many samples were right */
};
void history_free(struct history *h);
/* Every entry of the log in order, when it is replayed and when it is written. seconds: of a commit, since the start of the run. */
void history_entry(struct history *h, const struct log_entry *e, double seconds);
void history_begin_at(struct history *h, uint64_t base);
void history_ledger(const struct history *h, const struct msg_plan *plan, struct report *out);
double history_last_pass_loss(const struct history *h, const struct msg_plan *plan);   /* of phase train, sample mean; NAN: none */
uint64_t history_samples(const struct history *h, const struct msg_plan *plan);
/* One process's times of a round; those of a round that is not in here are left out. */
void history_times(struct history *h, const struct step_times *t);
/* The round's line of metrics.jsonl; false: the log does not tell of it. */
bool history_metric(const struct history *h, uint64_t round, struct metric *out);
/* The manifest of a decided checkpoint: a pure function of what was logged. *text: malloc. */
struct manifest_source { const struct history *history; const struct msg_plan *plan; const struct declaration *declaration; const char *spec_yaml, *job_id; };
int history_manifest(const struct manifest_source *from, const struct checkpoint_entry *e, char **text, size_t *size, struct err *err);
/* Takes what only an earlier metrics.jsonl knows, seconds and times of each step; returns the largest seconds. */
double history_read_seconds(struct history *h, const char *path);
/* Replaces metrics.jsonl by what the history says; *out is then open for the lines that follow. */
int history_write_metrics(const struct history *h, const char *path, FILE **out, struct err *err);

/* ---- the process ---- */
#define MEMBERS_MAX 512
/* left: in good order, its link may last a moment longer; brings: ranks, an agent of a visiting site (MSG_BRINGS) */
struct member { struct link *link; bool joined, left; struct process_id who; uint16_t brings; uint64_t number; };   /* number: links are counted as they open */
struct slot_address { uint32_t instance; char address_unix[ADDRESS_LIMIT], address_tls[ADDRESS_LIMIT]; };
struct rank_address { uint32_t instance; uint16_t host; char address_tls[ADDRESS_LIMIT]; };
struct wan { struct process_id who; uint64_t bytes, first; };   /* first: what it had sent when it was first heard; rates count from there */

struct shell {
    struct loop *loop;
    struct log log;
    struct rundir run;
    struct job job;
    struct identity *identity;
    struct msg_hello hello;
    struct listener *listen_tls, *listen_unix;   /* listen_tls: NULL until the front door it stands behind is there */
    const char *host;                     /* where other hosts reach this one; NULL: as listen says */
    struct timer *door_timer;
    struct core_config config;
    struct core *core;                    /* NULL: the start failed before it */
    struct core_out *out;
    struct decision_log *db;
    unsigned unsynced;
    struct member member[MEMBERS_MAX];
    uint64_t links;                       /* that ever opened */
    struct log_few refused, strangers;
    struct slot_address address[SLOTS_LIMIT];   /* outlives a broken link: peers still dial it */
    struct rank_address rank[SITES_LIMIT][LANES_MAX];   /* likewise */
    struct wan *wan;
    unsigned wan_count, wan_room;
    void *declaration_bytes;              /* as it came; NULL: no rank has joined yet */
    size_t declaration_size;
    struct declaration declaration;
    char declared_by[120];
    struct { const char *who, *cause; uint64_t ago_ms, lost_steps; } ended;   /* the start before this one, when somebody knows why; who NULL: nobody */
    bool restarted, fresh;                /* fresh: nothing of an earlier start lives; also when a fresh start died before its first view */
    uint64_t was_lost[SITES_LIMIT];       /* bit per node: the link of its agent broke */
    bool exported;                        /* told */
    struct { uint32_t incarnation; uint64_t ranks; } joined[SITES_LIMIT];   /* ranks of the newest gang that ever joined */
    struct process_id exited;             /* being told to the core: whose death it is */
    struct history history;
    FILE *events;
    struct {
        FILE *file;
        uint64_t written;                 /* rounds that have their line */
        struct { uint64_t round, at_ms; } due[64];
        struct tb *tb;                    /* NULL: could not be opened; the run goes on without */
        double wall_at_zero;              /* seconds since 1970 of the run's second 0 */
        struct anomaly anomaly;
    } metrics;
    struct scrape scrape;                 /* counters live here; the rest is filled in when somebody asks */
    struct http_server *pages;            /* NULL: not wanted, or not to be had */
    struct identity *web;
    struct report report;
    bool report_due;
    struct { uint64_t at_ms, sent_before[SITES_LIMIT]; uint32_t view; bool sent_known; } topology;   /* last written: when, of which view, with what was sent */
    struct restarts *restarts;
    char error[TEXT_LIMIT];
    int error_code;                   /* enum err_code of it */
    struct { uint64_t step; uint32_t generation; char sha256[SHA256_HEX]; } manifest;   /* last sent */
    uint64_t started_ms, first_commit_ms, last_commit_ms, samples_here;
    double seconds_before;                /* of earlier starts */
    struct { uint64_t ms, samples, wan; } window[64];
    unsigned window_count;
    int exit_code, failed_code;
    uint8_t end_why;                      /* enum stop_why, once the core is done */
    bool ending, superseded;              /* superseded: another coordinator leads, the files are its own */
};

/* shell.c */
void shell_run(struct shell *s);                         /* executes s->out */
void shell_stop_asked(struct shell *s);                  /* a checkpoint, then the end; also by the next coordinator, should this one die */
void shell_stop_path(const struct shell *s, char out[700]);   /* there while a stop is under way */
void shell_end(struct shell *s, int code, uint64_t after_ms);
void shell_error(struct shell *s, int code, const char *text);          /* what the report says, and last words */
void shell_tick(void *shell);
void shell_sync(void *shell);
struct member *shell_member(struct shell *s, struct process_id who);
bool shell_same(struct process_id a, struct process_id b);
/* shell_metrics.c: metrics.jsonl, TensorBoard, anomalies; a round's line waits a moment for the times that ranks tell of it */
int shell_metrics_rewrite(struct shell *s, struct err *err);   /* at a start and at a rollback */
void shell_metrics_committed(struct shell *s, uint64_t round);
void shell_metrics_times(struct shell *s, const struct msg_times *m);
void shell_metrics_write(struct shell *s, bool all);           /* the lines that need not wait any longer; all: every one */
void shell_metrics_close(struct shell *s);
/* shell_scrape.c: metrics for Prometheus, at coordinator.metrics. Whatever goes wrong with them, the run goes on */
void shell_scrape_open(struct shell *s);
void shell_scrape_committed(struct shell *s, const struct record *r);
void shell_scrape_end(struct shell *s, const char *status);    /* RUN/metrics.prom; where they were is forgotten, unless the run failed */
const char *shell_scrape_url(const struct shell *s, char out[256]);   /* NULL: none */
/* shell_links.c */
extern const struct link_ops shell_link_ops;
/* shell_base.c: into config.checkpoint; none is no error, damaged ones alone are */
unsigned shell_site(const struct shell *s, const char *name);   /* its index in the spec; site_count: none of that name */
int shell_find_base(struct shell *s, struct err *err);

/* shell_report.c */
void shell_who(const struct shell *s, struct process_id who, char out[120]);   /* "worker onprem/0" */
void shell_event(struct shell *s, const char *kind, const char *who, uint64_t step, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void shell_sample(struct shell *s);                      /* for rates; on every tick */
struct site_up { unsigned ranks, shards, shards_up; };    /* connected ranks; shards it should have, and those connected */
struct site_up shell_site_up(const struct shell *s, unsigned site);
double shell_wan_sent(const struct shell *s, unsigned site);   /* bytes, since each process was first heard; NAN: none that trains was */
const char *shell_outcome(const struct shell *s);        /* running, completed, stopped, failed */
size_t shell_status(const struct shell *s, char *out, size_t size);   /* one JSON object */
void shell_report(struct shell *s, const char *status);   /* report.json and topology.json; the run page too unless it is running */

#endif
