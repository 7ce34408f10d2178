#!/usr/bin/env bash
# run-tests.sh BUILD [PREFIX] - run what `make test` built below BUILD: the unit
# suites (with PREFIX: only those, and nothing else), the fuzz corpora, the
# end-to-end tests. Last line: "N passed, N failed" of all.
set -u

B=$1
prefix=${2-}
passed=0
failed=0
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# part TITLE COMMAND... - a part ends with a line "N passed, N failed"; one
# that does not (it crashed) counts as one failure.
part() {
	local title=$1 last
	shift
	printf -- '--- %s\n' "$title"
	"$@" 2>&1 | tee "$log"
	last=$(tail -n 1 "$log")
	if [[ $last =~ ^([0-9]+)\ passed,\ ([0-9]+)\ failed$ ]]; then
		passed=$((passed + BASH_REMATCH[1]))
		failed=$((failed + BASH_REMATCH[2]))
	else
		echo "$title ended without a result"
		failed=$((failed + 1))
	fi
}

corpora() {
	local ok=0 bad=0 program name
	for program in "$B"/tests/fuzz_*; do
		[ -x "$program" ] || continue
		name=${program##*/fuzz_}
		if "$program" "tests/fuzz/corpus/$name"; then
			ok=$((ok + 1))
		else
			bad=$((bad + 1))
		fi
	done
	echo "$ok passed, $bad failed"
}

part unit "$B/tests/unit" ${prefix:+"$prefix"}
if [ -z "$prefix" ]; then
	part "fuzz corpora" corpora
	[ -x tests/e2e/run.sh ] && part e2e env BUILD="$B" tests/e2e/run.sh
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
