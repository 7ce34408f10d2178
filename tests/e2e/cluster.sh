#!/usr/bin/env bash
# cluster.sh - what happens when parts of a cluster die, stop, come late or are
# not there at all. See cluster.c for what the program prints.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/cluster
beat=300 # milliseconds; five of them without a word: lost
options=(--heartbeat "$beat" --stopped 8)
mkdir "$tmp/tmp"
export TMPDIR=$tmp/tmp # what a daemon leaves there, we see

# launch LOG STEP... - the program in the background. Sets pid. What is about a
# coordinator that comes back is in restart.sh.
launch() {
	local log=$1
	shift
	start "$log" env TASKRT_COORDINATOR="$addr" TASKRT_WAIT=10 \
		TASKRT_RECONNECT=0 "$program" "$@"
}

right='code 0 right'

silent_for() { # SECONDS - the only program has been, and has a run
	state_has "\"silent_ms\":$1[0-9][0-9][0-9][^0-9].*\"done\":"
}

# restart_coordinator - where the last one was. Sets pid.
restart_coordinator() {
	start coordinator "$bin/taskrt-coordinator" --listen "$addr" \
		"${options[@]}"
}

# --- nobody there ---

nobody() {
	check "no coordinator: the call ends" came nobody 1 10 'code -3 untouched'
	check "no coordinator: address and reason are named" says nobody \
		"no coordinator within 1.0 s: .*127.0.0.1:1[^0-9].*Connection refused"
	check "a wrong name is named" eval \
		"TASKRT_COORDINATOR=no-such-host.invalid:7070 TASKRT_WAIT=1 \
		timeout 20 $program for:1:1 | \
		grep -q '^run 1: code -3 untouched.*no-such-host.invalid'"
}
addr=127.0.0.1:1
start nobody env TASKRT_COORDINATOR=$addr TASKRT_WAIT=1 "$program" for:4:1
nobody

start dropper "$BUILD/tests/e2e/peer" dropper
soon 10 test -s "$tmp/dropper.log"
addr=127.0.0.1:$(cat "$tmp/dropper.log")
dropper=$pid
start dropped env TASKRT_COORDINATOR="$addr" "$program" for:4:1
wait "$dropper"
start late-one "$bin/taskrt-coordinator" --listen "$addr"
late=$pid
start_worker late-worker 1
check "a coordinator that drops the connection is tried again" \
	came dropped 1 20 "$right"
kill -TERM "$pid" "$late"
wait "$pid" "$late"

start_coordinator lonely --heartbeat $beat
lonely=$pid
start alone env TASKRT_COORDINATOR="$addr" TASKRT_WAIT=1 "$program" \
	for:4:1 "await:$tmp/worker" for:4:1
check "no worker: the call ends within TASKRT_WAIT" came alone 1 5 \
	'code -3 untouched'
check "no worker: coordinator and time are named" says alone \
	"coordinator $addr: no worker has joined .* within 1 s"
start_worker first 1
first=$pid
soon 10 has_workers 1
touch "$tmp/worker"
check "no worker: the same program goes on when one is there" \
	came alone 2 10 "$right"

# --- RDMA that is not there ---

with_device() { # LOG TRANSPORT
	start "$1" env TASKRT_COORDINATOR="$addr" TASKRT_TRANSPORT="$2" \
		TASKRT_VERBS_DEVICE=nosuch0 TASKRT_STAT=1 "$program" for:4:1
}
with_device insists verbs
check "verbs without a device: the launch fails" \
	came insists 1 10 'code -[1-9][0-9]* untouched'
check "verbs without a device: it says what was asked for, and what is missing" \
	says insists "transport verbs is asked for (environment), but: .*[Dd]evice"
with_device auto auto
check "auto without the device that was named: TCP does it" \
	came auto 1 10 "$right"
check "auto without the device that was named: one warning" \
	[ "$(grep -c 'RDMA cannot be used: .*data links use tcp' "$tmp/auto.log")" = 1 ]
check "auto without the device that was named: the counters say so" \
	soon 10 says auto '^  data links *[1-9][0-9]* tcp (RDMA: .*[Dd]evice'
with_device tcp tcp
check "with tcp nobody looks for a device" came tcp 1 10 "$right"
check "with tcp nobody is warned" eval "soon 10 says tcp 'data links *1 tcp$' &&
	! grep -q RDMA '$tmp/tcp.log'"

# --- what the arrays of a program cost ---

# cost_of LOG NAME COLUMN - faults, ms waited, pages fetched, written, bytes.
cost_of() {
	awk -v name="$2" -v column="$3" '/^by allocation/ { in_table = 1 }
		in_table && $6 == name { print $column }' "$tmp/$1.log"
}

cost_is() { # LOG NAME COLUMN LEAST MOST
	local n
	n=$(cost_of "$1" "$2" "$3")
	[ "${n:--1}" -ge "$4" ] && [ "$n" -le "$5" ]
}

costs() { # LOG - the arrays are in the table, with the function they are made in
	says "$1" ' scanned of 2097152 bytes, allocated in step_arrays' &&
		says "$1" ' stored of 2097152 bytes, allocated in step_arrays'
}

start arrays env TASKRT_COORDINATOR="$addr" TASKRT_STAT=1 "$program" arrays
check "costs by allocation: the program is right" ends_with 0 "$pid"
check "costs by allocation: arrays are there by name and line" costs arrays
# A page of the 512 may be fetched again by a slot that waits long for another.
check "costs by allocation: every page of the array that was read was fetched" \
	cost_is arrays scanned 3 512 600
check "costs by allocation: in windows, after few faults" \
	cost_is arrays scanned 1 1 255
check "costs by allocation: nothing was written there" \
	cost_is arrays scanned 5 0 0
check "costs by allocation: each page of the other one was written" \
	cost_is arrays stored 4 512 512
check "costs by allocation: a word in each" cost_is arrays stored 5 4096 4096
start asked env TASKRT_COORDINATOR="$addr" TASKRT_STAT=1 "$program" arrays \
	"await:$tmp/asked"
asked=$pid
check "costs by allocation: taskrt stat --json has them while the program lives" \
	soon 10 state_has '"what":"stored of 2097152 bytes[^}]*"pages_written":512,'
check "costs by allocation: taskrt stat shows them" eval \
	"$bin/taskrt stat -1 -c $addr | grep -q ' 512 .* scanned of 2097152 bytes'"
touch "$tmp/asked"
check "costs by allocation: the program is right with that" ends_with 0 "$asked"
start no-arrays env TASKRT_COORDINATOR="$addr" "$program" arrays
check "without TASKRT_STAT nobody is told" eval \
	"ends_with 0 $pid && ! says no-arrays 'by allocation'"
start here env TASKRT_STAT=1 "$program" arrays
check "costs by allocation: a program alone shares its heap, and says so" eval \
	"ends_with 0 $pid && says here '^by allocation (slots of this machine share'"
check "costs by allocation: and of it nothing is fetched" \
	cost_is here stored 3 0 0
check "costs by allocation: what was written there is known" \
	cost_is here stored 4 512 512
start own env TASKRT_TRANSPORT=tcp TASKRT_STAT=1 "$program" arrays
check "costs by allocation: over TCP of its own it fetches" eval \
	"ends_with 0 $pid && cost_is own scanned 3 512 600"

kill -TERM "$first" "$lonely"
wait "$first" "$lonely"

# --- workers that are lost, and found again ---

check "a cluster starts" start_coordinator coordinator "${options[@]}"
coordinator=$pid
start_worker w1 2
w1=$pid
start_worker w2 2
w2=$pid
check "two workers join" soon 10 has_workers 2

for how in for tasks; do
	launch "killed-$how" "$how:80:40"
	check "$how: it runs" soon 10 in_run 5
	mapfile -t gone < <(descendants "$w1")
	slay "$w1"
	check "$how: a killed worker's tasks run elsewhere" \
		came "killed-$how" 1 30 "$right, 80 tasks, [1-9]"
	check "$how: the killed worker's slots are gone" \
		soon 10 none_of "${gone[@]}"
	start_worker w1 2
	w1=$pid
	check "$how: a new worker takes its place" soon 10 has_workers 2
done

# Without copies: the tasks are to be lost with the worker.
TASKRT_COPIES=0 launch stopped for:80:40 "await:$tmp/go-stopped" for:80:20
soon 10 in_run 5
kill -STOP "$w2"
check "a stopped worker's tasks run elsewhere" came stopped 1 30 \
	"$right, 80 tasks, [1-9]"
check "the coordinator says that it was silent" says coordinator \
	'it was silent for'
check "it is not counted any more" soon 10 has_workers 1
kill -CONT "$w2"
check "it joins again when it goes on" soon 10 says w2 'joined again'
soon 10 has_workers 2
touch "$tmp/go-stopped"
check "the next run is right" came stopped 2 30 "$right"
check "and the worker has a part in it" [ "$(tasks_of w2)" -gt 0 ]

kill -TERM "$w1"
check "SIGTERM ends a worker with 0" ends_with 0 "$w1"
soon 10 has_workers 1
launch late for:200:20
soon 10 in_run 3
start_worker w1 2
w1=$pid
check "a run goes on while a worker joins" came late 1 30 "$right"
check "the late worker has a part in it" [ "$(tasks_of w1)" -gt 0 ]

launch leaving for:80:40
soon 10 in_run 5
kill -TERM "$w1"
check "a worker may leave in mid-run" ends_with 0 "$w1"
check "its tasks run elsewhere" came leaving 1 30 "$right"

launch lost for:80:40 "await:$tmp/go-lost"
soon 10 in_run 5
slay "$w2"
soon 10 has_workers 0
start_worker w1 2
w1=$pid
check "all workers lost, a new one joins: the run goes on" \
	came lost 1 30 "$right"
touch "$tmp/go-lost"
start_worker w2 2
w2=$pid
soon 10 has_workers 2

# --- the coordinator ---

launch orphan for:400:40 "await:$tmp/go-orphan" for:40:10
soon 10 in_run 5
slay "$coordinator"
check "the coordinator killed: the call ends, memory untouched" \
	came orphan 1 5 'code -3 untouched'
check "the message names it" says orphan \
	"^run 1: .*the coordinator at $addr is gone"
check "the workers live on" alive "$w1" "$w2"
check "they keep nothing of the program" soon 10 no_slots "$w1" "$w2"
restart_coordinator
coordinator=$pid
check "they join its successor" soon 20 has_workers 2
touch "$tmp/go-orphan"
check "the program's next launch works" came orphan 2 20 "$right"

launch silence for:400:40 "await:$tmp/go-silence" for:40:10
soon 10 in_run 5
kill -STOP "$coordinator"
check "the coordinator stopped: the call ends, memory untouched" \
	came silence 1 10 'code -3 untouched'
check "the message says for how long it was silent" says silence \
	"the coordinator at $addr is gone (it has not answered for [0-9]* ms)"
kill -CONT "$coordinator"
check "the workers are there again" soon 20 has_workers 2
touch "$tmp/go-silence"
check "the next launch works when it goes on" came silence 2 20 "$right"

# --- programs ---

check "no program is left" soon 10 no_program
check "no image is left" soon 10 no_image "$w1" "$w2"
launch victim for:400:40
victim=$pid
soon 10 in_run 5
check "workers hold slots and images of a program" eval \
	"[ \$(slots_of $w1 $w2 | wc -l) -ge 4 ] && ! no_image $w1 $w2"
slay "$victim"
check "the program killed: its slots are gone" soon 5 no_slots "$w1" "$w2"
check "its memory is gone" soon 5 no_image "$w1" "$w2"
check "its session is gone" soon 5 no_program
check "coordinator and workers are there" eval \
	"alive $coordinator $w1 $w2 && has_workers 2"

launch paused for:200:20
paused=$pid
soon 10 in_run 5
kill -STOP "$paused"
check "a program stopped: it is waited for" soon 10 silent_for 3
start_worker w3 1
w3=$pid
check "a worker joins meanwhile" soon 10 has_workers 3
check "it is still waited for" soon 10 silent_for 5
kill -CONT "$paused"
check "when it goes on, its run does too" came paused 1 20 "$right"
wait "$paused"
kill -TERM "$w3"
wait "$w3"
soon 10 has_workers 2

launch frozen for:400:40
frozen=$pid
soon 10 in_run 5
kill -STOP "$frozen"
check "a program stopped for long: its session ends" soon 20 no_program
check "its slots end" soon 10 no_slots "$w1" "$w2"
kill -CONT "$frozen"
check "when it goes on, it hears of it" came frozen 1 10 'code -3 untouched'

several() {
	local i
	for i in 1 2 3; do
		launch "among-$i" for:100:5 tasks:50:5 for:100:5 for:20:1
	done
	launch among-crash crash:20 crash:20 for:20:5
	launch among-victim for:4000:5
	victim=$pid
	soon 10 state_has '"pid".*"pid".*"pid"'
	slay "$victim"
	for i in 1 2 3; do
		came "among-$i" 4 30 "$right, 20 tasks" &&
			[ "$(grep -c "$right" "$tmp/among-$i.log")" -eq 4 ] ||
			return 1
	done
	came among-crash 3 30 "$right" &&
		[ "$(grep -c 'code -33 untouched' "$tmp/among-crash.log")" \
			-eq 2 ]
}
check "programs at the same time do not disturb each other" several
check "all their sessions end" soon 10 no_program

twenty() {
	local i
	for ((i = 0; i < 20; i++)); do
		TASKRT_COORDINATOR=$addr "$program" for:20:1 \
			>>"$tmp/twenty.log" || return 1
	done
	[ "$(grep -c "$right" "$tmp/twenty.log")" -eq 20 ]
}
mapfile -t daemons < <(with_keepers "$coordinator" "$w1" "$w2")
soon 10 no_slots "$w1" "$w2"
soon 10 no_image "$w1" "$w2"
before=$(open_files "${daemons[@]}")
check "twenty programs one after another" twenty
check "they leave no slot behind" soon 10 no_slots "$w1" "$w2"
check "they leave no image behind" soon 10 no_image "$w1" "$w2"
check "they leave no descriptor behind" soon 10 settled "$before" \
	"${daemons[@]}"
sessions=(fds for:9:1 end fds)
for ((i = 0; i < 20; i++)); do
	sessions+=(for:9:1 end)
done
launch sessions "${sessions[@]}" fds
check "twenty sessions of one program" came sessions 21 30 "$right"
wait "$pid"
check "they leave no descriptor in it" eval \
	"sed -n 's/^fds //p' $tmp/sessions.log | tail -n 2 | uniq | wc -l | \
	grep -q '^1\$'"
check "nor in the daemons" soon 10 settled "$before" "${daemons[@]}"

# --- the end ---

launch last for:400:40
last=$pid
soon 10 in_run 5
mapfile -t all < <(with_keepers "$coordinator" "$w1" "$w2" &&
	descendants "$w1" "$w2")
kill -TERM "$coordinator" "$w1" "$w2"
check "SIGTERM in mid-run ends the coordinator with 0" \
	ends_with 0 "$coordinator"
check "a worker with 0" ends_with 0 "$w1"
check "the other one with 0" ends_with 0 "$w2"
check "the program hears of it" came last 1 10 'code -3 untouched'
check "it ends by itself" ends_with 0 "$last"
check "no process is left" soon 10 none_of "${all[@]}"
check "no file is left" [ -z "$(ls -A "$TMPDIR")$(find /tmp /dev/shm \
	-maxdepth 1 \( -name '*taskrt*' -o -name '*dsm*' \) \
	-newer "$tmp/nobody.log" 2>/dev/null)" ]
exit "$bad"
