# shellcheck shell=bash
# etcd, kube-apiserver, kube-controller-manager and kube-scheduler, in a namespace of their own.
start_control_plane() {
  cd "$RUN"
  local p=pki store=http://127.0.0.1:2379 services account
  services=$(listed $SERVICES4 $SERVICES6)
  daemon etcd etcd --data-dir "$RUN/etcd" --unsafe-no-fsync --log-level=warn --listen-client-urls=$store \
    --advertise-client-urls=$store --listen-peer-urls=http://127.0.0.1:2380
  # Aggregator routing: without a proxy here, webhooks and aggregated APIs are called by their pods' addresses.
  daemon apiserver kube-apiserver --etcd-servers=$store --secure-port=6443 --bind-address=:: \
    --advertise-address="$(first $CP4 $CP6)" --service-cluster-ip-range="$services" \
    --tls-cert-file=$p/apiserver.crt --tls-private-key-file=$p/apiserver.key --client-ca-file=$p/ca.crt --cert-dir=certs \
    --service-account-issuer=https://kubernetes.default.svc.cluster.local \
    --service-account-signing-key-file=$p/sa.key --service-account-key-file=$p/sa.pub \
    --kubelet-client-certificate=$p/apiserver-kubelet.crt --kubelet-client-key=$p/apiserver-kubelet.key \
    --kubelet-certificate-authority=$p/ca.crt --kubelet-preferred-address-types=InternalIP \
    --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction --allow-privileged=true \
    --proxy-client-cert-file=$p/front-proxy.crt --proxy-client-key-file=$p/front-proxy.key --enable-aggregator-routing=true \
    --requestheader-client-ca-file=$p/ca.crt --requestheader-allowed-names=front-proxy-client \
    --requestheader-username-headers=X-Remote-User --requestheader-group-headers=X-Remote-Group \
    --requestheader-extra-headers-prefix=X-Remote-Extra-
  poll 300 api_ready || die "the API server is not ready; see $RUN/apiserver.log, which ends with: $(tail -n 3 apiserver.log)"
  # These two would end if the API server answered them before it has written its own rights.
  account=$p/controller-manager.kubeconfig
  daemon controller-manager kube-controller-manager --kubeconfig=$account --authentication-kubeconfig=$account \
    --authorization-kubeconfig=$account --service-account-private-key-file=$p/sa.key --root-ca-file=$p/ca.crt \
    --cluster-signing-cert-file=$p/ca.crt --cluster-signing-key-file=$p/ca.key --use-service-account-credentials=true \
    --leader-elect=false --bind-address=127.0.0.1 --flex-volume-plugin-dir="$RUN/flex" --allocate-node-cidrs=true \
    --cluster-cidr="$(listed $PODS4 $PODS6)" --node-cidr-mask-size-ipv4=24 --node-cidr-mask-size-ipv6=64 \
    --service-cluster-ip-range="$services"
  account=$p/scheduler.kubeconfig
  daemon scheduler kube-scheduler --kubeconfig=$account --authentication-kubeconfig=$account \
    --authorization-kubeconfig=$account --leader-elect=false --bind-address=127.0.0.1
}
api_ready() {
  pid_of apiserver >/dev/null || die "the API server ended: $(tail -n 3 "$RUN/apiserver.log")"
  k get --raw /readyz >/dev/null 2>&1
}

# The Node objects before their kubelets, so that each node always has the same ranges of pods. A kubelet takes over an
# object that is there. Three zones, for tests of topology.
make_nodes() {
  local i a b
  for i in $(nodes); do
    read -r a b <<<"$(ordered "$(pods4 "$i")" "$(pods6 "$i")")"
    cat <<X
---
apiVersion: v1
kind: Node
metadata: {name: n$i, labels: {topology.kubernetes.io/region: lab, topology.kubernetes.io/zone: zone-$(((i - 1) % 3 + 1))}}
spec: {podCIDR: "$a", podCIDRs: ["$a", "$b"]}
X
  done | k apply -f - >/dev/null
}
