#!/usr/bin/env bash
# run.sh [NAME...] - the end-to-end tests: every script in this folder, or those
# named. Each prints "  ok NAME", "  FAIL NAME: why" or "  skip NAME: why" per check;
# one that fails without saying so counts as a failure. Last line: "N passed, N
# failed"; before it the number of skipped checks, if any.
set -u
cd "$(dirname "$0")/../.." || exit 2
export BUILD=${BUILD-build}
LIMIT=${E2E_SECONDS-600} # for each script
# shellcheck source=tools/parts.sh
. tools/parts.sh
skipped=0

[ $# -gt 0 ] || set -- tests/e2e/*.sh
for script; do
	name=$(basename "$script" .sh)
	[ "$name" != run ] || continue
	echo "$name"
	shown timeout -k 10 "$LIMIT" "tests/e2e/$name.sh"
	status=$?
	passed=$((passed + $(grep -c '^  ok ' "$log")))
	skipped=$((skipped + $(grep -c '^  skip ' "$log")))
	bad=$(grep -c '^  FAIL ' "$log")
	if [ "$bad" -eq 0 ] && { [ "$status" -ne 0 ] ||
		! grep -qE '^  (ok|skip) ' "$log"; }; then
		echo "  FAIL $name ended with status $status after:" \
			"$(tail -n 1 "$log")"
		bad=1
	fi
	failed=$((failed + bad))
done
[ "$skipped" -eq 0 ] || echo "$skipped skipped"
result
