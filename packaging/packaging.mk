# Installing and packing: lists and scripts are in packaging/.
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
VERSION := $(shell sed -n 's/^\#define VIADUCT_VERSION "\(.*\)"/\1/p' base/base.h)
INSTALL_ENV := DESTDIR='$(DESTDIR)' PREFIX='$(PREFIX)' LIBDIR='$(LIBDIR)' VERSION=$(VERSION) SONAME=$(SONAME) BUILD=$B

# An empty Debian 12: its packages, the Apptainer definition, the README's two commands (CHROOT_TEST=test: `make test` in there, too).
PACKAGING_LONG := tests/long/debian.sh tests/long/apptainer.sh tests/long/chroot.sh

.PHONY: install uninstall bundle deb
#: install        into $(DESTDIR)$(PREFIX), /usr/local unless PREFIX= says so: program, library, header, viaduct.pc, plugins, examples, manual, completions, systemd unit
install: all
	@$(INSTALL_ENV) packaging/install.sh install
#: uninstall      takes away what `make install` with the same PREFIX and DESTDIR put there
uninstall:
	@$(INSTALL_ENV) packaging/install.sh uninstall

# ---- a folder that runs anywhere with a glibc that is not older than here ----
# DT_RPATH, not DT_RUNPATH: it holds for what the libraries need in their turn, and comes before an LD_LIBRARY_PATH that a site's modules have set.
# No build id: it would be of the debug information, so of the folder that the sources lie in.
BUNDLE := build/bundle
BUNDLE_LINK := $(CC) $(filter-out -rdynamic,$(ALL_LDFLAGS)) -s -Wl,--build-id=none,--disable-new-dtags
$(BUNDLE)/made/viaduct: $(foreach f,$(FOLDERS),$B/lib/$f.a)
	@echo "  LD $@"
	@mkdir -p $(@D) && $(BUNDLE_LINK) -Wl,-rpath,'$$ORIGIN/../lib' -o $@ -Wl,--start-group $^ -Wl,--end-group $(LIBS)
$(BUNDLE)/made/libviaduct.so: $(foreach f,$(CLOSURE_client),$B/lib/$f.a)
	@echo "  LD $@"
	@mkdir -p $(@D) && $(BUNDLE_LINK) -Wl,-rpath,'$$ORIGIN' -shared -Wl,-soname,$(SONAME) -o $@ -Wl,--whole-archive $B/lib/client.a \
	    -Wl,--no-whole-archive -Wl,--start-group $(filter-out %/client.a,$^) -Wl,--end-group $(LIBS)
$(BUNDLE)/made/viaduct-mpi.so: $B/collectives/mpi_plugin.o $B/lib/collectives.a $B/lib/base.a
	@mkdir -p $(@D) && $(BUNDLE_LINK) -shared -o $@ $^ $(shell pkg-config --libs ompi-c 2>/dev/null) $(LIBS)

#: bundle         build/bundle/viaduct-VERSION and the same as .tar.zst: with its own libraries, for nodes where nothing may be installed
bundle: all $(addprefix $(BUNDLE)/made/,viaduct libviaduct.so $(if $(OMPI),viaduct-mpi.so))
	@$(INSTALL_ENV) BUNDLE=$(BUNDLE) packaging/bundle.sh

#: deb            Debian packages into build/deb: viaduct, viaduct-mpi, libviaduct1, libviaduct-dev
deb:
	@VERSION=$(VERSION) packaging/deb.sh
