//! Where a frame goes by the port that it came in on and its Ethernet header.
//!
//! Uses: `meta().port`, `meta().vlan`, the Ethernet header. Sets: `via`, `l3`, `client`.
//!
//! - Pods have one neighbour, the gateway: IP goes on to be parsed, ARP to be answered, the rest is dropped.
//! - From the host port, what is addressed to a gateway's MAC is routed: to one what the node itself sends, to the other
//!   what its kernel forwards for others, who are not the node whatever address they were given. The rest belongs to the
//!   uplink's network, but may be answers of backends on the node's own network.
//! - From the uplink, `underlay` knows what is ours; the rest belongs to the node's own stack.
//!
//! Next: `arp`, `parse`, `underlay`, `egress`, `l2_pass`.

use podplane_packet::buf::PacketBuf;
use podplane_packet::id::Mac;
use podplane_tables::flow::Flags;

use super::{Next, Pkt, World};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::{Node, NodeId};
use crate::snapshot::{PortClass, Snapshot};

pub(crate) const NODE: Node = Node {
    does: "Sorts frames by their port and Ethernet header.",
    drops: &[
        DropReason::UnknownPort,
        DropReason::NotConfigured,
        DropReason::FrameTooShort,
        DropReason::SpoofedMac,
        DropReason::VlanTagged,
        DropReason::NotToGateway,
        DropReason::EtherTypeUnsupported,
    ],
    parses: false,
};

pub(super) const ETH_LEN: usize = 14;
const IPV4: u16 = 0x0800;
const ARP: u16 = 0x0806;
const IPV6: u16 = 0x86dd;
const VLAN: u16 = 0x8100;
const QINQ: u16 = 0x88a8;
/// Where neighbour solicitations for the gateway go, whichever of its names is asked for: their solicited-node group
/// (RFC 4291 section 2.7.1, RFC 2464 section 7).
const GATEWAY_GROUP: Mac = Mac([0x33, 0x33, 0xff, 0x00, 0x00, 0x01]);

/// Whether a frame goes to the multicast group that the gateway's solicitations go to.
pub(super) fn to_gateway_group<B: PacketBuf>(buf: &B) -> bool {
    buf.head().starts_with(&GATEWAY_GROUP.0)
}

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    let Some(port) = w.snap.port(p.ctx.via.port) else { return Next::Drop(DropReason::UnknownPort) };
    p.ctx.class = port.kind;
    p.ctx.l3 = ETH_LEN as u16;
    let head = p.buf.head();
    let Some((eth, _)) = head.split_first_chunk::<ETH_LEN>() else { return Next::Drop(DropReason::FrameTooShort) };
    let dst = Mac([eth[0], eth[1], eth[2], eth[3], eth[4], eth[5]]);
    let ethertype = u16::from_be_bytes([eth[12], eth[13]]);
    let tagged = p.buf.meta().vlan.is_some();
    match port.kind {
        PortClass::Pod if eth[6..12] != port.mac.0 => Next::Drop(DropReason::SpoofedMac),
        PortClass::Pod => pod(dst, ethertype, tagged, w.snap.local().is_some()),
        PortClass::Host => {
            if dst == Mac::GATEWAY_FORWARDED {
                p.ctx.client = Flags::FORWARDED;
            }
            host(dst, ethertype, tagged, w.snap)
        }
        PortClass::Uplink if tagged || w.snap.local().is_none() => Next::To(NodeId::L2Pass),
        PortClass::Uplink => match ethertype {
            IPV4 | IPV6 => Next::To(NodeId::Underlay),
            _ => Next::To(NodeId::L2Pass),
        },
    }
}

fn pod(dst: Mac, ethertype: u16, tagged: bool, configured: bool) -> Next {
    match ethertype {
        _ if tagged => Next::Drop(DropReason::VlanTagged),
        VLAN | QINQ => Next::Drop(DropReason::VlanTagged),
        _ if !configured => Next::Drop(DropReason::NotConfigured),
        ARP => Next::To(NodeId::Arp),
        IPV4 | IPV6 if dst == Mac::GATEWAY || dst.is_group() => Next::To(NodeId::Parse),
        IPV4 | IPV6 => Next::Drop(DropReason::NotToGateway),
        _ => Next::Drop(DropReason::EtherTypeUnsupported),
    }
}

fn host(dst: Mac, ethertype: u16, tagged: bool, snap: &Snapshot) -> Next {
    let configured = snap.local().is_some();
    let routed = [Mac::GATEWAY, Mac::GATEWAY_FORWARDED].contains(&dst);
    let answers = configured && snap.services().has_host_backends() && !tagged && !dst.is_group();
    match ethertype {
        ARP if !tagged => Next::To(NodeId::Arp),
        IPV6 if dst == GATEWAY_GROUP && !tagged => Next::To(NodeId::Parse),
        IPV4 | IPV6 if !routed && answers => Next::To(NodeId::Egress),
        _ if !routed => Next::To(NodeId::L2Pass),
        _ if tagged => Next::Drop(DropReason::VlanTagged),
        _ if !configured => Next::Drop(DropReason::NotConfigured),
        IPV4 | IPV6 => Next::To(NodeId::Parse),
        _ => Next::Drop(DropReason::EtherTypeUnsupported),
    }
}
