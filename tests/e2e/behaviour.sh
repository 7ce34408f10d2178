#!/usr/bin/env bash
# behaviour.sh - behaviour.c's cases in many configurations: embedded, over TCP,
# with other ways of linking and another compiler. Two cases are about very many
# pages and run only where that says something new.
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/behaviour

# build LABEL COMPILER WORD... - behaviour.c into $tmp/LABEL.
build() {
	build_from tests/e2e/behaviour.c "$@" -std=gnu11
}

# --- embedded ---

for slots in 1 2 7; do
	TASKRT_SLOTS=$slots cases "embedded, slots: $slots" "$program"
done
TASKRT_SLOTS=2 TASKRT_TRANSPORT=tcp cases "embedded, data over TCP" \
	"$program" -scattered
TASKRT_SLOTS=2 TASKRT_FAULTS=segv cases "embedded, segv faults" "$program"
if build shared gcc "$BUILD/lib/libtaskrt.so" "$BUILD/lib/libdsm.so" \
	"-Wl,-rpath,$PWD/$BUILD/lib,-rpath,$BUILD/lib"; then
	TASKRT_SLOTS=2 cases "shared library" "$tmp/shared" -scattered
fi
if build no-pie gcc -fno-pie -no-pie "${static[@]}"; then
	TASKRT_SLOTS=2 cases "no-pie" "$tmp/no-pie" -scattered
fi
# A static program's libc defines malloc a second time.
if build static gcc -static -Wl,-z,muldefs "$BUILD/lib/libtaskrt.a" \
	"$BUILD/lib/libdsm.a" -luv_a -llz4 -lurcu-bp -lurcu-cds \
	-lurcu-common -ldl; then
	TASKRT_SLOTS=2 cases "static" "$tmp/static" -scattered
fi
if build clang clang "${static[@]}"; then
	TASKRT_SLOTS=2 cases "clang" "$tmp/clang" -scattered
fi

if build_from tests/e2e/containers.cpp containers g++ "${static[@]}"; then
	TASKRT_SLOTS=2 cases "C++" "$tmp/containers"
fi

# --- a worker without userfaultfd ---

if start_coordinator old && start_worker segv 2 --faults segv &&
	soon 10 has_workers 1; then
	TASKRT_COORDINATOR=$addr cases "worker with segv faults" "$program" \
		-scattered
else
	fail "worker with segv faults" "it does not join"
fi

# --- two workers ---

if start_coordinator coordinator && start_worker one 1 &&
	start_worker two 2 && soon 10 has_workers 2; then
	export TASKRT_COORDINATOR=$addr
	cases "two workers" "$program"
	[ ! -x "$tmp/shared" ] ||
		cases "two workers, shared library" "$tmp/shared" -scattered
	[ ! -x "$tmp/no-pie" ] ||
		cases "two workers, no-pie" "$tmp/no-pie" -scattered
	[ ! -x "$tmp/containers" ] ||
		cases "C++, two workers" "$tmp/containers"
	check "two workers: nothing is left of the programs" soon 10 no_program
else
	fail "two workers" "they do not join"
fi
exit "$bad"
