/* Each rule of the round protocol that model checking found necessary is a constant here, true in every product build. tests/sim compiles
 * the cores once more for each rule with -DRULE_OFF_<NAME> and expects the simulator to catch the damage. */
#ifndef VIADUCT_PS_RULES_H
#define VIADUCT_PS_RULES_H

#include <stdbool.h>

#ifdef RULE_OFF_STAB
#define RULE_STAB false
#else
#define RULE_STAB true        /* a version is published only when every in-sync copy holds its record */
#endif
#ifdef RULE_OFF_EPMSG
#define RULE_EPMSG false
#else
#define RULE_EPMSG true       /* messages of another view change nothing */
#endif
#ifdef RULE_OFF_KEEP
#define RULE_KEEP false
#else
#define RULE_KEEP true        /* open contributions survive a view change */
#endif
#ifdef RULE_OFF_NEST
#define RULE_NEST false
#else
#define RULE_NEST true        /* nested names are held side by side */
#endif
#ifdef RULE_OFF_ATT
#define RULE_ATT false
#else
#define RULE_ATT true         /* the attempt is part of the name, unless the bits are the same anyway */
#endif
#ifdef RULE_OFF_GENHELD
#define RULE_GENHELD false
#else
#define RULE_GENHELD true     /* a rollback voids the contributions of older generations */
#endif
#ifdef RULE_OFF_INST
#define RULE_INST false
#else
#define RULE_INST true        /* a restarted process has no role until a view names its instance */
#endif
#ifdef RULE_OFF_OUTRUN
#define RULE_OUTRUN false
#else
#define RULE_OUTRUN true      /* rounds that outrun a copy in the making wait for it */
#endif
#ifdef RULE_OFF_WIPE
#define RULE_WIPE false
#else
#define RULE_WIPE true        /* a copy that left the in-sync set is copied afresh */
#endif
#ifdef RULE_OFF_ENV
#define RULE_ENV false
#else
#define RULE_ENV true         /* only the envelope is fenced: a record keeps the view in which it was made */
#endif
#ifdef RULE_OFF_COPYVER
#define RULE_COPYVER false
#else
#define RULE_COPYVER true     /* a copy is complete only with every block at the primary's version */
#endif
#ifdef RULE_OFF_COPYSYNC
#define RULE_COPYSYNC false
#else
#define RULE_COPYSYNC true    /* a complete copy counts as a holder at once, before a view promotes it */
#endif
#ifdef RULE_OFF_LAG
#define RULE_LAG false
#else
#define RULE_LAG true         /* a copy that knows more records than a new primary tells it, before that one's round is committed anew */
#endif
#ifdef RULE_OFF_HELD
#define RULE_HELD false
#else
#define RULE_HELD true        /* a name is reported only when every in-sync copy holds it */
#endif
#ifdef RULE_OFF_WHOLE
#define RULE_WHOLE false
#else
#define RULE_WHOLE true       /* a name is held when all its blocks have come */
#endif
#ifdef RULE_OFF_CHAIN
#define RULE_CHAIN false
#else
#define RULE_CHAIN true       /* a copy takes records from its primary only */
#endif
#ifdef RULE_OFF_DIFFER
#define RULE_DIFFER false
#else
#define RULE_DIFFER true      /* a record that differs from the one held stops the job */
#endif
#ifdef RULE_OFF_INFER2
#define RULE_INFER2 false
#else
#define RULE_INFER2 true      /* a copy infers that all hold a record only when there are two copies in all */
#endif
#ifdef RULE_OFF_INFERV
#define RULE_INFERV false
#else
#define RULE_INFERV true      /* and only up to the version that its present primary stated */
#endif
#ifdef RULE_OFF_LASTREC
#define RULE_LASTREC false
#else
#define RULE_LASTREC true     /* a copy that skips ahead takes the last record too, with which it can cut the last checkpoint */
#endif
#ifdef RULE_OFF_WINDOW
#define RULE_WINDOW false
#else
#define RULE_WINDOW true      /* a copy far behind is sent the newest records, with which it can skip ahead */
#endif
#ifdef RULE_OFF_SEEDCOPY
#define RULE_SEEDCOPY false
#else
#define RULE_SEEDCOPY true    /* an in-sync copy that missed its seeds takes blocks from its primary */
#endif
#ifdef RULE_OFF_NEEDSEED
#define RULE_NEEDSEED false
#else
#define RULE_NEEDSEED true    /* a primary that waits for seeds says so to who contributes */
#endif

#endif
