/* What a person sees of a run: one live line, a summary; and single questions to its coordinator. */
#ifndef VIADUCT_CLI_LIVE_H
#define VIADUCT_CLI_LIVE_H

#include <stdio.h>
#include "base/rundir.h"
#include "jobs/jobs.h"
#include "net/net.h"

struct live;
int live_open(struct loop *loop, const struct rundir *run, struct live **out, struct err *err);
void live_close(struct live *l);                 /* ends the line */
void live_tick(struct live *l);                  /* four times a second */
void live_want_stop(struct live *l);             /* asks the coordinator, and each one that restarts after it, to save and stop */
void live_clear(struct live *l);                 /* so that another line may be printed */
void live_note(struct live *l, const char *text);/* a line of its own, above the live line */
/* How a run ended, from its report: for people, or one JSON object with `status` in the place of the report's. */
void live_summary(const char *run_dir, FILE *out);
int live_summary_json(const char *run_dir, const char *status, const char *resume, FILE *out, struct err *err);

/* One STATUS question to the coordinator of a run; *json: malloc. Blocks up to timeout_ms. ERR_TEMPORARY: none answers. */
int live_ask(const struct rundir *run, uint64_t timeout_ms, char **json, struct err *err);
/* Asks the coordinator to save and stop. */
int live_stop(const struct rundir *run, uint64_t timeout_ms, struct err *err);
/* Asks it to let a site that joined go. */
int live_drain(const struct rundir *run, uint8_t site, uint64_t timeout_ms, struct err *err);
/* Where its metrics are; false: nowhere. */
bool live_metrics(const char *json, char *out, size_t size);
/* One line from the status JSON, for people, of at most `width` columns (0: unlimited): the least important parts go first. */
void live_line(const char *json, unsigned width, char *out, size_t size);

#endif
