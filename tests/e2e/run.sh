#!/usr/bin/env bash
# run.sh [NAME...] - the end-to-end tests: every script in this folder, or those
# named, two at a time (E2E_LANES): many of them wait more than they compute. Each
# prints "  ok NAME", "  FAIL NAME: why" or "  skip NAME: why" per check, which is
# shown when it has ended; one that fails without saying so counts as a failure. Last
# line: "N passed, N failed"; before it the number of skipped checks, if any.
set -u
cd "$(dirname "$0")/../.." || exit 2
export BUILD=${BUILD-build}
LIMIT=${E2E_SECONDS-600} # for each script
lanes=${E2E_LANES-2}
# shellcheck source=tools/parts.sh
. tools/parts.sh
skipped=0
logs=$(mktemp -d)
declare -A running=() # process -> script
declare -A since=()

stop() {
	[ ${#running[@]} -eq 0 ] || kill "${!running[@]}" 2>/dev/null
	wait
	rm -rf "$logs"
	clean
}
trap stop EXIT

begin() { # NAME
	timeout -k 10 "$LIMIT" "tests/e2e/$1.sh" >"$logs/$1" 2>&1 </dev/null &
	running[$!]=$1
	since[$1]=$SECONDS
}

# next - wait until one has ended, and say what it said.
next() {
	local ended status name bad
	wait -n -p ended "${!running[@]}"
	status=$?
	name=${running[$ended]}
	unset "running[$ended]"
	echo "$name"
	cat "$logs/$name"
	took "$name" $((SECONDS - since[$name]))
	passed=$((passed + $(grep -c '^  ok ' "$logs/$name")))
	skipped=$((skipped + $(grep -c '^  skip ' "$logs/$name")))
	bad=$(grep -c '^  FAIL ' "$logs/$name")
	if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] ||
		! grep -qE '^  (ok|skip) ' "$logs/$name"; }; then
		echo "  FAIL $name ended with status $status after:" \
			"$(tail -n 1 "$logs/$name")"
		bad=1
	fi
	failed=$((failed + bad))
}

[ $# -gt 0 ] || set -- tests/e2e/*.sh
for script; do
	name=$(basename "$script" .sh)
	[ "$name" != run ] || continue
	[ ${#running[@]} -lt "$lanes" ] || next
	begin "$name"
done
while [ ${#running[@]} -gt 0 ]; do
	next
done
[ "$skipped" -eq 0 ] || echo "$skipped skipped"
result
