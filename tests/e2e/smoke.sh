#!/usr/bin/env bash
# smoke.sh - smoke.c: the only test that also runs in a build with a sanitizer.
set -u
cd "$(dirname "$0")/../.." || exit 2
unset TASKRT_COORDINATOR
TASKRT_SLOTS=2 exec "${BUILD-build}/tests/e2e/smoke"
