//! Frames out of a few bytes each: most are nearly right, for what is nonsense goes no further than the parser.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use podplane_packet::buf::{Csum, Gso, Meta};
use podplane_packet::id::Mac;
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf, naive_sum};
use podplane_packet::wire::proto;
use podplane_pipeline::sim::{SimPod, gateway_v4, gateway_v6, node_v4, node_v6};

use super::services::{ROUTER, cluster_ip, outside, router};
use crate::input::Input;

/// Who sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum End {
    Pod0,
    Pod1,
    Pod2,
    Host0,
    Host1,
    /// Somebody on the underlay, behind the uplink of node 0.
    Stranger,
}

impl End {
    pub(super) fn of(n: u8) -> End {
        [End::Pod0, End::Pod1, End::Pod2, End::Host0, End::Host1, End::Stranger][usize::from(n) % 6]
    }
}

/// A frame and where it comes in.
pub(super) struct Frame {
    pub(super) from: End,
    pub(super) buf: VecBuf,
}

/// Makes frames, and remembers the last ones, to be answered and quoted.
pub(super) struct Maker {
    pods: [SimPod; 3],
    uplinks: [Mac; 2],
    sent: Vec<(End, FrameSpec)>,
}

/// How many frames are remembered.
const MEMORY: usize = 4;
/// The networks that a stranger tries: ours, the one after it, others.
const VNIS: [u32; 4] = [4242, 4243, 4241, 0xff_ffff];
const PORTS: [u16; 16] =
    [1000, 2000, 53, 80, 4789, 0, 65_535, 0xc000, 0xc001, 179, 443, 8080, 30_000, 546, 547, 0xffff - 1];

impl Maker {
    pub(super) fn new(pods: [SimPod; 3], uplinks: [Mac; 2]) -> Maker {
        Maker { pods, uplinks, sent: Vec::with_capacity(MEMORY) }
    }

    pub(super) fn forget(&mut self) {
        self.sent.clear();
    }

    fn remember(&mut self, from: End, spec: &FrameSpec) {
        if self.sent.len() == MEMORY {
            self.sent.remove(0);
        }
        self.sent.push((from, spec.clone()));
    }

    fn mac(&self, end: End) -> Mac {
        match end {
            End::Host0 => self.uplinks[0],
            End::Host1 => self.uplinks[1],
            End::Stranger => ROUTER,
            pod => self.pods[pod as usize].mac,
        }
    }

    /// To where a frame from there goes if it is not odd.
    fn next_hop(&self, from: End) -> Mac {
        if from == End::Stranger { self.uplinks[0] } else { Mac::GATEWAY }
    }

    fn own(&self, end: End, v6: bool) -> IpAddr {
        self.address(
            match end {
                End::Pod0 => 0,
                End::Pod1 => 1,
                End::Pod2 => 2,
                End::Host0 => 3,
                End::Host1 => 4,
                End::Stranger => 8,
            },
            v6,
        )
    }

    /// Sixteen addresses that differ in what they are to us.
    fn address(&self, n: u8, v6: bool) -> IpAddr {
        let v4 = |a: [u8; 4]| Ipv4Addr::from(a);
        let n = n & 15;
        match n {
            8 => return router(v6),
            10 => return cluster_ip(10, v6),
            11 => return cluster_ip(12, v6),
            14 => return outside(v6),
            _ => {}
        }
        if v6 {
            IpAddr::V6(match n {
                0..=2 => self.pods[usize::from(n)].v6,
                3 | 4 => node_v6(usize::from(n) - 3),
                5 | 6 => gateway_v6(usize::from(n) - 5),
                7 => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1),
                9 => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1),
                12 => Ipv6Addr::new(0xfd00, 0x244, 2, 0, 0, 0, 0, 0x99),
                13 => Ipv6Addr::UNSPECIFIED,
                _ => Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1),
            })
        } else {
            IpAddr::V4(match n {
                0..=2 => self.pods[usize::from(n)].v4,
                3 | 4 => node_v4(usize::from(n) - 3),
                5 | 6 => gateway_v4(usize::from(n) - 5),
                7 => v4([169, 254, 1, 1]),
                9 => v4([224, 0, 0, 1]),
                12 => v4([10, 244, 2, 0x99]),
                13 => v4([0; 4]),
                _ => v4([255; 4]),
            })
        }
    }

    /// A frame by its fields. Five bytes: shape, addresses, ports, size, odds.
    pub(super) fn spec(&mut self, from: End, how: u8, input: &mut Input<'_>) -> Option<Frame> {
        let spec = self.fields(from, input)?;
        self.remember(from, &spec);
        let buf = if how & 1 == 0 { plain(&spec, how) } else { odd(&spec, input)? };
        Some(Frame { from, buf })
    }

    fn fields(&self, from: End, input: &mut Input<'_>) -> Option<FrameSpec> {
        let (shape, to, ports, size, odds) = (input.u8()?, input.u8()?, input.u8()?, input.u8()?, input.u8()?);
        let v6 = shape & 1 != 0;
        // The upper half of `to` is another source than one's own, where it is not 0.
        let src = if to >> 4 == 0 { self.own(from, v6) } else { self.address(to >> 4, v6) };
        let ip = network(src, self.address(to, v6), shape, odds);
        let (sport, dport) = (PORTS[usize::from(ports >> 4)], PORTS[usize::from(ports & 15)]);
        let echo = if v6 { [128, 129] } else { [8, 0] };
        let l4 = match shape >> 1 & 7 {
            0 | 1 => {
                Transport::Tcp { sport, dport, seq: 1, ack: 2, flags: odds & 0x17, window: 9, options: Vec::new() }
            }
            2 | 3 => Transport::Udp { sport, dport },
            4 => Transport::Sctp { sport, dport },
            5 => Transport::Icmp { kind: echo[usize::from(odds & 1)], code: 0, rest: [0, ports, 0, size] },
            6 => Transport::Icmp { kind: if v6 { 130 + (odds & 7) } else { odds & 31 }, code: 0, rest: [ports; 4] },
            _ => Transport::Raw(ports),
        };
        // Short ones mostly, for their checksums are taken the slow way.
        let len = match size {
            0..192 => usize::from(size) / 4,
            192..252 => usize::from(size - 192) * 28,
            _ => 6000 - usize::from(255 - size) * 1000,
        };
        // Neighbour discovery is about an address, and has an option.
        let mut payload = vec![size; len];
        if shape >> 1 & 7 == 6 && len >= 24 {
            if let IpAddr::V6(target) = self.address(ports, true) {
                payload[..16].copy_from_slice(&target.octets());
            }
            payload[16..18].copy_from_slice(&[1 + (odds & 1), 1]);
            payload[18..24].copy_from_slice(&self.mac(from).0);
        }
        Some(FrameSpec {
            dst_mac: self.next_hop(from),
            src_mac: self.mac(from),
            vlan: (odds & 0x40 != 0).then_some(5),
            tos: odds & 3,
            ttl: [64, 255, 1, 0][usize::from(odds >> 3 & 1 | odds >> 6 & 2)],
            ip,
            l4,
            payload,
        })
    }

    /// VXLAN into node 0, as its peer or an impostor sends it.
    pub(super) fn tunnelled(&mut self, how: u8, input: &mut Input<'_>) -> Option<Frame> {
        let choice = input.u8()?;
        let inside = End::of(2 + (choice & 3));
        let mut inner = self.fields(inside, input)?;
        self.remember(inside, &inner);
        (inner.src_mac, inner.dst_mac) = (Mac::GATEWAY, Mac::GATEWAY);
        let vni = VNIS[usize::from(choice >> 2 & 3)].to_be_bytes();
        let header = [8 ^ (choice >> 7) << 3, 0, 0, 0, vni[1], vni[2], vni[3], 0];
        let inner = if choice & 0x40 != 0 { odd_bytes(inner.build(), input)? } else { inner.build() };
        let outer = FrameSpec {
            dst_mac: self.uplinks[0],
            src_mac: self.uplinks[1],
            vlan: None,
            tos: how & 3,
            ttl: 64,
            ip: Ip::V4 {
                src: node_v4([1, 1, 0, 7][usize::from(choice >> 4 & 3)]),
                dst: node_v4(0),
                id: 0,
                df: true,
                options: Vec::new(),
            },
            l4: Transport::Udp { sport: 0xc000 | u16::from(choice), dport: 4789 },
            payload: [&header[..], &inner].concat(),
        };
        let buf = if how & 1 == 0 { VecBuf::new(&outer.build()) } else { odd(&outer, input)? };
        Some(Frame { from: End::Stranger, buf })
    }

    /// An ICMP error about a frame that was sent, or about the tunnel that it went by.
    pub(super) fn icmp_error(&mut self, how: u8, input: &mut Input<'_>) -> Option<Frame> {
        let (choice, quoted, mtu) = (input.u8()?, input.u8()?, input.u8()?);
        let (_, about) = self.sent.get(usize::from(choice & 3)).or(self.sent.last())?.clone();
        let mut quote = about.build().split_off(about.l2_len());
        let from = End::of(choice >> 2 & 7);
        if from == End::Stranger && choice & 0x20 != 0 {
            quote = self.outer_of(&quote, choice);
        }
        quote.truncate(usize::from(quoted) * 6);
        let kinds4 = [(3, 0), (3, 1), (3, 3), (3, 4), (3, 4), (11, 0), (5, 0), (12, 0)];
        let kinds6 = [(1, 0), (1, 4), (2, 0), (2, 0), (2, 0), (3, 0), (137, 0), (4, 0)];
        let v6 = quote.first().is_some_and(|b| b >> 4 == 6);
        let (kind, code) = if v6 { kinds6 } else { kinds4 }[usize::from(how & 7)];
        let mtu = (u16::from(mtu) * 8).to_be_bytes();
        let dst = match (v6, quote.get(12..16), quote.get(8..24)) {
            (false, Some(src), _) => IpAddr::V4(Ipv4Addr::new(src[0], src[1], src[2], src[3])),
            (true, _, Some(src)) => IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(src).ok()?)),
            _ => self.address(choice, v6),
        };
        let spec = FrameSpec {
            dst_mac: self.next_hop(from),
            src_mac: self.mac(from),
            vlan: None,
            tos: 0,
            ttl: 64,
            ip: network(self.own(from, v6), dst, 0, 0),
            l4: Transport::Icmp { kind, code, rest: [0, 0, mtu[0], mtu[1]] },
            payload: quote,
        };
        let buf = if choice & 0x80 == 0 { VecBuf::new(&spec.build()) } else { odd(&spec, input)? };
        Some(Frame { from, buf })
    }

    /// What node 0 would have made of a packet to node 1.
    fn outer_of(&self, inner: &[u8], choice: u8) -> Vec<u8> {
        let vni = VNIS[usize::from(choice >> 6)].to_be_bytes();
        let spec = FrameSpec {
            dst_mac: self.uplinks[1],
            src_mac: self.uplinks[0],
            vlan: None,
            tos: 0,
            ttl: 60,
            ip: network(node_v4(0).into(), node_v4(1).into(), 0, 0),
            l4: Transport::Udp { sport: 0xbff8 | u16::from(choice & 15), dport: 4789 },
            payload: [&[8, 0, 0, 0, vni[1], vni[2], vni[3], 0][..], &[0; 14], inner].concat(),
        };
        spec.build().split_off(14)
    }

    /// The other end of a frame that was sent answers it, or sends the same again.
    pub(super) fn answer(&mut self, how: u8, input: &mut Input<'_>) -> Option<Frame> {
        let choice = input.u8()?;
        let (from, mut spec) = self.sent.get(usize::from(choice & 3)).or(self.sent.last())?.clone();
        let from = if choice & 4 != 0 {
            from
        } else {
            match &mut spec.ip {
                Ip::V4 { src, dst, .. } => std::mem::swap(src, dst),
                Ip::V6 { src, dst, .. } => std::mem::swap(src, dst),
            }
            turn(&mut spec.l4);
            let src = match spec.ip {
                Ip::V4 { src, .. } => IpAddr::V4(src),
                Ip::V6 { src, .. } => IpAddr::V6(src),
            };
            (0..6).map(End::of).find(|end| self.own(*end, src.is_ipv6()) == src)?
        };
        if let Transport::Tcp { flags, .. } = &mut spec.l4 {
            *flags = choice >> 3 & 0x17;
        }
        (spec.src_mac, spec.dst_mac) = (self.mac(from), self.next_hop(from));
        self.remember(from, &spec);
        let buf = if how & 1 == 0 { plain(&spec, how) } else { odd(&spec, input)? };
        Some(Frame { from, buf })
    }
}

fn turn(l4: &mut Transport) {
    match l4 {
        Transport::Tcp { sport, dport, .. } | Transport::Udp { sport, dport } | Transport::Sctp { sport, dport } => {
            std::mem::swap(sport, dport);
        }
        Transport::Icmp { kind, .. } => match *kind {
            8 => *kind = 0,
            0 => *kind = 8,
            128 => *kind = 129,
            129 => *kind = 128,
            _ => {}
        },
        Transport::Raw(_) => {}
    }
}

/// `shape` and `odds` choose fragmentation, options and extension headers.
fn network(src: IpAddr, dst: IpAddr, shape: u8, odds: u8) -> Ip {
    let extended = shape & 0x80 != 0;
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let options: &[&[u8]] =
                &[&[1], &[7, 7, 4, 0, 0, 0, 0], &[0x83, 7, 4, 10, 0, 0, 1], &[0x94, 4, 0, 0], &[0x44, 3], &[0]];
            let options = if extended { options[usize::from(odds) % options.len()].to_vec() } else { Vec::new() };
            Ip::V4 { src, dst, id: 7, df: shape & 0x40 != 0, options }
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let (hop, routing, dest) = (proto::HOP_BY_HOP, proto::ROUTING, proto::DEST_OPTS);
            let mut extensions = Vec::new();
            if extended {
                let kinds = [hop, dest, routing, dest];
                extensions.push((kinds[usize::from(odds & 3)], vec![1, 4, 0, 0, 0, 0]));
            }
            if shape & 0x40 != 0 {
                let position = [u8::from(odds & 4 != 0), odds & 0xf8 | odds >> 3 & 1];
                extensions.push((proto::FRAGMENT, [&position[..], &[0, 0, 0, odds & 3]].concat()));
            }
            Ip::V6 { src, dst, label: 1, extensions }
        }
        // Frames are made of one family.
        (src, _) => network(src, src, shape, odds),
    }
}

/// As a device with offloads gives it, if it is long.
fn plain(spec: &FrameSpec, how: u8) -> VecBuf {
    let bytes = spec.build();
    let start = spec.l2_len() + spec.l3_header_len();
    let fragment = matches!(&spec.ip, Ip::V6 { extensions, .. } if extensions.iter().any(|e| e.0 == proto::FRAGMENT));
    let size = 100 << (how >> 1 & 3);
    let (offset, gso) = match (&spec.l4, &spec.ip) {
        (Transport::Tcp { .. }, Ip::V4 { .. }) => (16, Gso::Tcp4 { size }),
        (Transport::Tcp { .. }, Ip::V6 { .. }) => (16, Gso::Tcp6 { size }),
        (Transport::Udp { .. }, _) => (6, Gso::Udp { size }),
        _ => return VecBuf::new(&bytes),
    };
    if how & 2 == 0 || fragment {
        return VecBuf::new(&bytes);
    }
    let long = spec.payload.len() > usize::from(size);
    let gso = if long { gso } else { Gso::None };
    let csum = Csum::Partial { start: start as u16, offset };
    VecBuf::segmented(&bytes, spec.headers_len(), &[1000, 3000]).with_meta(Meta { csum, gso, ..Meta::default() })
}

/// Changed by what the input says, possibly in pieces.
fn odd(spec: &FrameSpec, input: &mut Input<'_>) -> Option<VecBuf> {
    let bytes = odd_bytes(spec.build(), input)?;
    let cut = usize::from(input.u8()?);
    Some(if cut < 200 { VecBuf::new(&bytes) } else { VecBuf::segmented(&bytes, 0, &[(cut - 200) * 3]) })
}

/// Up to four bytes are changed; then the IPv4 checksum may be made right, the frame cut or padded.
fn odd_bytes(mut bytes: Vec<u8>, input: &mut Input<'_>) -> Option<Vec<u8>> {
    let control = input.u8()?;
    for _ in 0..control & 3 {
        let (at, value) = (input.u16()?, input.u8()?);
        let at = usize::from(at) % bytes.len();
        bytes[at] = value;
    }
    if control & 4 != 0 {
        // Flags and offset of a fragment.
        let value = input.u8()?;
        if bytes[12..14] == [8, 0] {
            bytes[20..22].copy_from_slice(&[value & 0x20, value & 0x1f]);
        }
    }
    if control & 8 != 0 {
        bytes.truncate(usize::from(input.u16()?) % bytes.len() + 1);
    }
    if control & 0x10 != 0 {
        bytes.extend([0xee; 10]);
    }
    if control & 0x20 == 0 && bytes.len() >= 34 && bytes[12..14] == [8, 0] {
        let end = 14 + usize::from(bytes[14] & 15).clamp(5, 15) * 4;
        if end <= bytes.len() {
            bytes[24..26].fill(0);
            let sum = !naive_sum(&bytes[14..end]);
            bytes[24..26].copy_from_slice(&sum.to_be_bytes());
        }
    }
    Some(bytes)
}
