/* Rules of the round protocol that the coordinator enforces; see base/rule.h. */
#ifndef VIADUCT_COORDINATOR_RULES_H
#define VIADUCT_COORDINATOR_RULES_H

#include "base/rule.h"

#define RULE_RECOV     RULE(RECOV)     /* the log is completed from what the shards report */
#define RULE_REPORT    RULE(REPORT)    /* a round is committed on reports of this view only */
#define RULE_CKGEN     RULE(CKGEN)     /* checkpoint parts are of one generation; a rollback drops open ones */
#define RULE_CKLOG     RULE(CKLOG)     /* a checkpoint is decided only when the log holds every commit below it, and both are synced together */
#define RULE_SUM       RULE(SUM)       /* all shards sum one cover before a round is committed */
#define RULE_COMPLETE  RULE(COMPLETE)  /* a copying copy joins the in-sync set only when its primary calls it complete */
#define RULE_GENREC    RULE(GENREC)    /* a record of an older generation completes no log: a rollback has annulled it */
#define RULE_ROLLRAM   RULE(ROLLRAM)   /* a RAM segment counts only when no rollback has annulled it and the log holds its records */
#define RULE_PHASE     RULE(PHASE)     /* a phase begins only when the checkpoint of what the one before ended with is durable */
#define RULE_HIST      RULE(HIST)      /* a shard's newest histogram takes the place of the one before, however often it is sent */
#define RULE_RAMEND    RULE(RAMEND)    /* no generation starts in RAM with what a phase ends with: its checkpoint is cut when it is made */
#define RULE_CHAIN     RULE(CHAIN)     /* records go to primaries only */
#define RULE_DIFFER    RULE(DIFFER)    /* a record that differs from the log's stops the job */
#define RULE_AHEAD     RULE(AHEAD)     /* commits run ahead of the synced log by no more than one report can carry */
#define RULE_FINITE    RULE(FINITE)    /* a sum that is not finite is not committed */
#define RULE_NEWVIEW   RULE(NEWVIEW)   /* every start makes a new view */
#define RULE_VIEWSYNC  RULE(VIEWSYNC)  /* a view is synced before anyone sees it */
#define RULE_NEWINST   RULE(NEWINST)   /* a process that left a view gets a new instance */
#define RULE_PROMOTE   RULE(PROMOTE)   /* only an in-sync copy becomes primary */
#define RULE_PLANFIRST RULE(PLANFIRST) /* a fresh start logs its plan before its first view */
#define RULE_BEHIND    RULE(BEHIND)    /* a report behind the log is answered with records, whatever SUM waits for */
#define RULE_SAYFAIL   RULE(SAYFAIL)   /* a job that failed is announced again by the next coordinator */
#define RULE_JOINFREE  RULE(JOINFREE)  /* a process that is gone when its agent joins is no relaunch */
#define RULE_ASLEEP    RULE(ASLEEP)    /* a coordinator that stood still moves every lease by that time */
#define RULE_HEAD      RULE(HEAD)      /* of a site's agents only the first says which of its shards live */
#define RULE_REBEAT    RULE(REBEAT)    /* an agent that beats again over the same link is joined again */

#endif
