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
        if opens && found.len() < limit && names.passes(filter, flow) {
            found.insert(flow.id, names.line(flow));
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
#[derive(Default)]
struct Names<'a> {
    /// Frontends' Services.
    services: HashMap<(IpAddr, u8, u16), &'a str>,
    /// Pods' names and ports by address.
    pods: HashMap<IpAddr, (&'a str, PortId)>,
    /// Ports' devices.
    devices: HashMap<PortId, &'a str>,
    peers: HashMap<VtepIndex, &'a str>,
}

impl<'a> Names<'a> {
    fn new(snapshot: &Snapshot, view: &'a View) -> Names<'a> {
        let service = |f: podplane_pipeline::snapshot::services::FrontendView| {
            let identity = view.catalog.identity(f.service)?;
            Some(((f.address, f.protocol.number(), f.port), &*identity.service))
        };
        let addresses = |port: &'a PortView| port.addresses.iter().map(|a| (*a, (port.pod.as_str(), port.id)));
        let peers: HashMap<IpAddr, &str> = view.peers.iter().map(|peer| (peer.vtep, peer.name.as_str())).collect();
        Names {
            services: snapshot.frontends().filter_map(service).collect(),
            pods: view.ports.iter().flat_map(addresses).collect(),
            devices: view.ports.iter().map(|port| (port.id, port.facts.name.as_str())).collect(),
            peers: snapshot.vteps().filter_map(|(i, vtep)| Some((i, *peers.get(&vtep.addr)?))).collect(),
        }
    }

    /// Whether a flow is asked for. Looked at before its line is made, for most are not.
    fn passes(&self, filter: &FlowFilter, flow: &FlowView) -> bool {
        let FlowView { tuple, leaves, .. } = flow;
        filter.address.is_none_or(|a| [tuple.src, tuple.dst, leaves.src, leaves.dst].contains(&a))
            && filter.state.as_ref().is_none_or(|wanted| state(flow.class) == wanted)
            && filter.pod.as_ref().is_none_or(|wanted| self.pods(flow).contains(&wanted.as_str()))
            && filter.service.as_ref().is_none_or(|wanted| self.service(flow) == wanted)
            && filter.peer.as_ref().is_none_or(|wanted| self.peer(flow) == wanted)
    }

    fn line(&self, flow: &FlowView) -> Flow {
        let FlowView { tuple: original, leaves, .. } = flow;
        Flow {
            protocol: protocol(flow.proto),
            original: tuple(original),
            translated: tuple(leaves),
            from: match flow.arrives {
                Arrives::Pod => self.pods.get(&original.src).map_or("", |(_, port)| self.device(*port)),
                Arrives::Host => self.device(PortId::HOST),
                Arrives::Tunnel | Arrives::Plain | Arrives::Entry => self.device(PortId::UPLINK),
            }
            .to_owned(),
            to: match flow.action {
                Action::Forward(port) => self.device(port),
                Action::Drop(_) => "",
                _ => self.device(PortId::UPLINK),
            }
            .to_owned(),
            pods: self.pods(flow).map(str::to_owned),
            service: self.service(flow).to_owned(),
            peer: self.peer(flow).to_owned(),
            state: state(flow.class).to_owned(),
            idle_ms: flow.idle.into(),
            worker: flow.id.worker.0,
        }
    }

    /// The pods at both ends.
    fn pods(&self, flow: &FlowView) -> [&'a str; 2] {
        [flow.tuple.src, flow.leaves.dst].map(|address| self.pods.get(&address).map_or("", |(name, _)| name))
    }

    fn service(&self, flow: &FlowView) -> &'a str {
        self.services.get(&(flow.tuple.dst, flow.proto, flow.tuple.dport)).copied().unwrap_or_default()
    }

    fn peer(&self, flow: &FlowView) -> &'a str {
        flow.vtep.and_then(|vtep| self.peers.get(&vtep)).copied().unwrap_or_default()
    }

    fn device(&self, id: PortId) -> &'a str {
        self.devices.get(&id).copied().unwrap_or_default()
    }
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
    use podplane_packet::id::WorkerId;
    use podplane_tables::flow::Slot;

    use super::*;

    const POD: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));
    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 96, 0, 1));
    const BACKEND: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 2));

    fn names() -> Names<'static> {
        Names {
            services: [((VIP, proto::TCP, 80), "ns/s")].into(),
            pods: [(POD, ("ns/a", PortId(5)))].into(),
            devices: [(PortId::UPLINK, "eth0"), (PortId(5), "pp5")].into(),
            peers: [(VtepIndex(3), "node2")].into(),
        }
    }

    fn flow() -> FlowView {
        let id = HalfRef { worker: WorkerId(1), slot: Slot::from_index(9).expect("a slot"), sequence: 1 };
        FlowView {
            id,
            creator: Some(id),
            opens: true,
            arrives: Arrives::Pod,
            tuple: nat::Tuple { src: POD, dst: VIP, sport: 4000, dport: 80 },
            leaves: nat::Tuple { src: POD, dst: BACKEND, sport: 4000, dport: 8080 },
            proto: proto::TCP,
            action: Action::Encap(VtepIndex(3)),
            class: TimeoutClass::TcpEstablished,
            idle: 3,
            local_port: PortId(5),
            vtep: Some(VtepIndex(3)),
        }
    }

    #[test]
    fn a_line_says_all_by_name() {
        let line = names().line(&flow());
        let named = (line.from.as_str(), line.to.as_str(), line.service.as_str(), line.peer.as_str());
        assert_eq!(named, ("pp5", "eth0", "ns/s", "node2"));
        assert_eq!((line.pods, line.state.as_str()), (["ns/a".into(), String::new()], "established"));
        assert_eq!((line.original, line.translated), (tuple(&flow().tuple), tuple(&flow().leaves)));
        let stranger = FlowView { arrives: Arrives::Plain, action: Action::Drop(0), vtep: None, ..flow() };
        let line = names().line(&stranger);
        assert_eq!((line.from.as_str(), line.to.as_str(), line.peer.as_str()), ("eth0", "", ""));
    }

    #[test]
    fn a_filter_wants_all_that_it_names() {
        let all = FlowFilter {
            pod: Some("ns/a".into()),
            service: Some("ns/s".into()),
            peer: Some("node2".into()),
            address: Some(BACKEND),
            state: Some("established".into()),
            limit: None,
        };
        let passes = |filter: &FlowFilter| names().passes(filter, &flow());
        assert!(passes(&FlowFilter::default()) && passes(&all));
        for other in [
            FlowFilter { pod: Some("ns/b".into()), ..all.clone() },
            FlowFilter { service: Some("ns/t".into()), ..all.clone() },
            FlowFilter { peer: Some(String::new()), ..all.clone() },
            FlowFilter { address: Some([10, 0, 0, 3].into()), ..all.clone() },
            FlowFilter { state: Some("udp".into()), ..all.clone() },
        ] {
            assert!(!passes(&other), "{other:?}");
        }
    }
}
