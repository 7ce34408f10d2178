#!/usr/bin/env bash
# tidy.sh FILE... - clang-tidy with our flags, without its summary of how many
# warnings it did not show.
exec clang-tidy --quiet "$@" -- -std=gnu11 -D_GNU_SOURCE -Idsm/include \
	-Itaskrt/include -Wall -Wextra 2> >(grep -v 'warnings\? generated' >&2)
