#!/usr/bin/env bash
# shared.sh - what is shared with tasks and what is not: shared.c, with a library of
# its own that is there from the start or loaded later, embedded and over TCP.
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/shared
export OWNLIB=$tmp/libown.so
cc -shared -fPIC -O1 -o "$OWNLIB" tests/helpers/ownlib.c || exit 1

# run LABEL - both ways to have the library.
run() {
	cases "$1" "$program"
	LD_PRELOAD=$OWNLIB cases "$1, library from the start" "$program"
}

for slots in 1 3; do
	TASKRT_SLOTS=$slots run "embedded, slots: $slots"
done
TASKRT_SLOTS=2 TASKRT_FAULTS=segv run "embedded, segv faults"
if start_coordinator coordinator && start_worker one 1 &&
	start_worker two 2 && soon 10 has_workers 2; then
	export TASKRT_COORDINATOR=$addr
	run "two workers"
else
	fail "two workers" "they do not join"
fi
exit "$bad"
