#!/usr/bin/env bash
# The README as a new user meets it: an empty Debian 12, git and make, a clone of what is committed here, `make demo`; with CHROOT_TEST=test
# also `make test` (its own closing line is shown). Root. KEEP=DIR leaves the machine there. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/long/chroot_base.sh
why=$(no_chroot)
[ -z "$why" ] || { echo "ok 1 - README in an empty Debian 12 # SKIP $why"; echo "1..1"; exit 0; }
make_base || { tail -5 "$base.log"; echo "not ok 1 - debootstrap"; echo "1..1"; exit 1; }
root=${KEEP:-build/chroot/readme.$$}
root=$(realpath -m "$root")
[ -n "${KEEP:-}" ] || trap 'rm -rf "$root"' EXIT
copy_base "$root" || exit 1
n=0
# NAME COMMAND: in the clone
step() {
    local begin rc
    begin=$(date +%s)
    in_chroot "$root" "$PWD" "$2" >"$root.log" 2>&1 </dev/null
    rc=$?
    n=$((n + 1))
    sed 's/^/# /' "$root.log" | tail -n "$([ $rc = 0 ] && echo 3 || echo 60)"
    if [ $rc = 0 ]; then echo "ok $n - $1 ($(($(date +%s) - begin)) s)"; else echo "not ok $n - $1"; echo "1..$n"; exit 1; fi
}
step "git and make, a clone" "apt-get update -qq && apt-get install -y -qq --no-install-recommends git make >/dev/null && git clone -q /mnt /root/viaduct"
step "make demo" "cd /root/viaduct && make demo"
path=$(sed -n 's/^report: //p' "$root.log" | tail -1)
grep -q '"status": *"completed"' "$root$path"
step "its last line names the report of a completed run" "[ $? = 0 ]"
[ "${CHROOT_TEST:-}" != test ] || step "make test" "cd /root/viaduct && make test"
rm -f "$root.log"
echo "1..$n"
