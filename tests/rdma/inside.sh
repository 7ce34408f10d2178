#!/usr/bin/env bash
# inside.sh BUILD - in the guest: what `make test-rdma` tests. Its kernel is older
# than many (6.1 has no PAGEMAP_SCAN): so what depends on the kernel runs here, too.
set -u
export BUILD=$1
# shellcheck source=tools/parts.sh
. tools/parts.sh

tests/rdma/fabric.sh || {
	echo "  FAIL the guest's RDMA devices cannot be made"
	echo "0 passed, 1 failed"
	exit 1
}
for prefix in dsm.base dsm.transport.verbs dsm.transport.loop \
	dsm.heap.regions.rdma dsm.image; do
	part "$prefix in the guest" "$BUILD/tests/unit" "$prefix"
done
part "smoke test in the guest" tests/e2e/run.sh smoke
part "smoke test over TCP in the guest" \
	env TASKRT_TRANSPORT=tcp tests/e2e/run.sh smoke
part "a changing heap over RDMA" \
	env CHURN=verbs CHURN_ROUNDS=5 tests/e2e/run.sh churn
part "e2e over RDMA" env RDMA_CUT=va tests/e2e/run.sh verbs
result
