# shellcheck shell=bash
# netns.sh - "machines" for the end-to-end scripts that need several: network
# namespaces, k in the middle, each of the others joined to it by a veth pair:
#
#   NAME 10.91.N.2 --- 10.91.N.1 k      N: 1 for the first one, 2, …
#
# They see each other only while k forwards and both have a route. Source it after
# e2e.sh; it defines at_end.
# shellcheck disable=SC2154 # tmp is e2e.sh's

# Plain TCP between these machines, unless a script makes tokens.
export TASKRT_INSECURE=1

ns=taskrt-$$
made=() # machines

at_end() {
	local name
	for name in "${made[@]}"; do
		ip netns del "$ns-$name" 2>/dev/null
	done
}

inside() { # NAME COMMAND...
	local name=$1
	shift
	nsenter --net="/run/netns/$ns-$name" "$@"
}

forward() { # 0 or 1
	inside k sh -c "echo $1 >/proc/sys/net/ipv4/ip_forward"
}

# link NAME up|down - the cable between NAME and k.
link() {
	ip -n "$ns-k" link set "$1" "$2"
}

machine() { # NAME
	ip netns add "$ns-$1" && made+=("$1") && ip -n "$ns-$1" link set lo up
}

pair() { # NAME NUMBER
	ip -n "$ns-k" link add "$1" type veth peer name eth0 \
		netns "$ns-$1" &&
		ip -n "$ns-k" addr add "10.91.$2.1/30" dev "$1" &&
		link "$1" up &&
		ip -n "$ns-$1" addr add "10.91.$2.2/30" dev eth0 &&
		ip -n "$ns-$1" link set eth0 up
}

make_machines() { # NAME...
	local name n=0
	machine k || return 1
	for name; do
		n=$((n + 1))
		machine "$name" && pair "$name" $n || return 1
	done
	forward 0
}

# machines NAME... - k and these; where that cannot be, the script is skipped.
machines() {
	if [ "$(id -u)" -ne 0 ]; then
		skip "network namespaces" "needs root"
		exit 0
	fi
	if ! command -v ip >/dev/null || ! command -v nsenter >/dev/null; then
		skip "network namespaces" "no ip or no nsenter here"
		exit 0
	fi
	if ! make_machines "$@" 2>"$tmp/machines.log"; then
		skip "network namespaces" "$(tail -n 1 "$tmp/machines.log")"
		exit 0
	fi
}
