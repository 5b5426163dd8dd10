#!/usr/bin/env bash
# Installs what building, testing and the demo need (Debian). Does nothing when all of it is there. Asks once on a terminal, never otherwise.
set -u
build="gcc make pkg-config libuv1-dev libssl-dev libsqlite3-dev libjansson-dev libzstd-dev libxxhash-dev libyaml-dev libhdf5-dev libhwloc-dev zlib1g-dev
 libopenmpi-dev openmpi-bin libibverbs-dev dataset-fashion-mnist"
test="libcmocka-dev python3 python3-venv bc clang libclang-rt-14-dev shellcheck iproute2 iptables openssl chromium zstd"
wanted="$build"
[ "${1:-build}" = test ] && wanted="$build $test"
# What tests skip without, each line by itself; none of it is run as a service: shells and readers of man pages (tests/e2e/manual.py), a Slurm (slurm.py), a
# Prometheus (metrics.py), systemd-analyze (packaging.py).
optional=()
[ "${1:-build}" = test ] && optional+=("zsh fish" "mandoc groff-base")
[ "${1:-build}" = test ] && [ "$(id -u)" -eq 0 ] && optional+=("slurmctld slurmd slurm-client slurm-wlm-basic-plugins munge" "prometheus python3-yaml" "systemd")
not_there() {
    for p in "$@"; do
        dpkg-query -W -f='${Status}\n' "$p" 2>/dev/null | grep -q 'install ok installed' || printf ' %s' "$p"
    done
}
# shellcheck disable=SC2048,SC2086
missing=$(not_there $wanted) extra=$(not_there ${optional[*]})
[ -z "$missing$extra" ] && exit 0
if ! command -v apt-get >/dev/null; then
    [ -z "$missing" ] && exit 0
    echo "viaduct: this machine has no apt-get; install the equivalents of:$missing" >&2
    exit 1
fi
as_root=""
[ "$(id -u)" -eq 0 ] || as_root=sudo
echo "viaduct: installing:$missing$extra" >&2
if [ -t 0 ] && [ -t 2 ] && [ -z "${CI:-}" ]; then
    read -r -p "go on? [Y/n] " answer
    case "$answer" in n*|N*) exit 1 ;; esac
fi
export DEBIAN_FRONTEND=noninteractive
# shellcheck disable=SC2086
$as_root apt-get update -qq >/dev/null 2>&1
# shellcheck disable=SC2086
[ -z "$missing" ] || $as_root apt-get install -y -qq --no-install-recommends $missing >/dev/null || { echo "viaduct: apt-get could not install:$missing" >&2; exit 1; }
# RUNLEVEL=1: their packages start no services.
for packages in "${optional[@]}"; do
    # shellcheck disable=SC2086
    packages=$(not_there $packages)
    # shellcheck disable=SC2086
    [ -z "$packages" ] || RUNLEVEL=1 $as_root apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
        echo "viaduct: apt-get could not install:$packages; their tests will be skipped" >&2
done
# Nor at the next boot.
case "$extra" in *" prometheus"*) command -v systemctl >/dev/null && $as_root systemctl disable -q prometheus.service ;; esac
exit 0
