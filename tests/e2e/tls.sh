#!/usr/bin/env bash
# tls.sh - tokens and encrypted connections, on one machine: who is let in, who is
# told what, files that are refused, reloading, users who do not see each other.
# What needs other machines is in netns.sh.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
cluster=$BUILD/tests/e2e/cluster
peer=$BUILD/tests/e2e/peer
tokens=$tmp/tokens

# token NAME WORD... - a line in the coordinator's file, and a file of its own.
token() {
	"$bin/taskrt" token --file "$tmp/$1.token" --words "${*:2}" new "$1" \
		>"$tmp/new.log" && cat "$tmp/$1.token" >>"$tokens"
}

# complains STATUS PATTERN COMMAND... - one line on stderr that has it.
complains() {
	local want=$1 pattern=$2 status
	shift 2
	timeout 20 "$@" >"$tmp/out.log" 2>"$tmp/err.log"
	status=$?
	[ "$status" -eq "$want" ] && [ "$(wc -l <"$tmp/err.log")" -eq 1 ] &&
		grep -q -- "$pattern" "$tmp/err.log"
}

# fails_with CODE PATTERN FILE - a program with that token file.
fails_with() {
	TASKRT_TOKEN_FILE=$3 TASKRT_COORDINATOR=$addr TASKRT_WAIT=3 timeout 20 \
		"$cluster" for:4:1 >"$tmp/program.log" 2>&1
	grep -q -- "^run 1: code $1 untouched.*$2" "$tmp/program.log"
}

runs_with() { # FILE
	TASKRT_TOKEN_FILE=$1 TASKRT_COORDINATOR=$addr timeout 30 "$cluster" \
		for:20:1 tasks:10:1 crash:3 for:10:1 >"$tmp/program.log" 2>&1
	grep -q '^run 4: code 0 right' "$tmp/program.log"
}

stat_as() { # FILE
	"$bin/taskrt" stat -1 --json -c "$addr" --token-file "$1" 2>&1
}

# --- files ---

umask 077
check "a user's token" token alice client slots=8
check "another one's" token bob client
check "the machines'" token crew worker
check "the chief's" token root admin
check "a new file is nobody else's" \
	[ "$(stat -c %a "$tmp/alice.token")" = 600 ]
check "a name is given once" \
	complains 1 'has a token alice already' \
	"$bin/taskrt" token --file "$tokens" new alice
check "tokens are listed without their secrets" eval \
	"$bin/taskrt token --file $tokens list >$tmp/list.log &&
	grep -q '^alice  *client slots=8' $tmp/list.log &&
	! grep -qF \"\$(cut -d: -f2 $tmp/bob.token | cut -d' ' -f1)\" $tmp/list.log"
cp "$tokens" "$tmp/open.tokens"
chmod 644 "$tmp/open.tokens"
check "a coordinator refuses a file that others can read" \
	complains 1 'open.tokens has mode 0644: others can get at it' \
	"$bin/taskrt-coordinator" --listen 127.0.0.1:0 \
	--token-file "$tmp/open.tokens"
check "so does a worker" \
	complains 1 'open.tokens has mode 0644' \
	"$bin/taskrt-worker" -c 127.0.0.1:1 --transport tcp \
	--token-file "$tmp/open.tokens"
addr=127.0.0.1:1
check "and a program, before it connects" \
	fails_with -5 'open.tokens has mode 0644' "$tmp/open.tokens"
check "a token file is not insecure" \
	complains 2 'no token file' \
	"$bin/taskrt-coordinator" --insecure --token-file "$tokens"

# --- who is let in ---

check "a coordinator with tokens" start_coordinator coordinator \
	--token-file "$tokens"
coordinator=$pid
export TASKRT_LOG=debug
start_worker worker 2 --token-file "$tmp/crew.token"
worker=$pid
unset TASKRT_LOG
check "a worker joins" soon 10 says worker 'joined'
check "a program runs" runs_with "$tmp/alice.token"
check "its data links are encrypted" says worker 'slots use tls'
check "without a token: in words" \
	complains 1 'refuses: this coordinator wants a token' \
	"$bin/taskrt" stat -1 -c "$addr"
check "a program hears the same" \
	fails_with -5 'this coordinator wants a token' ''
check "so does a worker" \
	complains 1 'refuses this worker: this coordinator wants a token' \
	"$bin/taskrt-worker" -c "$addr" --transport tcp
check "a user's token is not for workers" \
	complains 1 'token alice is not for workers' \
	"$bin/taskrt-worker" -c "$addr" --transport tcp \
	--token-file "$tmp/alice.token"
check "nor a worker's for programs" \
	fails_with -5 'token crew is not for programs' "$tmp/crew.token"
check "another version is refused with a reason" eval \
	"TASKRT_TOKEN_FILE=$tmp/alice.token $peer hello $addr 99 1 |
	grep -q '^REFUSE 10 .*version 99'"
check "a token does not open data links" eval \
	"TASKRT_TOKEN_FILE=$tmp/alice.token $peer hello $addr 1 3 |
	grep -q '^REFUSE 5 '"

# --- a wrong secret, an unknown name ---

sed 's/:......../:00000000/' "$tmp/alice.token" >"$tmp/wrong.token"
sed 's/^alice/carol/' "$tmp/alice.token" >"$tmp/unknown.token"
start=${EPOCHREALTIME/[.,]/}
check "a wrong secret: which name, which file" fails_with -5 \
	'does not accept token alice of .*wrong.token' "$tmp/wrong.token"
took=$((${EPOCHREALTIME/[.,]/} - start))
check "after a moment" [ "$took" -ge 900000 ]
check "an unknown name: the same words" fails_with -5 \
	'does not accept token carol of .*unknown.token' "$tmp/unknown.token"
check "a worker with it ends" complains 1 'does not accept token carol' \
	"$bin/taskrt-worker" -c "$addr" --transport tcp \
	--token-file "$tmp/unknown.token"
check "the coordinator says who tried" says coordinator \
	'warn: 127.0.0.1:[0-9]*: refused: .*wrong secret.*(name alice)'
secrets=$(cut -d: -f2 "$tokens" "$tmp/wrong.token" | cut -d' ' -f1)
check "no secret is in any log" eval \
	"! grep -qF '$secrets' $tmp/coordinator.log $tmp/worker.log $tmp/err.log"
# Nothing but TLS records leads to more than a closed connection.
printf '\x16\x03\x01\x00\x05hello' >"/dev/tcp/${addr%:*}/${addr##*:}"
check "it lives on after nonsense" runs_with "$tmp/bob.token"

# --- secrets stay where they are ---

# search LABEL FOUND [plant] - by a task, then by a worker that is somebody else's.
search() {
	local label=$1 found=$2 file=$tmp/secrets$1 there
	shift 2
	start "$label" env TASKRT_TOKEN_FILE="$tmp/alice.token" \
		TASKRT_COORDINATOR="$addr" \
		"$BUILD/tests/e2e/secrets" program "$file" "$@"
	there=$pid
	soon 30 [ -e "$file.keys" ]
	TASKRT_TOKEN_FILE=$tmp/crew.token timeout 60 "$BUILD/tests/e2e/secrets" \
		worker "$addr" "$file" "$there" >"$tmp/worker-$label.log" 2>&1
	: >"$file.done"
	wait "$there"
	check "$label: a task finds $found" \
		grep -q "^a task: $found found" "$tmp/$label.log"
	check "$label: a task cannot read where they are" \
		says "$label" 'reads there crashes'
	check "$label: a worker that reads all pages finds $found" \
		grep -q "^a worker: $found found" "$tmp/worker-$label.log"
}
if nm "$BUILD/tests/e2e/secrets" | grep -q '__[amtu]b\{0,1\}san_'; then
	skip "secrets" "a sanitizer copies the stack"
else
	search secrets 0
	search planted 1 plant
fi

# --- users do not see each other ---

start long env TASKRT_TOKEN_FILE="$tmp/alice.token" TASKRT_COORDINATOR="$addr" \
	"$cluster" for:300:10
long=$pid
running() {
	stat_as "$tmp/alice.token" | grep -q '"name":"cluster".*"total":300'
}
check "a user sees what is hers" soon 10 running
check "another one sees nothing of it" eval \
	"[ \$(stat_as $tmp/bob.token | grep -c 'cluster\\|alice') = 0 ]"
check "nor what workers do for it" eval \
	"stat_as $tmp/bob.token | grep -q '\"busy\":0,\"tasks\":0'"
check "an admin sees all" eval \
	"stat_as $tmp/root.token | grep -q '\"token\":\"alice\"'"
check "her run is not disturbed" eval \
	"wait $long; grep -q '^run 1: code 0 right' $tmp/long.log"

# --- reloading ---

token dave client
check "a new token is not known yet" \
	fails_with -5 'does not accept token dave' "$tmp/dave.token"
kill -HUP "$coordinator"
check "SIGHUP: the file is read again" soon 5 says coordinator '5 tokens'
check "now it is" runs_with "$tmp/dave.token"
echo 'half a line' >>"$tokens"
kill -HUP "$coordinator"
check "a bad file is named, the old tokens stay" soon 5 says coordinator \
	'line 6: not of the form NAME:SECRET; the tokens stay as they were'
check "and they work" runs_with "$tmp/dave.token"
sed -i '/half a line/d; /^crew/d' "$tokens"
kill -HUP "$coordinator"
check "who lost the token is cut off" soon 5 says coordinator \
	'token crew was taken back'
check "and ends" ends_with 1 "$worker"
check "in words" says worker 'the token was taken back'
kill -TERM "$coordinator"
check "SIGTERM ends the coordinator with 0" ends_with 0 "$coordinator"

# --- no TLS at the other end ---

check "a coordinator without tokens" start_coordinator plain
check "a program with a token does not go on without TLS" \
	fails_with -5 'does not answer with TLS' "$tmp/alice.token"
check "its coordinator says what it saw" says plain 'with a token file'
kill -TERM "$pid"
check "SIGTERM ends that one with 0" ends_with 0 "$pid"
exit "$bad"
