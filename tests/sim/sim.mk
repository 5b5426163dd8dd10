# The simulator: the cores of ps/ and coordinator/ behind simulated shells. $B/tests/sim/sim is the real thing; $B/tests/sim/off-NAME are the
# same sources with one rule of the protocol taken out, for tests/sim/rules.sh.

SIM_SRC := $(wildcard tests/sim/*.c) ps/shard.c ps/shard_names.c ps/shard_send.c $(wildcard coordinator/core*.c)
SIM_LIBS := $B/lib/net.a $B/lib/base.a
SIM_RULES := STAB TELL EPMSG  KEEP NEST GENHELD COPYSYNC COPYVER ATT ENV CKGEN CKLOG RECOV REPORT HELD LAG SUM COMPLETE ROLLRAM PHASE HIST RAMEND

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

# What the rules INST and WIPE forbid, views prevent too (a new process has a new instance): their tests are the shard core's unit tests.
SIM_UNIT_SHARD := INST WIPE LAG KEEP NEST STAB
SIM_UNIT_RULES := $(SIM_UNIT_SHARD) GENREC EPPULL GENPULL
define SIM_UNIT
$B/tests/sim/unit-off-$1: tests/unit/ps/shard_test.c ps/shard.c ps/shard_names.c ps/shard_send.c ps/rules.h ps/shard_private.h $B/lib/base.a
	@mkdir -p $$(@D)
	@$$(CC) $$(ALL_CFLAGS) -DRULE_OFF_$1 $$(ALL_LDFLAGS) -o $$@ $$(filter %.c,$$^) $B/lib/base.a $$(LIBS) -lcmocka
endef
$(foreach r,$(SIM_UNIT_SHARD),$(eval $(call SIM_UNIT,$r)))

# Rules of the coordinator and of a rank that other fences cover in the whole system: their unit tests alone must notice.
$B/tests/sim/unit-off-GENREC: tests/unit/coordinator/core_test.c $(wildcard coordinator/core*.c) coordinator/rules.h coordinator/core_private.h $B/lib/net.a $B/lib/base.a
	@mkdir -p $(@D)
	@$(CC) $(ALL_CFLAGS) -DRULE_OFF_GENREC $(ALL_LDFLAGS) -o $@ $(filter %.c,$^) $B/lib/net.a $B/lib/base.a $(LIBS) -lcmocka
$B/tests/sim/unit-off-EPPULL $B/tests/sim/unit-off-GENPULL: $B/tests/sim/unit-off-%: tests/unit/client/rounds_test.c client/rounds.c client/client.h $(foreach f,$(CLOSURE_client),$B/lib/$f.a)
	@mkdir -p $(@D)
	@$(CC) $(ALL_CFLAGS) -DRULE_OFF_$* $(ALL_LDFLAGS) -o $@ $(filter %.c,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS) -lcmocka

.PHONY: sim sim-rules
#: sim            the protocol's simulator: fixed and fresh seeds
sim: $B/tests/sim/sim
	@tests/run.sh $B/tests/sim/sim
#: sim-rules      each rule of the protocol taken out must be caught by the simulator or a unit test
sim-rules: $B/tests/sim/sim $(SIM_RULES:%=$B/tests/sim/off-%) $(SIM_UNIT_RULES:%=$B/tests/sim/unit-off-%)
	@B=$B tests/run.sh tests/sim/rules.sh
