# shellcheck shell=bash
# e2e.sh - what the end-to-end scripts share: verdicts, waiting for a condition,
# daemons in the background. Source it with the repository's root as the current
# folder. It sets tmp (removed at the end), bin, pid and addr (see start…), bad.
#
# A script may define at_end: called at its end, whatever the reason, after all
# that it started has been killed.

export BUILD=${BUILD-build}
bin=$BUILD/bin
tmp=$(mktemp -d)
export TMPDIR=$tmp # whoever looks into /tmp finds nothing of ours there
started=()
in_coordinator=() # what to run the coordinator and those who ask it with: nsenter …
in_worker=()
bad=0 # a script's exit status
unset TASKRT_COORDINATOR TASKRT_LOG TASKRT_SLOTS TASKRT_STAT TASKRT_TRANSPORT \
	TASKRT_TOKEN_FILE TASKRT_INSECURE TASKRT_WAIT TASKRT_RECONNECT \
	TASKRT_CHECK TASKRT_CHECK_LOG TASKRT_COPIES TASKRT_SANDBOX \
	TASKRT_VERBS_DEVICE \
	TASKRT_VERBS_PORT TASKRT_VERBS_GID_INDEX TASKRT_VERBS_DEPTH

finish() {
	trap '' TERM INT HUP
	local p
	{
		for p in "${started[@]}"; do
			kill -KILL "$p"
		done
		wait
	} 2>/dev/null
	! declare -F at_end >/dev/null || at_end
	rm -rf "$tmp"
}
trap finish EXIT
trap 'exit 1' TERM INT HUP

ok() {
	echo "  ok $1"
}

skip() { # NAME REASON
	echo "  skip $1: $2"
}

# fail NAME REASON - with the last lines of all logs.
fail() {
	echo "  FAIL $1: $2"
	tail -n 8 "$tmp"/*.log 2>/dev/null | sed 's/^/    /'
	# shellcheck disable=SC2034 # the script's
	bad=1
}

# check NAME COMMAND... - the command's words are the reason of a failure.
check() {
	local name=$1
	shift
	if "$@"; then
		ok "$name"
	else
		fail "$name" "$*"
	fi
}

# cases LABEL PROGRAM [CASE...] - the lines of a program that prints verdicts by
# itself; one that ends early fails.
cases() {
	local label=$1 out=$tmp/cases.log status
	shift
	LABEL=$label timeout -k 5 300 "$@" 2>&1 | tee "$out" |
		grep -E '^  (ok|FAIL|skip|  )'
	status=${PIPESTATUS[0]}
	if [ "$status" -ne 0 ]; then
		# shellcheck disable=SC2034 # the script's
		bad=1
		grep -q '^  FAIL' "$out" || fail "$label" "status $status"
	fi
}

# What a program links to have the library in it.
# shellcheck disable=SC2034 # the scripts'
static=("$BUILD/lib/libtaskrt.a" "$BUILD/lib/libdsm.a" -luv -llz4 -lurcu-bp
	-lurcu-cds -ldl)

# build_from SOURCE LABEL COMPILER WORD... - as a user would, into $tmp/LABEL. SOURCE
# is a file, or a folder of C files.
build_from() {
	local sources=("$1") label=$2 compiler=$3
	[ ! -d "$1" ] || sources=("$1"/*.c)
	shift 3
	if nm "$BUILD/tests/e2e/behaviour" | grep -q '__[amtu]b\{0,1\}san_'; then
		skip "$label" "this build has a sanitizer in it"
		return 1
	fi
	if ! command -v "$compiler" >/dev/null; then
		skip "$label" "no $compiler here"
		return 1
	fi
	"$compiler" -D_GNU_SOURCE -O2 -Itaskrt/include \
		-Idsm/include -pthread -o "$tmp/$label" "${sources[@]}" \
		"$BUILD/obj/tests/helpers/cases.o" "$@" -lm \
		>"$tmp/build.log" 2>&1 && return 0
	fail "$label" "does not build"
	return 1
}

# soon SECONDS COMMAND... - it becomes true in that time.
soon() {
	local end=$((${EPOCHREALTIME/[.,]/} + $1 * 1000000))
	shift
	while ! "$@" >/dev/null 2>&1; do
		[ "${EPOCHREALTIME/[.,]/}" -lt "$end" ] || return 1
		sleep 0.05
	done
}

# start LOG PROGRAM ARGUMENT... - in the background, its output in $tmp/LOG.log.
# Sets pid.
start() {
	local log=$tmp/$1.log
	shift
	: >"$log"
	"$@" >"$log" 2>&1 &
	pid=$!
	started+=("$pid")
}

says() { # LOG PATTERN
	grep -q -- "$2" "$tmp/$1.log"
}

# start_coordinator LOG [OPTION...] - on a free port of loopback unless an option
# says otherwise. Sets pid and addr.
start_coordinator() {
	local log=$1
	shift
	start "$log" "${in_coordinator[@]}" "$bin/taskrt-coordinator" \
		--listen 127.0.0.1:0 "$@"
	soon 10 says "$log" 'listening on' || return 1
	addr=$(sed -n 's/.*: listening on //p' "$tmp/$log.log")
}

# start_worker LOG SLOTS [OPTION...] - of the coordinator at addr. Sets pid.
start_worker() {
	local log=$1 slots=$2
	shift 2
	start "$log" "${in_worker[@]}" "$bin/taskrt-worker" --coordinator "$addr" \
		--slots "$slots" --name "$log" "$@"
}

state() {
	timeout 10 "${in_coordinator[@]}" "$bin/taskrt" stat -1 --json \
		--coordinator "$addr"
}

state_has() { # PATTERN
	state 2>/dev/null | grep -q -- "$1"
}

has_workers() { # N
	local n
	n=$(state 2>/dev/null | grep -o '"slots":[0-9]*,"busy"' | wc -l)
	[ "$n" -eq "$1" ]
}

no_program() { # no session is left
	state_has '"sessions":\[\]'
}

# in_run N - a run is on, and N of its tasks are done.
in_run() {
	local n
	n=$(state 2>/dev/null | sed -n 's/.*"done":\([0-9]*\).*/\1/p')
	[ "${n:--1}" -ge "$1" ]
}

tasks_of() { # WORKER-NAME - that it has done
	state | sed -n "s/.*\"name\":\"$1\"[^}]*\"tasks\":\([0-9]*\).*/\1/p"
}

ends_with() { # STATUS PID
	local status
	wait "$2"
	status=$?
	[ "$status" -eq "$1" ] || echo "    it ended with status $status"
	[ "$status" -eq "$1" ]
}

alive() { # PID...
	local p
	for p; do
		kill -0 "$p" 2>/dev/null || return 1
	done
}

none_of() { # PID... - not one is left; a zombie is none
	local p
	for p; do
		! grep -q '^State:[[:space:]]*[^XZ]' "/proc/$p/status" \
			2>/dev/null || return 1
	done
}

# Of cluster.c in the background; LOG is where it writes to.
result_is() { # LOG N PATTERN - of its run N
	grep -q "^run $2: $3" "$tmp/$1.log"
}

came() { # LOG N SECONDS PATTERN - run N's line is there in time and like this
	soon "$3" says "$1" "^run $2: " && result_is "$1" "$2" "$4"
}

slay() { # PID - and let the shell be silent about it
	kill -KILL "$1"
	wait "$1" 2>/dev/null
}

descendants() { # PID...
	local p children
	for p; do
		mapfile -t children < <(pgrep -P "$p")
		[ ${#children[@]} -eq 0 ] || {
			printf '%s\n' "${children[@]}"
			descendants "${children[@]}"
		}
	done
}

open_files() { # PID... - how many, of all
	local p n=0
	for p; do
		n=$((n + $(find "/proc/$p/fd" -type l 2>/dev/null | wc -l)))
	done
	echo "$n"
}

with_keepers() { # WORKER... - each and the process that starts its slots
	local p
	for p; do
		echo "$p"
		pgrep -P "$p"
	done
}

slots_of() { # WORKER... - their processes
	local keepers w
	mapfile -t keepers < <(for w; do pgrep -P "$w"; done)
	descendants "${keepers[@]}"
}

no_slots() { # WORKER...
	[ -z "$(slots_of "$@")" ]
}

# Images are memory files of the worker.
image_files() { # WORKER...
	local p
	for p; do
		find "/proc/$p/fd" -lname '/memfd:*' -printf '%l\n' 2>/dev/null
	done | grep -cv 'memfd:taskrt-slot '
}

no_image() { # WORKER...
	[ "$(image_files "$@")" -eq 0 ]
}

settled() { # FILES PROCESS... - they have no more open than so many
	local most=$1
	shift
	[ "$(open_files "$@")" -le "$most" ]
}

now_ms() {
	echo $((${EPOCHREALTIME/[.,]/} / 1000))
}
