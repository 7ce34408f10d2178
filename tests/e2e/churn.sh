#!/usr/bin/env bash
# churn.sh - churn.c and kept.c, whose heap never stands still, embedded and with
# three workers, one of which finds faults the other way.
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
	check "three workers join" eval "start_coordinator coordinator &&
		start_worker one 1 && start_worker two 3 &&
		start_worker three 1 --faults segv && soon 20 has_workers 3"
fi
for transport in $CHURN; do
	coordinator=$addr
	[ "$transport" != shm ] || coordinator=
	check "$transport: $rounds rounds, all right" eval \
		"TASKRT_COORDINATOR='$coordinator' TASKRT_TRANSPORT=$transport \
		TASKRT_SLOTS=3 TASKRT_STAT=1 timeout 200 '$program' $rounds \
		>'$tmp/$transport.log' 2>&1 &&
		says $transport '^right, '"
	check "$transport: large parts change, all slots see it" eval \
		"TASKRT_COORDINATOR='$coordinator' TASKRT_TRANSPORT=$transport \
		TASKRT_SLOTS=3 timeout 100 '$BUILD/tests/e2e/kept' 35 \
		>'$tmp/kept-$transport.log' 2>&1 &&
		says kept-$transport '^right, '"
done
[[ " $CHURN " != *" verbs "* ]] ||
	check "verbs: pages came by RDMA" says verbs \
		'^  pages fetched  *[1-9][0-9]* by RDMA'
exit "$bad"
