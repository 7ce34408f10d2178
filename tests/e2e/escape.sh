#!/usr/bin/env bash
# escape.sh - escape.c's attempts, embedded and on workers, and what a slot looks like
# from outside.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

escape=$BUILD/tests/e2e/escape
cluster=$BUILD/tests/e2e/cluster

descriptors() { # PID
	find "/proc/$1/fd" -mindepth 1 2>/dev/null | wc -l
}

slots_of() { # WORKER
	local p
	for p in $(descendants "$1"); do
		[ "$(cat "/proc/$p/comm" 2>/dev/null)" != taskrt-slot ] ||
			echo "$p"
	done
}

# Tasks run on the worker PID.
runs_tasks() {
	local slots
	mapfile -t slots < <(slots_of "$1")
	[ ${#slots[@]} -gt 0 ] && in_run 1
}

status_has() { # PID FIELD VALUE
	grep -q "^$2:[[:space:]]*$3\$" "/proc/$1/status"
}

# Only /dev/null three times, its links and files: nothing of the worker's.
holds_only_its_own() { # PID
	local fd to
	for fd in "/proc/$1/fd"/*; do
		to=$(readlink "$fd")
		case ${fd##*/}:$to in
		[012]:/dev/null) ;;
		[34]:socket:*) ;;
		[5-9]:*memfd:taskrt-*) ;;
		*:anon_inode:\[userfaultfd\]) ;;
		*:pipe:*) ;;
		*:/proc/*/pagemap) ;;
		*)
			echo "    descriptor ${fd##*/} is $to"
			return 1
			;;
		esac
	done
}

# --- embedded ---

TASKRT_SLOTS=2 cases "embedded" "$escape" self 2>/dev/null

# --- on a worker ---

if ! start_coordinator coordinator || ! start_worker one 1 ||
	! soon 10 has_workers 1; then
	fail "a worker" "does not join"
	exit 1
fi
worker=$pid
coordinator=${started[0]}
# What it opens once stays open.
TASKRT_COORDINATOR=$addr "$cluster" for:4:1 >/dev/null 2>&1
soon 10 no_program
before=$(descriptors "$worker")
TASKRT_COORDINATOR=$addr cases "on a worker" "$escape" "$worker" "$coordinator"
check "on a worker: nothing is left of the program" soon 10 no_program
check "on a worker: it is the same one" alive "$worker" "$coordinator"
fewer() {
	[ "$(descriptors "$worker")" -le "$before" ]
}
check "on a worker: no descriptor stays in it" soon 5 fewer
check "on a worker: nobody has written into its log" \
	eval '! says one ESCAPED'
check "on a worker: its log has no control characters" \
	eval "! grep -q $'[\001-\010\016-\037]' \"\$tmp/one.log\""
check "no file was made" [ ! -e /tmp/escaped ]

# --- a slot from outside ---

start program env TASKRT_COORDINATOR="$addr" "$cluster" for:40:100
program=$pid
check "tasks run" soon 10 runs_tasks "$worker"
slot=$(slots_of "$worker" | head -n 1)
check "a slot has seccomp filters" status_has "$slot" Seccomp 2
check "a slot cannot get privileges" status_has "$slot" NoNewPrivs 1
for set in CapPrm CapEff CapInh CapAmb; do
	check "a slot has no capability: $set" \
		status_has "$slot" "$set" 0000000000000000
done
check "a slot dumps no core" \
	grep -q '^Max core file size *0 *0 ' "/proc/$slot/limits"
check "a slot starts no process" \
	grep -q '^Max processes *0 *0 ' "/proc/$slot/limits"
if [ "$(id -u)" -eq 0 ]; then
	check "a slot has no descriptor but its own" holds_only_its_own "$slot"
fi
wait "$program"
check "its result is right" result_is program 1 'code 0 right'

# Of a program with a terminal, which script(1) gives it.
start terminal env TASKRT_SLOTS=1 script -qec "'$cluster' for:40:100" /dev/null
terminal=$pid
has_slot() { # PROGRAM
	[ -n "$(slots_of "$1")" ]
}
check "a program runs on a terminal" soon 10 has_slot "$terminal"
slot=$(slots_of "$terminal" | head -n 1)
check "its slot has none" [ "$(ps -o tty= -p "$slot")" = "?" ]
check "and is none of those that Ctrl-C reaches" [ "$(ps -o pgid= -p "$slot")" != \
	"$(ps -o pgid= -p "$(pgrep -P "$terminal" | head -n 1)")" ]
wait "$terminal"
slay "$worker"

# --- options ---

if [ "$(id -u)" -eq 0 ] && id nobody >/dev/null 2>&1; then
	nobody=$(id -u nobody)
	start_worker other 1 --user nobody
	worker=$pid
	check "--user: it joins" soon 10 has_workers 1
	start program env TASKRT_COORDINATOR="$addr" "$cluster" for:30:100
	program=$pid
	check "--user: tasks run" soon 10 runs_tasks "$worker"
	slot=$(slots_of "$worker" | head -n 1)
	check "--user: slots are that user's" status_has "$slot" Uid \
		"$nobody	$nobody	$nobody	$nobody"
	check "--user: in no other group" status_has "$slot" Groups '[ ]*'
	wait "$program"
	check "--user: the result is right" \
		result_is program 1 'code 0 right'
	slay "$worker"
	for user in root no-such-user; do
		"$bin/taskrt-worker" -c "$addr" --user "$user" \
			>"$tmp/out.log" 2>&1
		check "--user $user is refused" [ $? -eq 2 ]
		check "--user $user: in one line" \
			[ "$(wc -l <"$tmp/out.log")" -eq 1 ]
	done
else
	skip "--user" "only root can do that"
fi

start_worker open 1 --no-sandbox
worker=$pid
check "--no-sandbox: it joins" soon 10 has_workers 1
check "--no-sandbox is said out loud" \
	says open 'warn: --no-sandbox: tasks can do all that'
start program env TASKRT_COORDINATOR="$addr" "$cluster" for:30:100
program=$pid
check "--no-sandbox: tasks run" soon 10 runs_tasks "$worker"
check "--no-sandbox: there is none" \
	status_has "$(slots_of "$worker" | head -n 1)" Seccomp 0
wait "$program"
check "--no-sandbox: the result is right" result_is program 1 'code 0 right'
slay "$worker"
TASKRT_SANDBOX=off "$cluster" for:4:1 >"$tmp/off.log" 2>&1
check "TASKRT_SANDBOX=off: the result is right" result_is off 1 'code 0 right'
check "TASKRT_SANDBOX=off is said out loud" says off 'TASKRT_SANDBOX=off: tasks'
exit "$bad"
