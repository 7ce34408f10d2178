#!/usr/bin/env bash
# verbs.sh - data links over RDMA: the same results as over TCP, heap pages read
# one-sidedly, what is said when it cannot be, and a fabric that breaks. Needs an
# RDMA device (`make test-rdma` brings a machine that has two); without one only
# what is said of that is tested.
#
# RDMA_CUT names a network interface that may be set down: the link between the
# first device (the program's and one worker's) and the last (the other worker's).
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

unset TASKRT_VERBS_DEVICE TASKRT_VERBS_PORT TASKRT_VERBS_GID_INDEX \
	TASKRT_VERBS_DEPTH
pages=$BUILD/tests/e2e/pages
program=$BUILD/tests/e2e/cluster
right='code 0 right'
beat=4000 # milliseconds; emulated machines are slow
nobody=65534

devices() { # with an active port
	local state
	for state in /sys/class/infiniband/*/ports/*/state; do
		! grep -qs ACTIVE "$state" || echo "$state" | cut -d/ -f5
	done
}

all_active() {
	[ "$(devices | wc -l)" -eq ${#device[@]} ]
}

# says_once PATTERN COMMAND... - it fails, and the line that says so is the only
# one on stderr.
says_once() {
	local pattern=$1
	shift
	"$@" >"$tmp/out.log" 2>"$tmp/err.log" && return 1
	[ "$(grep -c . "$tmp/err.log")" -eq 1 ] &&
		grep -q "$pattern" "$tmp/err.log"
}

# warns PATTERN COMMAND... - it works, and stderr has such a line.
warns() {
	local pattern=$1
	shift
	"$@" >"$tmp/out.log" 2>"$tmp/err.log" &&
		grep -q "$pattern" "$tmp/err.log"
}

with() { # TRANSPORT COMMAND... - over the coordinator at addr
	TASKRT_TRANSPORT=$1 TASKRT_COORDINATOR=$addr timeout 60 "${@:2}"
}

# --- no device; the coordinator is not asked before ---

mapfile -t device < <(devices)
addr=127.0.0.1:1
if [ ${#device[@]} -eq 0 ]; then
	check "no RDMA device: a program that insists is told" says_once \
		'transport verbs is asked for (environment), but: ' \
		with verbs "$pages" scan:16
	check "taskrt info says why" eval \
		"$bin/taskrt info | grep -q '^RDMA: not usable: no '"
	check "a worker that insists is told" says_once \
		'taskrt-worker: ' "$bin/taskrt-worker" \
		--coordinator "$addr" --wait 1 --transport verbs
	skip "RDMA" "no RDMA device with an active port; see make test-rdma"
	exit "$bad"
fi
check "a device that does not exist is named" says_once \
	"no RDMA device nix0, there is: .*${device[0]}" \
	env TASKRT_VERBS_DEVICE=nix0 TASKRT_TRANSPORT=verbs \
	TASKRT_COORDINATOR=$addr "$pages" scan:16
check "taskrt info shows the device" eval \
	"$bin/taskrt info | grep -q '^RDMA: ${device[0]} port 1, '"

# --- the same results, other ways ---

first=${device[0]}
last=${device[${#device[@]} - 1]}
check "a coordinator starts" start_coordinator coordinator --heartbeat $beat
coordinator=$pid
start_on() { # LOG DEVICE - a worker of one slot
	in_worker=(env "TASKRT_VERBS_DEVICE=$2")
	start_worker "$1" 1
}
export TASKRT_VERBS_DEVICE=$first TASKRT_WAIT=20
start_on near "$first"
near=$pid
start_on far "$last"
far=$pid
check "two workers join" soon 20 has_workers 2

# The first of each kind fetches code and data outside the heap.
steps=(scan:16 scatter:16 write:16 iterate:16:2
	scan:2048 scatter:500 write:300 iterate:160:5)
for transport in verbs tcp; do
	with $transport "$pages" "${steps[@]}" >"$tmp/$transport.log" 2>&1
	check "pages over $transport are right" eval "[ $? -eq 0 ] &&
		[ \$(grep -c ': right, ' $tmp/$transport.log) -eq 8 ]"
done

value() { # TRANSPORT STEP NAME - what pages.c says of it
	sed -n "s/^$2: .* $3 \([0-9]*\).*/\1/p" "$tmp/$1.log"
}
for step in "scan 2048" "scatter 500" "write 300"; do
	check "$step: every page comes by RDMA READ" eval \
		"[ $(value verbs "$step" rdma) -ge ${step#* } ] &&
		[ $(value verbs "$step" message) -le 8 ]"
	check "$step: none does over TCP" [ "$(value tcp "$step" rdma)" -eq 0 ]
done
check "a scan reads many pages at a time" \
	[ "$(value verbs "scan 2048" reads)" -lt 400 ]
check "rounds fetch what changed, not all" \
	[ "$(value verbs "iterate 160" fetched)" -lt 300 ]

launch() { # LOG TRANSPORT COMMAND... - in the background. Sets pid.
	local log=$1 transport=$2
	shift 2
	start "$log" env TASKRT_COORDINATOR="$addr" \
		TASKRT_TRANSPORT="$transport" "$@"
}
in_flight() { # TRANSPORT - stat while a program runs
	launch shown "$1" "$program" for:4000:50
	soon 30 in_run 10
	"$bin/taskrt" stat -1 -c "$addr" >"$tmp/stat.log"
	slay "$pid"
}
in_flight verbs
check "stat shows each worker's device" eval \
	"grep -q 'verbs, worker near: $first port 1, ' $tmp/stat.log &&
	grep -q 'verbs, worker far: $last port 1, ' $tmp/stat.log"
in_flight tcp
check "stat shows TCP" eval "grep -q ' tcp, ' $tmp/stat.log &&
	! grep -q ' verbs, ' $tmp/stat.log"

# --- what a page costs the slot in system calls ---

calls() { # NAME - so many, as strace counts them
	awk -v name="$1" '$NF == name { n = $4 } END { print n + 0 }' \
		"$tmp/calls.log"
}
# count_calls PAGES STEPS - of the slots, one of which reads so many pages, one by one,
# so often. strace looks for some seconds of it.
count_calls() {
	local program slots steps
	mapfile -t steps < <(yes "scatter:$1" | head -n "$2")
	launch counted verbs "$pages" scan:16 iterate:16:1 "${steps[@]}"
	program=$pid
	soon 30 says counted '^iterate 16: ' || return 1
	mapfile -t slots < <(pgrep -x taskrt-slot)
	timeout -s INT 8 strace -f -c "${slots[@]/#/-p}" -o "$tmp/calls.log" \
		2>"$tmp/strace.log"
	wait "$program" &&
		[ "$(grep -c "^scatter $1: right" "$tmp/counted.log")" -eq "$2" ]
}
if ! command -v strace >/dev/null || [ "$(id -u)" -ne 0 ]; then
	skip "system calls" "needs strace, and root"
elif ! count_calls 800 12; then
	fail "system calls" "the program under strace"
else
	# It sees what comes after it has begun. The provider writes for each READ
	# (Soft-RoCE); the rest is the page's way into the image, and the trap.
	n=$(calls pwrite64)
	[ "$n" -ge 100 ] || skip "system calls" "strace came too late"
	for call in clock_gettime futex recvfrom recvmsg sendto sendmsg read \
		mprotect madvise; do
		check "no $call for a page" \
			[ "$(calls $call)" -lt $((n / 5 + 20)) ]
	done
fi

result() { # COMMAND... - an example's
	"$@" 2>"$tmp/example.log" | sed -n 's/.* s  correct: //p'
}
same_result() { # PROGRAM ARGUMENT...
	local want got
	want=$(result "$BUILD/examples/$1" "${@:2}" --mode sequential)
	got=$(result with verbs "$BUILD/examples/$1" "${@:2}")
	[ -n "$want" ] && [ "$got" = "$want" ]
}
check "mandelbrot is right" same_result mandelbrot --width 120 --height 30
check "a tree in malloc is right" same_result \
	tree --keys 4000 --tasks 8 --searches 100
check "a tree in dsm_malloc is right" same_result \
	tree --keys 4000 --tasks 8 --searches 100 --dsm
cases "verbs" env TASKRT_TRANSPORT=verbs TASKRT_COORDINATOR="$addr" \
	"$BUILD/tests/e2e/behaviour" loop_results globals_stack two_writers \
	see_the_launch null_pointer malloc_and_free blocks_born clean_pages \
	changed_globals

# --- ordinary users and what they may lock ---

as_user() { # KIB TRANSPORT COMMAND...
	with "$2" setpriv --reuid=$nobody --regid=$nobody --clear-groups \
		bash -c "ulimit -l $1 && exec \"\$@\"" user "${@:3}"
}
if [ "$(id -u)" -ne 0 ] || ! as_user 64 tcp test -x "$pages"; then
	skip "locked memory" "needs root, and a checkout that all may read"
else
	check "64 KiB of locked memory: a program that insists is told" \
		says_once 'RLIMIT_MEMLOCK is 64 KiB.*limits.conf' \
		as_user 64 verbs "$pages" scan:16
	check "64 KiB: another one is warned and uses TCP" \
		warns 'RLIMIT_MEMLOCK is 64 KiB.*use tcp' \
		as_user 64 auto "$pages" scan:16
	check "8 MiB: what cannot be registered goes in messages" \
		warns 'no more of the heap can be registered.*8192 KiB' \
		as_user 8192 verbs "$pages" scan:16 scan:4096
fi

# --- who dies ---

# Queue pairs and registered memory that are in use, of all devices.
in_use() {
	rdma resource show |
		sed -n 's/.* qp \([0-9]*\) .* mr \([0-9]*\) .*/\1 \2/p' |
		awk '{ n += $1 + $2 } END { print n + 0 }'
}
unused() { # as many as at first
	[ "$(in_use)" -le "$resting" ]
}
if command -v rdma >/dev/null; then
	check "no program is left" soon 20 no_program
	# The device has one queue pair of its own.
	resting=${#device[@]}
	check "programs that have ended hold nothing of a device" \
		soon 20 unused
else
	resting=999999
fi

launch killed verbs "$program" for:60:60
check "a run is on" soon 20 in_run 5
mapfile -t gone < <(descendants "$far")
slay "$far"
check "a killed worker's tasks run elsewhere" came killed 1 60 "$right"
check "its slots are gone" soon 20 none_of "${gone[@]}"
start_on far "$last"
far=$pid
check "a new worker takes its place" soon 20 has_workers 2

launch victim verbs "$pages" iterate:256:100000
victim=$pid
soon 20 in_run 1
mapfile -t gone < <(descendants "$near" "$far" | xargs -I{} sh -c \
	'grep -qs taskrt-slot /proc/{}/comm && echo {}')
slay "$victim"
check "the program killed: its slots end" soon 20 none_of "${gone[@]}"
check "its session ends" soon 20 no_program
check "nothing of the devices is left in use" soon 20 unused

# --- the link breaks ---

cut=${RDMA_CUT-}
if [ -z "$cut" ] || [ "$first" = "$last" ]; then
	skip "a link that breaks" "RDMA_CUT names none"
else
	launch cut auto "$pages" scan:16 iterate:128:12
	soon 20 says cut '^scan 16: '
	soon 20 in_run 1
	ip link set "$cut" down
	check "link down in mid-run: the result is right" \
		soon 90 says cut '^iterate 128: right'
	wait "$pid"
	check "link down: a program that insists is told" says_once \
		'port 1 is DOWN' with verbs "$pages" scan:16
	check "link down: another one is warned and uses TCP" \
		warns 'port 1 is DOWN.*use tcp' with auto "$pages" scan:16
	ip link set "$cut" up
	check "link up: the ports are active again" soon 20 all_active
fi

kill -TERM "$near" "$far" "$coordinator"
check "SIGTERM ends the near worker with 0" ends_with 0 "$near"
check "the far one" ends_with 0 "$far"
check "the coordinator" ends_with 0 "$coordinator"
check "nothing of the devices is left in use at the end" soon 20 unused
exit "$bad"
