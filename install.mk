# make install          PREFIX=/usr/local and the folders below it; DESTDIR= to stage
# make uninstall        with the same settings
# make install-list     what that puts where
# make deb              Debian packages, in $(B)/deb
# make test-deb         they build, install, work and go again; part of make test

PREFIX ?= /usr/local
BINDIR ?= $(PREFIX)/bin
LIBDIR ?= $(PREFIX)/lib
INCLUDEDIR ?= $(PREFIX)/include
DATADIR ?= $(PREFIX)/share
MANDIR ?= $(DATADIR)/man
DOCDIR ?= $(DATADIR)/doc/taskrt
UNITDIR ?= $(PREFIX)/lib/systemd/system
VERSION := $(shell sed -n 's/^.define TASKRT_VERSION "\(.*\)"/\1/p' \
	taskrt/include/taskrt/taskrt.h)

# Debian's static libuv has another name.
static_uv := $(if $(filter /%,$(call crt,libuv_a.a)),-luv_a,-luv)

.PHONY: install uninstall install-list
install: libs programs $(B)/install/libtaskrt.so.0
install uninstall install-list:
	@$(foreach v,DESTDIR PREFIX BINDIR LIBDIR INCLUDEDIR DATADIR MANDIR \
		DOCDIR UNITDIR VERSION,$(v)='$($(v))') \
		PRIVATE_LIBS='$(DSM_LIBS:-luv=$(static_uv))' \
		tools/install.sh $(@:install-list=list) $(B)

.PHONY: deb test-deb
deb:
	@tools/setup.sh deb
	@tools/deb.sh $(B)/deb

test-deb:
	@BUILD=$(B) tests/e2e/run.sh deb
