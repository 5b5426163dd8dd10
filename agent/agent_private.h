/* The inside of the agent: main.c sets it up, agent.c is what it does. */
#ifndef VIADUCT_AGENT_PRIVATE_H
#define VIADUCT_AGENT_PRIVATE_H

#include "agent/children.h"
#include "agent/door.h"
#include "agent/front.h"
#include "agent/publish.h"
#include "agent/segments.h"
#include "agent/world.h"
#include "base/base.h"
#include "coordinator/coordinator.h"
#include "jobs/jobs.h"
#include "net/net.h"
#include "slurm/slurm.h"

struct agent {
    struct loop *loop;
    struct log log;
    struct rundir run;
    struct job job;
    const char *site;
    char name[80];               /* in file names: the site's, ".NODE" behind it when this is not its first host */
    uint8_t site_index;
    uint16_t node, nodes, first_rank, end_rank;   /* this host of the site, and the ranks that lie on it; host 0 has shards, checkpoints and export as well */
    bool external_gang;          /* mpirun started the ranks */
    struct world *world;         /* ... this one; else NULL */
    char mpirun[512];            /* which launches this site's gang */
    bool embedded;               /* shards live in the ranks: slots are no processes */
    struct identity *identity;
    struct msg_hello hello;
    struct link *link;
    bool joined, stopping, leaving, orphan, sent_away, goes_without_world;
    bool accepted;               /* by the coordinator, once */
    bool drain;                  /* the coordinator is asked to save and stop */
    char start_token[40];        /* of the start of the run that we belong to */
    uint64_t lost_since_ms;
    char lost_why[400];
    struct children children;
    struct door *door;
    const char *door_wanted;     /* HOST:PORT of the front door, over what the spec says; NULL: as the spec says */
    struct front *front;
    struct publisher *publisher;
    bool have_view;
    struct view view;
    uint32_t export_attempt;     /* newest that was asked for */
    int exit_code;
};

void agent_child_ended(void *arg, const struct msg_exited *m, bool killed);
bool agent_gang_lives(void *arg, uint32_t incarnation);
void agent_published(void *arg, const struct msg_published *m);
void agent_world_gone(void *arg);
void agent_tick(void *arg);
void agent_beat(void *arg);
void agent_drain(void *arg, int signo);
void agent_term(void *arg, int signo);
void agent_parent_line(void *arg, const char *line);
bool agent_is_visiting(void);
int agent_own_host(const struct agent *a);

#endif
