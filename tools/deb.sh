#!/usr/bin/env bash
# deb.sh FOLDER - Debian packages from the working tree (tracked and new files),
# unsigned, into FOLDER; nothing to do when that has those of the very same files.
set -eu
out=$1
version=$(sed -n 's/^.define TASKRT_VERSION "\(.*\)"/\1/p' \
	taskrt/include/taskrt/taskrt.h)
tree=$out/taskrt-$version

list() { # what a source package has, NUL between names
	if [ -e .git ]; then
		git ls-files -z -co --exclude-standard
	else
		find . -path './build*' -prune -o -type f -print0
	fi
}

# A file that was removed is in git's list until that is committed.
mapfile -d '' -t files < <(list | while IFS= read -r -d '' f; do
	[ ! -e "$f" ] || printf '%s\0' "$f"
done)
if [ -e "$out/stamp" ] && [ "$(sha256sum "${files[@]}")" = \
	"$(cat "$out/stamp")" ]; then
	exit 0
fi
rm -rf "$out"
mkdir -p "$tree"
cp --parents -p "${files[@]}" "$tree"
log=$(realpath "$out")/build.log
# The variables of the make that may run this are none of its business.
if ! (cd "$tree" && env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u B -u CC \
	-u CFLAGS -u LDFLAGS dpkg-buildpackage -b -us -uc) \
	>"$log" 2>&1; then
	tail -n 30 "$log" >&2
	echo "deb.sh: the packages were not built; all of it is in $log" >&2
	exit 1
fi
rm -rf "$tree"
sha256sum "${files[@]}" >"$out/stamp"
ls "$out"/*.deb
