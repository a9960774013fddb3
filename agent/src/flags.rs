//! Flags that say where objects come from and how Services are served.

use std::path::PathBuf;

use anyhow::ensure;
use clap::Args;
use ipnet::IpNet;
use podplane_config::valid::MIN_MASQUERADE_PORTS;
use podplane_index::{NodePortAddresses, Settings};

use crate::cluster::{ClusterOptions, SERVICE_ACCOUNT};
use crate::probes::{Places, ProbeOptions};
use crate::source::SourceOptions;

/// Where objects come from: a folder, or an API server.
#[derive(Args, Clone, Debug)]
pub struct SourceFlags {
    /// Folder of manifests, as an API server returns them; it is watched and never written.
    #[arg(long, value_name = "DIR", default_value = "/etc/podplane/objects", conflicts_with_all = ["api_server", "kubeconfig"])]
    source: PathBuf,
    /// Instead of a folder: the address that the cluster's API server itself listens at, or of the load balancer before
    /// it; not the ClusterIP of the Service "kubernetes".
    #[arg(long, value_name = "URL", env = "PODPLANE_API_SERVER")]
    api_server: Option<String>,
    /// Folder of the agent's credentials at the API server: token (read again as it rotates) and ca.crt.
    #[arg(long, value_name = "DIR", default_value = SERVICE_ACCOUNT)]
    credentials: PathBuf,
    /// Instead of --credentials, and of --api-server where it states the address: a kubeconfig.
    #[arg(long, value_name = "FILE", conflicts_with = "credentials")]
    kubeconfig: Option<PathBuf>,
}

impl SourceFlags {
    /// Where objects are to come from.
    pub fn options(self) -> SourceOptions {
        let SourceFlags { source, api_server, credentials, kubeconfig } = self;
        match api_server.is_some() || kubeconfig.is_some() {
            true => SourceOptions::Cluster(ClusterOptions { api_server, credentials, kubeconfig }),
            false => SourceOptions::Folder(source),
        }
    }
}

/// Where probes and metrics are answered: addresses with ports, several by commas, or none.
#[derive(Args, Clone, Debug)]
pub struct ProbeFlags {
    /// Where load balancers ask for the node (/healthz), and others for the agent (/livez), as of kube-proxy.
    #[arg(long, default_value = "[::]:10256", value_name = "ADDRESS:PORT,...|none")]
    healthz_address: Places,
    /// Where tests ask for the proxy's mode (/proxyMode), as of kube-proxy; /metrics is there too.
    #[arg(long, default_value = "127.0.0.1:10249", value_name = "ADDRESS:PORT,...|none")]
    status_address: Places,
    /// Where else /metrics is served: to everybody who reaches it.
    #[arg(long, default_value = "none", value_name = "ADDRESS:PORT,...|none")]
    metrics_address: Places,
}

impl ProbeFlags {
    /// Where to answer.
    pub fn options(self) -> ProbeOptions {
        let ProbeFlags { healthz_address, status_address, metrics_address } = self;
        ProbeOptions { healthz: healthz_address, status: status_address, metrics: metrics_address }
    }
}

/// How Services are served: to be the same on all nodes.
#[derive(Args, Clone, Debug)]
pub struct ServiceFlags {
    /// Node ports, as the API server's --service-node-port-range.
    #[arg(long, default_value = "30000-32767", value_parser = range, value_name = "FIRST-LAST")]
    node_port_range: (u16, u16),
    /// At which of the node's addresses node ports are served: "primary" (the first of each family), or ranges.
    #[arg(long, default_value = "primary", value_name = "primary|CIDR,...")]
    node_port_addresses: NodePortAddresses,
    /// Serve spec.externalIPs: whoever may make a Service can then catch the traffic of any address (CVE-2020-8554).
    #[arg(long)]
    external_ips: bool,
    /// Ranges of ClusterIPs, where the cluster has no ServiceCIDR objects (before Kubernetes 1.33).
    #[arg(long, value_delimiter = ',', value_name = "CIDR,...")]
    service_cidr: Vec<IpNet>,
    /// Where pods go under their own address beside pods, nodes and Services.
    #[arg(long, value_delimiter = ',', value_name = "CIDR,...")]
    non_masquerade_cidr: Vec<IpNet>,
    /// Ports and ICMP echo ids of the node's address for what leaves the cluster; the kernel's own sockets get none.
    #[arg(long, default_value = "55000-65535", value_parser = range, value_name = "FIRST-LAST")]
    masquerade_ports: (u16, u16),
}

impl ServiceFlags {
    /// Puts them into `settings`.
    ///
    /// # Errors
    /// Ranges that stand in each other's way.
    pub fn apply(self, settings: Settings) -> anyhow::Result<Settings> {
        let (masquerade, node) = (self.masquerade_ports, self.node_port_range);
        ensure!(
            usize::from(masquerade.1 - masquerade.0) + 1 >= MIN_MASQUERADE_PORTS,
            "--masquerade-ports {}-{}: at least {MIN_MASQUERADE_PORTS} are needed",
            masquerade.0,
            masquerade.1
        );
        ensure!(
            masquerade.1 < node.0 || node.1 < masquerade.0,
            "--masquerade-ports {}-{} and --node-port-range {}-{} overlap: choose other ports for one of them",
            masquerade.0,
            masquerade.1,
            node.0,
            node.1
        );
        Ok(Settings {
            node_ports: node,
            node_port_addresses: self.node_port_addresses,
            external_ips: self.external_ips,
            service_cidrs: self.service_cidr,
            no_masquerade: self.non_masquerade_cidr,
            masquerade_ports: masquerade,
            ..settings
        })
    }
}

/// "30000-32767", or one port.
fn range(text: &str) -> Result<(u16, u16), String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.trim().parse::<u16>().ok().filter(|port| *port != 0);
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err(format!("\"{text}\" is no range of ports such as 30000-32767")),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use podplane_index::Family;

    use super::*;

    #[derive(Parser)]
    struct Flags {
        #[command(flatten)]
        flags: ServiceFlags,
    }

    fn settings(flags: &str) -> Result<Settings, String> {
        let flags = Flags::try_parse_from(std::iter::once("x").chain(flags.split_whitespace()));
        let flags = flags.map_err(|e| e.to_string())?.flags;
        flags.apply(Settings::new("n", Family::Ipv4, 1)).map_err(|e| e.to_string())
    }

    #[derive(Parser)]
    struct Source {
        #[command(flatten)]
        flags: SourceFlags,
    }

    #[test]
    fn objects_come_from_a_folder_or_from_an_api_server() {
        let source = |flags: &str| {
            let flags = Source::try_parse_from(std::iter::once("x").chain(flags.split_whitespace()));
            flags.map(|it| it.flags.options()).map_err(|e| e.to_string())
        };
        assert_eq!(source("").unwrap(), SourceOptions::Folder("/etc/podplane/objects".into()));
        assert_eq!(source("--source /a").unwrap(), SourceOptions::Folder("/a".into()));
        let cluster = |api_server: Option<&str>, credentials: &str, kubeconfig: Option<&str>| {
            SourceOptions::Cluster(ClusterOptions {
                api_server: api_server.map(str::to_owned),
                credentials: credentials.into(),
                kubeconfig: kubeconfig.map(PathBuf::from),
            })
        };
        assert_eq!(source("--api-server https://a").unwrap(), cluster(Some("https://a"), SERVICE_ACCOUNT, None));
        let own = source("--api-server https://a --credentials /c").unwrap();
        assert_eq!(own, cluster(Some("https://a"), "/c", None));
        assert_eq!(source("--kubeconfig /k").unwrap(), cluster(None, SERVICE_ACCOUNT, Some("/k")));
        for both in
            ["--source /a --api-server https://a", "--source /a --kubeconfig /k", "--kubeconfig /k --credentials /c"]
        {
            assert!(source(both).unwrap_err().contains("cannot be used with"), "{both}");
        }
    }

    #[test]
    fn flags_become_settings_or_are_refused() {
        let default = settings("").unwrap();
        assert_eq!((default.node_ports, default.masquerade_ports), ((30_000, 32_767), (55_000, 65_535)));
        assert_eq!(default.node_port_addresses, NodePortAddresses::Primary);
        assert!(!default.external_ips);
        let all = "--node-port-range 2000-2999 --node-port-addresses 192.0.2.0/24,fd00::/8 --external-ips \
                   --service-cidr 10.96.0.0/16,fd00:96::/112 --non-masquerade-cidr 10.0.0.0/8 --masquerade-ports 61000-62000";
        let all = settings(all).unwrap();
        assert_eq!((all.node_ports, all.masquerade_ports), ((2000, 2999), (61_000, 62_000)));
        assert_eq!((all.service_cidrs.len(), all.no_masquerade.len(), all.external_ips), (2, 1, true));
        for (flags, reason) in [
            ("--node-port-range 5-4", "no range of ports"),
            ("--node-port-range 0-4", "no range of ports"),
            ("--node-port-addresses here", "primary"),
            ("--masquerade-ports 50000-50010", "at least 64"),
            ("--masquerade-ports 32000-40000", "overlap"),
            ("--service-cidr 10.96.0.0", "invalid"),
        ] {
            let refused = settings(flags).unwrap_err();
            assert!(refused.contains(reason), "{flags}: {refused}");
        }
    }
}
