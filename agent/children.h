/* The processes of one site: launched, adopted, killed; and what is remembered of them on disk, so that an agent which takes over knows who lives,
 * which instances were ever launched, and which deaths the coordinator may not have heard of. */
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
    struct timer *patience;           /* an MPI world was asked to end, and gets a moment */
    struct children *owner;
};

struct children {
    struct loop *loop;
    struct log *log;
    const char *run_dir, *site;
    const char *worker_program;       /* a trainer of one's own for the ranks; NULL: `viaduct worker` */
    const char *mpirun;               /* where mpirun lies, when it starts the ranks: a gang is one process here, index 0; NULL: ranks are processes */
    bool ignore_term;                 /* a SIGTERM to all that runs here is for us: they end when we say so */
    char record_path[640], socket_path[108];   /* record_path empty: another start owns it, nothing is written */
    unsigned host, hosts;             /* this one's number, and how many the site has */
    char host_address[64];            /* where others reach this host; empty: as the environment has it */
    struct child child[CHILDREN_MAX];
    uint32_t gang_launched, slot_launched[SLOTS_LIMIT];   /* newest instance that was ever launched */
    struct msg_exited death[CHILDREN_MAX];                /* until children_forget */
    unsigned death_count;
    /* A process is gone. Not killed by us: its death is remembered already. */
    void (*ended)(void *arg, const struct msg_exited *exited, bool killed);
    void *arg;
};

/* Reads the record of the agent before us, adopts who lives; who does not becomes a death. */
int children_init(struct children *c, struct err *err);
/* Before the launch of an instance (of a whole gang: once): whatever happens next, nobody launches it again. */
int children_mark(struct children *c, enum role role, uint16_t index, uint32_t instance, struct err *err);
int children_launch(struct children *c, struct process_id who, const char *const *extra_argv, struct err *err);
/* The gang of a site that is `via: mpirun`. */
int children_launch_world(struct children *c, struct process_id who, unsigned ranks, struct err *err);
/* By SIGKILL; mpirun gets SIGTERM first, to remove what it made. */
void children_kill(struct child *child);
unsigned children_count(const struct children *c);
struct child *children_find(struct children *c, enum role role, uint16_t index, uint32_t instance);

const struct msg_exited *children_death(const struct children *c, struct process_id who);   /* NULL: none remembered */
void children_remember_death(struct children *c, const struct msg_exited *m);
/* Drops the deaths that `over` says are told and settled. */
void children_forget(struct children *c, bool (*over)(void *arg, const struct process_id *who), void *arg);

#endif
