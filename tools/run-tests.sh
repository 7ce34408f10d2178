#!/usr/bin/env bash
# run-tests.sh BUILD [PREFIX] - run what `make test` built below BUILD: the unit
# suites (with PREFIX: only those, and nothing else), the fuzz corpora, the
# end-to-end tests, and what needs an RDMA device in a virtual machine that has one
# (RDMA=0: not that). Last line: "N passed, N failed" of all.
set -u
# shellcheck source=tools/parts.sh
. tools/parts.sh

B=$1
prefix=${2-}

part unit "$B/tests/unit" ${prefix:+"$prefix"}
if [ -z "$prefix" ]; then
	part "fuzz corpora" tools/fuzz.sh "$B" "${FUZZ_SECONDS-1}"
	part "exported symbols" tools/check-exports.sh "$B"
	part e2e env BUILD="$B" tests/e2e/run.sh
	part RDMA tests/rdma/run.sh "$B"
fi
result
