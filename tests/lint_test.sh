#!/usr/bin/env bash
# The house is in order, and the lint can fail: it must catch an include that goes the wrong way. Prints TAP.
set -u
cd "$(dirname "$0")/.." || exit 1
if bash tests/lint.sh; then echo "ok 1 - lint"; else echo "not ok 1 - lint"; fi
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -r base device net model jobs report data engine ckpt collectives slurm export coordinator ps client worker agent cli tests "$copy"/ 2>/dev/null
printf '#include "engine/engine.h"\n#include "data/idx.h"\n' >>"$copy/client/wrong.c"
found=$(cd "$copy" && bash tests/lint.sh 2>&1)
grep -q 'client/ may not include engine/' <<<"$found" && grep -q 'data/idx.h' <<<"$found"
if [ $? = 0 ]; then echo "ok 2 - lint catches includes that go the wrong way"; else echo "not ok 2 - lint missed a wrong include"; fi
scripts=(tests/*.sh tests/*/*.sh bench/*.sh packaging/*.sh)
shellcheck -S warning "${scripts[@]}" >/dev/null 2>&1
if [ $? = 0 ]; then echo "ok 3 - shellcheck"; else echo "not ok 3 - shellcheck"; shellcheck -S warning -f gcc "${scripts[@]}" | sed 's/^/# /'; fi
echo "1..3"
