#!/usr/bin/env bash
# Takes each rule of the round protocol out, one at a time (base/rule.h), and expects the simulator or a unit test of a core to notice. Some rules nothing
# but a unit test notices: in the whole system another rule covers for them, or a fault must strike in one place. TAP.
# Build first: make sim-rules does. B: the object tree; SEEDS: how many the simulator may use for each rule.
cd "$(dirname "$0")/../.." || exit 1
B=${B:-build/release}
SEEDS=${SEEDS:-60000}
sim="STAB TELL EPMSG KEEP NEST GENHELD COPYSYNC COPYVER ATT ENV CKGEN CKLOG RECOV REPORT HELD SUM COMPLETE ROLLRAM PHASE HIST RAMEND"
shard="OUTRUN WHOLE INST WIPE LAG KEEP NEST STAB CHAIN DIFFER INFER2 INFERV LASTREC WINDOW SEEDCOPY"
host="NEEDSEED"
core="GENREC DIFFER AHEAD FINITE NEWVIEW NEWINST SAYFAIL JOINFREE"
core_rules="CHAIN VIEWSYNC PROMOTE PLANFIRST BEHIND RAMEND ASLEEP REBEAT HEAD"
rounds="EPPULL GENPULL"
n=0 bad=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; bad=1; fi; }
simulate() { RULE_OFF=$1 "$B/tests/sim/rules/sim" --seeds "$2" 2>/dev/null; }                # 1 when it found a violation, said in its first line
unit_test() { RULE_OFF=$2 CMOCKA_MESSAGE_OUTPUT=TAP "$B/tests/sim/rules/$1" 2>&1; }
report() {    # what was taken out; what noticed, or nothing
    [ -n "$2" ]
    ok $? "$1: ${2:-nothing goes wrong}"
}
simulate "" 1000 >/dev/null
ok $? "with all rules the simulator finds nothing"
for rule in $sim; do
    said=$(simulate "$rule" "$SEEDS")
    if [ $? -eq 1 ]; then noticed=$(head -n 1 <<<"$said" | cut -c1-120); else noticed=""; fi
    report "without $rule" "$noticed"
done
for program in shard host core core_rules rounds; do
    said=$(unit_test "$program" "") && ! grep -q '^not ok' <<<"$said"
    ok $? "with all rules the unit test of $program finds nothing"
    for rule in ${!program}; do
        said=$(unit_test "$program" "$rule")
        code=$? noticed=$(grep -m 1 '^not ok' <<<"$said" | sed 's/.* - //')
        if [ -z "$noticed" ] && [ "$code" -ne 0 ]; then noticed="it ends with code $code"; fi      # a sanitizer's
        report "without $rule (unit test of $program)" "$noticed"
    done
done
# A rule that nobody takes out, or a name that is none. Two folders may have one of the same name, with a unit test in each.
rules_of() { grep -rhoE '\bRULE\([A-Z0-9]+\)' --include='*.[ch]' "$@" | sed 's/RULE(//; s/)//' | sort; }
mapfile -t named < <(rules_of base ps coordinator client tests/sim)
for name in $(printf '%s\n' "${named[@]}" | uniq -d); do
    [[ " $shard $host " == *" $name "* && " $core $core_rules " == *" $name "* ]]
    ok $? "$name is taken out of each folder that has it"
done
mapfile -t tried < <(printf '%s\n' $sim $shard $host $core $core_rules $rounds | sort -u)
[ "$(printf '%s\n' "${named[@]}" | uniq)" = "$(printf '%s\n' "${tried[@]}")" ]
ok $? "every rule is taken out, ${#tried[@]} names in all"
echo "1..$n"
exit $bad
