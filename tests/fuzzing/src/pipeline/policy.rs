//! Rules for one pod, and what they let happen, by the book: an oracle of four lines.

use std::net::IpAddr;
use std::sync::Arc;

use podplane_packet::parse::{Kind, L4, Parsed};
use podplane_pipeline::sim::{Sim, SimPod, gateway_v4, gateway_v6, node_v4, node_v6};
use podplane_pipeline::snapshot::PortPolicy;
use podplane_tables::policy::{Action, PeersSpec, Ports, RuleId, RuleSetId, RuleSpec, SelectorId, Tier};

/// Which pod has rules.
pub(super) const SHUT: usize = 1;
/// Whom it lets in, by the owner of the address.
pub(super) const FRIEND: usize = 0;
/// Where.
pub(super) const OPEN: u16 = 80;
const TCP: u8 = 6;

const FRIENDS: SelectorId = SelectorId(1);
const INGRESS: RuleSetId = RuleSetId(1);
const EGRESS: RuleSetId = RuleSetId(2);

/// Puts the owners and rules in force: pod [`SHUT`] opens nothing, and takes TCP connections of [`FRIEND`] to [`OPEN`].
pub(super) fn enforce(sim: &mut Sim, pods: &[SimPod; 3]) {
    let rule = |action, peers, ports| RuleSpec { tier: Tier::NetworkPolicy, action, peers, named: None, ports };
    let friends = PeersSpec::Of { selectors: [FRIENDS].into(), nets: Box::default() };
    let port = Ports { protocol: TCP, first: OPEN, last: OPEN };
    let rules = [rule(Action::Accept, friends, Some([port].into())), rule(Action::Deny, PeersSpec::Any, None)];
    let shut = pods[SHUT];
    for (n, node) in sim.nodes.iter_mut().enumerate() {
        for (id, spec) in (1..).zip(&rules) {
            node.config.policy.rules.insert(RuleId(id), Arc::new(spec.clone()));
        }
        node.config.policy.sets.insert(INGRESS, [RuleId(1), RuleId(2)].into());
        node.config.policy.sets.insert(EGRESS, [RuleId(2)].into());
        for (i, pod) in pods.iter().enumerate() {
            let selectors: Arc<[SelectorId]> = if i == FRIEND { [FRIENDS].into() } else { [].into() };
            node.config.policy.addresses.insert(pod.v4.into(), Arc::clone(&selectors));
            node.config.policy.addresses.insert(pod.v6.into(), selectors);
        }
        if n == shut.node
            && let Some((_, port)) = node.config.ports.iter_mut().find(|(id, _)| *id == shut.port)
        {
            port.policy = PortPolicy { ingress: Some(INGRESS), egress: Some(EGRESS) };
        }
        node.publish();
    }
}

/// Whether the rules of pod [`SHUT`] let such a packet pass from or to it, whoever opened its flow and whatever was sent
/// before. Told by addresses alone: what bears a source that it may not have is another test's business.
pub(super) fn allows(pods: &[SimPod; 3], parsed: &Parsed) -> bool {
    let (Some(src), Some(dst)) = (parsed.addrs.src(), parsed.addrs.dst()) else { return true };
    let is = |i: usize, address: IpAddr| address == pods[i].v4 || address == pods[i].v6;
    let (from, to) = (is(SHUT, src), is(SHUT, dst));
    let (peer, n) = (if from { dst } else { src }, pods[SHUT].node);
    let own: [IpAddr; 4] = [node_v4(n).into(), gateway_v4(n).into(), node_v6(n).into(), gateway_v6(n).into()];
    let later = parsed.fragment.is_some_and(|fragment| fragment.offset > 0);
    let packet = matches!(parsed.kind, Kind::Ipv4 | Kind::Ipv6);
    // A later fragment belongs to what the first one said.
    if from == to || own.contains(&peer) || !packet || later {
        return true;
    }
    let open = |port| parsed.proto == TCP && port == OPEN && is(FRIEND, peer);
    match parsed.l4 {
        L4::Ports { src, .. } if from => open(src),
        L4::Ports { dst, .. } => open(dst),
        // Errors belong to what they quote.
        L4::IcmpError { .. } => true,
        _ => false,
    }
}
