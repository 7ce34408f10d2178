#!/usr/bin/env bash
# setup.sh build|test|lint|deb|rdma|all - install the Debian packages that are missing
# (as root; otherwise say which). Does nothing where there is no dpkg.
set -eu

build="gcc make libc6-dev libdw-dev libuv1-dev liblz4-dev liburcu-dev libcunit1-dev libpng-dev libibverbs-dev libseccomp-dev libssl-dev pkg-config"
test="$build binutils iproute2 man-db procps"
lint="clang-format clang-tidy git mandoc shellcheck"
deb="binutils debhelper dpkg-dev lintian"
# make CC=clang, make fuzz
clang="clang libomp-dev libclang-rt-dev"
# make test-rdma: a virtual machine; not part of all
rdma="qemu-system-x86 busybox-static kmod iproute2 ibverbs-providers strace"

case "${1-build}" in
build) want=$build ;;
test) want=$test ;;
lint) want=$lint ;;
rdma) want=$rdma ;;
deb) want="$build $deb" ;;
all) want="$test $lint $clang $deb" ;;
*)
	echo "usage: setup.sh build|test|lint|deb|rdma|all" >&2
	exit 2
	;;
esac
command -v dpkg-query >/dev/null || exit 0

missing=()
for package in $want; do
	status=$(dpkg-query -W -f '${Status}' "$package" 2>/dev/null || true)
	[[ $status == *" ok installed" ]] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" -ne 0 ]; then
	echo "missing packages; as root: apt-get install ${missing[*]}" >&2
	exit 1
fi
echo "installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null 2>&1 || {
	apt-get update >/dev/null
	apt-get install -y --no-install-recommends "${missing[@]}" >/dev/null
}
