#!/usr/bin/env bash
# bench.sh BUILD [ARGUMENT...] - in the guest: the benchmarks that need an RDMA
# device, over the link between its two. Emulated, so only the ratios say anything.
set -eu
export BUILD=$1
shift
tests/rdma/fabric.sh
TASKRT_VERBS_DEVICE=rxa BENCH_WORKER_DEVICE=rxb \
	"$BUILD/bench/bench" "$@" fault_read_verbs scan_verbs
