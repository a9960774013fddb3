//! Policy for `podplane policies`, and `podplane explain`: names become addresses, the pipeline says what would happen,
//! and numbers become names again.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use podplane_config::introspect::{
    Behind, Direction, EndpointPolicy, Explained, Imaginary, Judgement, Leaves, Party, Policies, RuleHits, RuleSet,
    ServiceChoice, Verdict,
};
use podplane_config::valid::Policy;
use podplane_packet::id::PortId;
use podplane_packet::wire::proto;
use podplane_pipeline::explain::{End, Fate, Imagined, explain as fate};
use podplane_pipeline::graph::NodeId;
use podplane_pipeline::{Direction as Side, Judgement as Judged, Snapshot};
use podplane_tables::VtepIndex;
use podplane_tables::flow::Action;
use podplane_tables::policy::RuleId;

use super::view::{PortView, View};

/// What this node's pods have of policy.
pub fn policies(snapshot: &Snapshot, view: &View) -> Policies {
    let policy = view.catalog.rules().policy();
    let pods = view.ports.iter().filter(|port| port.id >= PortId::FIRST_POD);
    let mut endpoints: Vec<EndpointPolicy> = pods
        .map(|port| EndpointPolicy {
            endpoint: port.endpoint.clone(),
            pod: port.pod.clone(),
            ingress: port.policy.ingress,
            egress: port.policy.egress,
        })
        .collect();
    endpoints.sort_by(|a, b| (&a.pod, &a.endpoint).cmp(&(&b.pod, &b.endpoint)));
    let used: BTreeSet<u32> = endpoints.iter().flat_map(|e| [e.ingress, e.egress]).flatten().collect();
    let sets: Vec<RuleSet> = used
        .iter()
        .filter_map(|id| policy.sets.get(id))
        .map(|set| RuleSet { id: set.id, rules: set.rules.clone() })
        .collect();
    let rules: BTreeSet<u32> = sets.iter().flat_map(|set| &set.rules).copied().collect();
    let tables = snapshot.policies();
    Policies {
        endpoints,
        rules: rules.iter().filter_map(|id| rule(snapshot, policy, *id)).collect(),
        sets,
        addresses: tables.addresses(),
        classes: tables.classes(),
        table_bytes: tables.memory(),
        compiled_us: view.policy_compiled.as_micros() as u64,
    }
}

fn rule(snapshot: &Snapshot, policy: &Policy, id: u32) -> Option<RuleHits> {
    let rule = policy.rules.get(&id)?;
    Some(RuleHits {
        id,
        name: rule.name.clone(),
        tier: rule.tier.to_string(),
        action: rule.action.to_string(),
        hits: snapshot.policies().hits(RuleId(id)),
    })
}

/// Says what would become of a packet.
///
/// # Errors
/// A name that nobody has, or two sides without a common family; with what to do.
pub fn explain(snapshot: &Snapshot, view: &View, packet: &Imaginary) -> Result<Explained, String> {
    let names = Names { view, policy: view.catalog.rules().policy() };
    let (source, destination) = pair(packet, &names.resolve(&packet.from)?, &names.resolve(&packet.to)?)?;
    let icmp = if source.is_ipv4() { proto::ICMP } else { proto::ICMPV6 };
    let protocol = match packet.protocol.as_str() {
        "TCP" => proto::TCP,
        "UDP" => proto::UDP,
        "SCTP" => proto::SCTP,
        "ICMP" => icmp,
        other => return Err(format!("{other:?} is none of the protocols TCP, UDP, SCTP, ICMP")),
    };
    if protocol != icmp && packet.port == 0 {
        return Err(format!("{} needs a port from 1 to 65535: --port", packet.protocol));
    }
    let port = if protocol == icmp { 0 } else { packet.port };
    let fate = fate(snapshot, &Imagined { source, destination, protocol, port }).map_err(|error| error.to_string())?;
    let told = Told { snapshot, names: &names };
    let (verdict, reason, explanation) = told.verdict(&fate);
    Ok(Explained {
        generation: snapshot.generation(),
        from: names.party(source),
        to: names.party(destination),
        protocol: packet.protocol.clone(),
        port,
        enters: told.enters(&fate),
        verdict,
        reason,
        explanation,
        service: told.service(&fate, destination),
        judged: fate.judged.iter().map(|judgement| told.judgement(judgement)).collect(),
        leaves: told.leaves(&fate),
        seen_as: (fate.tuple.src != source).then_some(fate.tuple.src),
        path: fate.path.iter().map(|node| node.name().to_owned()).collect(),
    })
}

/// Addresses of one family.
fn pair(packet: &Imaginary, from: &[IpAddr], to: &[IpAddr]) -> Result<(IpAddr, IpAddr), String> {
    let of = |all: &[IpAddr], v6: bool| all.iter().copied().find(|address| address.is_ipv6() == v6);
    let families = if packet.ipv6 { [true, false] } else { [false, true] };
    families.into_iter().find_map(|v6| Some((of(from, v6)?, of(to, v6)?))).ok_or_else(|| {
        format!("{} and {} have no address of the same family: {from:?}, {to:?}", packet.from, packet.to)
    })
}

/// Who has which address.
struct Names<'a> {
    view: &'a View,
    policy: &'a Policy,
}

impl Names<'_> {
    /// The addresses of a name.
    fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, String> {
        if let Ok(address) = name.parse() {
            return Ok(vec![address]);
        }
        let local = self.view.ports.iter().filter(|port| !port.pod.is_empty() && port.pod == name);
        let mut all: Vec<IpAddr> = local.flat_map(|port| port.addresses.clone()).collect();
        if all.is_empty() {
            let owned = self.policy.addresses.values().filter(|owner| owner.name == name || owner.owner == name);
            all.extend(owned.map(|owner| owner.address));
        }
        if all.is_empty() {
            all.extend(self.nodes().filter(|(node, _)| node == name).map(|(_, vtep)| vtep));
        }
        if all.is_empty() {
            return Err(format!(
                "nobody known here is named {name:?}: name a pod as NAMESPACE/NAME, a node as node/NAME, or give an \
                 address; pods of other nodes have names here only where a policy selects by labels"
            ));
        }
        Ok(all)
    }

    fn nodes(&self) -> impl Iterator<Item = (String, IpAddr)> {
        let own = self.view.node.iter().map(|node| (format!("node/{}", node.name), node.vtep));
        own.chain(self.view.peers.iter().map(|peer| (format!("node/{}", peer.name), peer.vtep)))
    }

    fn party(&self, address: IpAddr) -> Party {
        Party { address, name: self.name(address) }
    }

    /// Who has an address; empty if nobody is known to.
    fn name(&self, address: IpAddr) -> String {
        let local = self.view.ports.iter().find(|port| port.addresses.contains(&address)).map(|port| port.pod.clone());
        let owned = || self.policy.addresses.get(&address).map(|owner| owner.name.clone());
        let node = || self.nodes().find(|(_, vtep)| *vtep == address).map(|(name, _)| name);
        local.filter(|pod| !pod.is_empty()).or_else(owned).or_else(node).unwrap_or_default()
    }

    fn port(&self, id: PortId) -> Option<&PortView> {
        self.view.ports.iter().find(|port| port.id == id)
    }

    fn device(&self, id: PortId) -> String {
        self.port(id).map_or_else(String::new, |port| port.facts.name.clone())
    }
}

/// A fate in words.
struct Told<'a> {
    snapshot: &'a Snapshot,
    names: &'a Names<'a>,
}

impl Told<'_> {
    fn peer(&self, vtep: VtepIndex) -> String {
        let address = self.snapshot.vtep(vtep).map(|vtep| vtep.addr);
        let peer = self.names.view.peers.iter().find(|peer| Some(peer.vtep) == address);
        peer.map_or_else(String::new, |peer| peer.name.clone())
    }

    fn enters(&self, fate: &Fate) -> String {
        let device = self.names.device(fate.enters);
        match fate.tunnel {
            Some(vtep) => format!("{device}, through the tunnel from node {}", self.peer(vtep)),
            None => device,
        }
    }

    fn verdict(&self, fate: &Fate) -> (Verdict, String, String) {
        let plain = |verdict, text: &str| (verdict, String::new(), text.to_owned());
        match fate.end {
            End::Leaves(Action::Drop(_)) => plain(Verdict::Drop, "It leads nowhere."),
            End::Leaves(_) => plain(Verdict::Accept, "It goes on, and replies come back."),
            End::Dropped(reason) => (Verdict::Drop, reason.name().to_owned(), reason.explain().to_owned()),
            End::Waits(_) => plain(Verdict::Wait, "It waits for a neighbour to say its Ethernet address."),
            End::Answered(NodeId::Refuse) => plain(
                Verdict::Refuse,
                "No endpoint serves there: TCP is reset, the rest is told that the port is unreachable.",
            ),
            End::Answered(NodeId::IcmpError) => plain(Verdict::Refuse, "The gateway says that it cannot be reached."),
            End::Answered(NodeId::L2Pass) => {
                plain(Verdict::Accept, "It is the node's own, and passes to its stack unchanged.")
            }
            End::Answered(_) => plain(Verdict::Answer, "The gateway answers it."),
        }
    }

    fn service(&self, fate: &Fate, asked: IpAddr) -> Option<ServiceChoice> {
        let (id, backends) = fate.service?;
        let identity = self.names.view.catalog.identity(id)?;
        let backend = (fate.tuple.dst != asked || backends > 0).then_some(fate.tuple.dst).filter(|_| backends > 0);
        Some(ServiceChoice {
            service: identity.service.to_string(),
            port: identity.port.to_string(),
            backend,
            backend_port: backend.map_or(0, |_| fate.tuple.dport),
            pod: backend.map_or_else(String::new, |address| self.names.name(address)),
            backends,
        })
    }

    fn judgement(&self, judged: &Judged) -> Judgement {
        let rule = judged.decision.and_then(|decision| decision.rule);
        Judgement {
            direction: match judged.direction {
                Side::Ingress => Direction::Ingress,
                Side::Egress => Direction::Egress,
            },
            pod: self.names.port(judged.port).map_or_else(String::new, |port| port.pod.clone()),
            set: judged.set.map(|set| set.0),
            accept: judged.accepts(),
            rule: rule.and_then(|id| self::rule(self.snapshot, self.names.policy, id.0)),
        }
    }

    fn leaves(&self, fate: &Fate) -> Option<Leaves> {
        let uplink = |to, name| Leaves { port: self.names.device(PortId::UPLINK), to, name };
        Some(match fate.end {
            End::Leaves(Action::Forward(PortId::HOST)) | End::Answered(NodeId::L2Pass) => {
                Leaves { port: self.names.device(PortId::HOST), to: Behind::Host, name: String::new() }
            }
            End::Leaves(Action::Forward(port)) => Leaves {
                port: self.names.device(port),
                to: Behind::Pod,
                name: self.names.port(port).map_or_else(String::new, |port| port.pod.clone()),
            },
            End::Leaves(Action::Encap(vtep) | Action::Enter(vtep)) => uplink(Behind::Node, self.peer(vtep)),
            End::Leaves(Action::Outside(_)) => {
                let to = SocketAddr::new(fate.tuple.dst, fate.tuple.dport);
                uplink(Behind::Outside, to.to_string())
            }
            _ => return None,
        })
    }
}
