/* The inside of the coordinator's process: main.c (start, end), shell.c (links, messages, the core's actions), history.c (what the log says,
 * as manifests, metrics and the ledger need it). Everything runs in one loop's thread. */
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
struct past { uint64_t first, samples; uint32_t pass, count, view; float lr; double loss_sum, seconds; };
struct history {
    struct past *round;
    uint64_t count, room;
    struct { uint64_t step, position; } checkpoint[16];   /* log positions of decided checkpoints, newest last */
    unsigned checkpoint_count;
};
void history_commit(struct history *h, const struct record *r, double seconds);
void history_cut(struct history *h, uint64_t base);
void history_checkpoint(struct history *h, uint64_t step, uint64_t position);
void history_ledger(const struct history *h, const struct msg_plan *plan, struct report *out);
double history_last_pass_loss(const struct history *h);
/* The manifest of a decided checkpoint: a pure function of what was logged. *text: malloc. */
struct manifest_source { const struct history *history; const struct msg_plan *plan; const struct declaration *declaration; const struct job *job; const char *job_id; };
int history_manifest(const struct manifest_source *from, const struct checkpoint_entry *e, char **text, size_t *size, struct err *err);
int history_write_metrics(const struct history *h, const char *path, FILE **out, struct err *err);

/* ---- the process ---- */
#define MEMBERS_MAX 512
struct member { struct link *link; bool joined; struct process_id who; char address_unix[ADDRESS_LIMIT], address_tls[ADDRESS_LIMIT]; };
struct wan { struct process_id who; uint64_t bytes; };

struct shell {
    struct loop *loop;
    struct log log;
    struct rundir run;
    struct job job;
    struct identity *identity;
    struct msg_hello hello;
    struct listener *listen_tls, *listen_unix;
    struct core_config config;
    struct core *core;
    struct core_out *out;
    struct decision_log *db;
    unsigned unsynced;
    struct member member[MEMBERS_MAX];
    struct wan *wan;
    unsigned wan_count, wan_room;
    void *declaration_bytes;              /* as it came; NULL: no rank has joined yet */
    size_t declaration_size;
    struct declaration declaration;
    bool fresh;
    uint32_t generation;                  /* of the newest view acted on */
    struct history history;
    FILE *events, *metrics;
    struct report report;
    struct restarts *restarts;
    char error[TEXT_LIMIT];
    char last_published[80];
    uint64_t started_ms, first_commit_ms, last_commit_ms, samples_here;
    struct { uint64_t ms, samples, wan; } window[64];
    unsigned window_count;
    int exit_code, failed_code;
    bool ending;
};

int shell_open(struct shell *s, struct err *err);        /* listens, starts the core */
void shell_run(struct shell *s, uint64_t now_ms);        /* executes s->out */
void shell_stop_asked(struct shell *s);                  /* a checkpoint, then the end */
void shell_report(struct shell *s, const char *status);
void shell_event(struct shell *s, const char *kind, const char *who, uint64_t step, const char *fmt, ...) __attribute__((format(printf, 5, 6)));
void shell_end(struct shell *s, int code, uint64_t after_ms);
extern const struct link_ops shell_link_ops;
void shell_tick(void *shell);
void shell_sync(void *shell);

#endif
