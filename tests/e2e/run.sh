#!/usr/bin/env bash
# run.sh [NAME...] - the end-to-end tests: every script in this folder, or those
# named. Each prints "  ok NAME", "  FAIL NAME: why" or "  skip NAME: why" per check;
# one that fails without saying so counts as a failure. Last line: "N passed, N
# failed"; before it the number of skipped checks, if any.
set -u
cd "$(dirname "$0")/../.." || exit 2
export BUILD=${BUILD-build}
LIMIT=${E2E_SECONDS-300} # for each script
out=$(mktemp)
trap 'rm -f "$out"' EXIT
passed=0
failed=0
skipped=0

[ $# -gt 0 ] || set -- tests/e2e/*.sh
for script; do
	name=$(basename "$script" .sh)
	[ "$name" != run ] || continue
	echo "$name"
	timeout -k 10 "$LIMIT" "tests/e2e/$name.sh" 2>&1 | tee "$out"
	status=${PIPESTATUS[0]}
	passed=$((passed + $(grep -c '^  ok ' "$out")))
	skipped=$((skipped + $(grep -c '^  skip ' "$out")))
	bad=$(grep -c '^  FAIL ' "$out")
	if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
		echo "  FAIL $name ended with status $status"
		bad=1
	fi
	failed=$((failed + bad))
done
[ "$skipped" -eq 0 ] || echo "$skipped skipped"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
