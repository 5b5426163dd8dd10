# The simulator: the cores of ps/ and coordinator/ behind simulated shells. $B/tests/sim/sim is the real thing; $B/tests/sim/rules/ holds the same
# sources, and unit tests of the cores, in a build whose rules tests/sim/rules.sh can take out one at a time (base/rule.h).

SIM_SRC := $(wildcard tests/sim/*.c) ps/shard.c ps/shard_names.c ps/shard_send.c $(wildcard coordinator/core*.c)
SIM_LIBS := $B/lib/net.a $B/lib/base.a

$B/tests/sim/sim: $(SIM_SRC:%.c=$B/%.o) $(SIM_LIBS)
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(SIM_LIBS) -Wl,--end-group $(LIBS)

RULES := $B/tests/sim/rules
$(RULES)/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $< (rules can be off)"
	@$(CC) $(ALL_CFLAGS) -DRULES_CAN_BE_OFF -MMD -MP -c -o $@ $<

# $1 the program, $2 its sources, $3 folders whose libraries it needs
define RULES_PROGRAM
RULES_PROGRAMS += $(RULES)/$1
$(RULES)/$1: $(patsubst %.c,$(RULES)/%.o,$2 tests/sim/rules/rule_holds.c) $(foreach f,$3,$B/lib/$f.a)
	@mkdir -p $$(@D) && $$(CC) $$(ALL_LDFLAGS) -o $$@ $$(filter %.o,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $$(LIBS) -lcmocka
endef
SIM_CORE := $(wildcard coordinator/core*.c)
$(eval $(call RULES_PROGRAM,sim,$(SIM_SRC),net base))
$(eval $(call RULES_PROGRAM,shard,tests/unit/ps/shard_test.c ps/shard.c ps/shard_names.c ps/shard_send.c,base))
$(eval $(call RULES_PROGRAM,host,tests/unit/ps/host_test.c ps/host.c,$(CLOSURE_ps)))
$(eval $(call RULES_PROGRAM,core,tests/unit/coordinator/core_test.c $(SIM_CORE),net base))
$(eval $(call RULES_PROGRAM,core_rules,tests/unit/coordinator/core_rules_test.c $(SIM_CORE),net base))
$(eval $(call RULES_PROGRAM,rounds,tests/unit/client/rounds_test.c client/rounds.c,$(CLOSURE_client)))

# The same protocol as an explicit-state model: every order of events within a bound.
MODEL_OBJ := $(patsubst %.c,$B/%.o,$(wildcard tests/sim/model/*.c))
$B/tests/sim/model/model: $(MODEL_OBJ)
	@echo "  LD $@"
	@$(CC) $(ALL_LDFLAGS) -o $@ $^

.PHONY: sim sim-rules
#: sim            the protocol's simulator: fixed and fresh seeds
sim: $B/tests/sim/sim
	@tests/run.sh $B/tests/sim/sim
#: sim-rules      each rule of the protocol taken out must be caught by the simulator or a unit test
sim-rules: $(RULES_PROGRAMS)
	@B=$B tests/run.sh tests/sim/rules.sh

.PHONY: model model-large
#: model          every order of events of the round protocol within small bounds, with all rules and with each taken out
model: $B/tests/sim/model/model
	@tests/run.sh $B/tests/sim/model/model
#: model-large    the same with all rules, within larger bounds
model-large: $B/tests/sim/model/model
	@B=$B TEST_TIMEOUT_S=3600 tests/run.sh tests/long/model.sh
