/* Rules of the round protocol that the coordinator enforces, as constants that are true in every product build; see ps/rules.h. */
#ifndef VIADUCT_COORDINATOR_RULES_H
#define VIADUCT_COORDINATOR_RULES_H

#include <stdbool.h>

#ifdef RULE_OFF_RECOV
#define RULE_RECOV false
#else
#define RULE_RECOV true       /* the log is completed from what the shards report */
#endif
#ifdef RULE_OFF_REPORT
#define RULE_REPORT false
#else
#define RULE_REPORT true      /* a round is committed on reports of this view only */
#endif
#ifdef RULE_OFF_CKGEN
#define RULE_CKGEN false
#else
#define RULE_CKGEN true       /* checkpoint parts are of one generation; a rollback drops open ones */
#endif
#ifdef RULE_OFF_CKLOG
#define RULE_CKLOG false
#else
#define RULE_CKLOG true       /* a checkpoint is decided only when the log holds every commit below it, and both are synced together */
#endif
#ifdef RULE_OFF_SUM
#define RULE_SUM false
#else
#define RULE_SUM true         /* all shards sum one cover before a round is committed */
#endif
#ifdef RULE_OFF_COMPLETE
#define RULE_COMPLETE false
#else
#define RULE_COMPLETE true    /* a copying copy joins the in-sync set only when its primary calls it complete */
#endif
#ifdef RULE_OFF_GENREC
#define RULE_GENREC false
#else
#define RULE_GENREC true      /* a record of an older generation completes no log: a rollback has annulled it */
#endif
#ifdef RULE_OFF_ROLLRAM
#define RULE_ROLLRAM false
#else
#define RULE_ROLLRAM true     /* a RAM segment counts only when no rollback has annulled it and the log holds its records */
#endif
#ifdef RULE_OFF_PHASE
#define RULE_PHASE false
#else
#define RULE_PHASE true       /* a phase begins only when the checkpoint of what the one before ended with is durable */
#endif
#ifdef RULE_OFF_HIST
#define RULE_HIST false
#else
#define RULE_HIST true        /* a shard's newest histogram takes the place of the one before, however often it is sent */
#endif
#ifdef RULE_OFF_RAMEND
#define RULE_RAMEND false
#else
#define RULE_RAMEND true      /* no generation starts in RAM with what a phase ends with: its checkpoint is cut when it is made */
#endif
#ifdef RULE_OFF_CHAIN
#define RULE_CHAIN false
#else
#define RULE_CHAIN true       /* records go to primaries only */
#endif
#ifdef RULE_OFF_DIFFER
#define RULE_DIFFER false
#else
#define RULE_DIFFER true      /* a record that differs from the log's stops the job */
#endif
#ifdef RULE_OFF_AHEAD
#define RULE_AHEAD false
#else
#define RULE_AHEAD true       /* commits run ahead of the synced log by no more than one report can carry */
#endif
#ifdef RULE_OFF_FINITE
#define RULE_FINITE false
#else
#define RULE_FINITE true      /* a sum that is not finite is not committed */
#endif
#ifdef RULE_OFF_NEWVIEW
#define RULE_NEWVIEW false
#else
#define RULE_NEWVIEW true     /* every start makes a new view */
#endif
#ifdef RULE_OFF_VIEWSYNC
#define RULE_VIEWSYNC false
#else
#define RULE_VIEWSYNC true    /* a view is synced before anyone sees it */
#endif
#ifdef RULE_OFF_NEWINST
#define RULE_NEWINST false
#else
#define RULE_NEWINST true     /* a process that left a view gets a new instance */
#endif
#ifdef RULE_OFF_PROMOTE
#define RULE_PROMOTE false
#else
#define RULE_PROMOTE true     /* only an in-sync copy becomes primary */
#endif
#ifdef RULE_OFF_PLANFIRST
#define RULE_PLANFIRST false
#else
#define RULE_PLANFIRST true   /* a fresh start logs its plan before its first view */
#endif
#ifdef RULE_OFF_BEHIND
#define RULE_BEHIND false
#else
#define RULE_BEHIND true      /* a report behind the log is answered with records, whatever SUM waits for */
#endif
#ifdef RULE_OFF_SAYFAIL
#define RULE_SAYFAIL false
#else
#define RULE_SAYFAIL true     /* a job that failed is announced again by the next coordinator */
#endif
#ifdef RULE_OFF_JOINFREE
#define RULE_JOINFREE false
#else
#define RULE_JOINFREE true    /* a process that is gone when its agent joins is no relaunch */
#endif
#ifdef RULE_OFF_ASLEEP
#define RULE_ASLEEP false
#else
#define RULE_ASLEEP true      /* a coordinator that stood still moves every lease by that time */
#endif
#ifdef RULE_OFF_HEAD
#define RULE_HEAD false
#else
#define RULE_HEAD true        /* of a site's agents only the first says which of its shards live */
#endif
#ifdef RULE_OFF_REBEAT
#define RULE_REBEAT false
#else
#define RULE_REBEAT true      /* an agent that beats again over the same link is joined again */
#endif

#endif
