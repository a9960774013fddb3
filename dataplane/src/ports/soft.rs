//! Doing in software what a device cannot: cutting GSO frames, completing checksums, joining chains, putting tags in.

use podplane_packet::buf::{Csum, Gso, Meta, PacketBuf};
use podplane_packet::checksum::{complete, fold, sum};
use podplane_packet::gso::Segmenter;
use podplane_packet::id::PortId;
use podplane_pipeline::DropReason;

use super::Pkt;
use super::buffers::Pools;

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
            let segmenter = Segmenter::new(&pkt).map_err(|_| DropReason::BadOffload)?;
            return Ok(Soften::Cut(Cut { pkt, segmenter, next: 0 }));
        }
        complete(&mut pkt).map_err(|_| DropReason::BadOffload)?;
        if pkt.segment_count() > 1 && !chains {
            pkt = joined(&pkt, pools)?;
        }
        tagged(pkt).map(Soften::Ready)
    }
}

/// A copy in one segment.
fn joined(pkt: &Pkt, pools: &Pools) -> Result<Pkt, DropReason> {
    let mut one = pools.alloc(pkt.len())?;
    if !one.mbuf_mut().set_len(pkt.len()) || !pkt.copy_to(0, one.head_mut()) {
        return Err(DropReason::LinearTooLong);
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
    segmenter: Segmenter,
    next: usize,
}

impl Cut {
    /// Where the frame came in.
    pub(crate) fn port(&self) -> PortId {
        self.pkt.meta().port
    }

    /// The next packet, complete. `None`: that was the last. After an error the rest is to be given up.
    pub(crate) fn next(&mut self, pools: &Pools) -> Option<Result<Pkt, DropReason>> {
        let i = self.next;
        if i == self.segmenter.segments() {
            return None;
        }
        self.next += 1;
        Some(self.piece(i, pools))
    }

    fn piece(&self, i: usize, pools: &Pools) -> Result<Pkt, DropReason> {
        let (at, len) = self.segmenter.payload(i);
        let headers = self.segmenter.header_len();
        let mut out = pools.alloc(headers + len)?;
        if !out.mbuf_mut().set_len(headers + len) {
            return Err(DropReason::LinearTooLong);
        }
        let (head, payload) = out.head_mut().split_at_mut(headers);
        let copied = self.pkt.copy_to(at, payload);
        let written = self.segmenter.write(self.pkt.head(), i, fold(sum(payload)), head);
        if !copied || written.is_none() {
            return Err(DropReason::BadOffload);
        }
        *out.meta_mut() = Meta { gso: Gso::None, csum: Csum::Good, ..*self.pkt.meta() };
        tagged(out)
    }
}
