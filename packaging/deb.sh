#!/usr/bin/env bash
# deb.sh: Debian packages of the tree as it stands (what git knows and does not ignore), into build/deb. Unit tests are run when DEB_BUILD_OPTIONS
# is set without nocheck; what is missing is said by dpkg-buildpackage.
set -eu
out=build/deb tree=build/deb/viaduct-$VERSION
command -v dh >/dev/null || { echo "make deb: debhelper is missing: apt-get install debhelper dpkg-dev" >&2; exit 1; }
rm -rf "$out"
mkdir -p "$tree"
git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh | tar -c --null -T - | tar -x -C "$tree"
date=$(dpkg-parsechangelog -l packaging/debian/changelog -S Timestamp)
tar -C "$out" --sort=name --mtime="@$date" --owner=0 --group=0 --numeric-owner -cJf "$out/viaduct_$VERSION.orig.tar.xz" "viaduct-$VERSION"
cp -r packaging/debian "$tree/debian"
cd "$tree"
DEB_BUILD_OPTIONS=${DEB_BUILD_OPTIONS:-nocheck parallel=$(nproc)} dpkg-buildpackage -us -uc >../build.log 2>&1 || { tail -30 ../build.log; exit 1; }
cd .. && ls ./*.deb
