//! The cluster's DNS: a CoreDNS pod behind a Service `kube-system/kube-dns`, as clusters have it.
//!
//! A lab has no API server that CoreDNS could watch, so the lab keeps a hosts file for it that follows the Services.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::json;

use super::controlplane::names::{DOMAIN, hosts};
use super::objects::list;
use super::state::Lab;
use super::{apply, pod};

/// The Service's addresses, where people expect them.
const ADDRESSES: [&str; 2] = ["10.96.0.10", "fd00:10:96::a"];

/// Where CoreDNS is installed; the error says what to do where it is not.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path).map(|dir| dir.join("coredns")).find(|file| file.is_file()) {
        Some(file) => Ok(file),
        None => bail!(
            "--dns needs CoreDNS, and there is no coredns in PATH: install it (https://coredns.io), or leave --dns out \
             and use addresses"
        ),
    }
}

fn dir(lab: &Lab) -> PathBuf {
    lab.dir.join("dns")
}

/// Starts the DNS of a lab.
pub fn start(lab: &Lab) -> Result<()> {
    let program = program()?;
    std::fs::create_dir(dir(lab)).context("making the folder of the lab's DNS")?;
    refresh(lab)?;
    let corefile = dir(lab).join("Corefile");
    let hosts_file = dir(lab).join("hosts");
    // What the file lacks does not exist. CoreDNS runs template before hosts whatever their order here, and hosts alone
    // would answer SERVFAIL: so names go on to a server of their own.
    let text = format!(
        "{DOMAIN} in-addr.arpa ip6.arpa {{\n    errors\n    hosts {} {{\n        ttl 5\n        reload 500ms\n        \
         fallthrough\n    }}\n    forward . 127.0.0.1:5353\n}}\n.:53 .:5353 {{\n    errors\n    template ANY ANY {{\n        \
         rcode NXDOMAIN\n    }}\n}}\n",
        hosts_file.display()
    );
    std::fs::write(&corefile, text).with_context(|| format!("writing {}", corefile.display()))?;
    let metadata = json!({ "name": "coredns", "namespace": "kube-system", "labels": { "k8s-app": "kube-dns" } });
    let coredns = json!({
        "apiVersion": "v1", "kind": "Pod", "metadata": metadata,
        "spec": { "containers": [{
            "name": "coredns", "image": "lab", "command": [program, "-conf", corefile],
            "ports": [{ "name": "dns", "containerPort": 53, "protocol": "UDP" },
                      { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" }],
            "readinessProbe": { "tcpSocket": { "port": 53 } },
        }] },
    });
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kube-dns", "namespace": "kube-system" },
        "spec": {
            "selector": { "k8s-app": "kube-dns" }, "clusterIP": ADDRESSES[0], "clusterIPs": ADDRESSES,
            "ipFamilies": ["IPv4", "IPv6"], "ipFamilyPolicy": "RequireDualStack",
            "ports": [{ "name": "dns", "port": 53, "protocol": "UDP" }, { "name": "dns-tcp", "port": 53 }],
        },
    });
    apply::apply_objects(lab, vec![service, coredns], false)
}

/// Brings the names up to date, where a lab has a DNS.
pub fn refresh(lab: &Lab) -> Result<()> {
    if !dir(lab).exists() {
        return Ok(());
    }
    let names = hosts(&list(lab, "Service"), &list(lab, "EndpointSlice"));
    let (file, new) = (dir(lab).join("hosts"), dir(lab).join("hosts.new"));
    std::fs::write(&new, names).with_context(|| format!("writing {}", new.display()))?;
    std::fs::rename(&new, &file).with_context(|| format!("writing {}", file.display()))
}

/// The resolver's configuration for a pod, as a kubelet writes it; `None` where the lab has no DNS.
pub fn resolv_conf(lab: &Lab, full_name: &str) -> Result<Option<PathBuf>> {
    if !dir(lab).exists() || full_name.starts_with('@') {
        return Ok(None);
    }
    let namespace = pod::existing(lab, full_name)?.namespace;
    let file = dir(lab).join(format!("resolv-{namespace}.conf"));
    let servers = ADDRESSES.map(|address| format!("nameserver {address}\n")).concat();
    let search = format!("search {namespace}.svc.{DOMAIN} svc.{DOMAIN} {DOMAIN}\noptions ndots:5\n");
    std::fs::write(&file, servers + &search).with_context(|| format!("writing {}", file.display()))?;
    Ok(Some(file))
}
