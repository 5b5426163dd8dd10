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

#endif
