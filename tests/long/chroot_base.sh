# shellcheck shell=bash
# Sourced: an empty Debian 12 to try things in, made once (build/chroot/base), and commands inside a copy of it.
base=$PWD/build/chroot/base

# Says why not, when there can be none.
no_chroot() {
    [ "$(id -u)" -eq 0 ] || { echo "a chroot needs root"; return; }
    command -v debootstrap >/dev/null || { echo "debootstrap is missing: apt-get install debootstrap"; return; }
    unshare --mount --pid --fork true 2>/dev/null || echo "this machine gives no mount namespace"
}

# What debootstrap calls minbase: apt and what apt needs; no make, no compiler, no git.
make_base() {
    [ -e "$base.done" ] && return
    rm -rf "$base"
    mkdir -p "$base"
    debootstrap --variant=minbase bookworm "$base" >"$base.log" 2>&1 && touch "$base.done"
}

# DIR [COMMAND...]: an own copy of the base.
copy_base() {
    mkdir -p "$(dirname "$1")" && cp -a --reflink=auto "$base" "$1"
}

# ROOT SOURCE|- COMMAND: bash -c COMMAND in ROOT, SOURCE readable at /mnt. Mounts and processes are those of namespaces and end with it.
in_chroot() {
    ROOT=$1 SOURCE=$2 COMMAND=$3 unshare --mount --propagation private --pid --fork --kill-child --ipc bash -c '
        mount --bind "$ROOT" "$ROOT"   # a mount point as / is: what makes namespaces in there wants one
        mount -t proc proc "$ROOT/proc" && mount -t tmpfs -o mode=755 tmpfs "$ROOT/dev" || exit 1
        mkdir "$ROOT/dev/shm" "$ROOT/dev/pts"
        mount -t tmpfs -o mode=1777 tmpfs "$ROOT/dev/shm" && mount -t devpts -o newinstance,ptmxmode=0666 devpts "$ROOT/dev/pts" || exit 1
        for d in null zero full random urandom tty; do touch "$ROOT/dev/$d"; mount --bind "/dev/$d" "$ROOT/dev/$d" || exit 1; done
        ln -s pts/ptmx "$ROOT/dev/ptmx"
        for i in 0 1 2; do ln -s "/proc/self/fd/$i" "$ROOT/dev/$(echo stdin stdout stderr | cut -d" " -f$((i + 1)))"; done
        ln -s /proc/self/fd "$ROOT/dev/fd"
        mount --rbind /sys "$ROOT/sys"   # with its control groups
        [ "$SOURCE" = - ] || mount --bind "$SOURCE" "$ROOT/mnt" || exit 1
        exec chroot "$ROOT" /usr/bin/env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root TERM=dumb ${CI:+CI="$CI"} bash -c "$COMMAND"'
}
