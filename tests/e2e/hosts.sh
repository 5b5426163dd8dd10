#!/usr/bin/env bash
# One gang over several hosts, which are network namespaces joined by a veth pair: the bits of one host, only the bytes that must cross, deaths; and a whole
# run whose ranks are on "hosts" of the loopback. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
tree=${VIADUCT_TREE:-build/release}
driver=$tree/tests/e2e/coll_driver
work=$(mktemp -d)
n=0
ok() { n=$((n + 1)); if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; cat "$work"/out* 2>/dev/null | sed 's/^/# /' | head -20; fi; }
skip() { n=$((n + 1)); echo "ok $n - $1 # SKIP $2"; }
a=vd-$$-a b=vd-$$-b
clean() {
    ip netns del "$a" 2>/dev/null
    ip netns del "$b" 2>/dev/null
    rm -rf "$work"
}
trap clean EXIT

hosts_are_there() {
    ip netns add "$a" && ip netns add "$b" && ip link add vda netns "$a" type veth peer name vdb netns "$b" || return 1
    ip -n "$a" addr add 10.77.0.1/24 dev vda && ip -n "$b" addr add 10.77.0.2/24 dev vdb || return 1
    for d in "$a lo" "$a vda" "$b lo" "$b vdb"; do
        # shellcheck disable=SC2086
        set -- $d
        ip -n "$1" link set "$2" up || return 1
    done
}

# Starts both hosts' drivers of a gang: LANES-ARGUMENTS ROUNDS STALL TIMEOUT HOSTS
gang() {
    local lanes=$1 rounds=$2 stall=$3 timeout=$4 hosts=$5 ranks dir
    ranks=$(tr ',' '\n' <<<"$hosts" | wc -l)
    dir=$(mktemp -d "$work/gang-XXXX")
    # shellcheck disable=SC2086
    timeout 100 ip netns exec "$a" "$driver" tcp "$ranks" $lanes "$rounds" "$stall" "$timeout" "$dir" "$hosts" 0 tls:10.77.0.1:0 >"$work/out0" 2>"$work/out0.err" &
    pid0=$!
    # shellcheck disable=SC2086
    timeout 100 ip netns exec "$b" "$driver" tcp "$ranks" $lanes "$rounds" "$stall" "$timeout" "$dir" "$hosts" 1 tls:10.77.0.2:0 >"$work/out1" 2>"$work/out1.err" &
    pid1=$!
    gang_dir=$dir
}
ends() { wait "$pid0"; rc0=$?; wait "$pid1"; rc1=$?; }
# When all ranks have opened their ports: they are in their rounds soon.
wait_for_ranks() { for _ in $(seq 200); do [ "$(find "$gang_dir" -name 'rank-?' | wc -l)" = "$1" ] && break; sleep 0.1; done; sleep 1; }
sent() { ip netns exec "$1" cat "/sys/class/net/$2/statistics/tx_bytes"; }

over_namespaces() {
    for lanes in "8 0 8" "7 1 6" "8 3 3"; do
        # shellcheck disable=SC2086
        want=$($driver shm 1 $lanes 3 2>"$work/out")
        for hosts in 0,0,1,1 0,1,1,1 0,1 0,1,0,1; do
            gang "$lanes" 3 0 20000 "$hosts"
            ends
            [ -n "$want" ] && [ "$(cat "$work/out0")" = "$want" ]
            ok $? "lanes $lanes, ranks on hosts $hosts: every bit as in one rank"
        done
    done

    before_a=$(sent "$a" vda) before_b=$(sent "$b" vdb)
    gang "8 0 8" 20 0 20000 0,0,1,1
    ends
    for way in "$a vda 0 1 $before_a" "$b vdb 1 0 $before_b"; do
        # shellcheck disable=SC2086
        set -- $way
        must=$($driver bytes 4 8 0 8 20 0,0,1,1 "$3" "$4")
        did=$(($(sent "$1" "$2") - $5))
        echo "# host $3 to host $4: $did bytes on the wire, $must must cross" | tee "$work/out"
        [ "$did" -ge "$must" ] && [ "$did" -le $((must + must / 20 + 200000)) ]
        ok $? "20 rounds send from host $3 to host $4 what must cross, and 5 % at most for TLS, TCP and headers"
    done

    gang "8 0 8" 3 3000 700 0,0,1,1       # rank 3 stops for longer than the deadline
    ends
    [ "$rc0" != 0 ] && [ "$rc1" != 0 ] && grep -q "rank 0: rank 3 (host 1, tls:10.77.0.2:.*slower than the deadline of 700 ms" "$work/out0.err"
    ok $? "a rank that stops meets the deadline, and is named on the other host"

    gang "8 0 8" 1000000 0 30000 0,0,1,1
    wait_for_ranks 4
    victim=$(pgrep -f "coll_driver tcp .* $gang_dir .* 1 tls" | tail -1)
    begin=$(date +%s)
    kill -9 "$victim"
    ends
    [ "$rc0" != 0 ] && [ "$rc1" != 0 ] && [ $(($(date +%s) - begin)) -lt 20 ] && grep -q "rank 0: rank [23] (host 1" "$work/out0.err"
    ok $? "a killed rank ends the gang on both hosts before any deadline, and is named"

    gang "8 0 8" 1000000 0 3000 0,0,1,1
    wait_for_ranks 4
    ip -n "$b" link set vdb down
    ends
    ip -n "$b" link set vdb up
    [ "$rc0" != 0 ] && [ "$rc1" != 0 ] && grep -q "rank 0: rank [23] (host 1, tls:10.77.0.2" "$work/out0.err" && grep -q "rank 3: rank [01] (host 0, tls:10.77.0.1" "$work/out1.err"
    ok $? "hosts that lose each other both give the gang up at the deadline, naming the other"
}

# A whole run of which each rank believes to be on a host of its own.
whole_run() {
    cat >"$work/trainer" <<'SH'
#!/bin/sh
VIADUCT_HOST_INDEX=$((VIADUCT_RANK / RANKS_A_HOST)) exec "$VIADUCT" worker --run "$VIADUCT_RUN" --site "$VIADUCT_SITE" --rank "$VIADUCT_RANK" --incarnation "$VIADUCT_INCARNATION"
SH
    chmod +x "$work/trainer"
    RANKS_A_HOST="$1" VIADUCT="$PWD/viaduct" python3 tests/e2e/hosts.py "$work" "$1" "$2"
}

if [ "$(id -u)" != 0 ] || ! command -v ip >/dev/null; then
    skip "one gang over two network namespaces" "needs root and ip (apt-get install iproute2)"
elif ! hosts_are_there 2>"$work/out"; then
    skip "one gang over two network namespaces" "this machine makes no namespaces: $(head -1 "$work/out")"
else
    over_namespaces
fi
whole_run 2 4 >"$work/out" 2>&1
ok $? "a whole run of four ranks on two hosts, and one whose rank is killed: complete, the weights of one rank"
echo "1..$n"
