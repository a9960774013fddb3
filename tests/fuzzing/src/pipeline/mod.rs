//! The whole packet path: two nodes of two workers, three pods, of which one has rules, Services, and a stranger on the underlay, all of whom send
//! what the input says, in the order and at the time that it says.

mod frames;
mod policy;
mod services;

use std::cell::RefCell;
use std::net::IpAddr;

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{Mac, PortId, WorkerId};
use podplane_packet::parse::{Addrs, Kind, parse};
use podplane_packet::testing::VecBuf;
use podplane_pipeline::Millis;
use podplane_pipeline::sim::{Sim, SimConfig, SimPod};

use crate::input::Input;
use frames::{End, Frame, Maker};

/// Steps of an input. More would only be slower.
const STEPS: usize = 48;
/// Longer than any flow lives without packets.
const FOREVER: Millis = 25 * 3600 * 1000;

thread_local! {
    static WORLD: RefCell<World> = RefCell::new(World::new());
}

/// Each step is a byte that says what happens, and what that needs.
///
/// # Panics
/// If a packet is lost without a name, a flow outlives its time, or a pod gets what nobody may send it, or what rules forbid.
pub fn pipeline(data: &[u8]) {
    WORLD.with_borrow_mut(|world| world.play(&mut Input::new(data)));
}

struct World {
    sim: Sim,
    maker: Maker,
    pods: [SimPod; 3],
    /// Who has sent something, a bit each.
    spoke: u8,
}

impl World {
    fn new() -> World {
        let config = SimConfig {
            flow_capacity: 64,
            port_quota: 24,
            half_queue: 8,
            hand_over_queue: 8,
            // What is lost is lost, whoever's it was; and adding up is what costs most here.
            counted_ports: 1,
            ..SimConfig::default()
        };
        let mut sim = Sim::new(config);
        let pods = [0, 0, 1].map(|node| sim.add_pod(node));
        services::serve(&mut sim, &pods);
        policy::enforce(&mut sim, &pods);
        let maker = Maker::new(pods, [0, 1].map(|n| sim.nodes[n].uplink_mac()));
        World { sim, maker, pods, spoke: 0 }
    }

    fn play(&mut self, input: &mut Input<'_>) {
        self.maker.forget();
        self.spoke = 0;
        for _ in 0..STEPS {
            let Some(step) = input.u8() else { break };
            if self.step(step, input).is_none() {
                break;
            }
        }
        self.finish();
    }

    /// `None`: the input ended within the step.
    fn step(&mut self, step: u8, input: &mut Input<'_>) -> Option<()> {
        let (what, how) = (step & 15, step >> 4);
        match what {
            0..=6 => {
                let frame = self.maker.spec(End::of(what % 6), how, input)?;
                self.send(frame, how);
            }
            7 => {
                let len = usize::from(input.u8()?);
                let frame = Frame { from: End::of(how % 6), buf: VecBuf::new(input.take(len)) };
                self.send(frame, how);
            }
            8 | 9 => {
                let frame = self.maker.tunnelled(how, input)?;
                self.send(frame, how);
            }
            10 => {
                let frame = self.maker.icmp_error(how, input)?;
                self.send(frame, how);
            }
            11 | 12 => {
                let frame = self.maker.answer(how, input)?;
                self.send(frame, how);
            }
            13 => {
                let (node, worker) = (usize::from(how & 1), usize::from(how >> 1 & 1));
                match how & 4 {
                    0 => self.sim.step(node, worker),
                    _ => self.sim.step_blind(node, worker),
                };
            }
            14 => match how {
                0 => self.sim.exhausted ^= true,
                1 => self.unplug(),
                _ => {
                    self.settle();
                    self.sim.now = self.sim.now.wrapping_add(50 << how);
                    self.settle();
                }
            },
            _ => self.settle(),
        }
        Some(())
    }

    fn send(&mut self, frame: Frame, how: u8) {
        self.spoke |= 1 << frame.from as u8;
        let (node, port) = match frame.from {
            End::Stranger => (0, PortId::UPLINK),
            End::Host0 => (0, PortId::HOST),
            End::Host1 => (1, PortId::HOST),
            pod => {
                let pod = self.pods[pod as usize];
                (pod.node, pod.port)
            }
        };
        self.sim.inject(node, port, WorkerId(how >> 3), frame.buf);
    }

    /// A pod goes and comes back, another one to all who knew it.
    fn unplug(&mut self) {
        let pod = self.pods[1];
        self.sim.remove_pod(pod);
        self.settle();
        assert_eq!(self.sim.add_pod(pod.node), pod);
        policy::enforce(&mut self.sim, &self.pods);
    }

    fn settle(&mut self) {
        self.sim.settle();
        self.look();
    }

    /// Everything ends: held fragments are given up, flows expire on both sides. So the next input finds an empty world.
    fn finish(&mut self) {
        self.sim.exhausted = false;
        self.settle();
        self.sim.now = self.sim.now.wrapping_add(FOREVER);
        for _ in 0..64 {
            self.sim.settle();
            if self.sim.flows() == 0 && self.sim.held() == 0 {
                self.look();
                assert_eq!(self.sim.conserved(), Ok(()));
                return;
            }
            self.sim.now = self.sim.now.wrapping_add(2000);
        }
        panic!("{} half-entries and {} fragments outlived their time", self.sim.flows(), self.sim.held());
    }

    /// Looks at what arrived.
    fn look(&mut self) {
        let spoke = self.spoke;
        for node in 0..2 {
            let mut delivered = std::mem::take(&mut self.sim.nodes[node].delivered);
            for (port, buf) in delivered.drain(..) {
                match port {
                    PortId::UPLINK => self.left(node, spoke, &buf),
                    PortId::HOST => {}
                    _ => self.arrived(node, port, spoke, &buf),
                }
            }
            // With its memory.
            self.sim.nodes[node].delivered = delivered;
        }
    }

    /// What leaves the cluster does not carry a pod's address: it is the node's own, or was given the node's. But what
    /// answers a client outside who asked the pod itself does.
    fn left(&self, node: usize, spoke: u8, buf: &VecBuf) {
        let hosts = [1 << End::Host0 as u8, 1 << End::Host1 as u8][node];
        let strangers = 1 << End::Stranger as u8;
        if spoke & (hosts | strangers) != 0 {
            return;
        }
        let parsed = parse(buf.head(), buf.len()).unwrap_or_else(|e| panic!("{e} in what left: {:02x?}", buf.bytes()));
        let inside = match parsed.addrs.src() {
            Some(IpAddr::V4(src)) => src.octets()[..2] == [10, 244],
            Some(IpAddr::V6(src)) => src.segments()[..2] == [0xfd00, 0x244],
            None => true,
        };
        assert!(!inside, "a pod's frame left by the uplink: {:02x?}", buf.bytes());
    }

    fn arrived(&self, node: usize, port: PortId, spoke: u8, buf: &VecBuf) {
        let at = self.pods.iter().position(|pod| pod.node == node && pod.port == port).expect("a pod's port");
        let pod = self.pods[at];
        let head = buf.head();
        assert_eq!(head[6..12], Mac::GATEWAY.0, "{head:02x?}");
        let parsed = parse(head, buf.len()).unwrap_or_else(|e| panic!("{e} in what was delivered: {head:02x?}"));
        assert!(parsed.kind != Kind::Other, "{parsed:?}");
        assert!(policy::allows(&self.pods, &parsed), "forbidden at pod {at}: {parsed:?}");
        // To everybody only the gateway's answer to a pod that has no address yet (RFC 4861 section 7.2.4).
        let everybody = parsed.kind == Kind::Nd && head.starts_with(&[0x33, 0x33, 0, 0, 0, 1]);
        assert!(everybody || head.starts_with(&pod.mac.0), "{head:02x?}");
        let (src, dst) = match parsed.addrs {
            Addrs::V4 { src, dst } if parsed.kind != Kind::Arp => {
                assert_eq!(dst, pod.v4);
                (Some(src), None)
            }
            Addrs::V6 { src, dst } => {
                assert!(dst == pod.v6 || dst.is_unicast_link_local() || everybody, "{dst}");
                (None, Some(src))
            }
            _ => return,
        };
        // In a local pod's name only that pod speaks, whoever else has spoken.
        let author = self.pods.iter().position(|p| p.node == node && (Some(p.v4) == src || Some(p.v6) == dst));
        if let Some(author) = author {
            assert!(spoke & 1 << author != 0, "forged in the name of pod {author}: {head:02x?}");
        }
    }
}
