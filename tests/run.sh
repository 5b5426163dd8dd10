#!/usr/bin/env bash
# Runs test programs and scripts that print TAP ("ok 1 - name", "not ok 2 - name", "ok 3 # SKIP why"), one after the
# other; shows failures and skips whole, and ends with one line: N passed, N failed, N skipped. Exit 1 if any failed.
# A program that dies, prints no plan or no test counts as one failure.
set -u
passed=0 failed=0 skipped=0
dir=$(mktemp -d) || exit 1
trap 'rm -rf "$dir"' EXIT
for t in "$@"; do
    start=$(date +%s.%N)
    CMOCKA_MESSAGE_OUTPUT=TAP timeout --kill-after=10 "${TEST_TIMEOUT_S:-900}" "$t" >"$dir/out" 2>"$dir/err" </dev/null
    rc=$?
    cat "$dir/out" >"$dir/tap"
    grep -qE '^(not )?ok\b' "$dir/tap" || cat "$dir/err" >>"$dir/tap"    # older cmocka prints TAP on stderr
    p=$(grep -cE '^ok\b' "$dir/tap") f=$(grep -cE '^not ok\b' "$dir/tap") s=$(grep -cE '^ok\b.*# SKIP' "$dir/tap")
    p=$((p - s))
    if [ "$rc" -ne 0 ] && [ "$f" -eq 0 ]; then f=1; echo "not ok - $t ended with exit code $rc"; fi
    if [ $((p + f + s)) -eq 0 ]; then f=1; echo "not ok - $t ran no test"; fi
    printf '%-60s %4d passed %3d failed %3d skipped %6.1f s\n' "$t" "$p" "$f" "$s" "$(echo "$(date +%s.%N) - $start" | bc)"
    grep -E '# SKIP' "$dir/tap" | sed 's/^/    /'
    grep -hE '^# skipped: ' "$dir/err" | sort -u | sed 's/^/    /'
    if [ "$f" -gt 0 ]; then tail -n 60 "$dir/tap" | sed 's/^/    /'; tail -n 40 "$dir/err" | sed 's/^/    err: /'; fi
    passed=$((passed + p)) failed=$((failed + f)) skipped=$((skipped + s))
done
echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
