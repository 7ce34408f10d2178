#!/usr/bin/env bash
# netns.sh - a cluster of three "machines": network namespaces k (coordinator), w
# (worker) and c (client), joined by two veth pairs:
#
#   c 10.91.2.2 --- 10.91.2.1 k 10.91.1.1 --- 10.91.1.2 w
#
# w and c see each other only while k forwards and both have a route. So data links
# are direct, or go through the relay. Which it was is checked twice: by what the
# coordinator logs, and by the connections that the worker's machine has.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
# shellcheck source=tests/helpers/netns.sh
. tests/helpers/netns.sh

beat=300

# behaviour LABEL MACHINE COORDINATOR CASE... - cases of behaviour/ there.
behaviour() {
	cases "$1" nsenter --net="/run/netns/$ns-$2" env \
		TASKRT_COORDINATOR="$3" "$BUILD/tests/e2e/behaviour" "${@:4}"
}

# launch LOG MACHINE COORDINATOR STEP... - cluster.c there, in the background.
launch() {
	local log=$1 machine=$2 coordinator=$3
	shift 3
	start "$log" nsenter --net="/run/netns/$ns-$machine" env \
		TASKRT_COORDINATOR="$coordinator" TASKRT_WAIT=20 \
		TASKRT_STAT=1 "$BUILD/tests/e2e/cluster" "$@"
}

# The worker's machine's connections with others than the coordinator.
# shellcheck disable=SC2016 # awk's
direct_links() {
	inside w awk -v port="$(printf '%04X' "$port")" \
		'$4 == "01" && $3 !~ ":" port "$" { n++ } END { print n + 0 }' \
		/proc/net/tcp
}

relays() { # joined so far
	grep -c ' relay [0-9]*: .* joined' "$tmp/coordinator.log"
}

pages_moved() { # LOG
	local n
	n=$(sed -n 's/^  pages_fetched  *\([0-9]*\) .*/\1/p' "$tmp/$1.log")
	[ "${n:-0}" -ge 100 ]
}

# in_between LABEL MACHINE COORDINATOR direct|relay - a run in mid-flight.
in_between() {
	local label=$1 log=${1// /-} links before
	before=$(relays)
	launch "$log" "$2" "$3" for:200:10
	soon 20 in_run 20
	links=$(direct_links)
	check "$label: results" came "$log" 1 30 'code 0 right, 200 tasks'
	wait "$pid"
	check "$label: pages moved" pages_moved "$log"
	if [ "$4" = direct ]; then
		check "$label: the worker is connected with the program" \
			[ "$links" -ge 1 ]
		check "$label: no relay" [ "$(relays)" -eq "$before" ]
	else
		check "$label: no connection with the program" \
			[ "$links" -eq 0 ]
		check "$label: through the relay" [ "$(relays)" -gt "$before" ]
	fi
}

machines w c
in_coordinator=(nsenter "--net=/run/netns/$ns-k")
in_worker=(nsenter "--net=/run/netns/$ns-w")
export TASKRT_LOG=debug TASKRT_INSECURE=1
check "a coordinator for all machines" start_coordinator coordinator \
	--listen '*:0' --insecure --heartbeat $beat
coordinator=$pid
port=${addr##*:}
near=10.91.1.1:$port # k, as the worker sees it
far=10.91.2.1:$port  # k, as the client sees it
addr=$near
start_worker worker 2
worker=$pid
unset TASKRT_LOG
check "a worker joins over the network" soon 10 has_workers 1

# --- program beside the coordinator ---

in_between "beside" k "$near" direct
behaviour "beside" k "$near" results/ between/ null_pointer blocks_born

# --- program on a third machine, no route to it ---

in_between "no route" c "$far" relay
behaviour "no route" c "$far" -scattered -times_out -for_ever -gigabytes

# --- a route, but nobody forwards: silence, not an error ---

ip -n "$ns-w" route add default via 10.91.1.1
in_between "black hole" c "$far" relay

# --- a route ---

ip -n "$ns-c" route add default via 10.91.2.1
forward 1
in_between "route" c "$far" direct

# --- the way between worker and program ends in mid-run, without a word ---

launch silent c "$far" for:400:20
soon 20 in_run 20
joined=$(relays)
[ "$(direct_links)" -ge 1 ] && forward 0
check "silence: the run goes on" came silent 1 30 'code 0 right'
check "silence: through the relay" [ "$(relays)" -gt "$joined" ]
check "silence: within 10 s more" [ "$(sed -n \
	's/^run 1: .* \([0-9]*\) ms: .*/\1/p' "$tmp/silent.log")" -lt 15000 ]
wait "$pid"
forward 1

# --- the network breaks in mid-run ---

launch partition c "$far" for:200:20 for:50:5
soon 20 in_run 20
ip -n "$ns-k" link set w down
check "a worker cut off is given up" soon 10 has_workers 0
ip -n "$ns-k" link set w up
check "it joins again when the network is back" soon 30 has_workers 1
check "the run goes on" came partition 1 30 'code 0 right'
check "and so does the next" came partition 2 30 'code 0 right'
wait "$pid"

launch cut-off c "$far" for:400:20 for:50:5
soon 20 in_run 20
ip -n "$ns-k" link set c down
check "a program cut off is given up" soon 15 no_program
check "it notices that, too" soon 15 says cut-off 'looking for it for 60 s'
ip -n "$ns-k" link set c up
check "when the network is back, its run is launched again" \
	came cut-off 1 30 'code 0 right, 400 tasks'
check "the next one is right" came cut-off 2 30 'code 0 right'
wait "$pid"

# --- plain TCP takes a word at both ends ---

check "a worker does not use it unasked" eval \
	"TASKRT_INSECURE= ${in_worker[*]} $bin/taskrt-worker -c $near 2>&1 |
	grep -q 'would not be encrypted: give a token file'"
check "nor does a program" eval \
	"inside c env TASKRT_INSECURE=0 TASKRT_COORDINATOR=$far \
	$BUILD/tests/e2e/cluster for:4:1 | grep -q '^run 1: code -5 .*encrypted'"

kill -TERM "$worker" "$coordinator"
check "SIGTERM ends the worker with 0" ends_with 0 "$worker"
check "SIGTERM ends the coordinator with 0" ends_with 0 "$coordinator"

# --- with tokens: encrypted, direct or through the relay ---

unset TASKRT_INSECURE
"$bin/taskrt" token --file "$tmp/tokens" --words 'client worker' new all >"$tmp/new.log"
export TASKRT_TOKEN_FILE=$tmp/tokens TASKRT_LOG=debug
check "a coordinator with tokens for all machines" start_coordinator \
	coordinator --listen '*:0' --heartbeat $beat
coordinator=$pid
port=${addr##*:}
near=10.91.1.1:$port
far=10.91.2.1:$port
addr=$near
start_worker worker 2
worker=$pid
unset TASKRT_LOG
check "a worker joins with its token" soon 10 has_workers 1
in_between "tls" c "$far" direct
behaviour "tls" c "$far"
forward 0
in_between "tls, no route" c "$far" relay
kill -TERM "$worker" "$coordinator"
check "SIGTERM ends the worker with tokens" ends_with 0 "$worker"
check "SIGTERM ends the coordinator with tokens" ends_with 0 "$coordinator"
exit "$bad"
