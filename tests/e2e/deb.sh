#!/usr/bin/env bash
# deb.sh - the Debian packages: they build, lintian accepts them, they install into
# a root that is thrown away (a copy-on-write layer over this machine's, which stays
# as it is), build and run README's program there, and go again without a trace.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
out=$BUILD/tests/deb

if ! command -v dpkg-buildpackage >/dev/null; then
	skip "Debian packages" "no dpkg-buildpackage"
	exit 0
fi
if ! tools/setup.sh deb >"$tmp/setup.log" 2>&1; then
	skip "Debian packages" "$(tail -n 1 "$tmp/setup.log")"
	exit 0
fi

# --- the source package ---

has_our_version() {
	grep -qF "\"$(dpkg-parsechangelog -S Version)\"" \
		taskrt/include/taskrt/taskrt.h
}

# What the build needs according to setup.sh, but for what only tests and examples
# use.
needs_what_setup_installs() {
	local package packages missing=()
	read -ra packages < <(sed -n 's/^build="\(.*\)"$/\1/p' tools/setup.sh)
	for package in "${packages[@]}"; do
		case $package in
		libc6-dev | libcunit1-dev | libpng-dev) ;;
		*-dev) grep -q "^ $package,\$" debian/control ||
			missing+=("$package") ;;
		esac
	done
	[ ${#missing[@]} -eq 0 ] ||
		echo "    debian/control lacks: ${missing[*]}"
	[ ${#missing[@]} -eq 0 ]
}

check "debian/changelog has the version of the header" has_our_version
check "debian/control needs what tools/setup.sh installs for the build" \
	needs_what_setup_installs

# --- the packages ---

built() {
	DEB_BUILD_OPTIONS="nocheck noautodbgsym parallel=$(nproc)" \
		tools/deb.sh "$out" >"$tmp/deb.log" 2>&1
}

check "the packages build" built
[ "$bad" -eq 0 ] || exit 1
packages=()
for name in libtaskrt0 libtaskrt-dev taskrt-tools; do
	packages+=("$(echo "$out/${name}_"*.deb)")
done
all_exist() {
	local f
	for f; do
		[ -f "$f" ] || return 1
	done
}
check "there are three packages" all_exist "${packages[@]}"

accepted_by_lintian() {
	lintian --fail-on error,warning --tag-display-limit 0 \
		"$out"/*.changes >"$tmp/lintian.log" 2>&1
}
check "lintian accepts them" accepted_by_lintian

contains() { # PACKAGE PATH - a pattern
	dpkg-deb -c "$1" | awk '{ print $6 }' >"$tmp/contents" &&
		grep -qx "\./$2" "$tmp/contents"
}
check "a worker's machine needs no other package of ours" eval \
	"! dpkg-deb -f '${packages[2]}' Depends | grep -q taskrt"
check "libtaskrt0 has libtaskrt.so.0" \
	contains "${packages[0]}" 'usr/lib/.*/libtaskrt\.so\.0'
check "libtaskrt-dev has a page for every function" \
	contains "${packages[1]}" 'usr/share/man/man3/taskrt_for\.3\.gz'
check "taskrt-tools has the worker's unit" \
	contains "${packages[2]}" 'lib/systemd/system/taskrt-worker\.service'

# --- installed ---

awk '/^```c$/ { on = 1; next } on && /^```$/ { exit } on' README.md \
	>"$tmp/first.c"
cp "${packages[@]}" tests/helpers/deb-inside.sh "$tmp"
in_thrown_away_root() { # COMMAND...
	timeout -k 10 120 unshare --mount --pid --net --uts --ipc --fork \
		--kill-child tests/helpers/layer.sh "$tmp" "$@"
}

ours() {
	dpkg-query -W -f '${Package} ${Version} ${Status}\n' libtaskrt0 \
		libtaskrt-dev taskrt-tools 2>/dev/null
}

if in_thrown_away_root true >"$tmp/root.log" 2>&1; then
	before=$(ours)
	in_thrown_away_root /bin/bash /inside/deb-inside.sh >"$tmp/inside.log" 2>&1
	status=$?
	grep -E '^  (ok|FAIL) ' "$tmp/inside.log"
	if [ "$status" -ne 0 ] || ! grep -q '^  ok ' "$tmp/inside.log"; then
		fail "in a root that is thrown away" "status $status"
	fi
	check "this machine has what it had before" [ "$(ours)" = "$before" ]
else
	skip "installing them" "no overlay: $(tail -n 1 "$tmp/root.log")"
fi
exit $bad
