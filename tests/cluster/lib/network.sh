# shellcheck shell=bash
# The namespaces of the control plane and of the nodes, joined by a bridge. No interface of the machine is touched, and
# nothing can leave.
make_network() {
  local i n
  ip netns add "$CP"
  ip -n "$CP" -batch - <<X
link set lo up
link add br0 type bridge
addr add $CP4/24 dev br0
addr add $CP6/64 dev br0 nodad
link set br0 up
X
  forwarding "$CP" # a packet to nowhere is answered by ICMP and not swallowed
  for i in $(nodes); do
    n=$LAB_NAME-n$i
    ip netns add "$n"
    # Kubelet's cadvisor asks the clouds' metadata address and would wait for it.
    ip -n "$n" -batch - <<X
link set lo up
link add eth0 type veth peer name p$i netns $CP
addr add $(node4 "$i")/24 dev eth0
addr add $(node6 "$i")/64 dev eth0 nodad
link set eth0 up
route add default via $CP4
route add unreachable 169.254.169.254/32
X
    ip -n "$n" -6 route add default via $CP6
    forwarding "$n"
    # The control plane is no node, but the API server proxies to pods and calls webhooks: its way to the pods.
    ip -n "$CP" link set "p$i" master br0 up
    ip -n "$CP" route add "$(pods4 "$i")" via "$(node4 "$i")"
    ip -n "$CP" -6 route add "$(pods6 "$i")" via "$(node6 "$i")"
  done
}
forwarding() { in_netns "$1" sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1; }
