#!/usr/bin/env bash
# lint.sh - layout (clang-format), likely mistakes (clang-tidy, see .clang-tidy),
# shell scripts (shellcheck), manual pages (mandoc).
set -u
bad=0

# files GLOB... - tracked, and new ones that git does not ignore
files() {
	git ls-files -co --exclude-standard "$@"
}
mapfile -t code < <(files '*.c' '*.h' '*.cpp' '*.hpp')
mapfile -t scripts < <(files '*.sh' '*.bash' .ci/run)
mapfile -t pages < <(files 'doc/man/*')

clang-format --dry-run -Werror "${code[@]}" || bad=1
shellcheck "${scripts[@]}" || bad=1
mandoc -T lint -W warning "${pages[@]}" || bad=1
# One file a call: what clang-tidy finds in one must not depend on its neighbours.
files '*.c' | xargs -d '\n' -n 1 -P "$(nproc)" tools/tidy.sh || bad=1
exit $bad
