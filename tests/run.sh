#!/usr/bin/env bash
# Runs test programs and scripts that print TAP ("ok 1 - name", "not ok 2 - name", "ok 3 # SKIP why"), TEST_JOBS of them side by side (default 1), begun in
# the order given; a script with a line "# alone: why" runs by itself, after the others. Shows failures and skips whole, and ends with one line:
# N passed, N failed, N skipped. Exit 1 if any failed. A program that dies, or whose plan ("1..N") has another number of tests than were run, counts as
# one failure.
set -u
passed=0 failed=0 skipped=0 ended=0
declare -A program=() began=()    # of what runs, by process id
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
trap 'kill $(jobs -p) 2>/dev/null; wait; exit 130' INT TERM HUP    # timeout passes it on

begin() {
    CMOCKA_MESSAGE_OUTPUT=TAP timeout --kill-after=10 "${TEST_TIMEOUT_S:-900}" "$1" >"$dir/$BASHPID.out" 2>"$dir/$BASHPID.err" </dev/null &
    program[$!]=$1 began[$!]=$(date +%s.%N)
}

# Waits for one of those that run, and reports it. (wait -n forgets one that was killed.)
end_one() {
    local pid="" rc t seconds out err planned p f s
    until [ -n "$pid" ]; do
        sleep 0.05
        for p in "${!program[@]}"; do kill -0 "$p" 2>/dev/null || pid=$p; done
    done
    wait "$pid"
    rc=$? t=${program[$pid]} seconds=$(echo "$(date +%s.%N) - ${began[$pid]}" | bc) out=$dir/$pid.out err=$dir/$pid.err
    unset "program[$pid]"
    grep -qE '^(not )?ok\b' "$out" || cat "$err" >>"$out"    # older cmocka prints TAP on stderr
    planned=$(sed -nE 's/^1\.\.([0-9]+).*/\1/p' "$out" | awk '{sum += $1} END {print sum + 0}')
    p=$(grep -cE '^ok\b' "$out") f=$(grep -cE '^not ok\b' "$out") s=$(grep -cE '^ok\b.*# SKIP' "$out")
    p=$((p - s))
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; echo "not ok - $t ended with exit code $rc"; fi
    if [ "$f" -eq 0 ] && [ $((p + s)) -ne "$planned" ] || [ $((p + f + s)) -eq 0 ]; then f=$((f + 1)); echo "not ok - $t ran $((p + s)) tests, its plan (1..N) says $planned"; fi
    printf '%-60s %4d passed %3d failed %3d skipped %6.1f s\n' "$t" "$p" "$f" "$s" "$seconds"
    grep -E '# SKIP' "$out" | sed 's/^/    /'
    grep -hE '^# skipped: ' "$err" | sort -u | sed 's/^/    /'
    if [ "$f" -gt 0 ]; then tail -n 60 "$out" | sed 's/^/    /'; tail -n 40 "$err" | sed 's/^/    err: /'; fi
    ended=$((ended + 1)) passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
}

alone=()
for t in "$@"; do
    if grep -qsa -m 1 '^# alone: ' "$t"; then alone+=("$t"); continue; fi
    [ ${#program[@]} -eq 0 ] || [ ${#program[@]} -lt "${TEST_JOBS:-1}" ] || end_one
    begin "$t"
done
while [ ${#program[@]} -gt 0 ]; do end_one; done
for t in ${alone[@]+"${alone[@]}"}; do begin "$t"; end_one; done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ] && [ "$ended" -eq $# ]
