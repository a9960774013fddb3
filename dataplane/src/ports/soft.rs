//! Doing in software what a device cannot: cutting GSO frames, completing checksums, joining chains, putting tags in.

use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_packet::id::PortId;
use podplane_pipeline::DropReason;

use super::Pkt;
use super::afpacket::frame::{Layout, UDP};
use super::buffers::Pools;
use super::cut::{Cutter, set_v4, transport_checksum};
use super::sum::Sum;

/// A packet that is made fit for a device without offloads.
#[derive(Debug)]
pub(crate) enum Soften {
    /// It is.
    Ready(Pkt),
    /// It becomes several.
    Cut(Cut),
}

impl Soften {
    /// Makes `pkt` ready; `chains`: the device sends several segments.
    pub(crate) fn new(mut pkt: Pkt, chains: bool, pools: &Pools) -> Result<Soften, DropReason> {
        if pkt.meta().gso != Gso::None {
            return Cut::new(pkt).map(Soften::Cut).ok_or(DropReason::TxDevice);
        }
        if !pkt.complete_checksum() {
            return Err(DropReason::TxDevice);
        }
        if pkt.segment_count() > 1 && !chains {
            pkt = joined(&pkt, pools)?;
        }
        tagged(pkt).map(Soften::Ready)
    }
}

/// A copy in one segment.
fn joined(pkt: &Pkt, pools: &Pools) -> Result<Pkt, DropReason> {
    let mut one = pools.linear(pkt.len()).ok_or(DropReason::NoBuffers)?;
    if !one.mbuf_mut().set_len(pkt.len()) || !pkt.copy_to(0, one.head_mut()) {
        return Err(DropReason::TxDevice);
    }
    *one.meta_mut() = *pkt.meta();
    Ok(one)
}

/// Puts the VLAN tag, if there is one, into the bytes.
fn tagged(mut pkt: Pkt) -> Result<Pkt, DropReason> {
    if let Some(tci) = pkt.meta_mut().vlan.take() {
        let head = pkt.prepend(4).filter(|h| h.len() >= 18).ok_or(DropReason::NoHeadroom)?;
        head.copy_within(4..16, 0);
        head[12..14].copy_from_slice(&[0x81, 0x00]);
        head[14..16].copy_from_slice(&tci.to_be_bytes());
    }
    Ok(pkt)
}

/// A GSO frame that is being cut into packets of their own.
#[derive(Debug)]
pub(crate) struct Cut {
    pkt: Pkt,
    cutter: Cutter,
    /// Bytes of outer headers, and where they are.
    tunnel: usize,
    outer: Option<Layout>,
    next: usize,
}

impl Cut {
    /// Plans it. `None`: metadata and headers contradict each other.
    fn new(pkt: Pkt) -> Option<Cut> {
        let tunnel = usize::from(pkt.meta().tunnel);
        let cutter = Cutter::new(pkt.head().get(tunnel..)?, pkt.len() - tunnel, pkt.meta().gso)?;
        let outer = if tunnel == 0 { None } else { Some(Layout::of(&pkt.head()[..tunnel])?) };
        if outer.is_some_and(|l| l.proto != UDP || l.l4 + 8 > tunnel) {
            return None;
        }
        Some(Cut { pkt, cutter, tunnel, outer, next: 0 })
    }

    /// Where the frame came in.
    pub(crate) fn port(&self) -> PortId {
        self.pkt.meta().port
    }

    /// The next packet, complete. `None`: that was the last. After an error the rest is to be given up.
    pub(crate) fn next(&mut self, pools: &Pools) -> Option<Result<Pkt, DropReason>> {
        let i = self.next;
        if i == self.cutter.count() {
            return None;
        }
        self.next += 1;
        Some(self.piece(i, pools))
    }

    fn piece(&self, i: usize, pools: &Pools) -> Result<Pkt, DropReason> {
        let (at, len) = self.cutter.payload(i);
        let headers = self.tunnel + self.cutter.headers();
        let mut out = pools.linear(headers + len).ok_or(DropReason::NoBuffers)?;
        if !out.mbuf_mut().set_len(headers + len) {
            return Err(DropReason::TxDevice);
        }
        let head = self.pkt.head();
        let bytes = out.head_mut();
        if !self.pkt.copy_to(self.tunnel + at, &mut bytes[headers..]) {
            return Err(DropReason::TxDevice);
        }
        let mut sum = Sum::default();
        sum.add(&bytes[headers..]);
        self.cutter.write(&head[self.tunnel..], i, sum, &mut bytes[self.tunnel..headers]);
        bytes[..self.tunnel].copy_from_slice(&head[..self.tunnel]);
        if let Some(outer) = &self.outer {
            write_outer(bytes, outer, i);
        }
        *out.meta_mut() = Meta { gso: Gso::None, csum: Csum::Good, ..*self.pkt.meta() };
        tagged(out)
    }
}

/// Corrects the outer headers of the `i`th of several datagrams for its length. A UDP checksum of zero stays.
fn write_outer(bytes: &mut [u8], layout: &Layout, i: usize) {
    let Layout { l3, l4, v4, .. } = *layout;
    let len = bytes.len();
    if v4 {
        let id = u16::from_be_bytes([bytes[l3 + 4], bytes[l3 + 5]]).wrapping_add(i as u16);
        set_v4(&mut bytes[l3..l4], len - l3, id);
    } else {
        bytes[l3 + 4..l3 + 6].copy_from_slice(&((len - l3 - 40) as u16).to_be_bytes());
    }
    bytes[l4 + 4..l4 + 6].copy_from_slice(&((len - l4) as u16).to_be_bytes());
    if bytes[l4 + 6..l4 + 8] != [0, 0] {
        bytes[l4 + 6..l4 + 8].fill(0);
        let mut sum = Sum::from(layout.pseudo_sum(bytes, len - l4));
        sum.add(&bytes[l4..]);
        let checksum = transport_checksum(sum, UDP);
        bytes[l4 + 6..l4 + 8].copy_from_slice(&checksum.to_be_bytes());
    }
}
