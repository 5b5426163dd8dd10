/* Rules of the round protocol that model checking found necessary: ps/rules.h, coordinator/rules.h and client/client.h name them. Each is the constant
 * true in what is built for use. tests/sim compiles the cores once more with RULES_CAN_BE_OFF, where the rule that RULE_OFF in the environment names is
 * out, and expects the damage to be noticed. */
#ifndef VIADUCT_BASE_RULE_H
#define VIADUCT_BASE_RULE_H

#include <stdbool.h>

#ifdef RULES_CAN_BE_OFF
bool rule_holds(const char *name);    /* tests/sim/rules/rule_holds.c */
#define RULE(name) rule_holds(#name)
#else
#define RULE(name) true
#endif

#endif
