//! `podplane services`: what the Services' addresses lead to, and how often they were used.

use std::path::Path;

use anyhow::Result;
use podplane_config::introspect::{FrontendKind, Question, ServiceHits};
use serde::Serialize;

use super::{SeeArgs, ask};
use crate::output::{self, Format};

/// What `podplane services -o json` prints; a tested contract.
#[derive(Debug, Serialize)]
struct Services {
    frontends: Vec<ServiceHits>,
}

/// `podplane services`.
pub fn services(run_dir: &Path, args: &SeeArgs) -> Result<()> {
    let mut frontends: Vec<ServiceHits> = ask(run_dir, Question::Services)?;
    frontends.sort_by(|a, b| order(a).cmp(&order(b)));
    if args.output == Format::Json {
        return output::json(&Services { frontends });
    }
    output::table(
        &["SERVICE", "PORT", "KIND", "ADDRESS", "FROM INSIDE", "FROM OUTSIDE", "HITS"],
        frontends.iter().map(row),
    );
    Ok(())
}

fn order(hits: &ServiceHits) -> (&str, u16, &str, bool, std::net::IpAddr) {
    (&hits.service, hits.frontend_port, &hits.protocol, hits.address.is_ipv6(), hits.address)
}

fn row(hits: &ServiceHits) -> [String; 7] {
    let backends = |count: Option<usize>| match count {
        Some(1) => "1 backend".to_owned(),
        Some(n) => format!("{n} backends"),
        None => "none".to_owned(),
    };
    [
        hits.service.clone(),
        hits.port.clone(),
        kind(hits.kind).to_owned(),
        format!("{}/{}", std::net::SocketAddr::new(hits.address, hits.frontend_port), hits.protocol),
        backends(hits.inside),
        backends(hits.outside),
        hits.hits.to_string(),
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

    #[test]
    fn a_line_says_what_an_address_leads_to() {
        let expected = ["default/web", "http", "NodePort", "[fd00::1]:30080/TCP", "3 backends", "none", "7"];
        assert_eq!(row(&hits("fd00::1")), expected);
        let mut list = [hits("fd00::1"), hits("10.77.0.11")];
        list.sort_by(|a, b| order(a).cmp(&order(b)));
        assert!(list[0].address.is_ipv4());
    }

    #[test]
    fn the_dataplane_is_asked_and_its_answer_is_read() {
        let (dir, server) = super::super::testing::dataplane(vec![hits("10.77.0.11")]);
        let answer: Vec<ServiceHits> = ask(dir.path(), Question::Services).unwrap();
        assert_eq!((answer, server.join().unwrap()), (vec![hits("10.77.0.11")], Question::Services));
    }
}
