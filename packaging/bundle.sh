#!/usr/bin/env bash
# bundle.sh: lays BUNDLE/viaduct-VERSION out as a prefix of its own, adds every shared library that is not glibc's with its licence, and packs it: the
# same bytes from the same sources and libraries. SOURCE_DATE_EPOCH: the date of all files, else the last commit's.
set -eu
name=viaduct-$VERSION packed=$BUNDLE/viaduct-$VERSION-$(uname -m).tar.zst
root=$BUNDLE/$name
command -v zstd >/dev/null || { echo "make bundle: zstd is missing: apt-get install zstd" >&2; exit 1; }
rm -rf "$root" "$packed"
DESTDIR='' PREFIX=$(realpath -m "$root") LIBDIR=$(realpath -m "$root")/lib PC_PREFIX="\${pcfiledir}/../.." \
    PROGRAM=$BUNDLE/made/viaduct LIBRARY=$BUNDLE/made/libviaduct.so PLUGINS=$BUNDLE/made packaging/install.sh install >/dev/null
rm -r "$root/lib/systemd"   # its paths are a system's

# The host's own: what must fit its kernel, and the loader that the program names. MPI too: the plugin is loaded only inside a world of the host's MPI.
glibc='^(ld-linux.*|lib(c|m|dl|rt|pthread|resolv|util|anl|mvec|nss_.*|BrokenLocale)\.so.*)$'
licences=$root/share/doc/viaduct/licences
mkdir -p "$licences"
ldd "$BUNDLE/made/viaduct" "$BUNDLE/made/libviaduct.so" | awk '$2 == "=>" && $3 ~ "^/" {print $1, $3}' | sort -u | while read -r soname path; do
    ! [[ $soname =~ $glibc ]] || continue
    install -m 755 "$path" "$root/lib/$soname"
    real=$(realpath "$path")
    package=$(dpkg-query -S "$real" "${real#/usr}" 2>/dev/null | sed -n '1s/:.*//p')   # Debian lists some by where /lib used to be
    [ -z "$package" ] || install -m 644 "/usr/share/doc/$package/copyright" "$licences/$package"
    if [ -n "$package" ]; then dpkg-query -W -f="$soname \${Package} \${Version}\n" "$package" | head -1; else echo "$soname - -"; fi
done >"$root/share/doc/viaduct/libraries"

needs=$(find "$root/bin" "$root/lib" -type f -exec objdump -T {} + 2>/dev/null | grep -oE 'GLIBC_[0-9.]+' | sort -uV | tail -1)
echo "$needs" >"$root/share/doc/viaduct/glibc"
date=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y base/base.h)}
tar -C "$BUNDLE" --format=gnu --sort=name --mtime="@$date" --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -cf - "$name" | zstd -q -T1 -12 -f -o "$packed"
echo "$packed: $(stat -c %s "$packed") bytes, $(wc -l <"$root/share/doc/viaduct/libraries") libraries; the host needs glibc ${needs#GLIBC_} or newer"
