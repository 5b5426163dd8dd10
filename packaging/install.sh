#!/usr/bin/env bash
# install.sh install|uninstall: what `make install` puts where, as one list that both directions walk. From the environment: DESTDIR, PREFIX, LIBDIR,
# VERSION, SONAME, BUILD (the object tree), PC_PREFIX (what viaduct.pc says instead of PREFIX: a bundle moves).
set -eu
made=$BUILD/packaging
share=$PREFIX/share
real=$SONAME.$VERSION

# MODE SOURCE TARGET; a link has its text as source. The plugin is passed over where there was no Open MPI to build it with.
files() {
    echo "755 ${PROGRAM:-viaduct} $PREFIX/bin/viaduct"
    echo "644 ${LIBRARY:-libviaduct.so} $LIBDIR/$real"
    echo "link $real $LIBDIR/$SONAME"
    echo "link $SONAME $LIBDIR/libviaduct.so"
    echo "644 $made/viaduct.pc $LIBDIR/pkgconfig/viaduct.pc"
    echo "644 client/viaduct.h $PREFIX/include/viaduct/viaduct.h"
    echo "644 ${PLUGINS:-$BUILD/plugins}/viaduct-mpi.so $PREFIX/lib/viaduct/viaduct-mpi.so"
    for f in jobs/examples/*.yaml; do echo "644 $f $share/viaduct/examples/${f##*/}"; done
    echo "644 $made/own_trainer.c $share/viaduct/examples/own_trainer.c"
    echo "644 $made/viaduct.1 $share/man/man1/viaduct.1"
    echo "644 $made/viaduct-spec.5 $share/man/man5/viaduct-spec.5"
    echo "644 $made/viaduct.bash $share/bash-completion/completions/viaduct"
    echo "644 $made/viaduct.zsh $share/zsh/site-functions/_viaduct"
    echo "644 $made/viaduct.fish $share/fish/vendor_completions.d/viaduct.fish"
    echo "644 packaging/viaduct-coordinator@.service $PREFIX/lib/systemd/system/viaduct-coordinator@.service"
    for f in report/monitoring/*; do echo "644 $f $share/viaduct/monitoring/${f##*/}"; done
    for f in README.md docs/manual/*.md; do echo "644 $f $share/doc/viaduct/$f"; done
}

# What is written for this place, from the sources and from the program's own words.
make_texts() {
    ./viaduct help --man >"$made/viaduct.1"
    ./viaduct schema --man >"$made/viaduct-spec.5"
    sed 's|"client/viaduct.h"|<viaduct/viaduct.h>|' tests/e2e/own_trainer.c >"$made/own_trainer.c"
    for shell in bash zsh fish; do ./viaduct completion $shell >"$made/viaduct.$shell"; done
    cat >"$made/viaduct.pc" <<EOF
prefix=${PC_PREFIX:-$PREFIX}
libdir=\${prefix}${LIBDIR#"$PREFIX"}
includedir=\${prefix}/include

Name: viaduct
Description: what a training program of one's own links to join a Viaduct run
Version: $VERSION
Cflags: -I\${includedir}
Libs: -L\${libdir} -lviaduct
EOF
}

put() {
    if [ "$1" = link ]; then
        mkdir -p "$(dirname "$3")" && ln -sfn "$2" "$3"
    elif [ -e "$2" ] || [ "${2##*/}" != viaduct-mpi.so ]; then
        install -D -m "$1" "$2" "$3"
    fi
}

case $1 in
    install)
        mkdir -p "$made"
        make_texts
        files | while read -r mode source target; do put "$mode" "$source" "$DESTDIR$target"; done
        [ -n "$DESTDIR" ] || ldconfig 2>/dev/null || true
        echo "installed into $DESTDIR$PREFIX: bin/viaduct, ${LIBDIR#"$PREFIX"/}/$SONAME, include/viaduct/viaduct.h" ;;
    uninstall)
        files | while read -r _ _ target; do
            rm -f "$DESTDIR$target"
        done
        for d in lib/viaduct include/viaduct share/viaduct/examples share/viaduct/monitoring share/viaduct share/doc/viaduct/docs/manual share/doc/viaduct/docs share/doc/viaduct; do   # the others are not ours
            [ ! -d "$DESTDIR$PREFIX/$d" ] || rmdir --ignore-fail-on-non-empty "$DESTDIR$PREFIX/$d"
        done ;;
esac
