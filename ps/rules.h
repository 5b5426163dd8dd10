/* Rules of the round protocol that a shard enforces; see base/rule.h. */
#ifndef VIADUCT_PS_RULES_H
#define VIADUCT_PS_RULES_H

#include "base/rule.h"

#define RULE_STAB      RULE(STAB)      /* a version is published only when every in-sync copy holds its record */
#define RULE_EPMSG     RULE(EPMSG)     /* messages of another view change nothing */
#define RULE_KEEP      RULE(KEEP)      /* open contributions survive a view change */
#define RULE_NEST      RULE(NEST)      /* nested names are held side by side */
#define RULE_ATT       RULE(ATT)       /* the attempt is part of the name, unless the bits are the same anyway */
#define RULE_GENHELD   RULE(GENHELD)   /* a rollback voids the contributions of older generations */
#define RULE_INST      RULE(INST)      /* a restarted process has no role until a view names its instance */
#define RULE_OUTRUN    RULE(OUTRUN)    /* rounds that outrun a copy in the making wait for it */
#define RULE_WIPE      RULE(WIPE)      /* a copy that left the in-sync set is copied afresh */
#define RULE_ENV       RULE(ENV)       /* only the envelope is fenced: a record keeps the view in which it was made */
#define RULE_COPYVER   RULE(COPYVER)   /* a copy is complete only with every block at the primary's version */
#define RULE_COPYSYNC  RULE(COPYSYNC)  /* a complete copy counts as a holder at once, before a view promotes it */
#define RULE_LAG       RULE(LAG)       /* a copy that knows more records than a new primary tells it, before that one's round is committed anew */
#define RULE_HELD      RULE(HELD)      /* a name is reported only when every in-sync copy holds it */
#define RULE_WHOLE     RULE(WHOLE)     /* a name is held when all its blocks have come */
#define RULE_CHAIN     RULE(CHAIN)     /* a copy takes records from its primary only */
#define RULE_DIFFER    RULE(DIFFER)    /* a record that differs from the one held stops the job */
#define RULE_INFER2    RULE(INFER2)    /* a copy infers that all hold a record only when there are two copies in all */
#define RULE_INFERV    RULE(INFERV)    /* and only up to the version that its present primary stated */
#define RULE_LASTREC   RULE(LASTREC)   /* a copy that skips ahead takes the last record too, with which it can cut the last checkpoint */
#define RULE_WINDOW    RULE(WINDOW)    /* a copy far behind is sent the newest records, with which it can skip ahead */
#define RULE_SEEDCOPY  RULE(SEEDCOPY)  /* an in-sync copy that missed its seeds takes blocks from its primary */
#define RULE_NEEDSEED  RULE(NEEDSEED)  /* a primary that waits for seeds says so to who contributes */

#endif
