# shellcheck shell=bash
# One authority, a certificate for each component, and kubeconfigs that hold them as data (the e2e suite does not follow
# paths that are relative to a kubeconfig). Elliptic keys: the whole set takes a fraction of a second.
new_key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }

# certificate NAME SUBJECT EXTENSION...
certificate() {
  local name=$1 subject=$2; shift 2
  new_key "$name.key"
  openssl req -new -key "$name.key" -subj "$subject" -out "$name.csr"
  openssl x509 -req -in "$name.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -out "$name.crt" \
    -extfile <(printf '%s\n' "$@") 2>/dev/null
  rm "$name.csr"
}

# user NAME SUBJECT: a client's certificate and its kubeconfig
user() {
  certificate "$1" "$2" extendedKeyUsage=clientAuth
  cat >"$1.kubeconfig" <<X
apiVersion: v1
kind: Config
clusters: [{name: lab, cluster: {server: "$SERVER", certificate-authority-data: $(base64 -w0 ca.crt)}}]
users: [{name: user, user: {client-certificate-data: $(base64 -w0 "$1.crt"), client-key-data: $(base64 -w0 "$1.key")}}]
contexts: [{name: lab, context: {cluster: lab, user: user}}]
current-context: lab
X
}

make_pki() (
  umask 077
  mkdir -p "$RUN/pki"; cd "$RUN/pki"
  new_key ca.key
  openssl req -x509 -new -key ca.key -out ca.crt -days 3650 -subj /CN=lab-ca -addext keyUsage=critical,keyCertSign,cRLSign
  new_key sa.key; openssl ec -in sa.key -pubout -out sa.pub 2>/dev/null
  local names=DNS:localhost,IP:127.0.0.1,IP:::1,IP:$CP4,IP:$CP6,IP:10.96.0.1,IP:fd00:10:96::1 n=kubernetes part
  for part in '' default svc cluster local; do n+=${part:+.$part}; names+=,DNS:$n; done
  certificate apiserver /CN=kube-apiserver "subjectAltName=$names"
  certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet extendedKeyUsage=clientAuth
  certificate front-proxy /CN=front-proxy-client extendedKeyUsage=clientAuth
  user admin /O=system:masters/CN=admin
  user controller-manager /CN=system:kube-controller-manager
  user scheduler /CN=system:kube-scheduler
  user kube-proxy /CN=system:kube-proxy
  for i in $(nodes); do
    user "n$i" "/O=system:nodes/CN=system:node:n$i"
    certificate "n$i-server" "/CN=n$i" "subjectAltName=DNS:n$i,IP:$(node4 "$i"),IP:$(node6 "$i")"
  done
)
