#!/usr/bin/env bash
# Debian packages in an empty Debian 12: made, read by lintian, installed with apt, used, compiled against, under systemd in a booted container
# (service_check.sh), removed without a trace. Root. AS_BUILT=1 takes the packages that are in build/deb. Prints TAP.
set -u
cd "$(dirname "$0")/../.." || exit 1
. tests/long/chroot_base.sh
why=$(no_chroot)
for c in lintian dh systemd-nspawn; do command -v $c >/dev/null || why="$c is missing: apt-get install debootstrap lintian debhelper systemd-container"; done
[ -z "$why" ] || { echo "ok 1 - Debian packages # SKIP $why"; echo "1..1"; exit 0; }
root=$PWD/build/chroot/debian.$$ log=$PWD/build/chroot/debian.$$.log
trap 'rm -rf "$root" "$log"' EXIT
n=0
ok() {
    n=$((n + 1))
    if [ "$1" = 0 ]; then echo "ok $n - $2"; else echo "not ok $n - $2"; tail -40 "$log" | sed 's/^/# /'; fi
}
inside() { in_chroot "$root" "$PWD/build/deb" "$1" >"$log" 2>&1 </dev/null; }
[ -n "${AS_BUILT:-}" ] || make --no-print-directory deb >"$log" 2>&1
ok $? "make deb"
(cd build/deb && lintian --allow-root --fail-on error,warning ./*.changes) >"$log" 2>&1 && ! [ -s "$log" ]
ok $? "lintian has no error and no warning"
if ! { make_base && copy_base "$root"; }; then echo "not ok $((n + 1)) - debootstrap"; exit 1; fi

apt="DEBIAN_FRONTEND=noninteractive apt-get -y -qq --no-install-recommends"
inside "apt-get update -qq && $apt install dataset-fashion-mnist systemd >/dev/null && dpkg-query -W -f='\${Package}\n' | sort >/before"
inside "$apt install /mnt/viaduct_*.deb"
ok $? "apt installs the program"
inside "! dpkg-query -W -f='\${Package}\n' | grep -E 'openmpi|slurm|python|gcc-[0-9]*\$|-dev\$'"
ok $? "... without MPI, Slurm, Python or a compiler"
# SPEC STEPS: of two sites
spec() {
    mkdir -p "$(dirname "$root$1")"
    sed -e "s/^  epochs: 5/  steps: $2/" -e 's/^checkpoint:.*/checkpoint: {every: 20 steps}/' -e '/^  prune:/d' -e '/^  quantize:/d' -e '/^  gate:/d' \
        -e 's/channels: \[24, 48\], hidden: 128/channels: [8, 16], hidden: 32/' jobs/examples/fashion-mnist.yaml >"$root$1"
}
spec /job.yaml 40
inside "viaduct run /job.yaml --dir /out && grep -q '\"status\": *\"completed\"' /out/report.json && rm -r /out && zcat /usr/share/man/man1/viaduct.1.gz >/dev/null"
ok $? "the installed program trains over two sites and exports"

for f in first second; do spec /etc/viaduct/$f.yaml 600; done
echo "viaduct: v1" >"$root/etc/viaduct/wrong.yaml"
install -m 755 tests/long/service_check.sh "$root/check.sh"
cat >"$root/etc/systemd/system/check.service" <<'E2'
[Unit]
After=multi-user.target
[Service]
ExecStart=/check.sh
[Install]
WantedBy=multi-user.target
E2
mkdir -p "$root/etc/systemd/system/multi-user.target.wants"
ln -s ../check.service "$root/etc/systemd/system/multi-user.target.wants/check.service"
if timeout 900 systemd-nspawn --quiet --register=no --keep-unit --private-network --directory="$root" --machine="viaduct-$$" --boot >"$log" 2>&1 </dev/null && grep -q '^1\.\.' "$root/check.tap"; then
    awk -v n=$n '/^(not )?ok [0-9]/ {sub(/ok [0-9]+/, "ok " ++n)} !/^1\.\./' "$root/check.tap"
    n=$((n + $(grep -cE '^(not )?ok' "$root/check.tap")))
else
    n=$((n + 1))
    echo "ok $n - runs as a service # SKIP systemd does not boot in a container here: $(tail -1 "$log" | cut -c1-100)"
fi
rm -rf "$root"/check.* "$root/etc/systemd/system/check.service" "$root/etc/systemd/system/multi-user.target.wants/check.service" "$root/etc/viaduct" "$root/job.yaml" \
    "$root/var/lib/viaduct" "$root/var/lib/private/viaduct"

inside "$apt install /mnt/libviaduct1_*.deb /mnt/libviaduct-dev_*.deb /mnt/viaduct-mpi_*.deb gcc libc6-dev pkg-config >/dev/null &&
    gcc -Wall -Werror -o /trainer /usr/share/doc/libviaduct-dev/examples/own_trainer.c \$(pkg-config --cflags --libs viaduct) -lm && ldd /trainer | grep -q 'libviaduct.so.1 => /'"
ok $? "a trainer compiles against libviaduct-dev"
spec /job.yaml 20
inside "viaduct run /job.yaml --dir /out --worker /trainer export=null && grep -q '\"status\": *\"completed\"' /out/report.json"
ok $? "... and runs"
rm -rf "$root/out" "$root/trainer" "$root/job.yaml"
inside "$apt purge --auto-remove viaduct viaduct-mpi libviaduct1 libviaduct-dev gcc libc6-dev pkg-config >/dev/null && dpkg-query -W -f='\${Package}\n' | sort | diff /before - &&
    ! find / -xdev -path /proc -prune -o -path /mnt -prune -o -path /tmp -prune -o -iname '*viaduct*' -print | grep ."
ok $? "purged, nothing of it is left"
echo "1..$n"
