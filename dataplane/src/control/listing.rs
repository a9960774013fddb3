//! The flows for `podplane flows`: asked of the workers chunk by chunk, both directions joined into one line.
//!
//! Two walks over the tables, so that memory is bounded by the answer and not by the flows there are: the first finds
//! the opening directions that were asked for, the second what their replies know.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use podplane_config::introspect::{Flow, FlowFilter, Tuple};
use podplane_packet::id::PortId;
use podplane_packet::nat;
use podplane_packet::wire::proto;
use podplane_pipeline::dump::{Arrives, FlowView};
use podplane_pipeline::snapshot::Snapshot;
use podplane_tables::VtepIndex;
use podplane_tables::flow::{Action, HalfRef, TimeoutClass};

use super::view::{PortView, View};
use crate::worker::message::Chunk;
use crate::worker::shared::{Seat, Shared};

/// Flows in an answer where the question does not say.
const LIMIT: usize = 10_000;
/// The most flows in an answer.
const MOST: usize = 1_000_000;
/// After which a worker that does not answer is given up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Between two looks for a worker's answer.
const PAUSE: Duration = Duration::from_micros(20);

/// The flows that `filter` lets through.
///
/// # Errors
/// A worker did not answer.
pub fn list(shared: &Shared, view: &View, filter: &FlowFilter) -> Result<Vec<Flow>, String> {
    let snapshot = shared.snapshots.load_full();
    let names = Names::new(&snapshot, view);
    let limit = filter.limit.unwrap_or(LIMIT).min(MOST);
    let mut found: HashMap<HalfRef, Flow> = HashMap::new();
    walk(shared, |flow| {
        // A cached drop has no other direction.
        let opens = flow.opens || flow.creator.is_none();
        if opens && found.len() < limit {
            let line = names.line(flow);
            if passes(filter, &line) {
                found.insert(flow.id, line);
            }
        }
        found.len() < limit
    })?;
    walk(shared, |flow| {
        if let Some(line) = flow.creator.filter(|_| !flow.opens).and_then(|c| found.get_mut(&c)) {
            line.idle_ms = line.idle_ms.min(flow.idle.into());
        }
        true
    })?;
    let mut flows: Vec<Flow> = found.into_values().collect();
    flows.sort_by_key(|f| (f.original.source, f.original.source_port, f.original.destination));
    Ok(flows)
}

/// Tells of all half-entries of all workers, until `tell` wants no more.
fn walk(shared: &Shared, mut tell: impl FnMut(&FlowView) -> bool) -> Result<(), String> {
    for (number, seat) in shared.seats.iter().enumerate() {
        // One who asks at a time: chunks and answers are of one walk.
        let _turn = seat.lane.asking();
        let mut chunk = Box::new(Chunk::new());
        loop {
            chunk = ask(shared, seat, number, chunk)?;
            if !chunk.flows.iter().all(&mut tell) {
                return Ok(());
            }
            if !chunk.more {
                break;
            }
        }
    }
    Ok(())
}

fn ask(shared: &Shared, seat: &Seat, number: usize, chunk: Box<Chunk>) -> Result<Box<Chunk>, String> {
    // An answer that came too late for whoever asked before.
    drop(seat.lane.take_chunk());
    if seat.lane.ask(chunk).is_err() {
        return Err(format!("worker {number} still has an earlier question"));
    }
    shared.mesh.sleeper(podplane_packet::id::WorkerId(number as u8)).wake();
    let asked = Instant::now();
    loop {
        if let Some(chunk) = seat.lane.take_chunk() {
            return Ok(chunk);
        }
        if asked.elapsed() > PATIENCE {
            return Err(format!("worker {number} did not answer within {PATIENCE:?}: is the machine overloaded?"));
        }
        std::thread::sleep(PAUSE);
    }
}

/// What indices stand for.
struct Names<'a> {
    snapshot: &'a Snapshot,
    view: &'a View,
    services: HashMap<(IpAddr, u8, u16), &'a str>,
    pods: HashMap<IpAddr, &'a PortView>,
    peers: HashMap<IpAddr, &'a str>,
}

impl<'a> Names<'a> {
    fn new(snapshot: &'a Snapshot, view: &'a View) -> Names<'a> {
        let service = |f: podplane_pipeline::snapshot::services::FrontendView| {
            let identity = view.catalog.identity(f.service)?;
            Some(((f.address, f.protocol.number(), f.port), &*identity.service))
        };
        let addresses = |port: &'a PortView| port.addresses.iter().map(move |address| (*address, port));
        Names {
            snapshot,
            view,
            services: snapshot.frontends().filter_map(service).collect(),
            pods: view.ports.iter().flat_map(addresses).collect(),
            peers: view.peers.iter().map(|peer| (peer.vtep, peer.name.as_str())).collect(),
        }
    }

    fn line(&self, flow: &FlowView) -> Flow {
        let FlowView { tuple: original, leaves, .. } = flow;
        let pod = |address: IpAddr| self.pods.get(&address).map_or_else(String::new, |port| port.pod.clone());
        let service = self.services.get(&(original.dst, flow.proto, original.dport));
        Flow {
            protocol: protocol(flow.proto),
            original: tuple(original),
            translated: tuple(leaves),
            from: match flow.arrives {
                Arrives::Pod => self.pods.get(&original.src).map_or_else(String::new, |port| port.facts.name.clone()),
                Arrives::Host => self.port(PortId::HOST),
                Arrives::Tunnel | Arrives::Plain | Arrives::Entry => self.port(PortId::UPLINK),
            },
            to: match flow.action {
                Action::Forward(port) => self.port(port),
                Action::Drop(_) => String::new(),
                _ => self.port(PortId::UPLINK),
            },
            pods: [pod(original.src), pod(leaves.dst)],
            service: service.map_or_else(String::new, |name| (*name).to_owned()),
            peer: flow.vtep.map_or_else(String::new, |vtep| self.peer(vtep)),
            state: state(flow.class).to_owned(),
            idle_ms: flow.idle.into(),
            worker: flow.id.worker.0,
        }
    }

    fn port(&self, id: PortId) -> String {
        self.view.ports.iter().find(|port| port.id == id).map_or_else(String::new, |port| port.facts.name.clone())
    }

    fn peer(&self, vtep: VtepIndex) -> String {
        let address = self.snapshot.vtep(vtep).map(|v| v.addr);
        address.and_then(|a| self.peers.get(&a)).map_or_else(String::new, |name| (*name).to_owned())
    }
}

fn passes(filter: &FlowFilter, flow: &Flow) -> bool {
    let addresses =
        [flow.original.source, flow.original.destination, flow.translated.source, flow.translated.destination];
    filter.pod.as_ref().is_none_or(|pod| flow.pods.contains(pod))
        && filter.service.as_ref().is_none_or(|service| flow.service == *service)
        && filter.peer.as_ref().is_none_or(|peer| flow.peer == *peer)
        && filter.state.as_ref().is_none_or(|state| flow.state == *state)
        && filter.address.is_none_or(|address| addresses.contains(&address))
}

fn tuple(t: &nat::Tuple) -> Tuple {
    Tuple { source: t.src, source_port: t.sport, destination: t.dst, destination_port: t.dport }
}

fn protocol(number: u8) -> String {
    match number {
        proto::TCP => "TCP".to_owned(),
        proto::UDP => "UDP".to_owned(),
        proto::SCTP => "SCTP".to_owned(),
        proto::ICMP => "ICMP".to_owned(),
        proto::ICMPV6 => "ICMPv6".to_owned(),
        other => other.to_string(),
    }
}

/// The contract's word for a state.
fn state(class: TimeoutClass) -> &'static str {
    match class {
        TimeoutClass::TcpOpening => "opening",
        TimeoutClass::TcpEstablished => "established",
        TimeoutClass::TcpClosing => "closing",
        TimeoutClass::TcpClosed => "closed",
        TimeoutClass::Udp => "udp",
        TimeoutClass::UdpStream => "udp-stream",
        TimeoutClass::Icmp => "icmp",
        TimeoutClass::Sctp => "sctp",
        TimeoutClass::Deny => "denied",
        TimeoutClass::Other => "other",
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn flow() -> Flow {
        let t = |source: [u8; 4], destination: [u8; 4]| Tuple {
            source: source.into(),
            source_port: 1,
            destination: destination.into(),
            destination_port: 2,
        };
        Flow {
            protocol: "TCP".into(),
            original: t([10, 0, 0, 1], [10, 96, 0, 1]),
            translated: t([10, 0, 0, 1], [10, 0, 0, 2]),
            from: "a".into(),
            to: "b".into(),
            pods: ["ns/a".into(), String::new()],
            service: "ns/s".into(),
            peer: "node2".into(),
            state: "established".into(),
            idle_ms: 3,
            worker: 0,
        }
    }

    #[test]
    fn a_filter_wants_all_that_it_names() {
        let all = FlowFilter {
            pod: Some("ns/a".into()),
            service: Some("ns/s".into()),
            peer: Some("node2".into()),
            address: Some([10, 0, 0, 2].into()),
            state: Some("established".into()),
            limit: None,
        };
        assert!(passes(&FlowFilter::default(), &flow()) && passes(&all, &flow()));
        for other in [
            FlowFilter { pod: Some("ns/b".into()), ..all.clone() },
            FlowFilter { service: Some("ns/t".into()), ..all.clone() },
            FlowFilter { peer: Some(String::new()), ..all.clone() },
            FlowFilter { address: Some([10, 0, 0, 3].into()), ..all.clone() },
            FlowFilter { state: Some("udp".into()), ..all.clone() },
        ] {
            assert!(!passes(&other, &flow()), "{other:?}");
        }
    }
}
