//! The names of Services, as lines of a hosts file: what a cluster's DNS answers for A, AAAA and PTR.

use std::collections::BTreeSet;

use serde_json::Value;

use super::defaults::is_headless;
use super::slices::SERVICE_NAME;
use super::types::{Endpoint, ServiceSpec, decode, text};

/// The domain of the cluster's names.
pub const DOMAIN: &str = "cluster.local";

/// "ADDRESS NAME" lines: ClusterIPs under the Service's name, the endpoints of headless ones under it and under their
/// own. (SRV and CNAME records have no place in such a file.)
pub fn hosts(services: &[Value], slices: &[Value]) -> String {
    let mut lines = BTreeSet::new();
    for service in services {
        let Ok(spec) = decode::<ServiceSpec>(service, "spec") else { continue };
        let (namespace, name) = (text(service, "/metadata/namespace"), text(service, "/metadata/name"));
        let full = format!("{name}.{namespace}.svc.{DOMAIN}");
        if !is_headless(&spec) {
            lines.extend(spec.cluster_ips.iter().map(|ip| format!("{ip} {full}\n")));
            continue;
        }
        let label = format!("/metadata/labels/{}", SERVICE_NAME.replace('/', "~1"));
        let of_it = |s: &&Value| text(s, &label) == name && text(s, "/metadata/namespace") == namespace;
        let endpoints =
            slices.iter().filter(of_it).flat_map(|s| decode::<Vec<Endpoint>>(s, "endpoints").unwrap_or_default());
        for endpoint in endpoints.filter(|endpoint| endpoint.conditions.ready != Some(false)) {
            for address in &endpoint.addresses {
                lines.insert(format!("{address} {full}\n"));
                if let Some(hostname) = &endpoint.hostname {
                    lines.insert(format!("{address} {hostname}.{full}\n"));
                }
            }
        }
    }
    lines.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::controlplane::testing::{service, yaml};

    #[test]
    fn services_have_their_addresses_and_headless_ones_their_endpoints() {
        let plain = service("type: ClusterIP, clusterIPs: [10.96.1.1, 'fd00::1']");
        assert_eq!(
            hosts(&[plain], &[]),
            "10.96.1.1 web.default.svc.cluster.local\nfd00::1 web.default.svc.cluster.local\n"
        );
        let slice = yaml(
            "{metadata: {namespace: default, labels: {kubernetes.io/service-name: web}}, endpoints: [
               {addresses: [10.244.1.2], conditions: {ready: true}, hostname: db-0},
               {addresses: [10.244.1.3], conditions: {ready: false}}]}",
        );
        assert_eq!(
            hosts(&[service("clusterIP: None, clusterIPs: [None]")], &[slice]),
            "10.244.1.2 db-0.web.default.svc.cluster.local\n10.244.1.2 web.default.svc.cluster.local\n"
        );
    }
}
