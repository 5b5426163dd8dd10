# Viaduct: one non-recursive makefile. `make` builds ./viaduct; `make help` lists the targets.
# MODE=release|asan|tsan chooses flags and an object tree of its own under build/.

MODE ?= release
B := build/$(MODE)

# Layers, leftmost first; a folder may include only what stands before it (tests/lint.sh proves it).
L1 := device net model jobs report
L2 := data engine ckpt
L3 := collectives slurm export
FOLDERS := base $(L1) $(L2) $(L3) coordinator ps client worker agent cli

CLOSURE_base := base
$(foreach f,$(L1),$(eval CLOSURE_$f := $f base))
$(foreach f,$(L2),$(eval CLOSURE_$f := $f $(L1) base))
$(foreach f,$(L3),$(eval CLOSURE_$f := $f $(L2) $(L1) base))
CLOSURE_coordinator := coordinator $(L3) $(L2) $(L1) base
CLOSURE_ps := ps $(CLOSURE_coordinator)
CLOSURE_client := client $(CLOSURE_ps)
CLOSURE_worker := worker $(CLOSURE_client)
CLOSURE_agent := agent $(CLOSURE_client)
CLOSURE_cli := cli worker agent $(CLOSURE_client)

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
PKGS := libuv openssl sqlite3 jansson libzstd libxxhash yaml-0.1 hdf5-serial hwloc zlib
PKG_CFLAGS := $(shell pkg-config --cflags $(PKGS) 2>/dev/null)
PKG_LIBS := $(shell pkg-config --libs $(PKGS) 2>/dev/null)

WARN := -Wall -Wextra -Werror -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith -Wundef
CFLAGS_release := -O2 -g
CFLAGS_asan := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer
CFLAGS_tsan := -O1 -g -fsanitize=thread -fno-omit-frame-pointer
# No fused multiply-add behind our back: every rounding that reaches a weight is written down.
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -I. -fPIC -ffp-contract=off -fvisibility=hidden $(WARN) $(CFLAGS_$(MODE)) $(PKG_CFLAGS) $(CPPFLAGS) $(CFLAGS)
ALL_LDFLAGS := $(CFLAGS_$(MODE)) -Wl,--as-needed -rdynamic $(LDFLAGS)
LIBS := $(PKG_LIBS) -lpthread -ldl -lm

# Kernels: one object per instruction set, chosen at run time. Fused multiply-add is wanted here: their bits may differ between sets, and are
# tested against double references; weights change only in engine/optim.c, which rounds step by step.
CFLAGS_FILE_engine/kernels_avx512 := -O3 -ffp-contract=fast -mavx512f -mavx512vl -mavx512dq -mavx512bw -mfma -mprefer-vector-width=512 -fno-math-errno
CFLAGS_FILE_engine/kernels_avx2 := -O3 -ffp-contract=fast -mavx2 -mfma -fno-math-errno
CFLAGS_FILE_engine/kernels_base := -O3 -ffp-contract=fast -fno-math-errno -Wno-psabi
# Integer kernels, and the float layers of quantized models: no contraction, so that every set gives the same bits.
CFLAGS_FILE_engine/int8_avx512 := -O3 -mavx512f -mavx512vl -mavx512bw -mavx512vnni -mprefer-vector-width=512 -fno-math-errno
CFLAGS_FILE_engine/int8_avx2 := -O3 -mavx2 -fno-math-errno
CFLAGS_FILE_engine/int8_plain := -O3 -fno-math-errno
CFLAGS_FILE_engine/int8_float := -O3 -fno-math-errno -Wno-psabi
CFLAGS_FILE_engine/optim := -O3 -fno-math-errno
# Sums and the memory limit they are held against: plain loops that should not wait for anything but memory. Addition by addition, so the same bits.
CFLAGS_FILE_base/lanes := -O3
CFLAGS_FILE_cli/bench_allreduce := -O3

# Plugins: only where their libraries are. Program and plugin carry a hash of the sources that both are made of, and refuse each other when it differs.
OMPI := $(shell pkg-config --exists ompi-c 2>/dev/null && echo yes)
PLUGINS := $(if $(OMPI),$B/plugins/viaduct-mpi.so)
COLL_SOURCES := $(sort $(wildcard collectives/*.[ch]) base/lanes.c base/lanes.h base/layout.c base/layout.h base/err.h)
CFLAGS_FILE_collectives/plugin := -include $B/build_id.h
CFLAGS_FILE_collectives/mpi_plugin := -include $B/build_id.h $(if $(OMPI),$(shell pkg-config --cflags ompi-c))

.SECONDARY:
.PHONY: all help lint unit test demo deps clean check-all bench oracle always

#: all            what plain `make` does: ./viaduct, libviaduct.so, plugins (MODE=asan or tsan: sanitizer builds below build/)
all: viaduct $(PLUGINS) libviaduct.so

#: help           this list
help:
	@sed -n 's/^#: //p' Makefile tests/sim/sim.mk packaging/packaging.mk

define FOLDER_RULES
SRC_$1 := $$(filter-out $$(wildcard $1/*_plugin.c),$$(wildcard $1/*.c))
OBJ_$1 := $$(SRC_$1:%.c=$$B/%.o)
$$B/lib/$1.a: $$(OBJ_$1)
	@mkdir -p $$(@D) && rm -f $$@ && ar rcsD $$@ $$^
UNIT_$1 := $$(patsubst tests/unit/$1/%.c,$$B/tests/unit/$1/%,$$(wildcard tests/unit/$1/*_test.c))
$$(UNIT_$1): $$B/%: $$B/%.o $$(foreach f,$$(CLOSURE_$1),$$B/lib/$$f.a)
	@mkdir -p $$(@D) && $$(CC) $$(ALL_LDFLAGS) -o $$@ $$< -Wl,--start-group $$(filter %.a,$$^) -Wl,--end-group $$(LIBS) -lcmocka
.PHONY: unit-$1
unit-$1: $$(UNIT_$1)
	@tests/run.sh $$(UNIT_$1)
endef
$(foreach f,$(FOLDERS),$(eval $(call FOLDER_RULES,$f)))

$B/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CC $<"
	@$(CC) $(ALL_CFLAGS) $(CFLAGS_FILE_$*) -MMD -MP -c -o $@ $<

# The run page's template, style and script stand as they are in report/; each becomes a C string for report/page.c.
CFLAGS_FILE_report/page := -I$B
$B/report/%.inc: report/%
	@mkdir -p $(@D)
	@sed -e 's/\\/\\\\/g' -e 's/"/\\"/g' -e 's/^/"/' -e 's/$$/\\n"/' $< >$@
$B/report/page.o: $B/report/page.html.inc $B/report/page.css.inc $B/report/page_charts.js.inc $B/report/page.js.inc

-include $(shell find $B build/fuzz -name '*.d' 2>/dev/null)

$B/build_id.h: $(COLL_SOURCES)
	@mkdir -p $(@D)
	@echo '#define COLL_BUILD_ID "'"$$(cat $^ | sha256sum | cut -c1-32)"'"' >$@
$B/collectives/plugin.o $B/collectives/mpi_plugin.o: $B/build_id.h

# For the lineage of models: which commit was built, with "-dirty" when more than it was. Nothing where there is no repository. Makes that tests
# start are told it: a file that is edited meanwhile does not build the program anew below them.
ifeq ($(origin VIADUCT_COMMIT),undefined)
VIADUCT_COMMIT := $(if $(wildcard .git),$(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null))
endif
export VIADUCT_COMMIT
COMMIT_LINE := $(if $(VIADUCT_COMMIT),#define VIADUCT_COMMIT "$(VIADUCT_COMMIT)")
CFLAGS_FILE_report/report := -include $B/commit.h
CFLAGS_FILE_export/card := -include $B/commit.h
$B/commit.h: always
	@mkdir -p $(@D)
	@echo '$(COMMIT_LINE)' | cmp -s - $@ || echo '$(COMMIT_LINE)' >$@
$B/report/report.o $B/export/card.o: $B/commit.h

$B/plugins/viaduct-mpi.so: $B/collectives/mpi_plugin.o $B/lib/collectives.a $B/lib/base.a
	@echo "  LD $@"
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -shared -o $@ $^ $(shell pkg-config --libs ompi-c 2>/dev/null) $(LIBS)

PROGRAM := $(if $(filter release,$(MODE)),viaduct,$B/viaduct)
$(PROGRAM): $(foreach f,$(FOLDERS),$B/lib/$f.a)
	@echo "  LD $@"
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ -Wl,--start-group $^ -Wl,--end-group $(LIBS)

# What a training program of one's own links: client/viaduct.h and nothing else is visible. The soname's number changes with that header's meaning.
SONAME := libviaduct.so.1
LIBVIADUCT := $(if $(filter release,$(MODE)),libviaduct.so,$B/libviaduct.so)
$(LIBVIADUCT): $(foreach f,$(CLOSURE_client),$B/lib/$f.a)
	@echo "  LD $@"
	@mkdir -p $(@D) && $(CC) $(filter-out -rdynamic,$(ALL_LDFLAGS)) -shared -Wl,-soname,$(SONAME) -o $@ -Wl,--whole-archive $B/lib/client.a \
	    -Wl,--no-whole-archive -Wl,--start-group $(filter-out %/client.a,$^) -Wl,--end-group $(LIBS)
	@ln -sf $(@F) $(@D)/$(SONAME)

#: unit           unit tests of every folder (unit-FOLDER: of one)
unit: $(foreach f,$(FOLDERS),$(UNIT_$f))
	@tests/run.sh $^

#: lint           layout, include rules, third-party headers
lint:
	@bash tests/lint.sh

#: clean          removes everything that was built
clean:
	rm -rf build viaduct libviaduct.so*

# ---- oracles: small drivers linked with everything the program has ----
ORACLE := $(patsubst tests/oracle/%.c,$B/tests/oracle/%,$(wildcard tests/oracle/*.c))
$(ORACLE): $B/%: $B/%.o $(foreach f,$(CLOSURE_cli),$(if $(filter-out cli,$f),$B/lib/$f.a))
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

# ---- drivers of end-to-end tests ----
E2E_DRIVERS := $B/tests/e2e/coll_driver $B/tests/e2e/impostor
$(E2E_DRIVERS): $B/%: $B/%.o $(foreach f,$(CLOSURE_collectives),$B/lib/$f.a)
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $< -Wl,--start-group $(filter %.a,$^) -Wl,--end-group $(LIBS)

$B/tests/e2e/own_trainer: $B/tests/e2e/own_trainer.o $(LIBVIADUCT)
	@mkdir -p $(@D) && $(CC) $(ALL_LDFLAGS) -o $@ $< -Wl,-rpath,'$$ORIGIN/../../../..' -L$(dir $(LIBVIADUCT)) -lviaduct -lm

#: oracle         compares with PyTorch and ONNX Runtime, TensorBoard and Grafana's types (installs them into build/)
oracle: $(ORACLE) viaduct
	@tests/run.sh tests/oracle/parity.sh tests/oracle/ckpt_h5py.sh tests/oracle/onnx.sh tests/oracle/int8.sh tests/oracle/tensorboard.sh tests/oracle/grafana.sh

# ---- fuzzing: clang's libFuzzer with ASan and UBSan ----
FUZZ_SRC := $(wildcard base/*.c) net/msg.c ckpt/manifest.c $(wildcard jobs/*.c data/*.c model/*.c) slurm/allocation.c export/registry_card.c
FUZZERS := $(patsubst tests/fuzz/%_fuzz.c,build/fuzz/%,$(wildcard tests/fuzz/*_fuzz.c))
FUZZ_FLAGS := -g -O1 -fsanitize=address,undefined -fno-sanitize-recover=undefined
FUZZ_SECONDS ?= 5
build/fuzz/obj/%.o: %.c
	@mkdir -p $(@D)
	@echo "  CLANG $<"
	@clang -std=c11 -D_GNU_SOURCE -I. $(FUZZ_FLAGS) -fsanitize=fuzzer-no-link $(PKG_CFLAGS) -MMD -MP -c -o $@ $<
build/fuzz/obj/all.a: $(FUZZ_SRC:%.c=build/fuzz/obj/%.o)
	@rm -f $@ && ar rcsD $@ $^
build/fuzz/%: build/fuzz/obj/tests/fuzz/%_fuzz.o build/fuzz/obj/all.a
	@clang $(FUZZ_FLAGS) -fsanitize=fuzzer -o $@ $^ -lxxhash -lcrypto -lyaml -lz -ljansson -lm -lpthread

#: fuzz           builds the fuzz targets (clang)
fuzz: $(FUZZERS)
#: fuzz-smoke     runs each fuzz target for FUZZ_SECONDS
fuzz-smoke: $(FUZZERS)
	@tests/run.sh tests/fuzz/smoke.sh

# ---- everything ----
#: deps           installs what is missing (apt)
deps:
	@bash tests/deps.sh

-include tests/sim/sim.mk
include packaging/packaging.mk
SIM_TESTS := build/release/tests/sim/model/model build/release/tests/sim/sim tests/sim/rules.sh
SIM_PROGRAMS := $B/tests/sim/model/model $B/tests/sim/sim $(RULES_PROGRAMS)

E2E := $(wildcard tests/e2e/*.sh)
# One more than there are processors: most programs wait most of the time. More than eight would meet each other's deadlines.
TEST_JOBS ?= $(shell n=$$(nproc); echo $$((n < 8 ? n + 1 : 8)))
#: test           set-up, then every test that this machine can run, TEST_JOBS of them side by side
test:
	@bash tests/deps.sh test
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j2 all test-programs
	@$(MAKE) --no-print-directory -j2 test-programs MODE=asan
	@$(MAKE) --no-print-directory -j2 tsan-programs MODE=tsan
	@$(MAKE) --no-print-directory -j2 fuzz
	@export TSAN_OPTIONS=halt_on_error=1 TEST_JOBS=$(TEST_JOBS); exec tests/run.sh $(E2E) tests/fuzz/smoke.sh $(SIM_TESTS) tests/lint_test.sh tests/run_test.sh \
	    $(TSAN_UNITS:build/$(MODE)/%=build/tsan/%) $(UNITS:build/$(MODE)/%=build/asan/%) $(UNITS)

UNITS := $(foreach f,$(FOLDERS),$(UNIT_$f))
TSAN_UNITS := $(foreach f,device data engine worker net ps client ckpt collectives,$(UNIT_$f))
test-programs: $(UNITS) $(if $(filter release,$(MODE)),$(SIM_PROGRAMS) $(E2E_DRIVERS) $(PLUGINS) $B/tests/e2e/own_trainer,$(PROGRAM))
tsan-programs: $(TSAN_UNITS) $(PROGRAM)
.PHONY: test-programs tsan-programs fuzz fuzz-smoke

#: sim-campaign   100,000 seeds of the protocol's simulator
sim-campaign: $B/tests/sim/sim
	@$B/tests/sim/sim --seeds 100000
.PHONY: sim-campaign

#: man            build/viaduct.1 and build/viaduct-spec.5, made of the tables of verbs and keys (man -l build/viaduct.1)
man: build/viaduct.1 build/viaduct-spec.5
build/viaduct.1: viaduct
	@./viaduct help --man >$@
build/viaduct-spec.5: viaduct
	@./viaduct schema --man >$@
#: reference      docs/manual/spec.md anew, after a change of jobs/keys.c
reference: viaduct
	@./viaduct schema --markdown >docs/manual/spec.md
.PHONY: man reference

#: demo           installs what is missing, builds, runs the main job over two sites into build/demo/<UTC time>
demo:
	@bash tests/deps.sh build
	@$(MAKE) --no-print-directory all
	@./viaduct run jobs/examples/fashion-mnist.yaml --dir build/demo/$$(date -u +%Y%m%dT%H%M%SZ)

#: bench          speed of training against PyTorch, of all-reduce against memory, of int8 files against ONNX Runtime's; interleaved in one run
bench: viaduct $B/tests/oracle/int8_driver
	@bash bench/train.sh 1
	@bash bench/train.sh 2
	@bash bench/allreduce.sh
	@bash bench/int8.sh

#: check-all      longer campaigns: three seeds and one hash at full length, every kill, packages, 100,000 simulated seeds, the protocol's model in larger bounds, fuzzing for a minute each
check-all: all fuzz
	@TEST_TIMEOUT_S=3600 tests/run.sh tests/long/accuracy.sh tests/long/bits.sh tests/long/kills.sh $(PACKAGING_LONG)
	@$(MAKE) --no-print-directory sim-campaign model-large
	@FUZZ_SECONDS=60 tests/run.sh tests/fuzz/smoke.sh
