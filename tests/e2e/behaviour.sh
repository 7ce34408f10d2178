#!/usr/bin/env bash
# behaviour.sh - the cases of behaviour/ in many configurations: embedded, over TCP,
# with other ways of linking and another compiler.
#
# All of them run where tasks are next to the program and where they are on workers;
# elsewhere those groups that the configuration may make a difference to:
#
#   slots         1: nothing is parallel; 7: more than processors, so all that is
#   data over TCP pages travel, but there is no coordinator
#   segv faults   pages are opened one by one: much memory, mappings, failures
#   linking       where functions, libc's data and malloc are; names in reports
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/behaviour
linking=(results/ calls/ memory/ failures_name may_say null_pointer globals
	asynchronous -gigabytes -for_ever -ten_thousand)

# build LABEL COMPILER WORD... - behaviour/ into $tmp/LABEL.
build() {
	build_from tests/e2e/behaviour "$@" -std=gnu11
}

# --- embedded ---

TASKRT_SLOTS=2 cases "embedded" "$program"
TASKRT_SLOTS=1 cases "embedded, one slot" "$program" \
	results/ failures/ between/ threads/ -times_out
TASKRT_SLOTS=7 cases "embedded, seven slots" "$program" \
	results/ memory/ threads/ hundred_thousand_tasks million several \
	fail_fast text_of partial -gigabytes -for_ever
TASKRT_SLOTS=2 TASKRT_TRANSPORT=tcp cases "embedded, data over TCP" \
	"$program" results/ between/ threads/ null_pointer blocks_born \
	million every_other_byte
TASKRT_SLOTS=2 TASKRT_FAULTS=segv cases "embedded, segv faults" "$program" \
	results/ sizes/ between/ mappings/ failures/ -million \
	-hundred_thousand_tasks -times_out
if build shared gcc "$BUILD/lib/libtaskrt.so" "$BUILD/lib/libdsm.so" \
	"-Wl,-rpath,$PWD/$BUILD/lib,-rpath,$BUILD/lib"; then
	TASKRT_SLOTS=2 cases "shared library" "$tmp/shared" "${linking[@]}"
fi
if build no-pie gcc -fno-pie -no-pie "${static[@]}"; then
	TASKRT_SLOTS=2 cases "no-pie" "$tmp/no-pie" "${linking[@]}"
fi
# A static program's libc defines malloc a second time.
if build static gcc -static -Wl,-z,muldefs "$BUILD/lib/libtaskrt.a" \
	"$BUILD/lib/libdsm.a" -luv_a -llz4 -lurcu-bp -lurcu-cds \
	-lurcu-common -ldl; then
	TASKRT_SLOTS=2 cases "static" "$tmp/static" "${linking[@]}"
fi
if build clang clang "${static[@]}"; then
	TASKRT_SLOTS=2 cases "clang" "$tmp/clang" "${linking[@]}"
fi

# --- a worker without userfaultfd ---

if start_coordinator old && start_worker segv 2 --faults segv &&
	soon 10 has_workers 1; then
	TASKRT_COORDINATOR=$addr cases "worker with segv faults" "$program" \
		results/ between/ mappings/ null_pointer stack_overflow \
		blocks_born
else
	fail "worker with segv faults" "it does not join"
fi

# --- two workers ---

if start_coordinator coordinator && start_worker one 1 &&
	start_worker two 2 && soon 10 has_workers 2; then
	export TASKRT_COORDINATOR=$addr
	cases "two workers" "$program"
	[ ! -x "$tmp/shared" ] || cases "two workers, shared library" \
		"$tmp/shared" "${linking[@]}"
	[ ! -x "$tmp/no-pie" ] || cases "two workers, no-pie" \
		"$tmp/no-pie" "${linking[@]}"
	check "two workers: nothing is left of the programs" soon 10 no_program
else
	fail "two workers" "they do not join"
fi
exit "$bad"
