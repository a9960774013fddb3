//! Flows of a former process are judged by the policy of this one.

use podplane_packet::id::WorkerId;
use podplane_packet::testing::Transport;
use podplane_pipeline::resume::{FlowStore, resume};
use podplane_pipeline::sim::{Sim, SimConfig};
use podplane_tables::flow::{FlowMemory, MemoryConfig, OldFlows, Present, Renumber};
use podplane_tables::mem::Want;

use crate::common::{ACK, End, SYN, tcp};
use crate::ends::{open, passes, pods};

const WORKERS: u8 = 2;

/// A process' flow memory and the stores in it.
fn memory(sim: &Sim) -> (FlowMemory, Vec<FlowStore>) {
    let config =
        MemoryConfig { workers: WORKERS, capacity: 64, memory: Want::Base, seed: [1, 2], names_key: [3, 4], origin: 0 };
    let mut memory = FlowMemory::new(config).expect("a small memory");
    let store = |w| {
        let tables = memory.tables(WorkerId(w), [5, 6]).expect("a worker's tables");
        FlowStore::new(WorkerId(w), tables, 64, [5, 6], sim.now)
    };
    let stores = (0..WORKERS).map(store).collect();
    (memory, stores)
}

/// The process dies, and another one goes on with its flows, `taken` of them, before it is configured.
fn restart(sim: &mut Sim, old: &FlowMemory, ends: [End; 2], taken: u64) -> FlowMemory {
    let file = old.file().expect("a memfd").try_clone_to_owned().expect("another descriptor");
    let old = OldFlows::open(file, old.config()).expect("flows of the same shape");
    let local = sim.nodes[0].config.local.take();
    sim.nodes[0].publish();
    let (new, mut stores) = memory(sim);
    let present = Present { origin: 0, now: sim.now, generation: sim.nodes[0].snapshot.generation() };
    let port = |id| ends.iter().map(|e| e.port()).find(|p| old.identity(&format!("{p:?}")) == id);
    let renumber = Renumber::new(&old, present, port, |_| None, |_| None);
    let adopted = resume(&mut stores, &old, &renumber, sim.now, &mut Default::default()).expect("a whole file");
    assert_eq!((adopted.taken, adopted.rejected), (taken, [0; 3]));
    sim.nodes[0].exchange_flows(&mut stores);
    // The configuration that comes into force then stamps everything.
    sim.nodes[0].config.local = local;
    for end in ends {
        let home = sim.nodes[0].config.ports.iter().find(|(id, _)| *id == end.port()).expect("its port").1.home;
        new.names().port(end.port(), &format!("{:?}", end.port()), home);
    }
    new
}

#[test]
fn what_bars_a_server_outlives_the_process() {
    let (mut sim, client, server) = pods(SimConfig { workers: WORKERS, ..SimConfig::default() });
    let (first, mut stores) = memory(&sim);
    sim.nodes[0].exchange_flows(&mut stores);
    for end in [client, server] {
        let home = sim.nodes[0].snapshot.port(end.port()).expect("its port").home;
        first.names().port(end.port(), &format!("{:?}", end.port()), home);
    }
    let udp = |sport, dport| Transport::Udp { sport, dport };
    assert!(passes(&mut sim, client, server, tcp(40_000, 80, SYN)));
    assert!(passes(&mut sim, server, client, tcp(80, 40_000, SYN | ACK)));
    assert!(passes(&mut sim, client, server, udp(40_000, 53)));
    assert!(passes(&mut sim, server, client, udp(53, 40_000)));
    open(&mut sim, server, Some(443));
    assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
    assert!(!passes(&mut sim, server, client, udp(53, 40_000)));
    let second = restart(&mut sim, &first, [client, server], 0);
    open(&mut sim, server, Some(443));
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)), "it would go on the other way round");
    assert!(!passes(&mut sim, server, client, udp(53, 40_000)));
    assert!(passes(&mut sim, server, client, tcp(80, 40_001, ACK)), "the server may open what it will");
    // Once more, and it is allowed again: these are answers still.
    let _third = restart(&mut sim, &second, [client, server], 1);
    open(&mut sim, server, None);
    assert!(passes(&mut sim, server, client, tcp(80, 40_000, ACK)));
    open(&mut sim, server, Some(443));
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)), "and no flow of the server's own");
}

#[test]
fn flows_of_a_former_process_are_judged_anew() {
    let (mut sim, client, server) = pods(SimConfig { workers: WORKERS, ..SimConfig::default() });
    let (first, mut stores) = memory(&sim);
    sim.nodes[0].exchange_flows(&mut stores);
    for end in [client, server] {
        let home = sim.nodes[0].snapshot.port(end.port()).expect("its port").home;
        first.names().port(end.port(), &format!("{:?}", end.port()), home);
    }
    for port in [80, 443] {
        assert!(passes(&mut sim, client, server, tcp(40_000, port, SYN)));
        assert!(passes(&mut sim, server, client, tcp(port, 40_000, SYN | ACK)));
    }
    let _second = restart(&mut sim, &first, [client, server], 2);
    // Nobody else may open anything, so what passes is a flow that was taken over.
    open(&mut sim, server, Some(443));
    open_nothing(&mut sim, client);
    assert!(passes(&mut sim, server, client, tcp(443, 40_000, ACK)), "what is still allowed goes on");
    assert!(passes(&mut sim, client, server, tcp(40_000, 443, ACK)));
    assert!(!passes(&mut sim, server, client, tcp(80, 40_000, ACK)), "what is forbidden by now has ended");
    assert!(!passes(&mut sim, client, server, tcp(40_000, 80, ACK)));
}

/// Lets nobody open anything to a pod.
fn open_nothing(sim: &mut Sim, pod: End) {
    use podplane_pipeline::snapshot::PortPolicy;
    use podplane_tables::policy::{RuleId, RuleSetId};
    let config = &mut sim.nodes[0].config;
    config.policy.sets.insert(RuleSetId(2), [RuleId(2)].into());
    let entry = config.ports.iter_mut().find(|(id, _)| *id == pod.port());
    entry.expect("the pod's port").1.policy = PortPolicy { ingress: Some(RuleSetId(2)), egress: None };
    sim.nodes[0].publish();
}
