#!/usr/bin/env bash
# Checkpoints read back by h5py: by name, from another working directory, after the folder was moved, and with a part missing. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
here=$PWD venv=$PWD/build/venv-ckpt
if ! "$venv/bin/python" -c 'import h5py, numpy' 2>/dev/null; then
    { python3 -m venv "$venv" && "$venv/bin/pip" install -q h5py numpy; } >&2 || { echo "ok 1 - h5py # SKIP h5py could not be installed"; echo "1..1"; exit 0; }
fi
ok() { if [ "$1" = 0 ]; then echo "ok - $2"; else echo "not ok - $2"; fi; }
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
build/release/tests/oracle/ckpt_driver "$work/onprem/step-00000200" || { echo "not ok 1 - ckpt_driver"; exit 1; }
cd / && "$venv/bin/python" "$here/tests/oracle/ckpt_h5py.py" "$work/onprem/step-00000200"
mkdir "$work/elsewhere" && mv "$work/onprem" "$work/elsewhere/moved"
cd "$work" && "$venv/bin/python" "$here/tests/oracle/ckpt_h5py.py" "$work/elsewhere/moved/step-00000200"
"$here/viaduct" ckpt verify "$work/elsewhere/moved/step-00000200" >/dev/null
ok $? "viaduct ckpt verify finds every byte right"
rm "$work"/elsewhere/moved/step-00000200/part-0001-00000200-00.h5
"$venv/bin/python" "$here/tests/oracle/ckpt_h5py.py" "$work/elsewhere/moved/step-00000200" missing
"$here/viaduct" ckpt verify "$work/elsewhere/moved/step-00000200" 2>&1 | grep -q 'part-0001-00000200-00.h5'
ok $? "verify names the missing part"
echo "1..2"
