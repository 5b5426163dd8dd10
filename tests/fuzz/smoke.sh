#!/usr/bin/env bash
# Each fuzz target for FUZZ_SECONDS (default 5). Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
n=0
for f in build/fuzz/*; do
    [ -x "$f" ] && [ -f "$f" ] || continue
    n=$((n + 1))
    work=$(mktemp -d)
    # Good inputs to start from.
    case "$f" in
        */spec) cp jobs/examples/*.yaml tests/fixtures/specs/*.yaml "$work"/ ;;
        */card) cp tests/fixtures/model-card.json "$work"/ ;;
        */manifest) cp tests/fixtures/manifest-v1.json "$work"/ ;;
        */client_hello) grep -v '^#' tests/fixtures/client_hello.txt | while IFS='|' read -r name _ _ hex; do
                            printf '%b' "$(tr -d ' ' <<<"$hex" | sed 's/../\\x&/g')" >"$work/$(tr -d ' ' <<<"$name")"; done ;;
        */http) printf 'GET /metrics?a=b HTTP/1.1\r\nHost: localhost:9464\r\nAccept: text/plain\r\nContent-Length: 0\r\n\r\n' >"$work/get" ;;
        */idx) printf '\0\0\10\3\0\0\0\1\0\0\0\1\0\0\0\1\5' >"$work/images"; printf '\0\0\10\1\0\0\0\1\1' >"$work/labels" ;;
    esac
    if "$f" -max_total_time="${FUZZ_SECONDS:-5}" -rss_limit_mb=4096 -timeout=10 -artifact_prefix="$work/" "$work" >"$work.log" 2>&1; then
        echo "ok $n - $f ($(grep -oE 'Done [0-9]+ runs' "$work.log" | tail -1))"
    else
        echo "not ok $n - $f"
        tail -n 25 "$work.log" | sed 's/^/# /'
    fi
    rm -rf "$work" "$work.log"
done
[ "$n" -gt 0 ] || echo "not ok 1 - no fuzz target was built"
echo "1..$n"
