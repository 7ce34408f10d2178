#!/usr/bin/env bash
# fuzz.sh BUILD SECONDS - every fuzz target below BUILD: its saved corpus, then so many
# seconds of new inputs (0: none), as many targets at a time as there are processors.
# With libFuzzer in it a target goes on from what it found before (BUILD/corpus). An
# input that ends a target is left in BUILD. Last line: "N passed, N failed".
set -u
B=$1
seconds=$2
export FUZZ_ARTIFACTS=$B
export ASAN_OPTIONS=${ASAN_OPTIONS-allocator_may_return_null=1}

one() { # BUILD SECONDS PROGRAM
	local name=${3##*/fuzz_} corpus
	corpus=tests/fuzz/corpus/$name
	if ! "$3" -help=1 2>&1 | grep -q max_total_time; then
		timeout -k 5 $(($2 + 120)) "$3" -s "$2" "$corpus"
		return
	fi
	mkdir -p "$1/corpus/$name"
	timeout -k 5 $(($2 + 120)) "$3" -max_total_time=$(($2 > 0 ? $2 : 1)) \
		-verbosity=0 -print_final_stats=1 -timeout=30 -rss_limit_mb=3000 \
		-artifact_prefix="$1/$name-" "$1/corpus/$name" "$corpus" 2>&1 |
		sed -n '/^Recommended/,/^######.*End/d
			/^###### Recommended/,/^###### End/d
			/NEW_FUNC/d; s/^stat::number_of_executed_units: */  inputs: /p
			/^stat::/!p'
	return "${PIPESTATUS[0]}"
}

# tried BUILD SECONDS PROGRAM - its lines in one piece, then the verdict
tried() {
	local out status
	out=$(one "$@" 2>&1)
	status=$?
	if [ "$status" -eq 0 ]; then
		printf '  ok %s %s\n' "${3##*/}" "$(tail -n 1 <<<"$out")"
	else
		printf '%s\n  FAIL %s: status %s\n' "$(tail -n 40 <<<"$out")" \
			"${3##*/}" "$status"
	fi
}
export -f one tried

log=$(mktemp)
trap 'rm -f "$log"' EXIT
find "$B/tests" -maxdepth 1 -name 'fuzz_*' -type f -perm -u+x | sort |
	xargs -r -n 1 -P "$(nproc)" bash -c 'tried "$@"' tried "$B" "$seconds" |
	tee "$log"
ok=$(grep -c '^  ok ' "$log")
bad=$(grep -c '^  FAIL ' "$log")
echo "$ok passed, $bad failed"
[ "$bad" -eq 0 ] && [ "$ok" -gt 0 ]
