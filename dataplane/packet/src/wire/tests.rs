//! Views over known frames and over any bytes.

use proptest::prelude::*;

use super::*;
use crate::id::{Mac, Vni};

#[test]
fn arp_fields() {
    let mut b = [0u8; 28];
    b[..6].copy_from_slice(&Arp::<&[u8]>::PREAMBLE);
    let mut a = Arp::new(&mut b[..]).expect("sound");
    a.set_operation(arp::REPLY);
    a.set_sender_mac(Mac::GATEWAY);
    a.set_target_ip([10, 0, 0, 1].into());
    assert_eq!(b[6..14], [0, 2, 0x02, 0x50, 0x50, 0, 0, 1]);
    assert_eq!(b[24..], [10, 0, 0, 1]);
    b[4] = 8;
    assert_eq!(Arp::new(&b[..]), Err(WireError::Kind));
    assert_eq!(Arp::new(&b[..27]), Err(WireError::Truncated));
}

#[test]
fn ipv4_header_from_rfc_1071_practice() {
    // A well-known header: checksum b861.
    let mut b = [0x45, 0, 0, 0x73, 0, 0, 0x40, 0, 0x40, 0x11, 0xb8, 0x61, 0xc0, 0xa8, 0, 1, 0xc0, 0xa8, 0, 0xc7];
    let ip = Ipv4::new_header(&b[..]).expect("sound");
    assert!(ip.checksum_ok() && !ip.is_fragment());
    assert_eq!(Ipv4::new(&b[..]).err(), Some(WireError::Length));
    Ipv4::new_header(&mut b[..]).expect("sound").fill_checksum();
    assert_eq!(b[10..12], [0xb8, 0x61]);
    b[0] = 0x44;
    assert_eq!(Ipv4::new(&b[..]).err(), Some(WireError::HeaderLength));
}

#[test]
fn ipv4_options_end_and_break() {
    let all = |b: &[u8]| ipv4::options(b).map(|o| o.map(|o| o.kind)).collect::<Vec<_>>();
    assert_eq!(all(&[1, 7, 3, 4, 148, 4, 0, 0, 0, 9]), [Ok(7), Ok(148)]);
    assert_eq!(all(&[1, 7, 1]), [Err(WireError::Option)]);
    assert_eq!(all(&[7, 4, 0]), [Err(WireError::Option)]);
}

#[test]
fn extension_headers() {
    let hop = [proto::DEST_OPTS, 0, 1, 4, 0, 0, 0, 0];
    let dst = [proto::FRAGMENT, 1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let frag = [proto::TCP, 0, 0, 1, 0, 0, 0, 9];
    let chain = [&hop[..], &dst, &frag, &[0; 4]].concat();
    let c = ipv6::walk(proto::HOP_BY_HOP, &chain).expect("sound");
    assert_eq!((c.protocol, c.offset, c.named_at), (proto::TCP, 32, Some(24)));
    assert_eq!(c.fragment, Some(ipv6::FragmentHeader { at: 24, offset: 0, more: true, id: 9 }));
    assert_eq!(ipv6::walk(proto::HOP_BY_HOP, &chain[..20]), Err(ipv6::ChainError::Truncated { in_fragment: false }));
    assert_eq!(ipv6::walk(proto::DEST_OPTS, &[0; 16]), Err(ipv6::ChainError::Misplaced));
    let many = [proto::DEST_OPTS, 0, 0, 0, 0, 0, 0, 0].repeat(20);
    assert_eq!(ipv6::walk(proto::DEST_OPTS, &many), Err(ipv6::ChainError::TooMany));
    let rh0 = [proto::TCP, 2, 0, 1, 0, 0, 0, 0].into_iter().chain([0; 16]).collect::<Vec<u8>>();
    assert!(ipv6::walk(proto::ROUTING, &rh0).expect("sound").source_routed);
}

#[test]
fn vxlan_header() {
    let vni = Vni::try_from(0x12_3456).expect("fits");
    assert_eq!(vxlan::header(vni), [8, 0, 0, 0, 0x12, 0x34, 0x56, 0]);
    assert_eq!(Vxlan::new(&vxlan::header(vni)[..]).expect("sound").vni(), vni);
    assert_eq!(Vxlan::new(&[0u8; 8][..]).err(), Some(WireError::Kind));
}

#[test]
fn nd_options() {
    let b = [1, 1, 1, 2, 3, 4, 5, 6, 5, 1, 0, 0, 0, 0, 5, 220, 14, 1, 0, 0, 0, 0, 0, 0, 9];
    let all: Vec<_> = ndp::options(&b).collect();
    assert_eq!(all[0], Ok(ndp::NdOption::SourceLinkLayer(Mac([1, 2, 3, 4, 5, 6]))));
    assert_eq!(all[1], Ok(ndp::NdOption::Mtu(1500)));
    assert_eq!(all[2], Ok(ndp::NdOption::Other(14, &[0; 6])));
    assert_eq!(all[3], Err(WireError::Option));
    assert_eq!(ndp::options(&[1, 0, 0, 0, 0, 0, 0, 0]).next(), Some(Err(WireError::Option)));
    let group = ndp::solicited_node("fe80::1234:5678".parse().expect("an address"));
    assert_eq!(group, "ff02::1:ff34:5678".parse::<core::net::Ipv6Addr>().expect("an address"));
}

proptest! {
    /// Whatever a constructor accepts, every accessor can read.
    #[test]
    fn any_bytes(b in prop::collection::vec(any::<u8>(), 0..120)) {
        let b = &b[..];
        let _ = Ethernet::new(b).map(|v| (v.src(), v.ethertype(), v.payload().len()));
        let _ = Vlan::new(b).map(|v| (v.id(), v.priority(), v.payload().len()));
        let _ = Ipv4::new(b).map(|v| (v.options().len(), v.payload().len(), v.checksum_ok()));
        let _ = Ipv4::new_header(b).map(|v| (ipv4::options(v.options()).count(), v.payload().len()));
        let _ = Ipv6::new(b).map(|v| ipv6::walk(v.next_header(), v.payload()));
        let _ = Ipv6::new_header(b).map(|v| (v.dst(), v.payload().len()));
        let _ = ipv6::walk(b.first().map_or(0, |x| x % 61), b);
        let _ = Udp::new(b).map(|v| v.payload().len());
        let _ = Udp::new_header(b).map(|v| v.payload().len());
        let _ = Tcp::new(b).map(|v| (v.options().len(), v.payload().len(), v.urgent()));
        let _ = Sctp::new(b).map(|v| (v.tag(), v.payload().len()));
        let _ = Icmp::new(b).map(|v| (v.rest(), v.payload().len()));
        let _ = Vxlan::new(b).map(|v| v.vni());
        let _ = ndp::Neighbour::new(b).map(|v| ndp::options(v.option_bytes()).count());
        let _ = ndp::RouterAdvertisement::new(b).map(|v| v.retrans_timer());
        let _ = ndp::RouterSolicitation::new(b).map(|v| v.option_bytes().len());
        prop_assert!(ndp::options(b).count() <= b.len() / 8 + 1);
    }
}
