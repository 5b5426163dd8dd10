#!/usr/bin/env bash
# Takes each rule of the round protocol out, one at a time, and expects the simulator or the shard core's unit tests to notice. TAP.
# Build first: make sim-rules does. B: the object tree; SEEDS: how many the simulator may use for each rule.
B=${B:-build/release}
SEEDS=${SEEDS:-60000}
n=0 bad=0
report() {    # NAME, what noticed, or nothing
    n=$((n + 1))
    if [ -n "$2" ]; then echo "ok $n - without $1: $2"; else echo "not ok $n - without $1 nothing goes wrong"; bad=1; fi
}
shopt -s nullglob
for program in "$B"/tests/sim/off-*; do
    [ -x "$program" ] && [ ! -d "$program" ] || continue
    said=$("$program" --seeds "$SEEDS" 2>/dev/null)
    if [ $? -eq 1 ]; then report "${program##*/off-}" "$(head -n 1 <<<"$said" | cut -c1-120)"; else report "${program##*/off-}" ""; fi
done
for program in "$B"/tests/sim/unit-off-*; do
    [ -x "$program" ] || continue
    failed=$(CMOCKA_MESSAGE_OUTPUT=TAP "$program" 2>&1 | grep -m 1 '^not ok' | sed 's/.* - //')
    name=${program##*/unit-off-}
    report "${name#*-} (unit test of ${name%%-*})" "$failed"
done
echo "1..$n"
exit $bad
