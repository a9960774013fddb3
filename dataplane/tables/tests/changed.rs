//! Change stamps against the naive rule: an entry is stale if anything that it depends on changed after it was judged.

use std::net::{IpAddr, Ipv4Addr};

use podplane_packet::id::PortId;
use podplane_tables::VtepIndex;
use podplane_tables::changed::{ChangedCells, Validity};
use podplane_tables::flow::{Action, Flags, FlowConfig, FlowTable, Half, Key, Rewrite, TimeoutClass, V4, Verdict};
use podplane_tables::mem::Want;
use podplane_tables::quota::Quota;
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Thing {
    Port(u16),
    Vtep(u16),
    Address(u8),
}

fn thing() -> impl Strategy<Value = Thing> {
    prop_oneof![(2u16..6).prop_map(Thing::Port), (0u16..4).prop_map(Thing::Vtep), (1u8..8).prop_map(Thing::Address)]
}

fn ip(n: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, n).into()
}

fn entry(port: u16, action: Action, vtep: Option<u16>, addrs: (u8, u8), new: Option<u8>, generation: u32) -> Half<V4> {
    let key = Key::new([10, 0, 0, addrs.0], [10, 0, 0, addrs.1], 1, 2, 17, 0);
    let rewrite = new.map(|n| Rewrite { src: key.src, dst: [10, 0, 0, n], sport: 1, dport: 2 });
    Half {
        key,
        verdict: Verdict { action, rewrite },
        generation,
        last_seen: 0,
        peer: None,
        flags: Flags::NONE,
        class: TimeoutClass::Udp,
        local_port: PortId(port),
        vtep: vtep.map(VtepIndex),
    }
}

proptest! {
    #[test]
    fn equals_the_naive_rule(
        changes in vec(thing(), 1..20),
        judged in 0u32..20,
        port in 2u16..6,
        action in prop_oneof![(2u16..6).prop_map(|p| Action::Forward(PortId(p))), (0u16..4).prop_map(|v| Action::Encap(VtepIndex(v)))],
        vtep in proptest::option::of(0u16..4),
        addrs in (1u8..8, 1u8..8),
        new in proptest::option::of(1u8..8),
    ) {
        let cells = ChangedCells::new([3, 4]);
        for (generation, change) in (1..).zip(&changes) {
            match *change {
                Thing::Port(p) => cells.stamp_port(PortId(p), generation),
                Thing::Vtep(v) => cells.stamp_vtep(VtepIndex(v), generation),
                Thing::Address(a) => cells.stamp_address(ip(a), generation),
            }
        }
        let snapshot = changes.len() as u32;
        let judged = judged.min(snapshot);
        let depends = |t: &Thing| match *t {
            Thing::Port(p) => p == port || action == Action::Forward(PortId(p)),
            Thing::Vtep(v) => vtep == Some(v) || action == Action::Encap(VtepIndex(v)),
            Thing::Address(a) => a == addrs.0 || a == addrs.1 || new == Some(a),
        };
        let expected = if judged == snapshot {
            Validity::Valid
        } else if changes[judged as usize..].iter().any(depends) {
            Validity::Revalidate
        } else {
            Validity::Restamp
        };
        let mut table = FlowTable::<V4>::new(FlowConfig { capacity: 1, seed: [0; 2], memory: Want::Base }).unwrap();
        let half = entry(port, action, vtep, addrs, new, judged);
        let slot = table.insert(table.hash(&half.key), &half, &mut Quota::new(1)).unwrap();
        prop_assert_eq!(table.get(slot).unwrap().validity(snapshot, &cells), expected);
        if let Action::Encap(v) = action && vtep.is_none() {
            let mut all = vec![ip(addrs.0), ip(addrs.1)];
            all.extend(new.map(ip));
            prop_assert_eq!(cells.judge(judged, snapshot, PortId(port), Some(v), &all), expected);
        }
    }
}

#[test]
fn everything_can_be_stamped_and_unknown_indices_are_never_fresh() {
    let cells = ChangedCells::new([0; 2]);
    assert_eq!(cells.judge(1, 2, PortId(2), None, &[ip(1)]), Validity::Restamp);
    cells.stamp_all(2);
    assert_eq!(cells.judge(1, 2, PortId(2), None, &[ip(1)]), Validity::Revalidate);
    assert_eq!(cells.judge(2, 3, PortId(2), None, &[ip(1)]), Validity::Restamp);
    assert_eq!(cells.judge(2, 3, PortId(u16::MAX), None, &[ip(1)]), Validity::Revalidate);
    assert_eq!(cells.judge(2, 3, PortId(2), Some(VtepIndex(u16::MAX)), &[ip(1)]), Validity::Revalidate);
}
