#!/usr/bin/env bash
# What counts tests can fail: whatever goes wrong in a program is a failure of the whole, also beside others. Prints TAP.
set -u
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; sed 's/^/# /' "$work/said"; fi; }
program() { { echo '#!/usr/bin/env bash'; cat; } >"$work/$1"; chmod +x "$work/$1"; }
# says CODE LINE PROGRAM...: the exit code and the closing line
says() {
    local code=$1 line=$2; shift 2
    (cd "$work" && TEST_TIMEOUT_S=2 TEST_JOBS=3 "$OLDPWD/tests/run.sh" "$@") >"$work/said" 2>&1
    [ $? -eq "$code" ] && [ "$(tail -n 1 "$work/said")" = "$line" ]
    ok $? "$* -> $line"
}
program ./good <<<'echo 1..2; echo "ok 1 - a"; echo "ok 2 - b # SKIP no time"; echo "good $(date +%s%N)" >>order'
program ./slow <<<'sleep 0.5; printf "ok 1 - a\n1..1\n"; echo "slow $(date +%s%N)" >>order'
program ./alone <<<'# alone: it measures
printf "ok 1 - a\n1..1\n"; echo "alone $(date +%s%N)" >>order'
program ./bad <<<'printf "ok 1 - a\nnot ok 2 - b\n1..2\n"'
program ./short <<<'printf "1..3\nok 1 - a\n"'
program ./planless <<<'echo "ok 1 - a"'
program ./dies <<<'printf "1..1\nok 1 - a\n"; kill -9 $$'
program ./silent <<<'true'
program ./hangs <<<'printf "1..1\nok 1 - a\n"; sleep 60'
says 0 "1 passed, 0 failed, 1 skipped" ./good
says 1 "2 passed, 1 failed, 1 skipped" ./bad ./good
says 1 "2 passed, 1 failed, 0 skipped" ./dies ./slow
says 1 "1 passed, 1 failed, 0 skipped" ./short
says 1 "1 passed, 1 failed, 0 skipped" ./planless
says 1 "0 passed, 1 failed, 0 skipped" ./silent
says 1 "0 passed, 1 failed, 0 skipped" ./not-there
says 1 "1 passed, 1 failed, 0 skipped" ./hangs
rm -f "$work/order"
says 0 "4 passed, 0 failed, 2 skipped" ./alone ./slow ./good ./good
[ "$(cut -d' ' -f1 "$work/order" | tr '\n' ' ')" = "good good slow alone " ]
ok $? "side by side; what must be alone comes after the others"
(cd "$work" && TEST_JOBS=2 "$OLDPWD/tests/run.sh" ./hangs ./hangs) >"$work/said" 2>&1 &
sleep 0.5
kill -TERM $!
wait $!
[ $? -eq 130 ] && ! pgrep -f "$work/hangs" >/dev/null
ok $? "interrupted, it leaves nothing running"
echo "1..$n"
