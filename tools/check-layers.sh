#!/usr/bin/env bash
# check-layers.sh - every #include goes the way doc/ARCHITECTURE.md says, and
# each outside package stays in its home.
set -u

# layer -> layers it may include
declare -A may=(
	[dsm/base]=""
	[dsm/wire]="dsm/base"
	[dsm/transport]="dsm/base dsm/wire"
	[dsm/heap]="dsm/base dsm/wire dsm/transport"
	[dsm/image]="dsm/base dsm/wire dsm/transport"
	[taskrt/filter]="taskrt/slot"
	[taskrt/slot]="dsm/base dsm/wire dsm/transport dsm/image"
	[coordinator]="dsm/base dsm/wire dsm/transport dsm/heap dsm/image taskrt/slot"
	[taskrt/client]="dsm/base dsm/wire dsm/transport dsm/heap dsm/image coordinator taskrt/slot"
)
all="dsm/base dsm/wire dsm/transport dsm/heap dsm/image taskrt/slot coordinator taskrt/client"
may[tools]=$all
may[bench]=$all
may[examples]=""

# header -> where it may be included (a pattern)
declare -A home=(
	[lz4.h]='dsm/wire/packdiff.c'
	[urcu]='dsm/heap/*|taskrt/client/*'
	[openssl]='dsm/transport/tls*'
	[infiniband]='dsm/transport/verbs*|bench/*'
	[uv.h]='dsm/transport/loop.*|coordinator/*|taskrt/client/*'
	[elfutils]='taskrt/client/debuginfo.c'
	[dwarf.h]='taskrt/client/debuginfo.c'
	[seccomp.h]='taskrt/filter/*'
	[png.h]='examples/*'
	[CUnit]='tests/*'
)

bad=0
complain() {
	echo "$1" >&2
	bad=1
}

layer_of() {
	case $1 in
	dsm/include/* | taskrt/include/*) echo public ;;
	dsm/*/* | taskrt/*/*) echo "$1" | cut -d/ -f1-2 ;;
	*) echo "${1%%/*}" ;;
	esac
}

check_home() { # FILE HEADER
	local key
	for key in "${!home[@]}"; do
		[[ $2 == "$key" || $2 == "$key"[./]* ]] || continue
		local ok=0 pattern
		IFS='|' read -ra patterns <<<"${home[$key]}"
		for pattern in "${patterns[@]}"; do
			# shellcheck disable=SC2053 # a pattern, on purpose
			[[ $1 == $pattern ]] && ok=1
		done
		[ $ok = 1 ] || complain "$1: <$2> belongs to ${home[$key]}"
	done
}

while IFS=: read -r file line; do
	from=$(layer_of "$file")
	if [[ $line =~ \<([^>]+)\> ]]; then
		[ "$from" = tests ] || check_home "$file" "${BASH_REMATCH[1]}"
		continue
	fi
	[[ $line =~ \"([^\"]+)\" ]] || continue
	target=$(realpath -m --relative-to=. "${file%/*}/${BASH_REMATCH[1]}")
	to=$(layer_of "$target")
	[ "$from" = tests ] || [ "$from" = "$to" ] || [ "$to" = public ] ||
		[[ " ${may[$from]-} " == *" $to "* ]] ||
		complain "$file: $from must not include $target"
done < <(grep -HE '^[[:space:]]*#[[:space:]]*include' -r --include='*.[chS]' \
	dsm taskrt coordinator tools bench examples tests)
exit $bad
