//! `podplane services`: what the Services' addresses lead to, how often they were used, and which endpoints are not.
//!
//! The agent knows what Services mean and why; the dataplane what became of it. Either answers without the other.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use anyhow::{Context, Result, bail};
use podplane_api::{AgentClient, ChoiceStatus, EndpointStatus, ServicePortStatus, ServiceStatus};
use podplane_config::introspect::{FrontendKind, Question, ServiceHits};
use serde::Serialize;

use super::ask;
use crate::output::{self, Format};

/// Which Services, and how to print them.
#[derive(Debug, clap::Args)]
pub struct ServicesArgs {
    /// Only this one, NAMESPACE/NAME.
    service: Option<String>,
    /// How to print; wide also shows the endpoints that are in use.
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// What `podplane services -o json` prints; a tested contract. A list of a process that does not answer is null.
#[derive(Debug, Serialize)]
struct Services {
    /// What the agent makes of each Service.
    services: Option<Vec<ServiceStatus>>,
    /// What the dataplane has, and how often it was used.
    frontends: Option<Vec<ServiceHits>>,
    problems: Vec<String>,
}

/// `podplane services`.
pub fn services(run_dir: &Path, args: &ServicesArgs) -> Result<()> {
    let mut problems = Vec::new();
    let mut note = |error: anyhow::Error| problems.push(format!("{error:#}"));
    let frontends: Option<Vec<ServiceHits>> = ask(run_dir, Question::Services).map_err(&mut note).ok();
    let client = AgentClient::new(run_dir.join("agent.sock"));
    let services = client.services().context("asking the agent").map_err(&mut note).ok();
    if frontends.is_none() && services.is_none() {
        bail!("{}", problems.join("\n"));
    }
    let mut all = Services { services, frontends, problems };
    all.keep(args.service.as_deref());
    match args.output {
        Format::Json => output::json(&all),
        Format::Table => {
            print(&all, false);
            Ok(())
        }
        Format::Wide => {
            print(&all, true);
            Ok(())
        }
    }
}

impl Services {
    fn keep(&mut self, name: Option<&str>) {
        if let Some(frontends) = &mut self.frontends {
            frontends.retain(|f| name.is_none_or(|name| f.service == name));
            frontends.sort_by(|a, b| order(a).cmp(&order(b)));
        }
        if let Some(services) = &mut self.services {
            services.retain(|s| name.is_none_or(|name| full_name(s) == name));
        }
    }
}

fn order(hits: &ServiceHits) -> (&str, &str, u16, bool, IpAddr) {
    (&hits.service, &hits.protocol, hits.frontend_port, hits.address.is_ipv6(), hits.address)
}

fn full_name(service: &ServiceStatus) -> String {
    format!("{}/{}", service.namespace, service.name)
}

fn print(all: &Services, wide: bool) {
    let services = all.services.as_deref().unwrap_or_default();
    if let Some(frontends) = &all.frontends {
        output::table(
            &["SERVICE", "PORT", "KIND", "ADDRESS", "FROM INSIDE", "FROM OUTSIDE", "HITS"],
            frontends.iter().map(|hits| row(hits, services)),
        );
    }
    let ports = services.iter().flat_map(|s| s.ports.iter().map(move |port| (s, port)));
    let endpoints = ports.flat_map(|(s, port)| port.endpoints.iter().map(move |e| endpoint_row(s, port, e)));
    let mut endpoints = endpoints.filter(|row| wide || row[6] != "yes").peekable();
    if endpoints.peek().is_some() {
        output::table(&["SERVICE", "PORT", "ENDPOINT", "POD", "NODE", "HEALTH", "USED FROM HERE"], endpoints);
    }
    for service in services {
        let name = full_name(service);
        service.refused.iter().for_each(|reason| println!("refused    {name}: {reason}"));
        service.skipped.iter().for_each(|reason| println!("skipped    {name}: {reason}"));
    }
    all.problems.iter().for_each(|problem| println!("problem    {problem}"));
}

fn row(hits: &ServiceHits, services: &[ServiceStatus]) -> [String; 7] {
    let said = frontend(hits, services);
    let backends = |count: Option<usize>, said: Option<ChoiceStatus>| match (count, said) {
        (Some(1), _) => "1 backend".to_owned(),
        (Some(n), _) => format!("{n} backends"),
        (None, Some(ChoiceStatus::Reject)) => "refused".to_owned(),
        (None, Some(ChoiceStatus::Drop)) => "dropped".to_owned(),
        (None, _) => "none".to_owned(),
    };
    [
        hits.service.clone(),
        hits.port.clone(),
        kind(hits.kind).to_owned(),
        format!("{}/{}", SocketAddr::new(hits.address, hits.frontend_port), hits.protocol),
        backends(hits.inside, said.map(|(inside, _)| inside)),
        backends(hits.outside, said.map(|(_, outside)| outside)),
        hits.hits.to_string(),
    ]
}

/// What the agent said of a frontend of the dataplane, inside and outside.
fn frontend(hits: &ServiceHits, services: &[ServiceStatus]) -> Option<(ChoiceStatus, ChoiceStatus)> {
    let service = services.iter().find(|s| full_name(s) == hits.service)?;
    let ports = service.ports.iter().filter(|port| port.protocol == hits.protocol);
    let mut frontends = ports.flat_map(|port| &port.frontends);
    let frontend = frontends.find(|f| (f.address, f.port) == (hits.address, hits.frontend_port))?;
    Some((frontend.inside, frontend.outside))
}

fn endpoint_row(service: &ServiceStatus, port: &ServicePortStatus, endpoint: &EndpointStatus) -> [String; 7] {
    let number = format!("{}/{}", port.port, port.protocol);
    let target = endpoint.port.map(|port| SocketAddr::new(endpoint.address, port).to_string());
    let mut health = vec![if endpoint.ready { "ready" } else { "not ready" }];
    if endpoint.serving != endpoint.ready {
        health.push(if endpoint.serving { "serving" } else { "not serving" });
    }
    if endpoint.terminating {
        health.push("terminating");
    }
    [
        full_name(service),
        if port.name.is_empty() { number } else { format!("{} {number}", port.name) },
        target.unwrap_or_else(|| endpoint.address.to_string()),
        endpoint.pod.clone(),
        endpoint.node.clone(),
        health.join(", "),
        endpoint.unused.clone().map_or_else(|| "yes".to_owned(), |reason| format!("no: {reason}")),
    ]
}

fn kind(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "ClusterIP",
        FrontendKind::NodePort => "NodePort",
        FrontendKind::LoadBalancer => "LoadBalancer",
        FrontendKind::ExternalIp => "ExternalIP",
        FrontendKind::HostPort => "HostPort",
    }
}

#[cfg(test)]
mod tests {
    use podplane_api::FrontendStatus;

    use super::*;

    fn hits(address: &str) -> ServiceHits {
        ServiceHits {
            service: "default/web".into(),
            port: "http".into(),
            protocol: "TCP".into(),
            kind: FrontendKind::NodePort,
            address: address.parse().unwrap(),
            frontend_port: 30080,
            hits: 7,
            inside: Some(3),
            outside: None,
        }
    }

    fn service() -> ServiceStatus {
        ServiceStatus {
            namespace: "default".into(),
            name: "web".into(),
            kind: "NodePort".into(),
            skipped: None,
            refused: Vec::new(),
            ports: vec![ServicePortStatus {
                name: "http".into(),
                protocol: "TCP".into(),
                port: 80,
                family: "ipv6".into(),
                affinity_seconds: None,
                frontends: vec![FrontendStatus {
                    kind: "node-port".into(),
                    address: "fd00::1".parse().unwrap(),
                    port: 30080,
                    inside: ChoiceStatus::Endpoints(3),
                    outside: ChoiceStatus::Drop,
                }],
                endpoints: vec![EndpointStatus {
                    address: "fd00::2".parse().unwrap(),
                    port: Some(8080),
                    pod: "default/a".into(),
                    node: "node2".into(),
                    ready: false,
                    serving: true,
                    terminating: true,
                    unused: Some("it terminates".into()),
                }],
            }],
        }
    }

    #[test]
    fn a_line_says_what_an_address_leads_to_and_why_not() {
        let expected = ["default/web", "http", "NodePort", "[fd00::1]:30080/TCP", "3 backends", "dropped", "7"];
        assert_eq!(row(&hits("fd00::1"), &[service()]), expected);
        assert_eq!(row(&hits("fd00::1"), &[])[5], "none", "without the agent nobody knows why");
        let service = service();
        let expected = [
            "default/web",
            "http 80/TCP",
            "[fd00::2]:8080",
            "default/a",
            "node2",
            "not ready, serving, terminating",
            "no: it terminates",
        ];
        assert_eq!(endpoint_row(&service, &service.ports[0], &service.ports[0].endpoints[0]), expected);
    }

    #[test]
    fn one_service_can_be_asked_for() {
        let mut other = hits("10.77.0.11");
        other.service = "default/other".into();
        let mut all = Services {
            services: Some(vec![service()]),
            frontends: Some(vec![hits("fd00::1"), other, hits("10.77.0.11")]),
            problems: Vec::new(),
        };
        all.keep(Some("default/web"));
        let addresses: Vec<_> = all.frontends.unwrap().iter().map(|f| f.address.to_string()).collect();
        assert_eq!(addresses, ["10.77.0.11", "fd00::1"], "IPv4 first");
        assert_eq!(all.services.unwrap().len(), 1);
    }

    #[test]
    fn the_dataplane_is_asked_and_its_answer_is_read() {
        let (dir, server) = super::super::testing::dataplane(vec![hits("10.77.0.11")]);
        let answer: Vec<ServiceHits> = ask(dir.path(), Question::Services).unwrap();
        assert_eq!((answer, server.join().unwrap()), (vec![hits("10.77.0.11")], Question::Services));
    }
}
