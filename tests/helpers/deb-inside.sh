#!/usr/bin/env bash
# deb-inside.sh - what tests/e2e/deb.sh runs in a root that is thrown away, with the
# packages and README's program in /inside. Prints "  ok NAME" or "  FAIL NAME".
# shellcheck disable=SC2317 # functions are called by name
set -u
cd /inside || exit 2
export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
unset "${!TASKRT_@}"
bad=0

check() { # NAME COMMAND...
	local name=$1
	shift
	if "$@"; then
		echo "  ok $name"
	else
		echo "  FAIL $name"
		bad=1
	fi
}

# shellcheck disable=SC2046 # words, on purpose
compile() { # PROGRAM [OPTION...] - of pkg-config
	local program=$1
	shift
	gcc -O2 ${1:+-static} first.c -o "$program" \
		$(pkg-config "$@" --cflags --libs taskrt) -lm
}

want=$(awk 'BEGIN { for (k = 1; k < 100000; k++) s += sin(999 / k)
	printf "%f", s }')
prints() { # PROGRAM...
	[ "$(timeout 60 "$@")" = "$want" ]
}

on_a_cluster() {
	local addr='' coordinator worker i
	taskrt-coordinator --listen 127.0.0.1:0 2>coordinator.log &
	coordinator=$!
	for ((i = 0; i < 200 && ${#addr} == 0; i++)); do
		addr=$(sed -n 's/.*: listening on //p' coordinator.log)
		sleep 0.05
	done
	taskrt-worker --coordinator "$addr" --slots 2 &
	worker=$!
	prints taskrt run --coordinator "$addr" ./first &&
		taskrt stat -1 --coordinator "$addr" && kill "$worker" &&
		wait "$worker" && kill "$coordinator" && wait "$coordinator"
}

disabled() { # UNIT
	[ "$(systemctl is-enabled "$1")" = disabled ]
}

gone() { # FILE...
	local f
	for f; do
		[ -d "$f" ] || [ ! -e "$f" ] || {
			echo "$f is left"
			return 1
		}
	done
}

check "the packages install" dpkg -i ./*.deb
mapfile -t files < <(dpkg -L libtaskrt0 libtaskrt-dev taskrt-tools)
check "a program builds with them" compile first
check "it runs" prints ./first
check "a static program builds with them" compile static --static
check "it runs" prints ./static
check "installed daemons run its tasks" on_a_cluster
if command -v systemctl >/dev/null; then
	check "the coordinator is not enabled" \
		disabled taskrt-coordinator.service
	check "the worker is not enabled" disabled taskrt-worker.service
fi
check "the packages can be removed" \
	dpkg --purge libtaskrt-dev libtaskrt0 taskrt-tools
check "nothing is left" gone "${files[@]}"
exit $bad
