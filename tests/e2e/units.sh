#!/usr/bin/env bash
# units.sh - the systemd units: a systemd of its own boots in namespaces, in a root
# that is thrown away, and runs the installed daemons as the units say; programs run
# on them. Only with E2E_SYSTEMD=1 (CI sets it): it takes a cgroup for itself,
# which is not everybody's to give.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh
unset MAKEFLAGS MFLAGS MAKELEVEL MAKEOVERRIDES DESTDIR PREFIX LIBDIR

if [ "${E2E_SYSTEMD-}" != 1 ]; then
	skip "systemd units" "boots a systemd: E2E_SYSTEMD=1 runs it"
	exit 0
fi
systemd=/lib/systemd/systemd
for needed in "$systemd" script unshare setpriv ip; do
	command -v "$needed" >/dev/null || {
		skip "systemd units" "no $needed here"
		exit 0
	}
done
if [ "$(id -u)" -ne 0 ]; then
	skip "systemd units" "needs root"
	exit 0
fi
if ! unshare --mount --pid --net --uts --ipc --fork --kill-child \
	tests/helpers/layer.sh "$tmp" true >"$tmp/layer.log" 2>&1; then
	skip "systemd units" "no layer: $(tail -n 1 "$tmp/layer.log")"
	exit 0
fi

inside=$tmp/inside
mkdir "$inside"
make --no-print-directory B="$BUILD" install DESTDIR="$inside/installed" \
	PREFIX=/usr >"$tmp/make.log" 2>&1 || fail "make install" "$?"
cp tests/helpers/units-inside.sh "$BUILD/tests/e2e/behaviour" "$inside"
cat >"$inside/test.service" <<'END'
[Unit]
Description=what the test does
DefaultDependencies=no
Requires=sysinit.target
After=sysinit.target
SuccessAction=exit-force
FailureAction=exit-force

[Service]
Type=oneshot
ExecStart=/bin/bash /inside/units-inside.sh
StandardOutput=file:/inside/results
StandardError=file:/inside/errors.log
END
# Process 1 has to find its first unit.
cat >"$inside/boot.sh" <<END
cp -a /inside/installed/. / && cp /inside/test.service /etc/systemd/system &&
	exec $systemd --system --unit=test.service
END

# systemd wants a terminal for its console.
timeout -k 10 200 script -qec "LAYER_BOOT=1 unshare --mount --pid --net --uts \
	--ipc --cgroup --fork --kill-child tests/helpers/layer.sh '$inside' \
	/bin/bash /inside/boot.sh" "$tmp/console.log" >/dev/null </dev/null
mv "$inside/errors.log" "$tmp" 2>/dev/null
grep -E '^  (ok|FAIL) ' "$inside/results" 2>/dev/null
! grep -q '^  FAIL ' "$inside/results" 2>/dev/null || {
	bad=1
	tail -n 30 "$tmp/errors.log" | sed 's/^/    /'
}
check "systemd came to the end of the test" \
	grep -qx end "$inside/results"
exit $bad
