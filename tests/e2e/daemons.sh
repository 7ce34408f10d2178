#!/usr/bin/env bash
# daemons.sh - taskrt-coordinator and taskrt-worker as processes: options, joining,
# losing each other, ending; the relay.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

peer=$BUILD/tests/e2e/peer

# complains STATUS PATTERN PROGRAM ARGUMENT... - one line on stderr that has it.
complains() {
	local want=$1 pattern=$2 status
	shift 2
	timeout 20 "$@" >"$tmp/out" 2>"$tmp/err"
	status=$?
	[ "$status" -eq "$want" ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] &&
		grep -q -- "$pattern" "$tmp/err" && [ ! -s "$tmp/out" ]
}

joined() { # N SLOTS - so many workers with so many slots in all
	"$bin/taskrt" stat -1 --coordinator "$addr" |
		grep -q "^$1 workers\{0,1\}, 0 of $2 slots busy"
}

# --- options ---

for program in taskrt-coordinator taskrt-worker; do
	check "$program names a wrong option" \
		complains 2 'unknown option --lisen; see --help' \
		"$bin/$program" --lisen x
	check "$program refuses surplus words" \
		complains 2 '"word" is too much' "$bin/$program" word
	check "$program --version" eval \
		"$bin/$program --version | grep -q '^$program [0-9.]*\$'"
	check "$program --help" eval \
		"$bin/$program --help | grep -q '^usage: $program '"
done
check "a bad address is named" \
	complains 2 'bad address "nowhere"' \
	"$bin/taskrt-coordinator" --listen nowhere
check "beyond loopback needs --insecure" \
	complains 2 'add --insecure' \
	"$bin/taskrt-coordinator" --listen '*:0'
check "a worker needs a coordinator" \
	complains 2 'coordinator HOST:PORT is needed' "$bin/taskrt-worker"
check "a worker needs slots" \
	complains 2 '"0" is not a number from 1' \
	"$bin/taskrt-worker" --coordinator 127.0.0.1:1 --slots 0
check "a coordinator that is not there is named" \
	complains 1 'no coordinator at 127.0.0.1:1 within 0.3 s: .*refused' \
	"$bin/taskrt-worker" --coordinator 127.0.0.1:1 --wait 0.3 --transport tcp
check "a worker's transport is one of three" \
	complains 2 '--transport is auto, tcp or verbs, not "shm"' \
	"$bin/taskrt-worker" --coordinator 127.0.0.1:1 --transport shm
check "the environment is checked as well" \
	complains 2 'TASKRT_TRANSPORT of a worker is auto, tcp or verbs' \
	env TASKRT_TRANSPORT=quic "$bin/taskrt-worker" -c 127.0.0.1:1
check "so is the choice of a device" \
	complains 2 'TASKRT_VERBS_PORT' \
	env TASKRT_VERBS_PORT=first "$bin/taskrt-worker" -c 127.0.0.1:1
if [ ! -e /sys/class/infiniband ] || [ -z "$(ls /sys/class/infiniband)" ]; then
	check "verbs as a must needs a device" \
		complains 1 'verbs: no RDMA device' \
		env TASKRT_TRANSPORT=tcp "$bin/taskrt-worker" -c 127.0.0.1:1 \
		--transport verbs
	check "without one a worker says that it uses tcp" eval \
		"$bin/taskrt-worker -c 127.0.0.1:1 --wait 0.1 2>&1 |
		grep -q 'info: verbs: no RDMA device; using tcp'"
fi

# --- joining and leaving ---

shm_before=$(ls -A /dev/shm 2>/dev/null)
check "a coordinator says when it is ready" start_coordinator coordinator
coordinator=$pid
# One that never says anything is closed after 5 s: looked at below.
(
	# shellcheck disable=SC2094 # a socket
	exec 3<>"/dev/tcp/${addr%:*}/${addr##*:}" && cat <&3 &&
		echo closed
) >"$tmp/silent.log" 2>&1 &
silent=$!
started+=("$silent")

check "a port in use is named" \
	complains 1 "cannot listen on $addr: Address already in use" \
	"$bin/taskrt-coordinator" --listen "$addr"

start worker1 "$bin/taskrt-worker" --coordinator "$addr" --slots 2
worker1=$pid
start worker2 env TASKRT_COORDINATOR="$addr" "$bin/taskrt-worker" --slots 3 \
	--name second
worker2=$pid
check "two workers join" soon 10 joined 2 5
check "a worker says when it has joined" \
	grep -q "^taskrt-worker: joined $addr with 2 slots\$" "$tmp/worker1.log"
check "stat shows names" eval \
	"$bin/taskrt stat -1 -c $addr | grep -q '^  second '"
check "stat --json is one line" eval \
	"[ \$($bin/taskrt stat -1 --json -c $addr | grep -c '^{.*}\$') = 1 ]"

check "another version is refused with a reason" eval \
	"$peer hello $addr 99 2 | grep -q '^REFUSE 10 .*version 99'"
check "no taskrt peer is refused" eval \
	"$peer hello $addr 1 77 | grep -q '^REFUSE 6 '"
check "a wrong session key is refused" eval \
	"$peer hello $addr 1 3 | grep -q '^REFUSE 5 '"
printf 'GET / HTTP/1.0\r\n\r\n' >"/dev/tcp/${addr%:*}/${addr##*:}"
check "it lives on after nonsense" joined 2 5

check "an idle slot whose link to the program ends is replaced" \
	"$peer" client "$addr"
start fake "$peer" coordinator 99
fake=$pid
soon 10 test -s "$tmp/fake.log"
check "a worker names another version and ends" \
	complains 1 'speaks version 99 of the protocol' \
	"$bin/taskrt-worker" --transport tcp \
	--coordinator "127.0.0.1:$(cat "$tmp/fake.log")"
wait "$fake"


# --- losing each other ---

kill -KILL "$worker2"
wait "$worker2" 2>/dev/null
check "a killed worker is gone" soon 10 joined 1 2

wait "$silent"
check "who says nothing is closed" says coordinator \
	'no HELLO within 5 s'

kill -TERM "$coordinator"
check "SIGTERM ends the coordinator with 0" ends_with 0 "$coordinator"
check "a worker notices" soon 10 grep -q "coordinator $addr lost" "$tmp/worker1.log"
start coordinator2 "$bin/taskrt-coordinator" --listen "$addr"
coordinator=$pid
check "a worker joins again" soon 10 joined 1 2

start once "$bin/taskrt-worker" --coordinator "$addr" --slots 1 --once
once=$pid
soon 10 joined 2 3
all=("$worker1" "$once" "$coordinator")
mapfile -t -O 3 all < <(descendants "${all[@]}")
kill -INT "$coordinator"
check "SIGINT ends the coordinator with 0" ends_with 0 "$coordinator"
check "--once ends with the coordinator" ends_with 0 "$once"
kill -TERM "$worker1"
check "SIGTERM ends a worker with 0" ends_with 0 "$worker1"
check "no process is left" soon 10 none_of "${all[@]}"
check "nothing is left in /dev/shm" \
	[ "$shm_before" = "$(ls -A /dev/shm 2>/dev/null)" ]

# --- relay ---

start_coordinator relay
check "the relay passes frames both ways and slows a fast sender" \
	"$peer" relay "$addr" "$pid"
kill -TERM "$pid"
check "its coordinator ends with 0" ends_with 0 "$pid"

# --- taskrt run ---

check "run sets the environment" eval \
	"[ \"\$($bin/taskrt run -n 3 --coordinator h:1 sh -c \
	'echo \$TASKRT_SLOTS \$TASKRT_COORDINATOR')\" = '3 h:1' ]"
"$bin/taskrt" run sh -c 'exit 7'
check "run gives the program's status" [ $? -eq 7 ]
check "run names a program that is not there" \
	complains 127 'no-such-program: No such file' \
	"$bin/taskrt" run no-such-program
mkdir -m 000 "$tmp/locked"
check "also when a folder on PATH is locked" \
	complains 127 'no-such-program: No such file' \
	env PATH="$tmp/locked:$PATH" "$bin/taskrt" run no-such-program
rmdir "$tmp/locked"
check "run names one that cannot be run" \
	complains 126 '/dev/null: Permission denied' "$bin/taskrt" run /dev/null
check "taskrt names a verb that does not exist" \
	complains 2 'no verb "walk"' "$bin/taskrt" walk
check "info shows where a value comes from" eval \
	"TASKRT_SLOTS=7 $bin/taskrt info | grep -q '^slots  *7  *environment'"
exit $bad
