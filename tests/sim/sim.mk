# The simulator: the cores of ps/ and coordinator/ behind simulated shells. $B/tests/sim/sim is the real thing; $B/tests/sim/off-NAME are the
# same sources with one rule of the protocol taken out, for tests/sim/rules.sh.

SIM_SRC := $(wildcard tests/sim/*.c) ps/shard.c ps/shard_names.c ps/shard_send.c $(wildcard coordinator/core*.c)
SIM_LIBS := $B/lib/net.a $B/lib/base.a
SIM_RULES := STAB TELL EPMSG  KEEP NEST GENHELD COPYSYNC COPYVER ATT ENV CKGEN CKLOG RECOV REPORT HELD SUM COMPLETE ROLLRAM PHASE HIST RAMEND

SIM_OBJ := $(SIM_SRC:%.c=$B/%.o)
$B/tests/sim/sim: $(SIM_OBJ) $(SIM_LIBS)
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $(SIM_OBJ) -Wl,--start-group $(SIM_LIBS) -Wl,--end-group $(LIBS)

define SIM_RULE
SIM_OBJ_$1 := $$(SIM_SRC:%.c=$$B/tests/sim/off/$1/%.o)
$$B/tests/sim/off/$1/%.o: %.c
	@mkdir -p $$(@D)
	@$$(CC) $$(ALL_CFLAGS) -DRULE_OFF_$1 -MMD -MP -c -o $$@ $$<
$$B/tests/sim/off-$1: $$(SIM_OBJ_$1) $$(SIM_LIBS)
	@echo "  LD $$@"
	@$$(CC) $$(ALL_LDFLAGS) -o $$@ $$(SIM_OBJ_$1) -Wl,--start-group $$(SIM_LIBS) -Wl,--end-group $$(LIBS)
endef
$(foreach r,$(SIM_RULES),$(eval $(call SIM_RULE,$r)))

# Unit tests that must notice too. Some rules nothing else notices: in the whole system another rule covers for them, or a fault must strike in one place.
SIM_UNIT_shard := OUTRUN WHOLE INST WIPE LAG KEEP NEST STAB CHAIN DIFFER INFER2 INFERV LASTREC WINDOW SEEDCOPY
SIM_UNIT_host := NEEDSEED
SIM_UNIT_core := GENREC DIFFER AHEAD FINITE NEWVIEW NEWINST SAYFAIL JOINFREE
SIM_UNIT_core_rules := CHAIN VIEWSYNC PROMOTE PLANFIRST BEHIND RAMEND ASLEEP REBEAT HEAD
SIM_UNIT_rounds := EPPULL GENPULL
SIM_CORE := $(wildcard coordinator/core*.c) coordinator/rules.h coordinator/core_private.h tests/unit/coordinator/core_world.h
SIM_UNIT_RULES := $(foreach t,shard host core core_rules rounds,$(SIM_UNIT_$t:%=$t-%))

# $1 the unit test, $2 what it is made of
define SIM_UNIT
$$(SIM_UNIT_$1:%=$$B/tests/sim/unit-off-$1-%): $$B/tests/sim/unit-off-$1-%: $2
	@mkdir -p $$(@D)
	@$$(CC) $$(ALL_CFLAGS) -DRULE_OFF_$$* $$(ALL_LDFLAGS) -o $$@ $$(filter %.c,$$^) -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $$(LIBS) -lcmocka
endef
$(eval $(call SIM_UNIT,shard,tests/unit/ps/shard_test.c ps/shard.c ps/shard_names.c ps/shard_send.c ps/rules.h ps/shard_private.h $B/lib/base.a))
$(eval $(call SIM_UNIT,host,tests/unit/ps/host_test.c ps/host.c ps/rules.h $(foreach f,$(CLOSURE_ps),$B/lib/$f.a)))
$(eval $(call SIM_UNIT,core,tests/unit/coordinator/core_test.c $(SIM_CORE) $B/lib/net.a $B/lib/base.a))
$(eval $(call SIM_UNIT,core_rules,tests/unit/coordinator/core_rules_test.c $(SIM_CORE) $B/lib/net.a $B/lib/base.a))
$(eval $(call SIM_UNIT,rounds,tests/unit/client/rounds_test.c client/rounds.c client/client.h $(foreach f,$(CLOSURE_client),$B/lib/$f.a)))

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
sim-rules: $B/tests/sim/sim $(SIM_RULES:%=$B/tests/sim/off-%) $(SIM_UNIT_RULES:%=$B/tests/sim/unit-off-%)
	@B=$B tests/run.sh tests/sim/rules.sh

.PHONY: model model-large
#: model          every order of events of the round protocol within small bounds, with all rules and with each taken out
model: $B/tests/sim/model/model
	@tests/run.sh $B/tests/sim/model/model
#: model-large    the same with all rules, within larger bounds
model-large: $B/tests/sim/model/model
	@B=$B TEST_TIMEOUT_S=3600 tests/run.sh tests/long/model.sh
