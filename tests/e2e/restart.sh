#!/usr/bin/env bash
# restart.sh - a coordinator that goes in mid-run and comes back, or does not: the
# program looks for it, launches the run again, and the result is the same. See
# cluster.c for what the program prints.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

beat=300
right='code 0 right'

# launch LOG SECONDS STEP... - the program in the background, which looks for its
# coordinator for so long. Sets pid.
launch() {
	local log=$1 seconds=$2
	shift 2
	start "$log" env TASKRT_COORDINATOR="$addr" TASKRT_WAIT=10 \
		TASKRT_RECONNECT="$seconds" "$BUILD/tests/e2e/cluster" "$@"
}

# Where the last one was. Sets coordinator.
restart_coordinator() {
	start coordinator "$bin/taskrt-coordinator" --listen "$addr" \
		--heartbeat $beat
	coordinator=$pid
	soon 10 says coordinator 'listening on'
}

again() { # LOG - how often its runs were launched again
	grep -c 'is there again after .*: the run is launched again' \
		"$tmp/$1.log"
}

check "a cluster starts" start_coordinator coordinator --heartbeat $beat
coordinator=$pid
start_worker w1 2
w1=$pid
start_worker w2 2
w2=$pid
soon 10 has_workers 2

for how in for tasks start; do
	launch "killed-$how" 60 "$how:60:40" for:20:5
	program=$pid
	check "$how: it runs" soon 10 in_run 5
	mapfile -t old < <(slots_of "$w1" "$w2")
	slay "$coordinator"
	check "$how: the slots of before end" soon 10 none_of "${old[@]}"
	restart_coordinator
	check "$how: the coordinator killed and back, the result is right" \
		came "killed-$how" 1 30 "$right, 60 tasks"
	check "$how: the run was launched again, once" \
		[ "$(again "killed-$how")" = 1 ]
	check "$how: so is the next" came "killed-$how" 2 20 "$right"
	wait "$program"
	soon 10 has_workers 2
done

launch twice 60 for:80:40
for ((i = 1; i <= 3; i++)); do
	soon 20 in_run 5
	slay "$coordinator"
	restart_coordinator
	soon 20 eval "[ \$(again twice) = $i ]"
done
check "three times in one run" came twice 1 40 "$right, 80 tasks"
soon 10 has_workers 2

launch stopped 60 for:60:40
program=$pid
soon 10 in_run 5
kill -STOP "$coordinator"
check "a coordinator that is silent is given up" soon 10 says stopped \
	'is gone (it has not answered for [0-9]* ms); looking for it'
kill -CONT "$coordinator"
check "when it goes on, the run is launched again" \
	came stopped 1 30 "$right, 60 tasks"
wait "$program"
check "no session of before is left" soon 10 no_program
soon 10 has_workers 2

launch silent 2 for:400:40
soon 10 in_run 5
kill -STOP "$coordinator"
check "one that stays silent: the call ends" came silent 1 20 \
	'code -3 untouched'
check "it says that it was there, but silent" says silent \
	'^run 1: .*did not come back within 2 s (TASKRT_RECONNECT)'
kill -CONT "$coordinator"
soon 10 has_workers 2

launch gone 2 for:400:40 "await:$tmp/go-gone" for:20:5
soon 10 in_run 5
slay "$coordinator"
check "one that does not come back: the call ends in time" \
	came gone 1 8 'code -3 untouched'
check "reason, address and time are named" says gone \
	"^run 1: .*coordinator at $addr is gone (.*) and did not come back within 2 s (TASKRT_RECONNECT): .*refused"
restart_coordinator
soon 20 has_workers 2
touch "$tmp/go-gone"
check "the next run finds it" came gone 2 20 "$right"

launch cancelled 60 cancel:400:40 for:20:5
program=$pid
soon 10 in_run 5
slay "$coordinator"
soon 10 says cancelled 'looking for it for 60 s'
kill -USR1 "$program"
check "a run without a coordinator can be cancelled" \
	came cancelled 1 5 'code -34 untouched'
check "at once" says cancelled '^cancelled in [0-9][0-9]\{0,1\} ms'
restart_coordinator
check "the next run finds the coordinator" came cancelled 2 20 "$right"

check "no program is left" soon 10 no_program
check "the workers have been there all the time" alive "$w1" "$w2"
exit "$bad"
