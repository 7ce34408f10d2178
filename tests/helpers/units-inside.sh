#!/usr/bin/env bash
# units-inside.sh - what tests/e2e/units.sh runs under a systemd of its own, with the
# daemons and their units installed. Prints "  ok NAME" or "  FAIL NAME", and "end".
# shellcheck disable=SC2317 # functions are called by name
set -u
addr=127.0.0.1:7070
export LC_ALL=C.UTF-8

check() { # NAME COMMAND...
	local name=$1
	shift
	if "$@"; then
		echo "  ok $name"
	else
		echo "  FAIL $name"
		systemctl status --no-pager -l taskrt-coordinator taskrt-worker >&2
		journalctl --no-pager -n 20 >&2
	fi
}

soon() { # COMMAND... - it becomes true in 20 s.
	local end=$((SECONDS + 20))
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$end" ] || return 1
		sleep 0.1
	done
}

property() { # UNIT NAME
	systemctl show -p "$2" --value "$1"
}

is() { # UNIT NAME VALUE
	[ "$(property "$1" "$2")" = "$3" ]
}

has_worker() { # NAME SLOTS
	taskrt stat -1 --json -c "$addr" |
		grep -q "\"name\":\"$1\".*\"slots\":$2,\"busy\""
}

main_pid() {
	property "taskrt-$1" MainPID
}

# field NAME - of the worker's /proc/PID/status
field() {
	sed -n "s/^$1:[[:space:]]*\([^[:space:]]*\).*/\1/p" \
		"/proc/$(main_pid worker)/status"
}

# Those that depend on what a slot is allowed. Says ok or FAIL itself.
behaves() {
	LABEL="on the worker's unit" TASKRT_COORDINATOR=$addr \
		timeout -k 5 60 /inside/behaviour loop_results one_failure \
		forbidden times_out libc_calls only_ask text_of malloc_and_free \
		gigabytes memory_mapped
}

runs() {
	soon is "taskrt-$1" ActiveState active && is "taskrt-$1" NRestarts "$2"
}

no_process() { # UNIT
	! pgrep -x "$1" && ! pgrep -x "${1:0:15}"
}

systemctl daemon-reload
check "the coordinator starts" systemctl start taskrt-coordinator
check "the worker starts" systemctl start taskrt-worker
check "the worker joins" soon has_worker "$(hostname)" "$(nproc)"
check "the worker is not root" [ "$(field Uid)" != 0 ]
check "the worker has no capability" [ "$(field CapBnd)" = 0000000000000000 ]
check "the worker has a system call filter" [ "$(field Seccomp)" = 2 ]
check "locked memory is not limited" is taskrt-worker LimitMEMLOCK infinity
check "programs run on it" behaves

mkdir -p /etc/default
echo "OPTIONS=\"--coordinator $addr --slots 3 --name from-a-file\"" \
	>/etc/default/taskrt-worker
check "the worker starts again" systemctl restart taskrt-worker
check "its options come from /etc/default" soon has_worker from-a-file 3

kill -KILL "$(main_pid worker)"
check "a killed worker is started again" soon is taskrt-worker NRestarts 1
check "and joins again" soon has_worker from-a-file 3

echo 'OPTIONS="--lisen"' >/etc/default/taskrt-coordinator
systemctl restart taskrt-coordinator
check "a wrong option is the end" soon is taskrt-coordinator ActiveState failed
check "and not tried again" is taskrt-coordinator NRestarts 0
rm /etc/default/taskrt-coordinator
check "without it the coordinator starts" systemctl start taskrt-coordinator
check "and the worker joins by itself" soon has_worker from-a-file 3

check "they stop" systemctl stop taskrt-worker taskrt-coordinator
check "the worker stopped well" is taskrt-worker Result success
check "the coordinator stopped well" is taskrt-coordinator Result success
check "no process of the worker is left" no_process taskrt-worker
check "no slot is left" no_process taskrt-slot
echo end
