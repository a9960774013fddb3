//! `podplane flows`: the connections that the node knows, both directions as one line.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use podplane_config::introspect::{Flow, FlowFilter, Question, Tuple};
use serde::Serialize;

use super::ask;
use crate::output::{self, Format};

/// Which flows, and how to print them.
#[derive(Debug, clap::Args)]
pub struct FlowsArgs {
    /// Only flows of this pod, NAMESPACE/NAME.
    #[arg(long)]
    pub pod: Option<String>,
    /// Only flows through this Service, NAMESPACE/NAME.
    #[arg(long)]
    pub service: Option<String>,
    /// Only flows with this peer: an address, or the name of another node.
    #[arg(long)]
    pub peer: Option<String>,
    /// Only flows in this state, such as established or udp.
    #[arg(long)]
    pub state: Option<String>,
    /// At most so many.
    #[arg(long)]
    pub limit: Option<usize>,
    /// How to print.
    #[arg(short, long, default_value = "table")]
    pub output: Format,
}

impl FlowsArgs {
    fn filter(&self) -> FlowFilter {
        let address = self.peer.as_ref().and_then(|peer| peer.parse::<IpAddr>().ok());
        FlowFilter {
            pod: self.pod.clone(),
            service: self.service.clone(),
            peer: self.peer.clone().filter(|_| address.is_none()),
            address,
            state: self.state.clone(),
            limit: self.limit,
        }
    }
}

/// What `podplane flows -o json` prints; a tested contract.
#[derive(Debug, Serialize)]
struct Flows {
    flows: Vec<Flow>,
}

/// `podplane flows`.
pub fn flows(run_dir: &Path, args: &FlowsArgs) -> Result<()> {
    let mut flows: Vec<Flow> = ask(run_dir, Question::Flows { filter: args.filter() })?;
    flows.sort_by_key(|flow| flow.idle_ms);
    match args.output {
        Format::Json => output::json(&Flows { flows })?,
        Format::Table => {
            output::table(
                &["PROTOCOL", "CLIENT", "CALLED", "SERVICE", "BACKEND", "STATE", "IDLE"],
                flows.iter().map(row),
            );
        }
        Format::Wide => output::table(
            &[
                "PROTOCOL", "CLIENT", "CALLED", "SERVICE", "BACKEND", "STATE", "IDLE", "SEEN AS", "FROM", "TO", "PEER",
                "WORKER",
            ],
            flows.iter().map(wide_row),
        ),
    }
    Ok(())
}

fn row(flow: &Flow) -> [String; 7] {
    let (original, translated) = (ends(&flow.original), ends(&flow.translated));
    let backend = if original.1 == translated.1 {
        named(String::new(), &flow.pods[1])
    } else {
        named(translated.1.to_string(), &flow.pods[1])
    };
    [
        flow.protocol.clone(),
        named(original.0.to_string(), &flow.pods[0]),
        original.1.to_string(),
        flow.service.clone(),
        backend,
        flow.state.clone(),
        humantime::format_duration(coarse(flow.idle_ms)).to_string(),
    ]
}

fn wide_row(flow: &Flow) -> [String; 12] {
    let [protocol, client, called, service, backend, state, idle] = row(flow);
    let (before, after) = (ends(&flow.original).0, ends(&flow.translated).0);
    let seen_as = if before == after { String::new() } else { after.to_string() };
    let (from, to, peer) = (flow.from.clone(), flow.to.clone(), flow.peer.clone());
    [protocol, client, called, service, backend, state, idle, seen_as, from, to, peer, flow.worker.to_string()]
}

/// An address with the pod that has it.
fn named(address: String, pod: &str) -> String {
    match (address.is_empty(), pod.is_empty()) {
        (false, false) => format!("{address} ({pod})"),
        (true, _) => pod.to_owned(),
        (_, true) => address,
    }
}

fn ends(tuple: &Tuple) -> (SocketAddr, SocketAddr) {
    (SocketAddr::new(tuple.source, tuple.source_port), SocketAddr::new(tuple.destination, tuple.destination_port))
}

/// Milliseconds matter only within the first seconds.
fn coarse(milliseconds: u64) -> Duration {
    if milliseconds < 10_000 { Duration::from_millis(milliseconds) } else { Duration::from_secs(milliseconds / 1000) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let tuple = |source: &str, destination: &str| {
            let (source, destination): (SocketAddr, SocketAddr) =
                (source.parse().unwrap(), destination.parse().unwrap());
            Tuple {
                source: source.ip(),
                source_port: source.port(),
                destination: destination.ip(),
                destination_port: destination.port(),
            }
        };
        Flow {
            protocol: "TCP".into(),
            original: tuple("10.244.1.2:40000", "10.96.1.1:80"),
            translated: tuple("10.244.1.1:50000", "10.244.2.3:8080"),
            from: "pp1".into(),
            to: "uplink".into(),
            pods: ["default/client".into(), String::new()],
            service: "default/web".into(),
            peer: "node2".into(),
            state: "established".into(),
            idle_ms: 83_500,
            worker: 1,
        }
    }

    #[test]
    fn both_directions_are_one_line() {
        let expected = [
            "TCP",
            "10.244.1.2:40000 (default/client)",
            "10.96.1.1:80",
            "default/web",
            "10.244.2.3:8080",
            "established",
            "1m 23s",
        ];
        assert_eq!(row(&flow()), expected);
        assert_eq!(wide_row(&flow())[7..], ["10.244.1.1:50000", "pp1", "uplink", "node2", "1"]);
        let mut plain = flow();
        (plain.translated, plain.pods[1]) = (plain.original, "default/b".into());
        assert_eq!(row(&plain)[4], "default/b", "what is not translated is not repeated");
        assert_eq!(wide_row(&plain)[7], "");
    }

    #[test]
    fn a_peer_is_an_address_or_a_node() {
        let args = |peer: &str| FlowsArgs {
            pod: None,
            service: None,
            peer: Some(peer.into()),
            state: None,
            limit: None,
            output: Format::Json,
        };
        assert_eq!(args("10.0.0.1").filter(), FlowFilter { address: "10.0.0.1".parse().ok(), ..FlowFilter::default() });
        assert_eq!(args("node2").filter(), FlowFilter { peer: Some("node2".into()), ..FlowFilter::default() });
    }

    #[test]
    fn the_dataplane_gets_the_filter_and_its_answer_is_read() {
        let canned = flow();
        let (dir, server) = super::super::testing::dataplane(vec![canned.clone()]);
        let filter = FlowFilter { pod: Some("default/client".into()), ..FlowFilter::default() };
        let answer: Vec<Flow> = ask(dir.path(), Question::Flows { filter: filter.clone() }).unwrap();
        assert_eq!(answer, [canned]);
        assert_eq!(server.join().unwrap(), Question::Flows { filter });
    }
}
