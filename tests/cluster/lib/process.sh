# shellcheck shell=bash
# Processes of the lab. A pid file holds "pid start-time": a number that the kernel gave to somebody else meanwhile has
# another start time, so nothing is ended but what the lab started.
started_at() { sed 's/.*) //' "/proc/$1/stat" 2>/dev/null | cut -d' ' -f20; }
track() { echo "$2 $(started_at "$2")" >"$RUN/$1.pid"; }

# pid_of NAME: prints the pid while that process runs
pid_of() {
  local pid start
  read -r pid start 2>/dev/null <"$RUN/$1.pid" || return 1
  [ -n "$start" ] && [ "$(started_at "$pid")" = "$start" ] && echo "$pid"
}

# end NAME: asks, waits two seconds, then kills
end() {
  local pid
  pid=$(pid_of "$1") || return 0
  kill "$pid" 2>/dev/null || true
  for _ in $(seq 20); do pid_of "$1" >/dev/null || return 0; sleep 0.1; done
  kill -9 "$pid" 2>/dev/null || true
}

# Not `ip netns exec`, which mounts another /sys and hides mounts.
in_netns() { local name=$1; shift; nsenter --net="/run/netns/$name" -- "$@"; }
in_cp() { in_netns "$CP" "$@"; }

# daemon NAME COMMAND...: in the control plane's namespace
daemon() {
  local name=$1; shift
  setsid nsenter --net="/run/netns/$CP" -- "$@" >"$RUN/$name.log" 2>&1 </dev/null &
  track "$name" $!
}

# node_pid N: node N's pid 1, as this machine counts
node_pid() {
  local outer
  outer=$(pid_of "n$1") || return 1
  awk '{print $1; exit}' "/proc/$outer/task/$outer/children"
}

# on N COMMAND...: within all namespaces of node N
on() {
  local pid
  pid=$(node_pid "$1") || die "node n$1 does not run"
  shift
  CONTAINER_RUNTIME_ENDPOINT=unix:///run/containerd/containerd.sock nsenter -t "$pid" -m -p -u -i -n -C -- "$@"
}

k() { in_cp kubectl --kubeconfig="$RUN/pki/admin.kubeconfig" "$@"; }
# poll SECONDS COMMAND...: until it succeeds
poll() {
  local end=$((SECONDS + $1)); shift
  until "$@"; do [ $SECONDS -lt $end ] || return 1; sleep 0.2; done
}
