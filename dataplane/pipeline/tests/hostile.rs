//! Any bytes, from any port, in any state: no panic, every packet accounted for, and nothing forged reaches a pod.

mod common;

use common::End;
use podplane_packet::id::{PortId, WorkerId};
use podplane_packet::testing::{VecBuf, any_bytes, mutated};
use podplane_pipeline::sim::{Sim, SimConfig};
use proptest::prelude::*;

/// The gateway's MAC in front, a pod's own behind it, or nothing changed: so that not all stops at the first check.
fn address(bytes: &mut [u8], kind: u8, from: End, sim: &Sim) {
    if kind & 1 != 0 && bytes.len() >= 12 {
        bytes[..6].copy_from_slice(&podplane_packet::id::Mac::GATEWAY.0);
        bytes[6..12].copy_from_slice(&from.mac(sim).0);
    }
    if kind & 2 != 0 && bytes.len() >= 34 && bytes[12..14] == [8, 0] {
        if let std::net::IpAddr::V4(a) = from.ip(false) {
            bytes[26..30].copy_from_slice(&a.octets());
        }
        bytes[30..34].copy_from_slice(&[10, 244, 1, 11]);
        bytes[24..26].fill(0);
        let header = (usize::from(bytes[14] & 15) * 4).clamp(20, bytes.len() - 14);
        let sum = !podplane_packet::testing::naive_sum(&bytes[14..14 + header]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_frames_are_accounted_for(
        frames in prop::collection::vec((prop_oneof![mutated(), any_bytes()], 0..4u16, any::<u8>()), 1..40),
    ) {
        let mut sim = Sim::new(SimConfig { flow_capacity: 64, ..SimConfig::default() });
        let pod = End::Pod(sim.add_pod(0));
        sim.add_pod(0);
        for (mut bytes, port, kind) in frames {
            let from = if port < 2 { End::Node(0) } else { pod };
            address(&mut bytes, kind, from, &sim);
            sim.inject(0, PortId(port), WorkerId(u8::from(kind & 4 != 0)), VecBuf::new(&bytes));
        }
        sim.settle();
        prop_assert_eq!(sim.conserved(), Ok(()));
        sim.advance(20_000);
        prop_assert_eq!(sim.conserved(), Ok(()));
    }
}
