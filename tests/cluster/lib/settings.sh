# shellcheck shell=bash disable=SC2034 # the scripts that source this use the variables
# Settings and addresses. Settings come from the environment, so that one checkout can serve several labs at once.
set -euo pipefail
SRC=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
REPO=$(cd "$SRC/../.." && pwd)
export PODPLANE_LAB=${PODPLANE_LAB:-${XDG_CACHE_HOME:-$HOME/.cache}/podplane-lab} # programs, images, running labs
export LAB_NAME=${LAB_NAME:-pplab}      # names the lab's namespaces, cgroups and folder
export LAB_NODES=${LAB_NODES:-2}        # n1, n2, ... n9
export LAB_CNI=${LAB_CNI:-podplane}     # a folder of cni/: podplane, image, bridge
export LAB_PRIMARY=${LAB_PRIMARY:-4}    # the cluster's first family: 4 or 6
export LAB_BIN=${LAB_BIN:-$REPO/target/release} # Podplane's programs
export LAB_MEMORY=${LAB_MEMORY:-256}    # MiB for each dataplane
PATH=$PATH:/usr/sbin:/sbin

die() { echo "$*" >&2; exit 1; }

# A build is named by all that it depends on, so that checkouts of different age share the work folder.
key() { (cd "$SRC" && cat "$@" | sha256sum | cut -c1-10); }
KUBERNETES=$PODPLANE_LAB/kubernetes-$(key go/kubernetes/go.mod go/kubernetes/go.sum)
TOOLS=$PODPLANE_LAB/tools-$(key go/tools/go.mod go/tools/go.sum go/tools/coredns/main.go)
IMAGES=$PODPLANE_LAB/images-$(key go/kubernetes/go.sum go/tools/go.sum images/build images/archive.py images/pause.c)
RUN=$PODPLANE_LAB/run-$LAB_NAME # all state of this lab
POLICY_API=$PODPLANE_LAB/policy-api-$(key go/policy-api/go.mod go/policy-api/go.sum)
export PATH=$KUBERNETES:$TOOLS:$PATH

# The control plane's namespace also holds the bridge that joins the nodes.
CP=$LAB_NAME-cp
CP4=10.77.0.1 CP6=fd00:10:77::1
node4() { echo "10.77.0.1$1"; }
node6() { echo "fd00:10:77::1$1"; }
pods4() { echo "10.244.$1.0/24"; }
pods6() { echo "fd00:10:244:$1::/64"; }
PODS4=10.244.0.0/16 PODS6=fd00:10:244::/56
SERVICES4=10.96.0.0/16 SERVICES6=fd00:10:96::/112
DNS4=10.96.0.10 DNS6=fd00:10:96::a
# ordered V4 V6: both, the primary family's first
ordered() { [ "$LAB_PRIMARY" = 6 ] && echo "$2 $1" || echo "$1 $2"; }
listed() { local both; both=$(ordered "$1" "$2"); echo "${both/ /,}"; }
first() { local both; both=$(ordered "$1" "$2"); echo "${both%% *}"; }
bracketed() { case $1 in *:*) echo "[$1]" ;; *) echo "$1" ;; esac; }
SERVER=https://$(bracketed "$(first $CP4 $CP6)"):6443
nodes() { seq 1 "$LAB_NODES"; }
case $LAB_PRIMARY in 4 | 6) ;; *) die "LAB_PRIMARY=$LAB_PRIMARY: 4 or 6" ;; esac
case $LAB_NODES in [1-9]) ;; *) die "LAB_NODES=$LAB_NODES: 1 to 9" ;; esac
[ -d "$SRC/cni/$LAB_CNI" ] || die "LAB_CNI=$LAB_CNI: there are $(ls -m "$SRC/cni")"
