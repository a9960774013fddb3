//! What nodes work on: a packet with its context, and the world around a worker.

use std::net::{IpAddr, Ipv4Addr};

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::{Mac, PortId};
use podplane_packet::nat::Tuple;
use podplane_tables::VtepIndex;
use podplane_tables::flow::{Action, Flags, FlowHash, Key, Slot, V4, V6};

use crate::drop::DropReason;
use crate::engine::State;
use crate::env::{Env, Millis};
use crate::graph::NodeId;
use crate::nodes::Next;
use crate::pass::Pass;
use crate::snapshot::{PortClass, Snapshot};

/// How a packet came in: a port and, for the uplink, the peer whose tunnel it came through.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Via {
    pub(crate) port: PortId,
    pub(crate) vtep: Option<VtepIndex>,
    /// That tunnel's entry network: the packet is a Service client's, or goes back to one.
    pub(crate) entry: bool,
}

/// What the IP header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ip {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    /// The transport protocol, behind all extension headers.
    pub(crate) proto: u8,
    /// TOS or traffic class.
    pub(crate) tos: u8,
    /// TTL or hop limit.
    pub(crate) ttl: u8,
    /// Must not be fragmented on the way; always so for IPv6.
    pub(crate) df: bool,
    /// Bytes from the start of the IP header to the transport header (or the fragment's payload).
    pub(crate) header: u16,
    /// Bytes of the whole IP packet, header included; exceeds 65,535 for no packet but a GSO one.
    pub(crate) len: u32,
    pub(crate) frag: Option<Frag>,
}

/// A fragment's place in its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frag {
    pub(crate) id: u32,
    /// Of the payload, in bytes.
    pub(crate) offset: u16,
    pub(crate) more: bool,
    /// Where its data starts, from the start of the IP header.
    pub(crate) data: u16,
}

/// The packet that an ICMP error quotes, as its sender sent it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quoted {
    pub(crate) src: IpAddr,
    pub(crate) dst: IpAddr,
    pub(crate) proto: u8,
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// A later fragment: its ports are not known.
    pub(crate) later: bool,
}

impl Ip {
    /// Before anything is read.
    const NONE: Ip = {
        let none = IpAddr::V4(Ipv4Addr::UNSPECIFIED);
        Ip { src: none, dst: none, proto: 0, tos: 0, ttl: 0, df: true, header: 0, len: 0, frag: None }
    };
}

impl Default for Ip {
    fn default() -> Self {
        Ip::NONE
    }
}

/// What the transport header says; all zero for a fragment without one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct L4 {
    /// Ports, host byte order; the identifier of an ICMP echo in both.
    pub(crate) sport: u16,
    pub(crate) dport: u16,
    /// The flags of a TCP header.
    pub(crate) tcp_flags: Option<u8>,
    /// Type and code of an ICMP or ICMPv6 message.
    pub(crate) icmp: Option<(u8, u8)>,
    /// It is an ICMP error.
    pub(crate) error: bool,
    /// What that is about, if it quotes enough.
    pub(crate) quoted: Option<Quoted>,
    /// Bytes of the transport header.
    pub(crate) header: u16,
}

/// A flow key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AnyKey {
    V4(Key<V4>),
    V6(Key<V6>),
}

impl AnyKey {
    /// The key of a tuple. Addresses of one family: the parser saw them in one header.
    #[inline]
    pub(crate) fn new(src: IpAddr, dst: IpAddr, sport: u16, dport: u16, proto: u8, zone: u8) -> AnyKey {
        match (src, dst) {
            (IpAddr::V4(s), IpAddr::V4(d)) => AnyKey::V4(Key::v4(s, d, sport, dport, proto, zone)),
            (s, d) => AnyKey::V6(Key::new(octets(s), octets(d), sport, dport, proto, zone)),
        }
    }
}

impl Default for AnyKey {
    fn default() -> Self {
        AnyKey::V4(Key::default())
    }
}

fn octets(a: IpAddr) -> [u8; 16] {
    match a {
        IpAddr::V4(a) => a.to_ipv6_mapped().octets(),
        IpAddr::V6(a) => a.octets(),
    }
}

/// An ICMP error that is to be sent to a packet's sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Complaint {
    TtlExceeded,
    TooBig(u16),
    NoRoute,
    NoSuchPod,
}

/// The zones of flow keys: equal headers that came in by different ways are different flows.
pub(crate) mod zone {
    /// From a pod.
    pub(crate) const POD: u8 = 0;
    /// From the host port.
    pub(crate) const HOST: u8 = 1;
    /// Through the tunnel from another node.
    pub(crate) const TUNNEL: u8 = 2;
    /// Plain by the uplink.
    pub(crate) const PLAIN: u8 = 3;
    /// Through the tunnel in the entry network.
    pub(crate) const ENTRY: u8 = 4;
}

/// A packet's context: what nodes told each other about it.
#[derive(Debug)]
pub(crate) struct Ctx {
    pub(crate) via: Via,
    pub(crate) class: PortClass,
    /// Where the IP header starts.
    pub(crate) l3: u16,
    pub(crate) ip: Ip,
    pub(crate) l4: L4,
    pub(crate) key: AnyKey,
    pub(crate) hash: FlowHash,
    /// What the flow lookup found.
    pub(crate) slot: Option<Slot>,
    /// Where the packet goes.
    pub(crate) out: Action,
    /// Where replies to it go.
    pub(crate) back: Action,
    /// What its tuple becomes; for an ICMP error, that of the packets which go the error's way.
    pub(crate) rewrite: Option<Tuple>,
    /// What its way says of the client, if it opens a flow: [`Flags::FORWARDED`] or nothing.
    pub(crate) client: Flags,
    /// It need not be ours: if it belongs to no flow, it passes between uplink and host port unchanged.
    pub(crate) borrowed: bool,
    /// Another worker refused the flow's reply tuple: take another source port at once.
    pub(crate) renumber: bool,
    /// The node behind `policy`, if that accepts and the packet waits for nothing.
    pub(crate) then: NodeId,
    /// Its flow was judged already, before it waited.
    pub(crate) judged: bool,
    /// The proof that it may.
    pub(crate) pass: Option<Pass>,
    /// Longest IP packet of the next hop, if this one has to be cut.
    pub(crate) cut: u16,
    pub(crate) complaint: Complaint,
    /// The neighbour whose MAC it waits for.
    pub(crate) awaits: Option<IpAddr>,
    /// The way out behind `translate`.
    pub(crate) way: NodeId,
    /// The node that acts on it once the burst is examined.
    pub(crate) next: NodeId,
}

impl Ctx {
    #[inline]
    pub(crate) fn new(port: PortId) -> Ctx {
        Ctx {
            via: Via { port, ..Via::default() },
            class: PortClass::Uplink,
            l3: 0,
            ip: Ip::NONE,
            l4: L4::default(),
            key: AnyKey::default(),
            hash: FlowHash::default(),
            slot: None,
            out: Action::Drop(DropReason::NoRoute as u8),
            back: Action::Drop(DropReason::NoRoute as u8),
            rewrite: None,
            client: Flags::NONE,
            borrowed: false,
            renumber: false,
            then: NodeId::Masquerade,
            judged: false,
            pass: None,
            cut: 0,
            complaint: Complaint::TtlExceeded,
            awaits: None,
            way: NodeId::Deliver,
            next: NodeId::Classify,
        }
    }

    /// Where the transport header starts.
    #[inline]
    pub(crate) fn l4_at(&self) -> usize {
        usize::from(self.l3) + usize::from(self.ip.header)
    }

    /// The zone of flow keys: how the packet came in.
    #[inline]
    pub(crate) fn zone(&self) -> u8 {
        match (self.class, self.via.vtep) {
            (PortClass::Pod, _) => zone::POD,
            (PortClass::Host, _) => zone::HOST,
            (PortClass::Uplink, None) => zone::PLAIN,
            (PortClass::Uplink, Some(_)) if self.via.entry => zone::ENTRY,
            (PortClass::Uplink, Some(_)) => zone::TUNNEL,
        }
    }

    /// The tuple that the packet came with.
    #[inline]
    pub(crate) fn tuple(&self) -> Tuple {
        Tuple { src: self.ip.src, dst: self.ip.dst, sport: self.l4.sport, dport: self.l4.dport }
    }

    /// The tuple that it leaves with.
    #[inline]
    pub(crate) fn new_tuple(&self) -> Tuple {
        self.rewrite.unwrap_or_else(|| self.tuple())
    }
}

/// A packet and its context, which stays where it is while the packet moves on: it is several cache lines long.
#[derive(Debug)]
pub(crate) struct Pkt<'c, B> {
    pub(crate) buf: B,
    pub(crate) ctx: &'c mut Ctx,
}

/// A packet that waits, with its context.
#[derive(Debug)]
pub(crate) struct Held<B> {
    pub(crate) buf: B,
    pub(crate) ctx: Ctx,
}

impl<B: PacketBuf> Pkt<'_, B> {
    /// Lets it wait.
    pub(crate) fn hold(self) -> Held<B> {
        let blank = Ctx::new(self.ctx.via.port);
        Held { buf: self.buf, ctx: std::mem::replace(self.ctx, blank) }
    }

    /// Sets the Ethernet addresses in front of the IP header.
    pub(crate) fn set_macs(&mut self, dst: Mac, src: Mac) {
        let at = usize::from(self.ctx.l3) - 14;
        let eth = &mut self.buf.head_mut()[at..at + 12];
        eth[..6].copy_from_slice(&dst.0);
        eth[6..].copy_from_slice(&src.0);
    }

    /// The source of the Ethernet header in front of the IP header.
    pub(crate) fn src_mac(&self) -> Mac {
        let at = usize::from(self.ctx.l3) - 8;
        let mut mac = [0; 6];
        mac.copy_from_slice(&self.buf.head()[at..at + 6]);
        Mac(mac)
    }
}

/// All that a node may use beside its packet.
pub(crate) struct World<'a, E: Env> {
    pub(crate) snap: &'a Snapshot,
    pub(crate) env: &'a mut E,
    pub(crate) st: &'a mut State<E::Buf>,
    pub(crate) now: Millis,
}

impl<E: Env> World<'_, E> {
    /// Carries out what the last node decided.
    #[inline]
    pub(crate) fn finish(&mut self, p: Pkt<'_, E::Buf>, next: Next) {
        match next {
            Next::Transmit(port, pass) => self.transmit(port, p.buf, pass),
            Next::HandOver(to) => {
                let port = p.ctx.via.port;
                if let Err(buf) = self.env.hand_over(to, p.buf) {
                    self.st.counters.count_rx(port, 1, buf.len() as u64);
                    self.drop(port, DropReason::HandOverQueueFull);
                }
            }
            Next::Drop(reason) => self.drop(p.ctx.via.port, reason),
            Next::DropAt(port, reason) => self.drop(port, reason),
            Next::Hold => crate::nodes::reassemble::hold(self, p),
            Next::Wait => crate::pending::hold(self, p),
            Next::Replaced => self.st.replaced += 1,
            Next::To(node) => debug_assert!(false, "the walk stopped before {node:?}"),
        }
    }

    /// Sends a frame and counts it.
    pub(crate) fn transmit(&mut self, port: PortId, buf: E::Buf, pass: Pass) {
        self.st.counters.count_tx(port, 1, buf.len() as u64);
        self.env.transmit(port, buf, pass);
    }

    /// Counts a drop.
    #[inline]
    pub(crate) fn drop(&self, port: PortId, reason: DropReason) {
        self.st.counters.count_drop(port, reason);
    }
}
