#!/usr/bin/env bash
# layer.sh FOLDER COMMAND... - run COMMAND in a root that is thrown away: this
# machine's, below a layer in memory that takes all writes, with FOLDER as /inside.
# Needs namespaces of its own, so that all that it mounts and starts ends with it:
#
#   unshare --mount --pid --net --uts --ipc --fork --kill-child layer.sh …
#
# LAYER_BOOT=1: COMMAND is systemd, as process 1 (also: unshare --cgroup). It gets no
# chance to change anything of the machine: no modules, no clock, no devices,
# /proc/sys and /sys read-only.
set -eu
folder=$(realpath "$1")
shift
layer=$folder/layer
mkdir -p "$layer"
mount --make-rprivate /
mount -t tmpfs tmpfs "$layer"
mkdir "$layer/upper" "$layer/work" "$layer/root"
mount -t overlay overlay "$layer/root" \
	-o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work"
cd "$layer/root"
mount -t proc proc proc
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
for d in null zero full random urandom tty; do
	touch "dev/$d"
	mount --bind "/dev/$d" "dev/$d"
done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
mount -t tmpfs tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir -p inside
mount --bind "$folder" inside
ip link set lo up
[ "${LAYER_BOOT-}" = 1 ] || exec chroot . "$@"

mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount --bind proc/sys proc/sys
mount -o remount,ro,bind proc/sys
for unit in systemd-udevd systemd-udev-trigger systemd-modules-load \
	systemd-sysctl systemd-remount-fs systemd-random-seed \
	systemd-update-utmp modprobe@ dev-hugepages.mount dev-mqueue.mount \
	sys-fs-fuse-connections.mount sys-kernel-debug.mount \
	sys-kernel-tracing.mount; do
	[[ $unit == *.mount ]] || unit=$unit.service
	ln -sfn /dev/null "etc/systemd/system/$unit"
done
echo 0123456789abcdef0123456789abcdef >etc/machine-id
touch dev/console
mount --bind "$(readlink -f /proc/self/fd/0)" dev/console
container=lxc exec setpriv --bounding-set -sys_module,-sys_time,-sys_rawio,-syslog \
	chroot . "$@"
