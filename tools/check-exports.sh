#!/usr/bin/env bash
# check-exports.sh BUILD - the shared libraries export what their public headers
# declare, and else only what is meant: the malloc family, and what libtaskrt needs
# of libdsm. Last line: "N passed, N failed".
set -u
B=$1
passed=0
failed=0
malloc_family='malloc|calloc|realloc|reallocarray|free|aligned_alloc|memalign
|posix_memalign|valloc|pvalloc|malloc_usable_size'
malloc_family=${malloc_family//$'\n'/}

exported() { # LIBRARY
	nm -D --defined-only "$1" | awk '{ print $3 }' | sort
}

# declared PREFIX HEADER... - functions: they are followed by a bracket
declared() {
	local prefix=$1
	shift
	cat "$@" | tr '\n' ' ' | sed 's|/\*[^*]*\*\+\([^/*][^*]*\*\+\)*/||g' |
		grep -oE "\b$prefix[a-z][a-z0-9_]* ?\(" | tr -d ' (' | sort -u
}

# verdict NAME SURPLUS MISSING
verdict() {
	if [ -z "$2$3" ]; then
		passed=$((passed + 1))
		return
	fi
	failed=$((failed + 1))
	echo "  FAIL $1: surplus:" $2 "missing:" $3
}
