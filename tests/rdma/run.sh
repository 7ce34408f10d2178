#!/usr/bin/env bash
# run.sh BUILD [SECONDS] - what needs an RDMA device, in a virtual machine that has
# one: `make test-rdma`. Last line: "N passed, N failed". RDMA=0: not wanted.
set -u
cd "$(dirname "$0")/../.." || exit 2

B=$1
limit=${2-900}
said=$(mktemp)
trap 'rm -f "$said"' EXIT

skip() {
	echo "  skip RDMA: $1"
	echo "0 passed, 0 failed"
	exit 0
}

[ "${RDMA-1}" != 0 ] || skip "RDMA=0"
timeout 240 tools/setup.sh rdma >"$said" 2>&1 ||
	skip "$(tail -n 1 "$said")"
tests/rdma/guest.sh "$B" "$limit" "tests/rdma/inside.sh '$B'" |
	tee "$said" | grep --line-buffered -v '^skipped: '
status=${PIPESTATUS[0]}
reason=$(sed -n 's/^skipped: //p' "$said")
[ "$status" -ne 77 ] || [ -z "$reason" ] || skip "$reason"
exit "$status"
