# make [all]            libraries, programs, examples, benchmarks, test programs
# make test             everything below tests/; last line "N passed, N failed"
# make soak             clusters that are broken at random: SEEDS=A-B MINUTES=M
# make test-rdma        the part of it that needs an RDMA device, in a virtual machine
# make test T=dsm.wire  the unit suites whose name starts with that
# make demo             render a picture on all cores: examples/demo.sh
# make bench            one JSON object a line
# make bench-rdma       those that need an RDMA device, in that virtual machine
# make lint             layout, clang-tidy, shellcheck, layers
# make fuzz             libFuzzer over tests/fuzz, FUZZ_SECONDS each (60)
# make install          see install.mk, also for packages
#
# Variants, each with a build folder of its own: SANITIZE=address|undefined|
# thread (commas join several), CC=clang. V=1 shows the commands.

SHELL := /bin/bash
.DELETE_ON_ERROR:
.SUFFIXES:

ifeq ($(origin CC),default)
CC := gcc
endif
# The C++ compiler that belongs to CC.
ifeq ($(origin CXX),default)
CXX := $(if $(findstring clang,$(CC)),clang++,g++)
endif
STRIP ?= strip
SANITIZE ?=
T ?=
FUZZ_SECONDS ?= 60

comma := ,
empty :=
space := $(empty) $(empty)
variant := $(if $(filter-out gcc,$(CC)),-$(notdir $(CC)))
variant := $(variant)$(if $(SANITIZE),-$(subst $(comma),-,$(SANITIZE)))
B ?= build$(variant)

Q := $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' $(1) $(patsubst $(B)/%,%,$@);)

# --- flags ---

CFLAGS ?= $(if $(SANITIZE),-O1,-O2) -g
WERROR ?= -Werror
WARN := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla \
	$(WERROR)
BASE_FLAGS := -std=gnu11 -D_GNU_SOURCE -Idsm/include -Itaskrt/include -MMD -MP \
	-fno-omit-frame-pointer -pthread $(WARN)
SAN_FLAGS := $(if $(SANITIZE),-fsanitize=$(SANITIZE) -fno-sanitize-recover=all)
ALL_CFLAGS = $(BASE_FLAGS) -fPIC -fvisibility=default $(SAN_FLAGS) $(CPPFLAGS) \
	$(CFLAGS)
# Programs that use the library from C++; the library itself is C.
CXX_ONLY_NOT := -std=% -Wstrict-prototypes -Wmissing-prototypes
ALL_CXXFLAGS = -std=gnu++17 $(filter-out $(CXX_ONLY_NOT),$(ALL_CFLAGS))
ALL_LDFLAGS = -pthread $(SAN_FLAGS) $(LDFLAGS)
DSM_LIBS := -luv -llz4 -lurcu-bp -lurcu-cds -lm -lpthread -ldl

# The slot is static, lies where no client maps anything, and has code that runs
# on the client's thread pointer: no stack protector, no sanitizer, ever.
SLOT_CFLAGS := $(BASE_FLAGS) -O2 -g -fPIE -fno-stack-protector \
	-fcf-protection=none -U_FORTIFY_SOURCE
# So far from zero, what is not position independent does not link: gcc's
# crtbegin files (left out: C needs nothing of them), calls of functions that
# libc.a leaves undefined (pulled in with -u, or made _init, which does nothing),
# crt1.o's shortened GOT accesses (--no-relax).
crt = $(shell $(CC) -print-file-name=$(1))
SLOT_LDFLAGS := -static -pthread -nostartfiles \
	-Wl,--no-relax,--eh-frame-hdr \
	-Wl,-u,__pthread_unwind,-u,__call_tls_dtors \
	-Wl,--wrap=mmap,--wrap=time,--wrap=gettimeofday \
	-Wl,--defsym=__pthread_initialize_minimal=_init
SLOT_CRT = $(call crt,crt1.o) $(call crt,crti.o) $(call crt,crtn.o)
SLOT_ADDR_a := 0x1a0000000000
SLOT_ADDR_b := 0x3a0000000000
# The worker's has libibverbs in it, with all providers.
SLOT_VERBS_LIBS = -Wl,--start-group \
	$(filter-out -lpthread,$(shell pkg-config --static --libs libibverbs)) \
	-Wl,--end-group

# --- sources ---

obj = $(patsubst %,$(B)/obj/%.o,$(basename $(1)))

# verbs_static.c is the static slot's way to libibverbs; TLS is tls_private.o.
dsm_src := $(filter-out %/verbs_static.c %/tls.c %/tls_handshake.c,$(wildcard \
	$(addprefix dsm/,$(addsuffix /*.c,base wire transport heap image))))
tls_src := dsm/transport/tls.c dsm/transport/tls_handshake.c
# TLS with an OpenSSL of its own, none of whose names are seen: a program's tasks
# must not see what it works on, so its memory is ours to place, and the program
# may have an OpenSSL besides. The daemons, which serve no memory, use the system's.
tls_private := $(B)/obj/dsm/transport/tls_private.o
coord_src := $(wildcard coordinator/core/*.c coordinator/worker/*.c)
slot_blob := $(B)/obj/coordinator/worker/slot_blob.o
slot_blob_verbs := $(B)/obj/coordinator/worker/slot_blob_verbs.o
client_src := $(wildcard taskrt/client/*.c)
daemon_src := $(filter-out coordinator/taskrt-%.c,$(wildcard coordinator/*.c))
daemons := $(patsubst coordinator/%.c,%,$(wildcard coordinator/taskrt-*.c))
tool_src := $(wildcard tools/*.c)
bench_src := $(wildcard bench/bench.c bench/bench_*.c)
example_src := $(wildcard examples/*.c examples/*.cpp)
example_common := $(wildcard examples/common/*.c)
# The slot is another program, but parts of it can be tested in this one.
test_src := $(wildcard tests/unit/*/*.c tests/conformance/*.c) tests/main.c \
	tests/support.c taskrt/slot/arch_x86_64_switch.S \
	$(patsubst %,taskrt/slot/%.c,arch_x86_64 vdso keys fetch \
	fetch_message fetch_direct hold places)
e2e_src := $(wildcard tests/e2e/*.c)
behaviour_src := $(wildcard tests/e2e/behaviour/*.c)
fuzz_src := $(wildcard tests/fuzz/fuzz_*.c)
# Its main first: without it (slot.c) there is no slot to build.
slot_own := $(if $(wildcard taskrt/slot/slot.c),$(wildcard taskrt/slot/*.c \
	taskrt/slot/*.S))
slot_src := $(filter-out taskrt/slot/verbs% taskrt/slot/tls%,$(slot_own)) \
	$(wildcard dsm/base/*.c dsm/wire/*.c dsm/image/*.c \
	dsm/transport/conn.c dsm/transport/tcp.c dsm/transport/shm.c)
slot_obj := $(patsubst %,$(B)/slot/obj/%.o,$(basename $(slot_src)))
# Two kinds: the worker daemon's slots can use verbs and TLS; those of programs that
# run their tasks themselves share memory with it and are spared five megabytes.
slot_plain_obj := $(addprefix $(B)/slot/obj/taskrt/slot/,verbs_none.o tls_none.o)
slot_verbs_obj := $(addprefix $(B)/slot/obj/taskrt/slot/,verbs.o tls.o) $(patsubst \
	%.c,$(B)/slot/obj/%.o,$(filter-out %/verbs_lib.c,\
	$(wildcard dsm/transport/verbs*.c dsm/transport/tls.c)))

# --- what to build ---

libdsm := $(B)/lib/libdsm.a
# What users link: one object with only public names in it, so that a program's
# own worker_create is no clash, and malloc always comes along. What unit tests,
# tools and benchmarks link: the same objects with all their names.
libtaskrt := $(B)/lib/libtaskrt.a
libinternal := $(B)/lib/internal.a
# coordinator and worker cores without the client: a daemon must not get the
# client library's malloc.
libcoord := $(B)/lib/libcoord.a
shared := $(B)/lib/libdsm.so $(B)/lib/libtaskrt.so
programs := $(addprefix $(B)/bin/,$(daemons) \
	$(if $(wildcard tools/taskrt.c),taskrt))
examples := $(addprefix $(B)/,$(basename $(example_src)))
cxx_programs := $(addprefix $(B)/,$(basename $(filter %.cpp,$(example_src))))
bench := $(if $(wildcard bench/bench.c),$(B)/bench/bench)
unit := $(B)/tests/unit
e2e := $(patsubst tests/e2e/%.c,$(B)/tests/e2e/%,$(e2e_src))
behaviour := $(B)/tests/e2e/behaviour
e2e_cases := $(call obj,tests/helpers/cases.c)
fuzz := $(patsubst tests/fuzz/%.c,$(B)/tests/%,$(fuzz_src))
# Programs that are run in clusters that chaos breaks; the rest of it is chaos.
chaos_programs := $(addprefix $(B)/tests/chaos/,program sessions)
chaos := $(B)/tests/chaos/chaos
chaos_src := $(wildcard tests/chaos/*.c)
slots := $(if $(slot_own),$(foreach v,a b,$(B)/slot/taskrt-slot-$(v) \
	$(B)/slot/taskrt-slot-verbs-$(v)))

.PHONY: all libs programs examples bench-program test-programs unit-tests test \
	test-rdma bench-rdma chaos-programs soak demo bench lint check-layers fuzz \
	fuzz-programs clean
all: libs programs examples bench-program test-programs
libs: $(libdsm) $(libtaskrt) $(shared) $(slots)
programs: $(programs)
examples: $(examples)
bench-program: $(bench)
unit-tests: $(unit)
fuzz-programs: $(fuzz)
chaos-programs: $(chaos) $(chaos_programs)
test-programs: $(unit) $(e2e) $(behaviour) $(fuzz) $(chaos) $(chaos_programs)

# --- libraries ---

$(libdsm): $(call obj,$(dsm_src)) $(tls_private)
$(tls_private): $(call obj,$(tls_src))
	$(call say,LD) ld -r -o $@ $^ --start-group \
		$(call static_lib,ssl) $(call static_lib,crypto) --end-group
	@objcopy --wildcard --keep-global-symbol='dsm__*' $@
static_lib = $(shell $(CC) -print-file-name=lib$(1).a)
$(libcoord): $(call obj,$(coord_src)) $(slot_blob_verbs)
$(libinternal): $(call obj,$(coord_src) $(client_src)) $(slot_blob)
$(B)/lib/taskrt.o: $(call obj,$(coord_src) $(client_src)) $(slot_blob)
	@mkdir -p $(@D)
	$(call say,LD) ld -r -o $@ $(filter %.o,$^)
	@objcopy --wildcard $(addprefix --keep-global-symbol=,\
		$(shell sed -n '/global:/,/local:/s/^\t\t\(.*\);$$/"\1"/p' \
		taskrt/libtaskrt.map)) $@
$(B)/lib/taskrt.o: taskrt/libtaskrt.map
$(libtaskrt): $(B)/lib/taskrt.o
$(libdsm) $(libcoord) $(libtaskrt) $(libinternal):
	@mkdir -p $(@D)
	$(call say,AR) rm -f $@; ar rcs $@ $^

# The one in install/ is for folders that the loader searches anyway.
libtaskrt_so := $(B)/lib/libtaskrt.so.0 $(B)/install/libtaskrt.so.0
$(B)/lib/libdsm.so.0: $(call obj,$(dsm_src)) $(tls_private) dsm/libdsm.map
$(libtaskrt_so): $(call obj,$(coord_src) $(client_src)) $(slot_blob) \
	taskrt/libtaskrt.map $(B)/lib/libdsm.so.0
$(B)/lib/libtaskrt.so.0: RUNPATH := '-Wl,-rpath,$$ORIGIN'
$(B)/lib/libdsm.so.0 $(libtaskrt_so):
	@mkdir -p $(@D)
	$(call say,LD) $(CC) -shared -Wl,-soname,$(@F) -o $@ \
		-Wl,--version-script=$(filter %.map,$^) $(filter-out %.map,$^) \
		$(ALL_LDFLAGS) $(RUNPATH) $(DSM_LIBS)
$(B)/lib/%.so: $(B)/lib/%.so.0
	$(Q)ln -sf $(<F) $@

# --- programs ---

$(programs) $(unit) $(e2e) $(behaviour) $(fuzz) $(chaos) $(chaos_programs) \
	$(examples) $(bench):
	@mkdir -p $(@D)
	$(call say,LD) $(LINKER) -o $@ $(filter-out %.a,$^) \
		$(filter %.a,$^) $(ALL_LDFLAGS) $(EXTRA_LIBS) \
		$(DSM_LIBS)
LINKER = $(CC)
$(cxx_programs): LINKER = $(CXX)

# In front of libdsm.a, whose own TLS is left out then.
$(addprefix $(B)/bin/,$(daemons)): $(B)/bin/%: $(B)/obj/coordinator/%.o \
	$(call obj,$(daemon_src) $(tls_src)) $(libcoord) $(libdsm)
$(addprefix $(B)/bin/,$(daemons)): EXTRA_LIBS := -lssl -lcrypto
$(B)/bin/taskrt: $(call obj,$(tool_src) coordinator/options.c) $(libinternal) \
	$(libdsm)
$(unit): $(call obj,$(test_src)) $(libinternal) $(libdsm)
$(unit): EXTRA_LIBS := -lcunit
$(e2e): $(B)/tests/e2e/%: $(B)/obj/tests/e2e/%.o $(e2e_cases) $(libtaskrt) \
	$(libdsm)
$(behaviour): $(call obj,$(behaviour_src)) $(e2e_cases) $(libtaskrt) $(libdsm)
$(chaos_programs): $(B)/tests/chaos/%: $(B)/obj/tests/chaos/%.o $(libtaskrt) \
	$(libdsm)
$(chaos): $(call obj,$(filter-out %/program.c %/sessions.c,$(chaos_src))) \
	$(libdsm)
$(examples): $(B)/examples/%: $(B)/obj/examples/%.o \
	$(call obj,$(example_common)) $(libtaskrt) $(libdsm)
$(bench): $(call obj,$(bench_src)) $(libinternal) $(libdsm)
$(examples) $(bench): EXTRA_LIBS := -fopenmp -lpng
$(call obj,$(example_src) $(example_common) $(bench_src)): \
	ALL_CFLAGS += -fopenmp
# With SANITIZE=fuzzer-no-link,… libFuzzer brings its own main. Most targets need
# libdsm alone; some the daemons' cores, or the client.
fuzz_driver := $(if $(findstring fuzzer,$(SANITIZE)),,tests/fuzz/driver.c)
fuzz_common := $(call obj,$(fuzz_driver) tests/fuzz/fuzz.c)
fuzz_of_cores := $(filter $(addprefix %/fuzz_,coord server worker),$(fuzz))
fuzz_of_client := $(filter $(addprefix %/fuzz_,client text),$(fuzz))
$(filter-out $(fuzz_of_cores) $(fuzz_of_client),$(fuzz)): $(B)/tests/%: \
	$(B)/obj/tests/fuzz/%.o $(fuzz_common) $(libdsm)
$(fuzz_of_cores): $(B)/tests/%: $(B)/obj/tests/fuzz/%.o $(fuzz_common) \
	$(libcoord) $(libdsm)
$(fuzz_of_client): $(B)/tests/%: $(B)/obj/tests/fuzz/%.o $(fuzz_common) \
	$(libinternal) $(libdsm)
$(B)/tests/fuzz_worker: $(call obj,tests/unit/worker/fakeelf.c)
$(B)/tests/fuzz_server: $(call obj,$(daemon_src))
$(B)/tests/fuzz_text: $(call obj,coordinator/options.c tools/json.c)
$(B)/tests/fuzz_fetch: $(call obj,$(filter taskrt/slot/%,$(test_src)))
$(fuzz): EXTRA_LIBS := $(if $(findstring fuzzer,$(SANITIZE)),-fsanitize=fuzzer)

# --- the slot's system calls: written by a program that is run here ---

mkfilter := $(B)/slot/mkfilter
filters := $(addprefix $(B)/slot/filter/,early.bpf tcp.bpf verbs.bpf names.txt)
$(mkfilter): taskrt/filter/mkfilter.c
	@mkdir -p $(@D)
	$(call say,CC) $(CC) -std=gnu11 -D_GNU_SOURCE -O1 -MMD -MP $(WARN) \
		-o $@ $< -lseccomp
-include $(mkfilter).d
$(filters): $(mkfilter)
	@mkdir -p $(@D)
	$(call say,FILTER) $< $(basename $(@F)) >$@
$(B)/slot/obj/taskrt/slot/filter_blob.o: $(filters)
$(B)/slot/obj/taskrt/slot/filter_blob.o: SLOT_CFLAGS += \
	-Wa,-I$(B)/slot/filter

# --- the slot: two addresses, with and without verbs; images of it ---

$(B)/slot/taskrt-slot-a $(B)/slot/taskrt-slot-b: $(slot_obj) $(slot_plain_obj)
	$(call say,LD) $(CC) -o $@ $(SLOT_LDFLAGS) \
		-Wl,-Ttext-segment=$(SLOT_ADDR_$(lastword $(subst -, ,$@))) \
		$(SLOT_CRT) $^ -l:liblz4.a
$(B)/slot/taskrt-slot-verbs-%: $(slot_obj) $(slot_verbs_obj)
	@pkg-config --exists libibverbs || { echo "libibverbs-dev and" \
		"pkg-config are needed: tools/setup.sh build" >&2; exit 1; }
	$(call say,LD) $(CC) -o $@ $(SLOT_LDFLAGS) \
		-Wl,-Ttext-segment=$(SLOT_ADDR_$*) \
		-Wl,-u,getentropy,--wrap=dlopen,--wrap=gethostbyname \
		$(SLOT_CRT) $^ -l:liblz4.a -l:libcrypto.a $(SLOT_VERBS_LIBS)
$(B)/slot/plain/slot-%.bin: $(if $(slot_own),$(B)/slot/taskrt-slot-%)
	@mkdir -p $(@D)
	$(call say,STRIP) $(if $(slot_own),$(STRIP) --strip-all -o $@ $<,: >$@)
$(B)/slot/verbs/slot-%.bin: $(if $(slot_own),$(B)/slot/taskrt-slot-verbs-%)
	@mkdir -p $(@D)
	$(call say,STRIP) $(if $(slot_own),$(STRIP) --strip-all -o $@ $<,: >$@)
.SECONDARY: $(foreach k,plain verbs,$(addprefix $(B)/slot/$(k)/,slot-a.bin \
	slot-b.bin))

$(slot_blob): $(B)/slot/plain/slot-a.bin $(B)/slot/plain/slot-b.bin
$(slot_blob): ALL_CFLAGS += -Wa,-I$(B)/slot/plain
$(slot_blob_verbs): $(B)/slot/verbs/slot-a.bin $(B)/slot/verbs/slot-b.bin
$(slot_blob_verbs): coordinator/worker/slot_blob.S
	@mkdir -p $(@D)
	$(call say,CC) $(CC) $(ALL_CFLAGS) -Wa,-I$(B)/slot/verbs -c -o $@ $<

# --- objects ---

define compile
@mkdir -p $(@D)
$(call say,CC) $(CC) $(1) -c -o $@ $<
endef
$(B)/slot/obj/%.o: %.c
	$(call compile,$(SLOT_CFLAGS))
$(B)/slot/obj/%.o: %.S
	$(call compile,$(SLOT_CFLAGS))
$(B)/obj/%.o: %.c
	$(call compile,$(ALL_CFLAGS))
$(B)/obj/%.o: %.S
	$(call compile,$(ALL_CFLAGS))
$(B)/obj/%.o: %.cpp
	@mkdir -p $(@D)
	$(call say,CXX) $(CXX) $(ALL_CXXFLAGS) -c -o $@ $<

all_obj := $(call obj,$(dsm_src) $(tls_src) $(coord_src) $(client_src) $(tool_src) \
	$(bench_src) $(example_src) $(example_common) $(test_src) $(e2e_src) \
	$(behaviour_src) $(fuzz_src) $(chaos_src) \
	$(wildcard coordinator/*.c tests/fuzz/driver.c \
	tests/fuzz/fuzz.c tests/helpers/cases.c)) $(slot_obj) \
	$(slot_plain_obj) $(slot_verbs_obj)
.SECONDARY: $(all_obj)
-include $(all_obj:.o=.d)

# Its child shares its stack until exec: marks that a sanitizer leaves there of the
# child's frames would be taken for the parent's.
$(call obj,coordinator/worker/keeper.c): SAN_FLAGS :=

# --- checks ---

sub := $(MAKE) --no-print-directory

# Packages first: the build needs them.
test:
	@tools/setup.sh test
	+@$(sub) $(if $(T),unit-tests,all)
	@tools/run-tests.sh $(B) $(T)

test-rdma:
	@tools/setup.sh test
	+@$(sub) all
	@tests/rdma/run.sh $(B)

# Clusters that are broken in ways that their seeds say: SEEDS=A-B, then on from
# there until MINUTES are over. CHAOS_ARGS: see tests/chaos/chaos.c.
SEEDS ?= 1-1000
MINUTES ?= 0
soak:
	@tools/setup.sh build
	+@$(sub) programs chaos-programs
	@$(chaos) --seeds $(SEEDS) --minutes $(MINUTES) $(CHAOS_ARGS) $(B)

# Where there is a device, make bench does it.
bench-rdma:
	@tools/setup.sh rdma >&2
	+@$(sub) libs programs bench-program >&2
	@tests/rdma/guest.sh $(B) 600 "tests/rdma/bench.sh '$(B)' $(BENCH_ARGS)"

demo:
	@tools/setup.sh build
	+@$(sub) libs programs examples
	@BUILD=$(B) examples/demo.sh

bench:
	@tools/setup.sh build >&2
	+@$(sub) libs programs bench-program >&2
	@$(if $(bench),BUILD=$(B) $(bench) $(BENCH_ARGS),:)

lint: check-layers
	@tools/setup.sh lint
	@tools/lint.sh

check-layers:
	@tools/check-layers.sh

fuzz:
	+@$(sub) CC=clang SANITIZE=fuzzer-no-link,address,undefined B=build-fuzz \
		fuzz-programs
	@tools/fuzz.sh build-fuzz $(FUZZ_SECONDS)

clean:
	rm -rf build build-*

# --- a program that plays a slot, for the worker's tests ---

fakeslot := $(B)/tests/fakeslot
fakeslot_obj := $(B)/slot/obj/tests/helpers/fakeslot.o
$(fakeslot): $(fakeslot_obj) $(filter-out $(B)/slot/obj/taskrt/%,$(slot_obj))
	@mkdir -p $(@D)
	$(call say,LD) $(CC) -static -o $@ $^ -l:liblz4.a
$(unit) $(B)/tests/fuzz_worker: | $(fakeslot)
$(B)/tests/fuzz_slot: | $(B)/slot/taskrt-slot-a
-include $(fakeslot_obj:.o=.d)

include install.mk
