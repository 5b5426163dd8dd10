#!/usr/bin/env bash
# What counts tests can fail: whatever goes wrong in a program is a failure of the whole, also beside others. Prints TAP.
set -u
cd "$(dirname "$0")/.." || exit 1
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
n=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; sed 's/^/# /' "$work/said"; fi; }
program() { { echo '#!/usr/bin/env bash'; cat; } >"$work/$1"; chmod +x "$work/$1"; }
run=$PWD/tests/run.sh
cd "$work" || exit 1
# says CODE LINE PROGRAM...: the exit code and the closing line
says() {
    local code=$1 line=$2; shift 2
    TEST_JOBS=3 "$run" "$@" >"$work/said" 2>&1
    [ $? -eq "$code" ] && [ "$(tail -n 1 "$work/said")" = "$line" ]
    ok $? "$* -> $line"
}
program ./good <<<'echo 1..2; echo "ok 1 - a"; echo "ok 2 - b # SKIP no time"; echo "good $(date +%s%N)" >>order'
program ./slow <<<'until [ "$(wc -l <order)" = 2 ]; do sleep 0.05; done; printf "ok 1 - a\n1..1\n"; echo "slow $(date +%s%N)" >>order'
program ./alone <<<'# alone: it measures
printf "ok 1 - a\n1..1\n"; echo "alone $(date +%s%N)" >>order'
program ./bad <<<'printf "ok 1 - a\nnot ok 2 - b\n1..2\n"'
program ./short <<<'printf "1..3\nok 1 - a\n"'
program ./planless <<<'echo "ok 1 - a"'
program ./dies <<<'printf "1..1\nok 1 - a\n"; kill -9 $$'
program ./silent <<<'true'
program ./signals <<<'ignored=$(awk "/SigIgn/ {print \$2}" /proc/self/status); [ $((0x$ignored & 2)) -eq 0 ] && echo "ok 1 - SIGINT is not ignored"; echo 1..1'
program ./hangs <<<'printf "1..1\nok 1 - a\n"; echo $$ >>hanging; exec sleep 600'
says 0 "1 passed, 0 failed, 1 skipped" ./good
says 1 "2 passed, 1 failed, 1 skipped" ./bad ./good
says 1 "2 passed, 1 failed, 1 skipped" ./dies ./good
says 1 "1 passed, 1 failed, 0 skipped" ./short
says 1 "1 passed, 1 failed, 0 skipped" ./planless
says 1 "0 passed, 1 failed, 0 skipped" ./silent
says 1 "0 passed, 1 failed, 0 skipped" ./not-there
says 0 "1 passed, 0 failed, 0 skipped" ./signals
TEST_TIMEOUT_S=2 says 1 "1 passed, 1 failed, 0 skipped" ./hangs
TEST_JOBS=0 "$run" ./good >said 2>&1
ok $? "as few as none side by side are one"
rm order
says 0 "4 passed, 0 failed, 2 skipped" ./alone ./slow ./good ./good
[ "$(cut -d' ' -f1 order | tr '\n' ' ')" = "good good slow alone " ]
ok $? "side by side; what must be alone comes after the others"
# A signal to run.sh, and Ctrl-C on a terminal, while two programs run and one waits.
for how in TERM ctrl-c; do
    rm hanging
    python3 - "$how" "$run" >said 2>&1 <<'PY'
import os, pty, signal, sys, time
how, run = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.environ["TEST_JOBS"] = "2"
    os.execv(run, [run, "./hangs", "./hangs", "./hangs"])
there = lambda: open("hanging").read().split() if os.path.exists("hanging") else []
while len(there()) < 2:
    time.sleep(0.02)
os.write(terminal, b"\x03") if how == "ctrl-c" else os.kill(pid, signal.SIGTERM)
code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
alive = [p for p in there() if os.path.exists(f"/proc/{p}")]
print(code, there(), alive)
sys.exit(code != 130 or len(there()) != 2 or bool(alive))
PY
    ok $? "$how: it ends, and leaves nothing running"
done
echo "1..$n"
