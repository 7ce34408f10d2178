#!/usr/bin/env bash
# memory.sh - workers with little memory: what is read is evicted and fetched again,
# what is written too much ends the task, not the worker. See memory.c.
# shellcheck disable=SC2317 # functions are called by name
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/memory
limit=64 # MiB

launch() { # LOG STEP... - the program, to its end
	local log=$1
	shift
	start "$log" env TASKRT_COORDINATOR="$addr" TASKRT_STAT=1 \
		timeout 60 "$program" "$@"
	wait "$pid"
}

# What the worker's images have had at most, in MiB.
watch_images() {
	local file most=0 n
	while :; do
		n=0
		for file in "/proc/$worker/fd"/*; do
			[[ $(readlink "$file") == /memfd:taskrt-image* ]] || continue
			n=$((n + $(stat -L -c '%b' "$file") / 2048))
		done
		[ "$n" -le "$most" ] || echo "$n"
		[ "$n" -le "$most" ] || most=$n
		sleep 0.005
	done
}

start_coordinator coordinator
start_worker w 2 --memory ${limit}M
worker=$pid
soon 10 has_workers 1

watch_images >"$tmp/most.log" 2>/dev/null &
started+=("$!")
launch scan scan:256 scan:16
check "four times the worker's memory can be read" says scan \
	'^scan: code 0 right'
check "the next run, too" eval \
	"[ \$(grep -c '^scan: code 0 right' '$tmp/scan.log') -eq 2 ]"
most=$(tail -n 1 "$tmp/most.log")
echo "    image: $most MiB at most, limit $limit"
check "the image was never much larger than the limit" \
	[ "${most:-1000}" -le $((limit * 3 / 2)) ]

launch twins twins:192
check "what was written is right, though its twins were evicted" \
	says twins '^twins: code 0 right'
check "what tasks print comes once" eval \
	"[ \$(grep -c 'has read it' '$tmp/twins.log') -eq 8 ]"

launch write write:256 scan:96
check "a task that writes more than that ends, and nothing has changed" \
	says write '^write: code -33 untouched'
check "it is named, with its use and the limit" says write \
	"iteration 1: needed [0-9]* MiB of memory .* limit of $limit MiB of worker"
check "the worker is there, and goes on" eval \
	"alive $worker && says write '^scan: code 0 right'"
check "its log says so" says w 'is ended: its task needed [0-9]* MiB'

start_worker small 2 --memory 4G --task-memory 16M
small=$pid
slay "$worker"
soon 10 has_workers 1
launch own write:64
check "--task-memory bounds one task" says own \
	'iteration 1: needed [0-9]* MiB .* limit of 16 MiB of a task'

# --- the kernel is quicker ---

# A worker whose own limit is not the one that counts: its cgroup's is lower.
out_of_memory() {
	local group=/sys/fs/cgroup/memory/taskrt-test-$$
	mkdir "$group" 2>/dev/null || return 2
	groups_made+=("$group")
	echo $((128 << 20)) >"$group/memory.limit_in_bytes" || return 2
	start crowded sh -c "echo \$\$ >$group/cgroup.procs &&
		exec $bin/taskrt-worker --coordinator $addr --slots 1 \
		--name crowded --memory 8G"
	soon 10 has_workers 2 || return 1
	slay "$small"
	soon 10 has_workers 1 || return 1
	launch oom write:384
	says oom '^write: code -33 untouched' &&
		says oom 'iteration 1: lost 4 times, .* on worker crowded: the kernel killed its slot, for memory was short (OOM); the slot had [0-9]* MiB' &&
		has_workers 1
}
groups_made=()
at_end() {
	local g
	for g in "${groups_made[@]}"; do
		soon 5 rmdir "$g"
	done
}
out_of_memory
case $? in
0) ok "a slot that the kernel kills for memory is named, its worker lives" ;;
2) skip "a slot that the kernel kills for memory" "no memory cgroup to be had" ;;
*) fail "a slot that the kernel kills for memory is named" "see the logs" ;;
esac
exit "$bad"
