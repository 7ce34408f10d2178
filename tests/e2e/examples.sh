#!/usr/bin/env bash
# examples.sh - every example, small: the same result in all modes and with any
# number of slots, and the options that all have. Prints "  ok NAME" or
# "  FAIL NAME" for each test.
set -u
cd "$(dirname "$0")/../.." || exit 2
BUILD=${BUILD-build}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
bad=0

export TASKRT_COORDINATOR=
unset TASKRT_SLOTS

# verdict NAME STATUS - what was printed is shown when the test failed.
verdict() {
	if [ "$2" -eq 0 ]; then
		echo "  ok $1"
	else
		echo "  FAIL $1"
		sed 's/^/    /' "$tmp/out" "$tmp/err"
		bad=1
	fi
}

example() { # PROGRAM ARGUMENT...
	local program=$1
	shift
	timeout 60 "$BUILD/examples/$program" "$@" >"$tmp/out" 2>"$tmp/err"
}

# The result of the last run: the line's text after "correct: ".
result() {
	sed -n 's/.* s  correct: //p' "$tmp/out"
}

# same_everywhere TITLE PROGRAM ARGUMENT... - all agree with one thread.
same_everywhere() {
	local title=$1 want slots
	shift
	example "$@" --mode sequential
	verdict "$title sequential" $?
	want=$(result)

	example "$@" --mode openmp && [ "$(result)" = "$want" ]
	verdict "$title openmp" $?
	for slots in 1 2 7; do
		TASKRT_SLOTS=$slots example "$@" && [ "$(result)" = "$want" ]
		verdict "$title, slots: $slots" $?
	done
}

picture() {
	example mandelbrot --width 300 --height 60 --output "$tmp/m.png" &&
		[ "$(head -c 8 "$tmp/m.png" | od -An -tx1 | tr -d ' ')" = \
			89504e470d0a1a0a ]
}

comparison() {
	example factor --numbers 4 --mode compare --stat &&
		[ "$(grep -c ' correct: 4 of 4' "$tmp/out")" -eq 3 ] &&
		grep -q '^  execution  *[1-9]' "$tmp/out" &&
		grep -q '^speed-up over sequential: ' "$tmp/out"
}

# refused PROGRAM ARGUMENT... - one line of complaint, status 2, nothing run.
refused() {
	example "$@"
	[ $? -eq 2 ] && [ "$(wc -l <"$tmp/err")" -eq 1 ] && [ ! -s "$tmp/out" ]
}

same_everywhere factor factor --numbers 10
same_everywhere mandelbrot mandelbrot --width 400 --height 100 --check
same_everywhere "tree in malloc" tree --keys 20000 --tasks 20 --searches 500
same_everywhere "tree in dsm_malloc" \
	tree --keys 20000 --tasks 20 --searches 500 --dsm
picture
verdict "mandelbrot writes a PNG" $?
comparison
verdict "factor compares the modes" $?

for program in "$BUILD"/examples/*; do
	[ -f "$program" ] || continue
	name=${program##*/}
	example "$name" --help && grep -q '^usage: ' "$tmp/out"
	verdict "$name --help" $?
	refused "$name" --no-such-option
	verdict "$name refuses an unknown option" $?
	refused "$name" --mode sideways
	verdict "$name refuses an unknown mode" $?
	refused "$name" surplus
	verdict "$name refuses an argument" $?
done
refused factor --numbers 0
verdict "factor refuses 0 numbers" $?
exit $bad
