#!/usr/bin/env bash
# fabric.sh - in the guest, as root: two RoCE devices, rxa (10.1.0.1) and rxb
# (10.1.0.2), on the ends of a veth pair, so that what one sends the other really
# crosses a link, which can be set down. In one network namespace, because Soft-RoCE
# does not work from others. For that, addresses of this machine must be reached
# through the pair instead of at once: the table of local addresses is looked up
# last, except for packets that have come in through the pair. Frames are large, so
# that a page is one packet.
set -eu

ends=(va vb)
rxe=(rxa rxb)
addrs=(10.1.0.1 10.1.0.2)

mac() { # INTERFACE
	cat "/sys/class/net/$1/address"
}

ip link add "${ends[0]}" mtu 9000 type veth peer name "${ends[1]}" mtu 9000
# Else what is in flight overruns a queue, as it would on no RDMA fabric: veth has
# no flow control, and lost packets cost a time-out.
echo 100000 >/proc/sys/net/core/netdev_max_backlog
for name in all "${ends[@]}"; do
	conf=/proc/sys/net/ipv4/conf/$name
	echo 1 >"$conf/accept_local"
	echo 0 >"$conf/rp_filter"
	echo 1 >"$conf/arp_ignore"
done
ip rule add pref 100 lookup local
ip rule del pref 0
for i in 0 1; do
	end=${ends[i]}
	peer=${ends[1 - i]}
	addr=${addrs[i]}
	peer_addr=${addrs[1 - i]}
	table=$((101 + i))
	ip addr add "$addr/32" dev "$end"
	ip link set "$end" up
	ip rule add pref $((10 + i)) iif "$end" lookup local
	ip rule add pref $((20 + i)) from "$addr" to "$peer_addr" lookup $table
	# No ARP: each would ask itself.
	ip neigh replace "$peer_addr" lladdr "$(mac "$peer")" dev "$end"
done
for i in 0 1; do # routes need both ends up
	ip route add "${addrs[1 - i]}" dev "${ends[i]}" src "${addrs[i]}" \
		table $((101 + i))
	rdma link add "${rxe[i]}" type rxe netdev "${ends[i]}"
done
# As rdma-core's udev rules do: for ordinary users.
chmod 666 /dev/infiniband/uverbs*
