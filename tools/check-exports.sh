#!/usr/bin/env bash
# check-exports.sh BUILD - the shared libraries export our own names and the malloc
# family, and nothing that a program might use for itself. Last line: "N passed, N
# failed".
set -u
B=$1
passed=0
failed=0

# check LIBRARY PATTERN NAME... - it exports all NAMEs, and only what fits PATTERN.
check() {
	local library=$1 pattern=$2 names surplus missing
	shift 2
	case $library in
	*.a) names=$(nm -g --defined-only "$B/lib/$library") ;;
	*) names=$(nm -D --defined-only "$B/lib/$library") ;;
	esac
	names=$(awk 'NF == 3 { print $3 }' <<<"$names")
	surplus=$(grep -vE "^($pattern)\$" <<<"$names" | tr '\n' ' ')
	missing=$(printf '%s\n' "$@" | grep -vxF -e "$names" | tr '\n' ' ')
	if [ -z "$surplus$missing" ]; then
		passed=$((passed + 1))
	else
		echo "  FAIL $library: surplus: $surplus; missing: $missing"
		failed=$((failed + 1))
	fi
}

malloc_family=(malloc calloc realloc reallocarray free aligned_alloc memalign
	posix_memalign valloc pvalloc malloc_usable_size)
family=$(IFS='|' && echo "${malloc_family[*]}")

check libdsm.so 'dsm_.*' dsm_malloc dsm_free
check libtaskrt.so "taskrt_[a-z].*|$family" taskrt_run "${malloc_family[@]}"
check libtaskrt.a "taskrt_[a-z].*|$family" taskrt_run "${malloc_family[@]}"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
