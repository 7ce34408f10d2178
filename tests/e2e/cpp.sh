#!/usr/bin/env bash
# cpp.sh - taskrt.hpp and C++ programs: cpp.cpp's cases with both compilers, embedded
# and over TCP with two workers.
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

warnings=(-Wall -Wextra -Wshadow -Wpedantic -Werror)
shared=("$BUILD/lib/libtaskrt.so" "$BUILD/lib/libdsm.so"
	"-Wl,-rpath,$PWD/$BUILD/lib,-rpath,$BUILD/lib")

if build_from tests/e2e/cpp.cpp g++ g++ -std=c++17 "${warnings[@]}" \
	"${static[@]}"; then
	for slots in 1 7; do
		TASKRT_SLOTS=$slots cases "embedded, slots: $slots" "$tmp/g++"
	done
	TASKRT_SLOTS=2 TASKRT_TRANSPORT=tcp cases "embedded, data over TCP" \
		"$tmp/g++"
fi
if build_from tests/e2e/cpp.cpp clang++ clang++ -std=c++20 "${warnings[@]}" \
	"${shared[@]}"; then
	TASKRT_SLOTS=2 cases "clang, C++20, shared library" "$tmp/clang++"
fi
# The header alone, in a program without exceptions.
echo '#include <taskrt/taskrt.hpp>
int main() { int x = 0; taskrt::run([&] { x = 7; }); return x; }' \
	>"$tmp/plain.cpp"
if build_from "$tmp/plain.cpp" plain g++ -std=c++17 -fno-exceptions -fno-rtti \
	"${warnings[@]}" "${static[@]}"; then
	TASKRT_SLOTS=1 "$tmp/plain"
	check "without exceptions and type information" [ $? -eq 7 ]
fi

if start_coordinator coordinator && start_worker one 1 &&
	start_worker two 2 && soon 10 has_workers 2; then
	export TASKRT_COORDINATOR=$addr
	[ ! -x "$tmp/g++" ] || cases "two workers" "$tmp/g++"
	[ ! -x "$tmp/clang++" ] ||
		cases "two workers, clang, shared library" "$tmp/clang++"
else
	fail "two workers" "they do not join"
fi
exit "$bad"
