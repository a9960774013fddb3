#!/usr/bin/env bash
# The demo: two nodes with two pods each; every step says what it proves and whether it held.
# Usage: demo.sh BIN_DIR      KEEP=1 leaves the lab up; MEMORY=MiB of hugepages for each dataplane.
set -uo pipefail

bin=$(cd "$1" && pwd)
here=$(cd "$(dirname "$0")" && pwd)
lab=demo
failed=0 steps=0 reserved=0
export PATH="$bin:$PATH"

say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

# step WHAT-IT-PROVES COMMAND... : shows the last line of the output, which is where ping and curl say what matters.
step() {
  local what=$1 out
  shift
  steps=$((steps + 1))
  if out=$("$@" 2>&1); then
    printf '  ok      %s\n' "$what"
    [ -z "$out" ] || printf '            %s\n' "$(tail -n 1 <<<"$out")"
  else
    failed=$((failed + 1))
    printf '  FAILED  %s\n' "$what"
    printf '          $ %s\n' "$*"
    sed 's/^/            /' <<<"$out"
  fi
}

in_pod() { local pod=$1; shift; podplane lab exec --name $lab "$pod" -- timeout 30 "$@"; }
on_node() { local node=$1; shift; podplane lab node-exec --name $lab "$node" -- timeout 30 "$@"; }
addresses() { podplane lab status --name $lab -o json | python3 -c '
import json, sys
for pod in json.load(sys.stdin)["pods"]:
    if pod["namespace"] + "/" + pod["name"] == sys.argv[1]: print(*pod["addresses"])' "$1"; }

service() { # the addresses in a column of `lab status`
  podplane lab status --name $lab -o json | python3 -c '
import json, sys
for service in json.load(sys.stdin)["services"]:
    if service["namespace"] + "/" + service["name"] == sys.argv[1]: print(*service[sys.argv[2]])' "$1" "$2"; }

down() {
  podplane lab down --name $lab || failed=$((failed + 1))
  [ $reserved = 0 ] || podplane-hugepages release || failed=$((failed + 1))
}

ping_ok() { ping -c 3 -i 0.2 -W 2 "$@"; }
fetch() { curl -sS --max-time 10 -o /dev/null -w '%{http_code} from %{remote_ip}, %{size_download} bytes\n' "http://$1:8080/"; }
iperf() { # rate in Gbit/s, at least one byte transferred
  iperf3 -J -t 3 -c "$@" | python3 -c '
import json, sys
end = json.load(sys.stdin)["end"]["sum_received"]
assert end["bytes"] > 0
print("%.2f Gbit/s, %.0f MB" % (end["bits_per_second"] / 1e9, end["bytes"] / 1e6))'; }
too_big() { # the gateway must answer, and name the overlay's MTU
  ping -c 2 -i 0.3 -W 1 -M do -s 1440 "$1" | grep -iE '^From .*(frag needed|too big).*mtu ?= ?1450'; }
raise_mtu() { # both ends of pods' veths: pods that believe in a larger MTU than the overlay has
  ip -br link | awk -F'[@ ]' '/^(pp|eth0)/ {print $1}' | xargs -I{} ip link set {} mtu 1500; }
replicas() { # who answers URL: NAMES expected, and whom they saw
  local url=$1 names=$2 seen=$3 said
  said=$(for _ in $(seq 16); do curl -sS --max-time 5 "$url" || exit 1; done | sort | uniq -c) || return 1
  awk '{print $2 ": " $1 " answers, saw " $3}' <<<"$said" | paste -sd ';'
  [ "$(awk '{print $2}' <<<"$said" | sort -u | paste -sd ' ')" = "$names" ] && [ "$(awk '{print $3}' <<<"$said" | sort -u)" = "$seen" ]; }
refused() { # at once, not after a time-out
  [ "$(python3 "$PROGRAMS/client.py" tcp "$1" "$2" 5)" = refused ] && echo 'connection refused'; }
drain() { # a backend goes while requests run
  sleep 5 | podplane lab exec --name $lab demo/near -- python3 "$PROGRAMS/client.py" load "$1" 80 >"$2" & # until its input ends
  sleep 1
  podplane lab pod terminate --name $lab demo/replica-1 && sleep 1 && podplane lab pod delete --name $lab demo/replica-1
  wait $! && tail -n 1 "$2" && grep -q 'bad 0' "$2"; }
policy() { podplane lab "$1" --name $lab -f "$here/policies/$2" && sleep 1; } # in force within a second
silent() { # no answer at all: neither a page nor a refusal
  curl -sS --max-time 2 -o /dev/null "http://$1:8080/"; [ $? = 28 ] && echo 'no answer'; }
explained() { # it does not go on, which is explain's exit status, and a rule of a policy says so
  local said; said=$(podplane --run-dir "$run" explain "$@") && return 1; grep -E '^(in|e)gress .* denied by ' <<<"$said"; }
export PROGRAMS
PROGRAMS=$(cd "$here/../src/programs" && pwd)
export -f silent replicas refused drain ping_ok fetch iperf too_big raise_mtu

say 'Reserving hugepages and bringing up two nodes'
trap '[ "${KEEP:-}" = 1 ] || down; exit 130' INT TERM
if podplane-hugepages setup --memory $((2 * MEMORY)); then reserved=1; else exit 1; fi
if ! podplane lab up --name $lab --nodes 2 --memory "$MEMORY" || ! podplane lab apply --name $lab -f "$here/pods.yaml"; then
  [ "${KEEP:-}" = 1 ] || down
  exit 1
fi
podplane lab status --name $lab
read -r web4 web6 <<<"$(addresses demo/web)"
read -r near4 near6 <<<"$(addresses demo/near)"
read -r far4 far6 <<<"$(addresses demo/far)"

say 'Pods on one node'
step 'IPv4: a pod reaches its neighbour' in_pod demo/near bash -c "ping_ok $web4"
step 'IPv6: the same' in_pod demo/near bash -c "ping_ok $web6"
step 'HTTP over IPv4' in_pod demo/near bash -c "fetch $web4"
step 'HTTP over IPv6' in_pod demo/near bash -c "fetch [$web6]"
step 'a big TCP transfer, frames passed whole' in_pod demo/near bash -c "iperf $web4"

say 'Pods on two nodes, through VXLAN'
step 'IPv4: a pod reaches a pod on the other node' in_pod demo/far bash -c "ping_ok $web4"
step 'IPv6: the same' in_pod demo/far bash -c "ping_ok $web6"
step 'HTTP over IPv4' in_pod demo/far bash -c "fetch $web4"
step 'HTTP over IPv6' in_pod demo/far bash -c "fetch [$web6]"
step 'a big TCP transfer over IPv4' in_pod demo/far bash -c "iperf $web4"
step 'a big TCP transfer over IPv6' in_pod demo/far bash -c "iperf $web6"
step 'packets of 4000 bytes arrive, in fragments' in_pod demo/far bash -c "ping_ok -s 4000 $web4"

say 'Nodes and pods'
for family in 4 6; do
  web=web$family far=far$family
  step "IPv$family: a node reaches its own pod" on_node 1 bash -c "ping_ok ${!web}"
  step "IPv$family: a node reaches a pod on the other node" on_node 1 bash -c "ping_ok ${!far}"
done
step 'a pod reaches its node' in_pod demo/web bash -c 'ping_ok 10.77.0.11'
step 'a pod reaches the other node' in_pod demo/web bash -c 'ping_ok 10.77.0.12'
step 'HTTP from a node to a pod on the other node' on_node 2 bash -c "fetch $web4"

say 'Path MTU: the gateway answers what is too big for the overlay'
on_node 2 bash -c raise_mtu
in_pod demo/farther bash -c raise_mtu
step 'IPv4: fragmentation needed' in_pod demo/farther bash -c "too_big $web4"
step 'IPv6: packet too big' in_pod demo/farther bash -c "too_big $web6"

say 'Services: stable addresses in front of pods'
sed "s|@SERVE@|$PROGRAMS/serve.py|" "$here/services.yaml" | podplane lab apply --name $lab -f - || failed=$((failed + 1))
read -r shop4 shop6 <<<"$(service demo/shop cluster_ips)"
read -r solo4 solo6 <<<"$(service demo/solo cluster_ips)"
read -r lb4 lb6 <<<"$(service demo/shop external_ips)"
both='replica-1 replica-2'
step 'IPv4: a pod reaches a ClusterIP, and each backend sees the pod' in_pod demo/near bash -c "replicas http://$shop4/ '$both' $near4"
step 'IPv6: the same' in_pod demo/near bash -c "replicas http://[$shop6]/ '$both' $near6"
step 'a process on a node reaches the ClusterIP' on_node 1 bash -c "replicas http://$shop4/ '$both' 10.77.0.11"
step 'from outside by NodePort, backends on both nodes see the client' in_pod @outside bash -c "replicas http://10.77.0.11:30080/ '$both' 10.77.0.1"
step 'IPv6: the same' in_pod @outside bash -c "replicas http://[fd00:10:77::11]:30080/ '$both' fd00:10:77::1"
step "from outside by the load balancer's address" in_pod @outside bash -c "replicas http://$lb4/ '$both' 10.77.0.1"
step 'a pod reaches itself through its own Service' in_pod demo/replica-3 bash -c "replicas http://$solo4/ replica-3 10.244.1.1"
step 'a port that the Service lacks is refused at once' in_pod demo/near bash -c "refused $shop4 81"
requests=$(mktemp)
step 'a backend is drained and deleted while requests run: none fails' drain "$shop4" "$requests"
rm -f "$requests"

say 'Policies, from a folder: each is in force within a second'
run=$(podplane lab status --name $lab -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)["nodes"][0]["run_dir"])')
step 'nobody is reached any more: apply a default-deny' policy apply 1-default-deny.yaml
step 'IPv4: a neighbour gets silence' in_pod demo/near bash -c "silent $web4"
step 'IPv6: so does a pod on the other node' in_pod demo/far bash -c "silent [$web6]"
step 'a node still reaches its own pod' on_node 1 bash -c "ping_ok $web4"
step 'clients are let in: apply an allow' policy apply 2-allow-clients.yaml
step 'IPv4: a neighbour fetches again' in_pod demo/near bash -c "fetch $web4"
step 'IPv6: so does a pod on the other node' in_pod demo/far bash -c "fetch [$web6]"
step 'a pod loses its label' podplane lab pod label --name $lab demo/near app-
step 'and with it the way in, within a second' in_pod demo/near bash -c "sleep 1; silent $web4"
step 'explain names the rule that is in the way' explained demo/near demo/web --port 8080
step 'both are deleted' policy delete .
step 'everybody is let in' in_pod demo/near bash -c "fetch $web4"

say 'The agent goes, packets go on'
agent=$(podplane lab status --name $lab -o json | python3 -c 'import json,sys; print(json.load(sys.stdin)["nodes"][0]["agent_pid"])')
kill -9 "$agent"
step 'IPv4 across nodes without the agent' in_pod demo/far bash -c "ping_ok $web4"

say 'What the dataplane of node 1 counted'
podplane --run-dir "$run" ports || failed=$((failed + 1))
podplane --run-dir "$run" services || failed=$((failed + 1))
podplane --run-dir "$run" flows --service demo/shop --limit 10 || failed=$((failed + 1))
podplane --run-dir "$run" drops || failed=$((failed + 1))

if [ "${KEEP:-}" = 1 ]; then
  say 'The lab is left up. Try:'
  cat <<TEXT
  export PATH=$bin:\$PATH
  podplane lab status --name $lab
  podplane lab exec --name $lab demo/far -- curl -s http://$web4:8080/
  podplane lab pod add --name $lab demo/mine --node 2
  podplane --run-dir $run status
  podplane lab down --name $lab && podplane-hugepages release      # take everything down
TEXT
else
  say 'Taking everything down'
  down
  rest=$(ip netns list 2>/dev/null | grep "^$lab-")
  [ -z "$rest" ] && [ ! -e "/run/podplane-lab/$lab" ] || { echo "left behind: $rest"; failed=$((failed + 1)); }
fi
say "$((steps - failed)) of $steps steps held"
[ $failed = 0 ]
