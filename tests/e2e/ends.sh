#!/usr/bin/env bash
# ends.sh - timeout_ms, taskrt_cancel and fail_fast end tasks at once, whatever these
# are at. See ends.c for what the program prints.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

# All of it has a network of its own, where the address that pages come from can be
# taken away.
if [ -z "${ENDS_INSIDE-}" ]; then
	if [ "$(id -u)" -eq 0 ] && command -v ip >/dev/null &&
		unshare --net true 2>/dev/null; then
		ENDS_INSIDE=1 unshare --net tests/e2e/ends.sh
		exit
	fi
	skip "tasks that wait for a page" "needs root and ip"
fi

MOST=500 # milliseconds; a tenth of it is usual where nobody else computes

# ended HOW KIND CODE - and say after how long.
ended() {
	local log=$1-$2 ms
	soon 20 says "$log" "^$1 $2: " || {
		fail "$1, $2" "it does not end"
		return
	}
	ms=$(sed -n "s/^$1 $2: code $3 untouched, .*gone after \([0-9]*\) ms/\1/p" \
		"$tmp/$log.log")
	check "$1, $2: ended after ${ms:-?} ms" [ "${ms:-$((MOST + 1))}" -le $MOST ]
}

# launch HOW KIND
launch() {
	start "$1-$2" env TASKRT_COORDINATOR="$addr" \
		TASKRT_LISTEN="${data:+$data:7099}" \
		"$BUILD/tests/e2e/ends" "$1" "$2" "$worker"
	soon 20 says "$1-$2" '^running'
}

data= # the address that pages come from
if [ -n "${ENDS_INSIDE-}" ]; then
	data=10.99.0.1
	ip link set lo up && ip addr add $data/32 dev lo
fi
check "a cluster starts" start_coordinator coordinator --insecure
start_worker worker 2
worker=$pid
soon 10 has_workers 1
for how in 'timeout -33' 'cancel -34' 'fail-fast -33'; do
	read -r how code <<<"$how"
	launch "$how" spin
	ended "$how" spin "$code"
	wait "$pid"
	[ -n "${ENDS_INSIDE-}" ] || continue
	launch "$how" page
	ip addr del $data/32 dev lo
	ended "$how" page "$code"
	kill "$pid" 2>/dev/null # it may have ended
	wait "$pid"
	ip addr add $data/32 dev lo
	soon 10 no_program
done
launch cancel stop
ended cancel stop -34
wait "$pid"
start here-cancel env TASKRT_SLOTS=1 "$BUILD/tests/e2e/ends" cancel spin 0
check "in a program without a coordinator" soon 20 says here-cancel \
	'^cancel spin: code -34 untouched, .* gone after [0-9]\{1,3\} ms'
exit "$bad"
