/* The processes of one site: launched, adopted, killed, remembered on disk so that the next agent can adopt them. */
#ifndef VIADUCT_AGENT_CHILDREN_H
#define VIADUCT_AGENT_CHILDREN_H

#include "base/base.h"
#include "net/net.h"

#define CHILDREN_MAX (LANES_MAX + SLOTS_LIMIT + 2)

struct child {
    bool used, killed;                /* killed: we sent SIGKILL, its end is no news */
    struct process_id who;
    pid_t pid;
    uint64_t start_ticks;
    struct process_watch *watch;
    struct children *owner;
};

struct children {
    struct loop *loop;
    struct log *log;
    const char *run_dir, *site;
    char record_path[512], socket_path[108];
    struct child child[CHILDREN_MAX];
    /* A process is gone; text: the last line it wrote. */
    void (*ended)(void *arg, const struct msg_exited *exited, bool killed);
    void *arg;
};

/* Adopts what the record on disk names and still lives; `dead` gets one call for each recorded process that does not. */
int children_init(struct children *c, void (*dead)(void *arg, struct process_id who), struct err *err);
int children_launch(struct children *c, struct process_id who, const char *const *extra_argv, struct err *err);
void children_kill(struct children *c, struct child *child);
unsigned children_count(const struct children *c);
struct child *children_find(struct children *c, enum role role, uint16_t index, uint32_t instance);

#endif
