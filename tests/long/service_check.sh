#!/bin/bash
# Inside the booted container (tests/long/service.sh): runs as a service under the unit's whole sandbox. TAP into /check.tap, then power off.
exec >/check.tap 2>/check.err
n=0
ok() {
    n=$((n + 1))
    if [ "$1" = 0 ]; then echo "ok $n - $2"; return; fi
    echo "not ok $n - $2"
    journalctl -u "viaduct-coordinator@$run" --no-pager -o cat | tail -20 | cut -c1-160 | sed 's/^/# /'
}
unit() { systemctl show -P "$1" "viaduct-coordinator@$run"; }
dir() { echo "/var/lib/viaduct/$run"; }
step() { tail -1 "$(dir)/metrics.jsonl" 2>/dev/null | sed -n 's/^{"step":\([0-9]*\).*/\1/p'; }
# SECONDS COMMAND...: until it says yes
until_so() { local end=$((SECONDS + $1)); shift; while ! "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep 0.1; done; }
is() { [ "$(unit "$1")" = "$2" ]; }
past() { local s; s=$(step); [ "${s:-0}" -ge "$1" ]; }
report() { sed -n "s/.*\"$1\": *\"\?\([^\",}]*\).*/\1/p" "$(dir)/report.json" | head -1; }

run=first
systemctl start "viaduct-coordinator@$run"
until_so 300 is ActiveState inactive
[ "$(unit Result)" = success ] && [ "$(report status)" = completed ] && [ -e "$(dir)/export/float/model.onnx" ]
ok $? "a run of two sites trains and exports as a service"
systemctl start "viaduct-coordinator@$run"
until_so 60 is ActiveState inactive
[ "$(unit Result)" = success ] && [ "$(unit NRestarts)" = 0 ]
ok $? "started again when it is complete, it ends well"
sha=$(report weights_sha256)

run=second
systemctl start "viaduct-coordinator@$run"
until_so 120 past 25
pid=$(unit MainPID)
grep -q '^Seccomp:[[:space:]]*2' "/proc/$pid/status" && grep -q '^NoNewPrivs:[[:space:]]*1' "/proc/$pid/status" && grep -q '^CapBnd:[[:space:]]*0*$' "/proc/$pid/status" &&
    [ "$(stat -c %u "/proc/$pid")" -ge 61184 ]
ok $? "it runs under its filter of system calls, without capabilities, as a user of its own"
nsenter --target "$pid" --mount --setuid "$(stat -c %u "/proc/$pid")" viaduct status "$(dir)" >/check.status 2>&1 && grep -q running /check.status
ok $? "viaduct status sees it when it is asked as the unit's head says"
systemctl kill --kill-who=main -s KILL "viaduct-coordinator@$run"
at=$(step)
until_so 120 is NRestarts 1 && until_so 120 is ActiveState active && until_so 120 past $((at + 25))
ok $? "killed after step $at, it is started again and goes on"
systemctl stop "viaduct-coordinator@$run"
[ "$(unit Result)" = success ] && [ "$(unit ActiveState)" = inactive ] && [ "$(report status)" = stopped ]
ok $? "systemctl stop saves and stops"
at=$(step)
systemctl start "viaduct-coordinator@$run"
until_so 300 is ActiveState inactive
[ "$(unit Result)" = success ] && [ "$(report status)" = completed ] && [ "$(report weights_sha256)" = "$sha" ]
ok $? "started again it goes on after step $at to the weights of a run that was left alone"

run=wrong
systemctl start "viaduct-coordinator@$run"
until_so 60 is ActiveState failed
[ "$(unit NRestarts)" = 0 ] && [ "$(unit ExecMainStatus)" = 2 ]
ok $? "a spec that is wrong is not tried again"
run=away
systemctl start "viaduct-coordinator@$run"
is ConditionResult no && is ActiveState inactive
ok $? "without a spec it does not start"
echo "1..$n"
sync
systemctl poweroff
