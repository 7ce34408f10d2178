#!/usr/bin/env bash
# hostile.sh - peers that mean harm (hostile.c) against real daemons and a real
# program, whose runs go on as if nothing were. What they do ends their own
# connections, with a line in the log, and nothing else.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

hostile=$BUILD/tests/e2e/hostile
right='code 0 right'
daemons=()

# attack LOG WHAT - in the background until it has said what it did; it may hold
# connections. Sets pid.
attack() {
	start "$1" "$hostile" "$addr" "$2"
	soon 60 says "$1" ' closed by the other side'
}

program_runs() { # LOG - in the background: three runs, the last when told. Sets pid.
	start "$1" env TASKRT_COORDINATOR="$addr" TASKRT_WAIT=20 \
		"$BUILD/tests/e2e/cluster" for:40:20 tasks:40:20 \
		"await:$tmp/$1.go" for:200:5
}

# came_right LOG
came_right() {
	touch "$tmp/$1.go"
	soon 60 result_is "$1" 1 "$right" && soon 60 result_is "$1" 2 "$right" &&
		soon 60 result_is "$1" 3 "$right"
}

few_files() { # PID MOST - open descriptors
	[ "$(find "/proc/$1/fd" -type l 2>/dev/null | wc -l)" -le "$2" ]
}

cpu_ticks() { # PID
	awk '{print $14 + $15}' "/proc/$1/stat"
}

rss_kib() { # PID
	awk '/^VmRSS/ {print $2}' "/proc/$1/status"
}

no_names_with_escapes() { # the hostile name has one
	! grep -q "$(printf '\033')" "$tmp"/*.log
}

start_coordinator coordinator --heartbeat 500
daemons+=("$pid")
coordinator=$pid
start_worker node1 1
daemons+=("$pid")
start_worker node2 1
daemons+=("$pid")
check "two workers are there" soon 20 has_workers 2

# --- while a program runs ---

program_runs first
program=$pid
check "its first run is on" soon 20 in_run 1
check "garbage in place of HELLO" attack garbage garbage:40
check "workers that say anything" attack workers workers:12
check "clients that contradict themselves" attack clients clients:24
check "the program's runs come right" came_right first
wait "$program" 2>/dev/null
check "all daemons live" alive "${daemons[@]}"
check "both workers stayed" has_workers 2
check "bad HELLOs are in the log" says coordinator 'does not begin with HELLO'
check "a RUN that makes no sense is named" says coordinator 'RUN 1 with a bad range'
check "names are harmless in logs" no_names_with_escapes

# --- at the program's own listener ---

program_runs second
program=$pid
check "its run is on" soon 20 in_run 1
check "peers with the session's key at its listener" attack pages pages:24
check "its runs come right" came_right second
check "the program says what it closed" says second 'data link of .* closed'
wait "$program" 2>/dev/null

# --- who says nothing, and who does not listen ---

rss=$(rss_kib "$coordinator")
check "strangers come in great numbers" attack strangers strangers:1000
strangers=$pid
check "there is a line about it" says coordinator \
	'more than 256 connections without HELLO'
check "tools that read no answer" attack deaf deaf:8
deaf=$pid
program_runs third
check "a program among them comes right" came_right third
check "memory stays" [ "$(rss_kib "$coordinator")" -lt $((rss + 65536)) ]
check "who says nothing is closed in time" soon 20 few_files "$coordinator" 60
slay "$strangers"
slay "$deaf"

# --- more connections than descriptors ---

prlimit --pid "$coordinator" --nofile=40:40
check "more connections than descriptors" attack many strangers:100
before=$(cpu_ticks "$coordinator")
check "there is a line about that" soon 10 says coordinator \
	'cannot accept connections: Too many open files'
# Of about a second at most a quarter.
sleep 1
check "it does not spin" [ $(($(cpu_ticks "$coordinator") - before)) -lt 25 ]
check "it is said once" [ "$(grep -c 'cannot accept' "$tmp/coordinator.log")" -le 2 ]
slay "$pid"
program_runs fourth
check "afterwards a program comes right" came_right fourth
check "all daemons live still" alive "${daemons[@]}"
check "no program is left" soon 20 no_program

exit "$bad"
