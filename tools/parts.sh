# shellcheck shell=bash
# parts.sh - run the parts of a check and add up what they say. Source it.

passed=0
failed=0
log=$(mktemp)
all=$(mktemp) # what all parts said
token=
clean() {
	rm -f "$log" "$all"
	[ -z "$token" ] || kill -KILL "$token"
}
trap clean EXIT
trap 'exit 1' TERM INT HUP

# shown COMMAND... - run it; what it says goes into $log and is shown, results of
# its own parts indented. Not through a pipe: that would last as long as anything
# that the command has left behind. tail ends with the token.
shown() {
	local status shower
	: >"$log"
	sleep 3600 >/dev/null 2>&1 &
	token=$!
	disown
	tail -n +1 -s 0.1 -f --pid="$token" "$log" |
		sed -u 's/^[0-9]* passed, [0-9]* failed$/  &/' &
	shower=$!
	"$@" >>"$log" 2>&1
	status=$?
	kill -KILL "$token" # TERM would still be our trap if it is that young
	token=
	wait "$shower"
	return "$status"
}

# took NAME SECONDS - a line for who sums up where the time went.
took() {
	printf '  took %4d s: %s\n' "$2" "$1"
}

# part TITLE COMMAND... - it ends with the line "N passed, N failed". No such line,
# or a bad status with nothing failed (it crashed, it hung), is one failure.
part() {
	local title=$1 status bad=0 start=$SECONDS
	shift
	printf -- '--- %s\n' "$title"
	shown "$@"
	status=$?
	cat "$log" >>"$all"
	took "$title" $((SECONDS - start)) | tee -a "$all"
	if [[ $(grep -E '^[0-9]+ passed, [0-9]+ failed$' "$log" | tail -n 1) =~ \
		^([0-9]+)\ passed,\ ([0-9]+) ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		bad=${BASH_REMATCH[2]}
	elif [ "$status" -eq 0 ]; then
		status="0 and no result"
		bad=-1
	fi
	if [ "$status" != 0 ] && [ "$bad" -le 0 ]; then
		echo "  FAIL $title ended with status $status" | tee -a "$all"
		bad=1
	fi
	failed=$((failed + bad))
}

# result - the last line, and the status to exit with.
result() {
	echo "$passed passed, $failed failed"
	[ "$failed" -eq 0 ]
}
