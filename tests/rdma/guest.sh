#!/usr/bin/env bash
# guest.sh BUILD SECONDS COMMAND - run COMMAND (one shell word) in a virtual machine
# with a kernel that has Soft-RoCE (rdma_rxe), in the repository's root as it is
# here, read-only. Software emulation: it needs no KVM, no modules and no privilege
# of the host, and is some ten times slower. What it says goes to stdout, its status is
# ours; 124 when it has not ended after SECONDS; 77 and one line "skipped: …" when
# this machine cannot do it.
#
# The kernel is Debian's linux-image package, fetched with apt, or
# RDMA_KERNEL_DEB=FILE. Kernel and initramfs stay in BUILD/rdma.
set -u
cd "$(dirname "$0")/../.." || exit 2

B=$1
limit=$2
command=$3
cache=$B/rdma
memory=2048 # MiB; what the guest does not touch is not taken

# In the guest. 9p and virtio: the shares; the others: tests/rdma/fabric.sh.
modules="virtio_pci 9pnet_virtio 9p crc32_generic ib_uverbs rdma_rxe dummy veth"

skipped() {
	echo "skipped: $1"
	exit 77
}

last_line() { # FILE - of use to a reader
	grep -v '^[WN]: ' "$1" | tail -n 1
}

# --- the kernel ---

download() { # sets deb
	local package
	package=$(apt-cache depends linux-image-amd64 2>/dev/null |
		sed -n 's/^ *Depends: \(linux-image-[0-9].*\)/\1/p' | head -n 1)
	[ -n "$package" ] || {
		echo "apt knows no linux-image-amd64" >"$work/apt.log"
		return 1
	}
	(cd "$work" && timeout 180 apt-get download "$package") \
		>"$work/apt.log" 2>&1 || return 1
	deb=$(echo "$work"/linux-image-*.deb)
}

get_kernel() { # sets deb
	deb=${RDMA_KERNEL_DEB-}
	if [ -n "$deb" ]; then
		[ -r "$deb" ] || skipped "RDMA_KERNEL_DEB: cannot read $deb"
		return
	fi
	command -v apt-get >/dev/null ||
		skipped "no apt-get here to fetch a kernel with; set RDMA_KERNEL_DEB"
	download && return
	# Perhaps the package lists are missing or old.
	timeout 120 apt-get update >"$work/update.log" 2>&1
	download || skipped \
		"no kernel package: $(last_line "$work/apt.log")"
}

# unpack - the modules with all that they need, and the kernel, from $deb.
unpack() {
	local root=$work/root version files module
	dpkg-deb -x "$deb" "$work/deb" || return 1
	version=$(ls "$work/deb/lib/modules") || return 1
	mkdir -p "$root"/{bin,sbin,dev,proc,sys,host} \
		"$root/lib/modules/$version" || return 1
	depmod -b "$work/deb" "$version" || return 1
	for module in $modules; do
		files=$(modprobe -C /dev/null -d "$work/deb" -S "$version" \
			--show-depends "$module") || {
			echo "no module $module in $deb"
			return 1
		}
		sed -n 's/^insmod \(.*[^ ]\) *$/\1/p' <<<"$files"
	done | sed "s|^.*/deb/||" | sort -u >"$work/files"
	(cd "$work/deb" && xargs cp --parents -t "$root" \
		"lib/modules/$version"/modules.{order,builtin*} \
		<"$work/files") || return 1
	depmod -b "$root" "$version" || return 1
	tr ' ' '\n' <<<"$modules" >"$root/modules"
	cp "$work"/deb/boot/vmlinuz-* "$work/vmlinuz"
}

# What the kernel calls by path, and what init.sh uses.
applets() {
	local busybox name
	busybox=$(command -v busybox)
	! ldd "$busybox" >/dev/null 2>&1 || {
		echo "$busybox is not static: install busybox-static"
		return 1
	}
	cp "$busybox" "$work/root/bin/busybox" || return 1
	for name in sh mount mkdir modprobe sed stty dmesg sync chroot poweroff ln \
		ip; do
		ln -s busybox "$work/root/bin/$name"
	done
	ln -s ../bin/busybox "$work/root/sbin/modprobe"
	install -m 755 tests/rdma/init.sh "$work/root/init"
}

make_initramfs() {
	applets || return 1
	(cd "$work/root" && find . | busybox cpio -o -H newc 2>/dev/null |
		gzip -1) >"$work/initramfs"
}

# prepare - unless it has been done. Half of it is never left behind.
prepare() {
	if [ -s "$cache/initramfs" ] && [ "$cache/initramfs" -nt "$0" ] &&
		[ "$cache/initramfs" -nt tests/rdma/init.sh ]; then
		return
	fi
	mkdir -p "$cache" || exit 2
	work=$(mktemp -d "$(realpath "$cache")/new.XXXXXX") || exit 2
	trap 'rm -rf "$work"' EXIT
	get_kernel
	{ unpack && make_initramfs; } >"$work/unpack.log" 2>&1 ||
		skipped "cannot make the guest: $(last_line "$work/unpack.log")"
	mv "$work/vmlinuz" "$work/initramfs" "$cache"
	rm -rf "$work"
	trap - EXIT
}

# --- the machine ---

hex() {
	printf %s "$1" | od -An -v -tx1 | tr -d ' \n'
}

# No protection keys: emulated, each signal throws the whole TLB away. No erms: the
# kernel copies eight bytes a step then instead of one, and each step is emulated.
# tsc=reliable: else the clock is an emulated device, and reading it takes longer than a
# system call.
boot() {
	timeout -k 5 "$limit" qemu-system-x86_64 -accel tcg,thread=multi \
		-cpu max,pku=off,erms=off -smp 2 -m "$memory" -nodefaults -no-user-config \
		-display none -no-reboot -monitor none -serial stdio \
		-kernel "$cache/vmlinuz" -initrd "$cache/initramfs" \
		-append "console=ttyS0 quiet panic=-1 tsc=reliable $options" \
		-virtfs local,path=/,mount_tag=host,$share \
		-virtfs "local,path=${PWD//,/,,},mount_tag=checkout,$share" \
		</dev/null 2>&1
}

[ "$(uname -m)" = x86_64 ] || skipped "the guest is x86_64, this is $(uname -m)"
for program in qemu-system-x86_64 busybox dpkg-deb depmod modprobe gzip; do
	PATH=$PATH:/usr/sbin:/sbin command -v "$program" >/dev/null ||
		skipped "no $program here; as root: tools/setup.sh rdma"
done
PATH=$PATH:/usr/sbin:/sbin
prepare

share=security_model=none,readonly=on,multidevs=remap
# Spaces at both ends: init.sh looks for " name=".
options="checkout=$(hex "$PWD") command=$(hex "$command") "
log=$cache/log
boot | tee "$log" |
	grep --line-buffered -vE '^guest: status |reboot: Power down'
status=${PIPESTATUS[0]}
if [ "$status" -eq 124 ] || [ "$status" -eq 137 ]; then
	echo "  FAIL the guest has not ended after $limit s; its last words:"
	tail -n 5 "$log" | sed 's/^/    /'
	exit 124
fi
said=$(sed -n 's/^guest: status //p' "$log" | tail -n 1)
if [ "$status" -ne 0 ] || [ -z "$said" ]; then
	echo "  FAIL the guest died (qemu's status $status); its last words:"
	tail -n 5 "$log" | sed 's/^/    /'
	exit 1
fi
exit "$said"
