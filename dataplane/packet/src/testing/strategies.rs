//! Generators of frames.

use core::net::{Ipv4Addr, Ipv6Addr};

use proptest::prelude::*;

use super::frames::{FrameSpec, Ip, Transport};
use super::vecbuf::VecBuf;
use crate::id::Mac;
use crate::wire::proto;

fn ipv4() -> impl Strategy<Value = Ip> {
    let options = prop_oneof![
        4 => Just(Vec::new()),
        1 => prop::collection::vec(Just(1u8), 1..8),
        1 => prop::collection::vec(any::<u8>(), 0..20).prop_map(|d| [&[148, d.len() as u8 + 2][..], &d].concat()),
    ];
    (any::<u32>(), any::<u32>(), any::<u16>(), any::<bool>(), options).prop_map(|(s, d, id, df, options)| Ip::V4 {
        src: Ipv4Addr::from_bits(s),
        dst: Ipv4Addr::from_bits(d),
        id,
        df,
        options,
    })
}

fn extension(kind: u8) -> impl Strategy<Value = (u8, Vec<u8>)> {
    (0usize..3).prop_map(move |n| {
        let mut body = vec![0u8; 6 + 8 * n];
        if kind == proto::ROUTING {
            body[0] = 4; // not the forbidden type 0
        }
        (kind, body)
    })
}

fn ipv6() -> impl Strategy<Value = Ip> {
    let extensions = (
        prop::option::weighted(0.2, extension(proto::HOP_BY_HOP)),
        prop::option::weighted(0.2, extension(proto::ROUTING)),
        prop::option::weighted(0.1, any::<[u8; 4]>().prop_map(|id| (proto::FRAGMENT, [&[0, 0][..], &id].concat()))),
        prop::option::weighted(0.2, extension(proto::AH)),
        prop::option::weighted(0.2, extension(proto::DEST_OPTS)),
    )
        .prop_map(|(a, b, c, d, e)| [a, b, c, d, e].into_iter().flatten().collect::<Vec<_>>());
    (any::<u128>(), any::<u128>(), 0u32..1 << 20, extensions).prop_map(|(s, d, label, extensions)| Ip::V6 {
        src: Ipv6Addr::from_bits(s),
        dst: Ipv6Addr::from_bits(d),
        label,
        extensions,
    })
}

fn tcp() -> impl Strategy<Value = Transport> {
    let options = prop_oneof![
        Just(Vec::new()),
        any::<[u8; 8]>().prop_map(|t| [&[1, 1, 8, 10][..], &t].concat()),
        prop::collection::vec(any::<u8>(), 0..40),
    ];
    (any::<u16>(), any::<u16>(), any::<u32>(), any::<u32>(), any::<u8>(), any::<u16>(), options).prop_map(
        |(sport, dport, seq, ack, flags, window, options)| Transport::Tcp {
            sport,
            dport,
            seq,
            ack,
            flags,
            window,
            options,
        },
    )
}

fn udp() -> impl Strategy<Value = Transport> {
    any::<(u16, u16)>().prop_map(|(sport, dport)| Transport::Udp { sport, dport })
}

fn transport() -> impl Strategy<Value = Transport> {
    prop_oneof![
        3 => tcp(),
        3 => udp(),
        1 => any::<(u16, u16)>().prop_map(|(sport, dport)| Transport::Sctp { sport, dport }),
        2 => (prop_oneof![0u8..13, 128u8..138, any::<u8>()], any::<u8>(), any::<[u8; 4]>())
            .prop_map(|(kind, code, rest)| Transport::Icmp { kind, code, rest }),
        1 => prop_oneof![Just(proto::ESP), Just(47), Just(proto::NO_NEXT)].prop_map(Transport::Raw),
    ]
}

/// Frames with these layers.
pub fn spec_of(
    ip: impl Strategy<Value = Ip>,
    l4: impl Strategy<Value = Transport>,
    payload: core::ops::Range<usize>,
) -> impl Strategy<Value = FrameSpec> {
    (
        any::<[u8; 6]>(),
        any::<[u8; 6]>(),
        prop::option::weighted(0.2, any::<u16>()),
        any::<u8>(),
        any::<u8>(),
        ip,
        l4,
        prop::collection::vec(any::<u8>(), payload),
    )
        .prop_map(|(dst, src, vlan, tos, ttl, ip, l4, payload)| FrameSpec {
            dst_mac: Mac(dst),
            src_mac: Mac(src),
            vlan,
            tos,
            ttl,
            ip,
            l4,
            payload,
        })
}

/// Any sound frame of IPv4 or IPv6.
pub fn frame_spec() -> impl Strategy<Value = FrameSpec> {
    spec_of(prop_oneof![ipv4(), ipv6()], transport(), 0..200)
}

/// Frames that can be segmented: TCP (`udp` false) or UDP, with a payload of up to 6,000 bytes.
pub fn gso_spec(udp_only: bool) -> impl Strategy<Value = FrameSpec> {
    let l4 = if udp_only { udp().boxed() } else { tcp().boxed() };
    spec_of(prop_oneof![ipv4(), ipv6()], l4, 1..6000)
}

/// Frames that started sound and had bytes overwritten, cut off or appended.
pub fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (frame_spec(), edits, prop::option::of(any::<prop::sample::Index>()), prop::collection::vec(any::<u8>(), 0..20))
        .prop_map(|(spec, edits, cut, tail)| {
            let mut f = spec.build();
            for (at, value) in edits {
                let at = at.index(f.len().min(120));
                f[at] = value;
            }
            f.extend(tail);
            if let Some(cut) = cut {
                f.truncate(cut.index(f.len()));
            }
            f
        })
}

/// Bytes without any plan.
pub fn any_bytes() -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..300)
}

/// The frame in a chain of segments whose first holds at least `min_head` bytes.
pub fn segmented(bytes: Vec<u8>, min_head: usize) -> impl Strategy<Value = VecBuf> {
    prop::collection::vec(0..bytes.len().max(1), 0..4).prop_map(move |cuts| VecBuf::segmented(&bytes, min_head, &cuts))
}
