#!/usr/bin/env bash
# gone.sh - what is left of a program that was killed or cut off (nothing, soon), and
# how long the tasks of a worker that was killed or cut off wait until they run
# elsewhere. Machines: k (coordinator), v and w (workers), c (program).
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
# shellcheck source=tests/helpers/netns.sh
. tests/helpers/netns.sh

beat=300 # milliseconds; five of them without a word: lost
right='code 0 right'

# launch LOG STEP... - the program, on c, in the background. Sets pid.
launch() {
	local log=$1
	shift
	start "$log" nsenter --net="/run/netns/$ns-c" env \
		TASKRT_COORDINATOR="10.91.3.1:$port" TASKRT_WAIT=10 \
		TASKRT_RECONNECT=3 TASKRT_COPIES=0 \
		"$BUILD/tests/e2e/cluster" "$@"
}

# worker NAME NUMBER - on its machine. Sets pid.
worker() {
	local in_worker=(nsenter "--net=/run/netns/$ns-$1") \
		addr=10.91.$2.1:$port
	# shellcheck disable=SC2034 # both are start_worker's
	start_worker "$1" 2
}

# nothing_left FILES - of any program, in coordinator and workers.
nothing_left() {
	no_program && no_slots "$v" "$w" && no_image "$v" "$w" &&
		settled "$1" "${daemons[@]}" && [ -z "$(litter)" ]
}

litter() { # files that a killed program or its slots left behind
	find /tmp /dev/shm "$TMPDIR" -maxdepth 1 \
		\( -name '*taskrt*' -o -name '*dsm*' -o -name '*slot*' \) \
		-newer "$tmp/begin" 2>/dev/null
}

# left_after NAME SECONDS BEGIN FILES - all is gone in that time; says when.
left_after() {
	local ms
	soon "$2" nothing_left "$4"
	ms=$(($(now_ms) - $3))
	check "$1: nothing is left of it after $ms ms" nothing_left "$4"
}

machines v w c
touch "$tmp/begin"
for n in 1 2 3; do
	ip -n "$ns-$(cut -c $n <<<vwc)" route add default via "10.91.$n.1"
done
forward 1
in_coordinator=(nsenter "--net=/run/netns/$ns-k")
check "a coordinator" start_coordinator coordinator --listen '*:0' --insecure \
	--heartbeat $beat
coordinator=$pid
port=${addr##*:}
addr=127.0.0.1:$port
worker v 1
v=$pid
worker w 2
w=$pid
check "two workers join over the network" soon 10 has_workers 2

# --- the program ---

launch first for:20:1
check "a program runs on them" came first 1 20 "$right"
wait "$pid"
soon 10 no_program
soon 10 no_slots "$v" "$w"
mapfile -t daemons < <(with_keepers "$coordinator" "$v" "$w")
files=$(open_files "${daemons[@]}")

for how in for start; do
	launch "victim-$how" "$how:400:40"
	soon 10 in_run 5
	check "$how: workers hold slots and memory of a program" eval \
		"[ \$(slots_of $v $w | wc -l) -ge 4 ] && ! no_image $v $w"
	begin=$(now_ms)
	slay "$pid"
	left_after "$how: the program killed" 10 "$begin" "$files"
done

launch cut-off for:400:40
soon 10 in_run 5
begin=$(now_ms)
link c down
left_after "the program's link down" 15 "$begin" "$files"
check "it gives up in the time that it was told" came cut-off 1 15 \
	'code -3 untouched.*did not come back within 3 s'
link c up
wait "$pid"

# --- a worker ---

# elsewhere LOG BEGIN - a task of 3000 ms that was lost at BEGIN has run again: how
# long it was nobody's.
elsewhere() {
	soon 20 says "$1" '^run 1: ' || return
	echo $(($(now_ms) - $2 - 3000))
}

# v is told to leave, so that the task is w's; and comes back for the second try.
alone() {
	kill -TERM "$v"
	wait "$v"
	soon 10 has_workers 1
}

# lose LABEL MOST COMMAND... - which is the end of w.
lose() {
	local label=$1 most=$2 log=${1// /-} begin ms
	shift 2
	alone
	launch "$log" tasks:1:3000
	soon 10 in_run 0
	worker v 1
	v=$pid
	soon 10 has_workers 2
	soon 10 eval "[ \$(slots_of $v | wc -l) -ge 2 ]"
	begin=$(now_ms)
	"$@"
	ms=$(elsewhere "$log" "$begin")
	check "$label: its task runs elsewhere after ${ms:-?} ms" \
		[ "${ms:-$((most + 1))}" -le "$most" ]
	check "$label: the result is right" came "$log" 1 1 \
		"$right, 1 tasks, 1 retried"
}

lose "a worker killed" 2000 slay "$w"
worker w 2
w=$pid
soon 10 has_workers 2
lose "a worker's link down" $((beat * 10)) link w down
link w up
check "it joins again when its link is up" soon 20 has_workers 2
check "it has nothing left of before" soon 10 no_slots "$w"

launch halves for:200:20
soon 10 in_run 20
link w down
check "half of the workers cut off in mid-run, the result is right" \
	came halves 1 30 "$right, 200 tasks, [1-9]"
link w up
soon 20 has_workers 2
exit "$bad"
