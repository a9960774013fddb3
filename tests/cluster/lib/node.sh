# shellcheck shell=bash
# A node: a network namespace, private mount, pid, uts, ipc and cgroup namespaces, and a cgroup of its own.
start_node() {
  local i=$1 dir=$RUN/n$1
  mkdir -p "$dir"
  kubelet_config "$i" >"$dir/kubelet.yaml"
  containerd_config >"$dir/containerd.toml"
  proxy_config "$i" >"$dir/kube-proxy.yaml"
  make_cgroups "$i" >"$dir/cgroups"
  # shellcheck disable=SC2016 # expanded by the inner shell
  setsid bash -c 'while read -r group; do echo 0 >"$group/cgroup.procs"; done <"$2/cgroups"
    exec nsenter --net="/run/netns/$LAB_NAME-n$1" -- \
      unshare -m -p -u -i -C --fork --kill-child --propagation private bash "$3/lib/node-init" "$1"' \
    node "$i" "$dir" "$SRC" >"$dir/init.log" 2>&1 </dev/null &
  track "n$i" $!
}

# The node's group in each hierarchy of cgroup v1, or in the one of v2.
make_cgroups() {
  local name=$LAB_NAME-n$1 line controllers path group
  if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
    group=/sys/fs/cgroup/$name; mkdir -p "$group"; echo "$group"
    return
  fi
  while IFS= read -r line; do
    IFS=: read -r _ controllers path <<<"$line"
    [ -n "$controllers" ] || continue # the unused v2 hierarchy of a hybrid machine
    group=/sys/fs/cgroup/${controllers#name=}${path%/}/$name
    mkdir -p "$group"; echo "$group"
    # It takes no task before it has processors and memory.
    if [ "$controllers" = cpuset ]; then
      for f in cpus mems; do cat "${group%/*}/cpuset.$f" >"$group/cpuset.$f"; done
    fi
  done </proc/self/cgroup
}

kubelet_config() {
  cat <<X
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $RUN/pki/ca.crt}}
authorization: {mode: Webhook}
tlsCertFile: $RUN/pki/n$1-server.crt
tlsPrivateKeyFile: $RUN/pki/n$1-server.key
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false     # since 1.35 it refuses otherwise
failSwapOn: false
oomScoreAdj: 0          # a lower one takes CAP_SYS_RESOURCE
resolvConf: $RUN/resolv.conf
clusterDNS: ["$(first $DNS4 $DNS6)"]
clusterDomain: cluster.local
volumePluginDir: /var/lib/kubelet/volume-plugins    # by default a folder of the machine's /usr
evictionHard: {memory.available: 100Mi, nodefs.available: "1%", imagefs.available: "1%"}
imageGCHighThresholdPercent: 100    # these images cannot be pulled again
nodeStatusUpdateFrequency: 5s
makeIPTablesUtilChains: $([ "$LAB_CNI" = bridge ] && echo true || echo false) # so that iptables stays empty: see checks/kernel
X
}

containerd_config() {
  cat <<X
version = 4
oom_score = 0
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'registry.k8s.io/pause:3.10.2'
[plugins.'io.containerd.cri.v1.runtime']
  restrict_oom_score_adj = true # runc cannot lower it without CAP_SYS_RESOURCE
  disable_apparmor = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    options = {SystemdCgroup = false}
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['/opt/cni/bin']
    conf_dir = '/etc/cni/net.d'
X
}

# nf_conntrack_max is the whole machine's and left alone.
proxy_config() {
  cat <<X
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clientConnection: {kubeconfig: $RUN/pki/kube-proxy.kubeconfig}
clusterCIDR: $(listed $PODS4 $PODS6)
hostnameOverride: n$1
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0}
X
}
