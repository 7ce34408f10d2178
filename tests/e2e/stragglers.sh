#!/usr/bin/env bash
# stragglers.sh - second copies of tasks that are late; workers that drain. See
# cluster.c for what the program prints.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/cluster
right='code 0 right'

launch() { # LOG STEP... - the program in the background. Sets pid.
	local log=$1
	shift
	start "$log" env TASKRT_COORDINATOR="$addr" TASKRT_STAT=1 "$program" "$@"
}

# Heartbeats that do not notice anything in the time of this script.
start_coordinator coordinator --heartbeat 10000
coordinator=$pid
start_worker w1 2
w1=$pid
start_worker w2 2
w2=$pid
check "two workers join" soon 10 has_workers 2

# --- stragglers ---

# In the second run, when there are slots everywhere: those of one worker stand still,
# the worker itself and the connections do not.
stop_slots() {
	soon 10 state_has '"runs":2' && soon 10 in_run 4 || return 1
	local p
	stopped=()
	for p in $(slots_of "$w2"); do
		# One of an earlier program may be gone by now.
		kill -STOP "$p" 2>/dev/null && stopped+=("$p")
	done
	[ ${#stopped[@]} -ge 2 ]
}

launch late for:16:20 for:24:100
check "a worker's slots are stopped in mid-run" stop_slots
check "their tasks run a second time elsewhere, and the run ends" \
	came late 2 10 "$right, 24 tasks, 0 retried"
wait "$pid"
check "the copies are counted" eval "says late ' copies_started  *[1-9]' &&
	says late ' copies_won  *[1-9]'"
check "the slots that came too late are gone" soon 10 none_of "${stopped[@]}"
check "their worker has not lost anything" has_workers 2
launch after for:24:10
check "and goes on with others" came after 1 10 "$right, 24 tasks, 0 retried"

no_copies() {
	start strict env TASKRT_COORDINATOR="$addr" TASKRT_COPIES=0 \
		TASKRT_STAT=1 "$program" for:16:20 for:24:50
	stop_slots && soon 10 in_run 20 || return 1
	# Longer than a copy would take.
	! soon 1 says strict '^run 2: ' || return 1
	kill -CONT "${stopped[@]}"
	came strict 2 10 "$right, 24 tasks, 0 retried" &&
		! says strict copies_started
}
check "TASKRT_COPIES=0: a run waits for its slots" no_copies

# --- draining ---

# In the second run: then the slots are there, and begin what they are given.
all_busy() {
	state_has '"busy":2.*"busy":2.*"runs":2'
}

launch long for:8:1 for:8:700
check "long tasks run" soon 10 all_busy
kill -TERM "$w1"
check "SIGTERM: the worker is shown as draining" soon 5 state_has \
	'"name":"w1"[^}]*"draining":true'
check "also to people" eval \
	"'$bin/taskrt' stat -1 -c '$addr' | grep -q '^  w1 .* draining\$'"
check "it ends with 0" ends_with 0 "$w1"
check "it says that all is done" says w1 'drained: all that it had is done'
check "the run is right, and no task was lost" \
	came long 2 20 "$right, 8 tasks, [0-2] retried"
wait "$pid"
check "no slot was lost" eval "! says long slots_lost"

start_worker w1 2
w1=$pid
soon 10 has_workers 2
launch impatient for:8:1 for:4:2000
soon 10 all_busy
kill -TERM "$w1"
check "a second SIGTERM" soon 5 says w1 'takes no more tasks'
kill -TERM "$w1"
check "ends it at once" eval "soon 1 none_of $w1 && ends_with 0 $w1"
check "its tasks run elsewhere" came impatient 2 20 "$right, 4 tasks, [1-9]"

start_worker w1 2 --drain-time 0.3
w1=$pid
soon 10 has_workers 2
launch bounded for:8:1 for:4:2000
soon 10 all_busy
kill -TERM "$w1"
check "--drain-time ends it" eval "soon 2 none_of $w1 && ends_with 0 $w1"
check "and says so" says w1 'tasks still run 0.3 s after SIGTERM (--drain-time)'
check "its tasks run elsewhere, too" came bounded 2 20 "$right, 4 tasks, [1-9]"

kill -TERM "$w2"
check "an idle worker goes at once" eval "soon 1 none_of $w2 && ends_with 0 $w2"
start_worker w4 1
w4=$pid
soon 10 has_workers 1
slay "$coordinator"
soon 10 says w4 'connecting again'
kill -TERM "$w4"
check "one without a coordinator, too" eval \
	"soon 1 none_of $w4 && ends_with 0 $w4"
exit "$bad"
