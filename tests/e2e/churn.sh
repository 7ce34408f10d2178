#!/usr/bin/env bash
# churn.sh - churn.c, whose heap never stands still, embedded and with two workers.
# CHURN: the transports (default: all that this machine has); CHURN_ROUNDS.
set -u
cd "$(dirname "$0")/../.." || exit 2
# shellcheck source=tests/helpers/e2e.sh
. tests/helpers/e2e.sh

program=$BUILD/tests/e2e/churn
rounds=${CHURN_ROUNDS-40}

if [ -z "${CHURN-}" ]; then
	CHURN="shm tcp"
	! grep -qs ACTIVE /sys/class/infiniband/*/ports/*/state || CHURN+=" verbs"
fi
if [[ $CHURN != shm ]]; then
	check "two workers join" eval "start_coordinator coordinator &&
		start_worker one 1 && start_worker two 1 &&
		soon 20 has_workers 2"
fi
for transport in $CHURN; do
	coordinator=$addr
	[ "$transport" != shm ] || coordinator=
	check "$transport: $rounds rounds, all right" eval \
		"TASKRT_COORDINATOR='$coordinator' TASKRT_TRANSPORT=$transport \
		TASKRT_SLOTS=3 TASKRT_STAT=1 timeout 200 '$program' $rounds \
		>'$tmp/$transport.log' 2>&1 &&
		says $transport '^right, '"
done
[[ " $CHURN " != *" verbs "* ]] ||
	check "verbs: pages came by RDMA" says verbs \
		'^  pages fetched  *[1-9][0-9]* by RDMA'
exit "$bad"
