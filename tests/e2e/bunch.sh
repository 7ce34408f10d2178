#!/usr/bin/env bash
# bunch.sh - a million tasks in one bunch, and a hundred thousand chunks: what they cost
# in memory. See bunch.c.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

peak_of() { # PID - MiB
	awk '/^VmHWM:/ { print int($2 / 1024) }' "/proc/$1/status"
}

sanitized() {
	nm "$bin/taskrt-coordinator" | grep -q '__[amtu]b\{0,1\}san_'
}

# bunch N CHUNK - sets grown (MiB, of the program) and held (of the coordinator).
bunch() {
	start bunch env TASKRT_COORDINATOR="$addr" timeout 120 \
		"$BUILD/tests/e2e/bunch" "$1" "$2"
	wait "$pid"
	grown=$(sed -n 's/.* peak \([0-9]*\) MiB, \([0-9]*\) before.*/\1 - \2/p' \
		"$tmp/bunch.log")
	grown=$((${grown:-1000}))
	held=$(peak_of "$coordinator")
	echo "    $1 tasks: program $grown MiB more, coordinator $held MiB"
	says bunch "^bunch: code 0 right, $1 tasks"
}

start_coordinator coordinator
coordinator=$pid
start_worker w 2
soon 10 has_workers 1
check "a million tasks in a bunch, all right" bunch 1000000 0
if sanitized; then
	skip "what they cost in memory" "this build has a sanitizer in it"
	exit "$bad"
fi
# 16 MiB of it are the pages of the task array that slots have read: served copies.
check "the program has some tens of MiB more than without" [ "$grown" -le 48 ]
check "the coordinator some few" [ "$held" -le 24 ]
check "20000 chunks of one task, all right" bunch 20000 1
check "the program does not grow by much" [ "$grown" -le 16 ]
check "nor does the coordinator" [ "$held" -le 32 ]
exit "$bad"
