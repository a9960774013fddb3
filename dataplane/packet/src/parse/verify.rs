//! Whether the transport checksum is right.

use super::{Addrs, Parsed};
use crate::buf::{Csum, PacketBuf};
use crate::checksum::{Accumulator, pseudo_v4, pseudo_v6};
use crate::wire::proto;

/// What [`transport_ok`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// Right, or said to be so by the packet's metadata.
    Good,
    /// Wrong.
    Bad,
    /// There is none to check: a fragment, a protocol whose checksum is not the internet's, UDP over IPv4 without one.
    None,
}

/// Checks the transport checksum of a parsed packet over all its segments, unless its metadata says that it is good or yet
/// to be completed. Padding does not disturb.
pub fn transport_ok<B: PacketBuf + ?Sized>(buf: &B, p: &Parsed) -> Verdict {
    match buf.meta().csum {
        Csum::Good | Csum::Partial { .. } => return Verdict::Good,
        Csum::Unknown => {}
    }
    let len = p.l4_len();
    let pseudo = match (p.addrs, p.proto) {
        _ if p.fragment.is_some() => return Verdict::None,
        (Addrs::V4 { .. }, proto::ICMP) => 0,
        (Addrs::V4 { src, dst }, proto::TCP | proto::UDP) => pseudo_v4(src, dst, p.proto, len as u32),
        (Addrs::V6 { src, dst }, proto::TCP | proto::UDP | proto::ICMPV6) => pseudo_v6(src, dst, p.proto, len as u32),
        _ => return Verdict::None,
    };
    let (mut acc, mut covered) = (Accumulator::new(pseudo), len);
    if p.proto == proto::UDP {
        let mut fields = [0; 4];
        if !buf.copy_to(usize::from(p.l4_off) + 4, &mut fields) {
            return Verdict::Bad;
        }
        if fields[2..] == [0, 0] {
            // RFC 8200 section 8.1: over IPv6 the checksum is not optional (tunnels aside: RFC 6935).
            return if p.addrs.is_v6() { Verdict::Bad } else { Verdict::None };
        }
        // The datagram may be shorter than the IP payload; the pseudo-header has its length.
        covered = usize::from(u16::from_be_bytes([fields[0], fields[1]]));
        acc = match p.addrs {
            Addrs::V4 { src, dst } => Accumulator::new(pseudo_v4(src, dst, p.proto, covered as u32)),
            Addrs::V6 { src, dst } => Accumulator::new(pseudo_v6(src, dst, p.proto, covered as u32)),
            Addrs::None => return Verdict::None,
        };
    }
    let there = buf.for_each_slice(usize::from(p.l4_off), covered, &mut |s| acc.add(s));
    if there && acc.finish() == 0xffff { Verdict::Good } else { Verdict::Bad }
}
