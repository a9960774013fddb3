//! The index's word on Services, as the agent's API says it.

use std::collections::BTreeMap;

use podplane_api::{ChoiceStatus, EndpointStatus, FrontendStatus, ServicePortStatus, ServiceStatus};
use podplane_config::v1::{Choice, FrontendKind};
use podplane_index::{EndpointReport, FrontendReport, Index, Kind, PortReport, ServiceReport};

/// All Services that the agent knows, and those whose objects were refused whole, by namespace and name.
pub fn list(index: &Index) -> Vec<ServiceStatus> {
    let mut refused: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (key, reason) in index.refused().filter(|(key, _)| key.kind == Kind::Service) {
        refused.entry(key.path()).or_default().push(reason.to_owned());
    }
    let mut list: Vec<ServiceStatus> = index
        .services()
        .into_iter()
        .map(|report| {
            let mut refused = refused.remove(&report.name).unwrap_or_default();
            refused.extend(report.slices_refused.iter().cloned());
            status(report, refused)
        })
        .collect();
    // What is refused from the beginning has no earlier word in force.
    for (path, refused) in refused {
        let (skipped, slices_refused, ports) = (None, Vec::new(), Vec::new());
        list.push(status(ServiceReport { name: path, kind: String::new(), skipped, slices_refused, ports }, refused));
    }
    list.sort_by(|a, b| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    list
}

fn status(report: ServiceReport, refused: Vec<String>) -> ServiceStatus {
    let (namespace, name) = report.name.split_once('/').unwrap_or(("", &report.name));
    ServiceStatus {
        namespace: namespace.to_owned(),
        name: name.to_owned(),
        kind: report.kind,
        skipped: report.skipped,
        refused,
        ports: report.ports.into_iter().map(port).collect(),
    }
}

fn port(report: PortReport) -> ServicePortStatus {
    ServicePortStatus {
        name: report.name,
        protocol: report.protocol.to_string(),
        port: report.port,
        family: report.family.to_string(),
        affinity_seconds: report.affinity_seconds,
        frontends: report.frontends.into_iter().map(frontend).collect(),
        endpoints: report.endpoints.into_iter().map(endpoint).collect(),
    }
}

fn frontend(report: FrontendReport) -> FrontendStatus {
    let choice = |outcome: Result<usize, Choice>| match outcome {
        Ok(endpoints) => ChoiceStatus::Endpoints(endpoints),
        Err(Choice::Drop) => ChoiceStatus::Drop,
        Err(Choice::Reject | Choice::Set(_)) => ChoiceStatus::Reject,
    };
    let kind = match report.kind {
        FrontendKind::ClusterIp => "cluster-ip",
        FrontendKind::NodePort => "node-port",
        FrontendKind::LoadBalancer => "load-balancer",
        FrontendKind::ExternalIp => "external-ip",
    };
    FrontendStatus {
        kind: kind.to_owned(),
        address: report.address,
        port: report.port,
        inside: choice(report.inside),
        outside: choice(report.outside),
    }
}

fn endpoint(report: EndpointReport) -> EndpointStatus {
    let EndpointReport { address, port, pod, node, ready, serving, terminating, unused } = report;
    EndpointStatus { address, port, pod, node, ready, serving, terminating, unused }
}
