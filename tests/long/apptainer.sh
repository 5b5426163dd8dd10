#!/usr/bin/env bash
# packaging/viaduct.def without apptainer, which Debian 12 does not have: its %files, %post, %test and %runscript carried out in an empty Debian 12.
# Root. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/long/chroot_base.sh
why=$(no_chroot)
[ -z "$why" ] || { echo "ok 1 - the Apptainer definition # SKIP $why"; echo "1..1"; exit 0; }
root=$PWD/build/chroot/apptainer.$$
trap 'rm -rf "$root" "$root.log"' EXIT
if ! { make_base && copy_base "$root"; }; then echo "not ok 1 - debootstrap"; exit 1; fi
n=0
section() { awk -v want="%$1" '/^%/ {on = $1 == want; next} on' packaging/viaduct.def; }
# NAME SECTION ARGUMENTS
step() {
    section "$2" >"$root/section.sh"
    in_chroot "$root" - "$(section environment); sh /section.sh ${3:-}" >"$root.log" 2>&1 </dev/null
    local rc=$?
    n=$((n + 1))
    if [ $rc = 0 ]; then echo "ok $n - $1"; else echo "not ok $n - $1"; tail -40 "$root.log" | sed 's/^/# /'; fi
}
# %files copies the folder of the clone; what git does not know stays away here, as it would in a fresh clone.
mkdir -p "$root/usr/src/viaduct"
git ls-files -z | tar -c --null -T - | tar -x -C "$root/usr/src/viaduct"
step "%post builds and installs" post
left=$(find "$root/usr/src" "$root/var/lib/apt/lists" -mindepth 1 2>/dev/null)
n=$((n + 1))
if [ -z "$left" ]; then echo "ok $n - neither sources nor lists are left"; else echo "not ok $n - left: ${left:0:300}"; fi
step "%test passes" test
step "%runscript is the program" runscript version
echo "1..$n"
