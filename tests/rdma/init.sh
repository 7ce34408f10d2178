#!/bin/sh
# init.sh - the guest's first process: busybox's shell in the initramfs that
# guest.sh made. The host's root, read-only over 9p, becomes the root folder, with
# fresh /tmp, /run and /dev/shm; the checkout is a share of its own, because the
# host's may lie below one of these. Then it runs the command that the kernel's
# command line names, hex-coded, says what became of it, and powers off.
# shellcheck disable=SC3045 # busybox's shell can do it
export PATH=/bin:/sbin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
# A line of its own in what the host sees, and no CR before LF.
stty -onlcr </dev/console
dmesg -n 4

option() { # NAME - of the kernel's command line, decoded
	# shellcheck disable=SC2059 # \x.., on purpose
	printf "$(sed -n "s/.* $1=\([0-9a-f]*\).*/\1/p" /proc/cmdline |
		sed 's/../\\x&/g')"
}

ends() { # STATUS
	echo "guest: status $1"
	sync
	poweroff -f
}

while read -r module; do
	modprobe "$module" || {
		echo "guest: no module $module"
		ends 98
	}
done </modules

share() { # TAG FOLDER
	mount -t 9p -o \
		trans=virtio,version=9p2000.L,ro,msize=262144,cache=loose \
		"$1" "$2" || {
		echo "guest: cannot mount $1 at $2"
		ends 98
	}
}

checkout=$(option checkout)
share host /host
mkdir -p /dev/shm /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t devpts pts /dev/pts
ln -s /proc/self/fd /dev/fd
for folder in proc sys dev; do
	mount --rbind "/$folder" "/host/$folder"
done
mount -t tmpfs -o mode=1777 tmp /host/tmp
mount -t tmpfs run /host/run
[ -d "/host$checkout" ] || mkdir -p "/host$checkout"
share checkout "/host$checkout"
ip link set lo up

chroot /host /usr/bin/env -i HOME=/tmp TERM=dumb LC_ALL=C.UTF-8 \
	PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
	/bin/bash -c "cd '$checkout' || exit 97; $(option command)" \
	</dev/null >/dev/console 2>&1
ends $?
