#!/usr/bin/env bash
# check.sh - TASKRT_CHECK=iterations and `taskrt check`, with check.c.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/check
export TASKRT_SLOTS=2

# gives STATUS PATTERN COMMAND... - that exit status, and a line with that.
gives() {
	local status=$1 pattern=$2 got
	shift 2
	timeout 60 "$@" >"$tmp/out.log" 2>&1
	got=$?
	[ "$got" -eq "$status" ] || echo "    status $got"
	[ "$got" -eq "$status" ] && grep -q -- "$pattern" "$tmp/out.log"
}

silent() { # nothing on stderr, and the status
	local status=$1
	shift
	timeout 60 "$@" 2>"$tmp/err.log" >/dev/null
	[ $? -eq "$status" ] && [ ! -s "$tmp/err.log" ]
}

check "a race within a chunk is not seen" \
	gives 3 '^loop: 0, 0 races' "$program" loop
check "with isolated iterations it is, and they are named" \
	gives 3 '^loop: -32, 1 races, tasks 40 and 41' \
	env TASKRT_CHECK=iterations "$program" loop
check "isolated iterations of a range see the launch state" \
	gives 3 '^range: 1 1' env TASKRT_CHECK=iterations "$program" range
check "taskrt check: races give 66, and are shown" \
	gives 66 'iterations 40 and 41 both wrote' "$bin/taskrt" check \
	"$program" none loop
check "taskrt check: it names the run and the variable" \
	grep -q 'in run loop' "$tmp/out.log"
check "taskrt check: the last line counts" \
	gives 66 'taskrt check: 2 races in 2 runs of' "$bin/taskrt" check \
	-n 1 "$program" loop bunch
check "taskrt check: without a race it is quiet, with the program's status" \
	silent 3 "$bin/taskrt" check "$program" none
check "taskrt check: a program that a signal ends is judged by its races" \
	gives 66 '1 race in 1 run' "$bin/taskrt" check "$program" crash
check "taskrt check: 128 and the signal without races" \
	gives 143 'launched no tasks' "$bin/taskrt" check \
	sh -c 'kill -TERM $$; sleep 60'
check "taskrt check: a program without tasks is told so" \
	gives 5 'launched no tasks: nothing was checked' "$bin/taskrt" check \
	sh -c 'exit 5'
check "taskrt check: no such program" \
	gives 127 'No such file' "$bin/taskrt" check "$tmp/nothing"
check "taskrt check: runs here whatever the environment says" \
	gives 66 '1 race' env TASKRT_COORDINATOR=127.0.0.1:1 "$bin/taskrt" \
	check "$program" loop
check "taskrt check leaves no file behind" \
	bash -c "TMPDIR=\$(mktemp -d) && export TMPDIR &&
	'$bin/taskrt' check '$program' none >/dev/null 2>&1
	rmdir \"\$TMPDIR\""
exit "$bad"
