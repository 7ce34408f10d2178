#!/usr/bin/env bash
# chaos.sh - clusters that are broken at random (tests/chaos), and a thousand sessions
# that leave nothing behind. CHAOS_SEEDS: those of the random ones; CHAOS_JOBS: how
# many at a time.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

# --- random ones ---

timeout -k 5 400 "$BUILD/tests/chaos/chaos" --seeds "${CHAOS_SEEDS-1-200}" \
	--jobs "${CHAOS_JOBS-6}" "$BUILD" >"$tmp/seeds.out" 2>&1
status=$?
cat "$tmp/seeds.out"
# Its failures are lines of ours; else there must be a result.
if [ "$status" -eq 0 ]; then
	ok "seeds ${CHAOS_SEEDS-1-200}"
elif ! grep -q '^  FAIL' "$tmp/seeds.out"; then
	fail "seeds ${CHAOS_SEEDS-1-200}" "status $status"
fi
bad=$status

# --- a thousand sessions ---

resident() { # PID - KiB
	sed -n 's/^VmRSS:[^0-9]*\([0-9]*\).*/\1/p' "/proc/$1/status"
}

quiet() { # WORKER - no session, no slot
	no_program && no_slots "$1"
}

grown_by() { # PID BEFORE MOST
	local now
	now=$(resident "$1")
	[ "$now" -le $(($2 + $3)) ] || echo "    $2 KiB before, $now KiB now"
	[ "$now" -le $(($2 + $3)) ]
}

sessions() { # N
	TASKRT_COORDINATOR=$addr timeout 120 "$BUILD/tests/chaos/sessions" "$1" \
		>>"$tmp/sessions.log" 2>&1
}

# leave_nothing LABEL N - N sessions, after 100 others that may fill caches.
leave_nothing() {
	local coordinator worker coordinator_kib worker_kib before begin daemons
	check "$1: a cluster starts" start_coordinator "coordinator-$1"
	coordinator=$pid
	start_worker "worker-$1" 2
	worker=$pid
	check "$1: a worker joins" soon 10 has_workers 1
	check "$1: 100 sessions" sessions 100
	check "$1: they end" soon 10 quiet "$worker"
	mapfile -t daemons < <(with_keepers "$coordinator" "$worker")
	before=$(open_files "${daemons[@]}")
	coordinator_kib=$(resident "$coordinator")
	worker_kib=$(resident "$worker")
	begin=$SECONDS
	check "$1: $2 sessions more" sessions "$2"
	echo "  (in $((SECONDS - begin)) s)"
	check "$1: they end, too" soon 10 quiet "$worker"
	check "$1: no descriptor is left of them" soon 10 settled "$before" \
		"${daemons[@]}"
	check "$1: the coordinator has not grown by 1 MiB" \
		grown_by "$coordinator" "$coordinator_kib" 1024
	check "$1: nor the worker" grown_by "$worker" "$worker_kib" 1024
	kill -TERM "$worker" "$coordinator"
	check "$1: the worker ends" ends_with 0 "$worker"
	check "$1: the coordinator ends" ends_with 0 "$coordinator"
}
leave_nothing plain 1000
"$bin/taskrt" token --words 'client worker admin' --file "$tmp/tokens" new us \
	>/dev/null
export TASKRT_TOKEN_FILE=$tmp/tokens
leave_nothing encrypted 300
exit "$bad"
