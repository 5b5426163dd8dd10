/* `viaduct top`: what it knows of a run (top_read.c), and how that looks (top_draw.c, pure). */
#ifndef VIADUCT_CLI_TOP_H
#define VIADUCT_CLI_TOP_H

#include <stdbool.h>
#include <stddef.h>
#include "base/rundir.h"
#include "report/report.h"

#define TOP_TAIL 512                  /* steps */
#define TOP_EVENTS 64

struct top_event { char time[16], event[24], who[60], text[300]; unsigned long long step; };
struct top_state {
    char name[100], phase[24], status[24];   /* phase: "" when no coordinator answers; status: of report.json */
    double step, steps, epoch, epochs, loss, lr, rate, eta, wan_rate;   /* NAN: not known */
    unsigned site_count, restarts;
    struct { char name[80]; unsigned ranks, up, shards, shards_up; double sent; } site[REPORT_SITES_MAX];
    struct metric tail[TOP_TAIL];
    unsigned tail_count;
    struct top_event event[TOP_EVENTS];  /* oldest first */
    unsigned event_count;
};
void top_read(const struct rundir *run, struct top_state *out);
/* One JSON object as MSG_STATUSREPLY carries it, into the state. */
void top_take_status(const char *json, struct top_state *out);

struct top_look { unsigned width, height; bool unicode, colour; };   /* height 0: as long as it gets */
/* Lines with '\n' between them, none wider than width; *text: malloc. */
void top_draw(const struct top_state *s, const struct top_look *look, char **text);

#endif
