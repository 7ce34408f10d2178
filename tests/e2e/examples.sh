#!/usr/bin/env bash
# examples.sh [NAME...] - every example, or those named, small: the same result in
# all modes, with several numbers of slots, here and on workers over TCP; and the
# options that all have.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

wanted=("$@")
declare -A cluster # slots of each of two workers -> their coordinator's address
export TASKRT_COORDINATOR=

two_workers() { # SLOTS
	start_coordinator "coordinator$1" &&
		start_worker "a$1" "$1" && start_worker "b$1" "$1" &&
		soon 10 has_workers 2 && cluster[$1]=$addr
}

example() { # PROGRAM ARGUMENT...
	local program=$1
	shift
	timeout 60 "$BUILD/examples/$program" "$@" >"$tmp/out.log" \
		2>"$tmp/err.log"
}

# The result of the last run: the line's text after "correct: ".
result() {
	sed -n 's/.* s  correct: //p' "$tmp/out.log"
}

# gives RESULT PROGRAM ARGUMENT... - the same result, and it is one.
gives() {
	local want=$1
	shift
	example "$@" && [ -n "$want" ] && [ "$(result)" = "$want" ]
}

is_wanted() { # PROGRAM
	[ ${#wanted[@]} -eq 0 ] || [[ " ${wanted[*]} " == *" $1 "* ]]
}

# check_of PROGRAM NAME COMMAND... - a check, if that example is wanted.
check_of() {
	local program=$1
	shift
	! is_wanted "$program" || check "$@"
}

# same_everywhere TITLE PROGRAM ARGUMENT... - all agree with one thread: with so many
# slots here (HERE) and so many of each of two workers (THERE).
same_everywhere() {
	local title=$1 want slots
	shift
	is_wanted "$1" || return
	check "$title sequential" example "$@" --mode sequential
	want=$(result)
	check "$title openmp" gives "$want" "$@" --mode openmp
	for slots in ${HERE-1 7}; do
		TASKRT_SLOTS=$slots check "$title, slots: $slots" \
			gives "$want" "$@"
	done
	for slots in ${THERE-2}; do
		TASKRT_COORDINATOR=${cluster[$slots]} \
			check "$title, two workers over TCP, slots of each: $slots" \
			gives "$want" "$@"
	done
}

is_png() { # PROGRAM ARGUMENT...
	rm -f "$tmp/picture"
	example "$@" --output "$tmp/picture" &&
		[ "$(head -c 8 "$tmp/picture" | od -An -tx1 | tr -d ' ')" = \
			89504e470d0a1a0a ]
}

# The run's result has that in it.
says_that() { # TEXT PROGRAM ARGUMENT...
	local text=$1
	shift
	example "$@" && [[ $(result) == *"$text"* ]]
}

comparison() {
	example factor --numbers 4 --mode compare --stat &&
		[ "$(grep -c ' correct: 4 of 4' "$tmp/out.log")" -eq 3 ] &&
		grep -q '^  execution  *[1-9]' "$tmp/out.log" &&
		grep -q '^speed-up over sequential: ' "$tmp/out.log"
}

helps() { # PROGRAM
	example "$1" --help && grep -q '^usage: ' "$tmp/out.log"
}

# refused PROGRAM ARGUMENT... - one line of complaint, status 2, nothing run.
refused() {
	example "$@"
	[ $? -eq 2 ] && [ "$(wc -l <"$tmp/err.log")" -eq 1 ] &&
		[ ! -s "$tmp/out.log" ]
}

for slots in 1 2 7; do
	check "two workers with slots: $slots" two_workers $slots
done

HERE="1 2 7" THERE="1 2 7" same_everywhere factor factor --numbers 10
same_everywhere mandelbrot mandelbrot --width 400 --height 100 --check
same_everywhere "tree in malloc" tree --keys 20000 --tasks 20 --searches 500
same_everywhere "tree in dsm_malloc" \
	tree --keys 20000 --tasks 20 --searches 500 --dsm
same_everywhere primes primes --below 300000
same_everywhere knights knights --columns 5
same_everywhere blackscholes blackscholes --paths 1000003 --tasks 77
same_everywhere "prototein, checked exhaustively" \
	prototein --chain HPPHPPHPHHPPHPH --bunch 40
same_everywhere "prototein, a known chain" \
	prototein --chain HPHPPHHPHPPHPHHPPHPH
HERE="1 2 7" THERE="1 2 7" same_everywhere "build with malloc" \
	build --trees 9 --keys 500 --rounds 5
same_everywhere "build with dsm_malloc" \
	build --trees 9 --keys 500 --rounds 5 --dsm
same_everywhere "spmv, a small vector" spmv --columns 300000 --rows 5000
# 36,000 scattered pages: more than mappings of a process can be split into.
same_everywhere "spmv over 1 GiB" spmv --rows 20000 --rounds 2

same_everywhere ising ising --side 200 --sweeps 30
same_everywhere containers \
	containers --chapters 8 --words 300 --different 200

check_of mandelbrot "mandelbrot writes a PNG" \
	is_png mandelbrot --width 300 --height 60
check_of ising "ising writes a PNG" is_png ising --side 60 --sweeps 40
check_of primes "primes writes a PNG" is_png primes --below 20000
check_of primes "there are 664,579 primes below 10^7" \
	says_that '664579 primes' primes --below 10000000
check_of knights "there are 1,728 tours of 5 x 5 squares" \
	says_that '1728 open tours of 5 x 5' knights --columns 5
check_of factor "factor compares the modes" comparison
check_of factor "factor refuses 0 numbers" refused factor --numbers 0

for program in "$BUILD"/examples/*; do
	[ -f "$program" ] || continue
	name=${program##*/}
	is_wanted "$name" || continue
	check "$name --help" helps "$name"
	check "$name refuses an unknown option" refused "$name" --no-such-option
	check "$name refuses an unknown mode" refused "$name" --mode sideways
	check "$name refuses an argument" refused "$name" surplus
done
exit "$bad"
