//! [`VecBuf`].

use crate::buf::{Meta, PacketBuf};

/// A packet over vectors: a first segment with headroom and any number of further ones.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VecBuf {
    /// The first segment with its headroom in front.
    first: Vec<u8>,
    headroom: usize,
    rest: Vec<Vec<u8>>,
    tailroom: usize,
    meta: Meta,
}

impl VecBuf {
    /// Headroom and tailroom that [`VecBuf::new`] gives.
    pub const ROOM: usize = 128;

    /// One segment with 128 bytes of headroom and as many of tailroom.
    pub fn new(bytes: &[u8]) -> VecBuf {
        Self::with_room(bytes, Self::ROOM, Self::ROOM)
    }

    /// One segment with that much room.
    pub fn with_room(bytes: &[u8], headroom: usize, tailroom: usize) -> VecBuf {
        let first = [&vec![0xa5; headroom], bytes].concat();
        VecBuf { first, headroom, rest: Vec::new(), tailroom, meta: Meta::default() }
    }

    /// An empty packet with 128 bytes of headroom and 2 KiB of room, as a pool of small buffers gives.
    pub fn empty() -> VecBuf {
        Self::with_room(&[], Self::ROOM, 2048)
    }

    /// `bytes` cut into segments at `cuts` (those that lie within, in ascending order, none before `min_head`).
    pub fn segmented(bytes: &[u8], min_head: usize, cuts: &[usize]) -> VecBuf {
        let mut cuts: Vec<usize> = cuts.iter().copied().filter(|&c| c >= min_head && c < bytes.len()).collect();
        cuts.push(bytes.len());
        cuts.sort_unstable();
        cuts.dedup();
        let mut buf = Self::new(&bytes[..cuts[0]]);
        buf.rest = cuts.windows(2).map(|w| bytes[w[0]..w[1]].to_vec()).collect();
        buf
    }

    /// The same packet with this metadata.
    #[must_use]
    pub fn with_meta(mut self, meta: Meta) -> VecBuf {
        self.meta = meta;
        self
    }

    /// All bytes of the packet.
    pub fn bytes(&self) -> Vec<u8> {
        let mut all = self.head().to_vec();
        self.rest.iter().for_each(|s| all.extend(s));
        all
    }

    /// How many segments there are.
    pub fn segments(&self) -> usize {
        1 + self.rest.len()
    }

    /// Appends a segment.
    pub fn push_segment(&mut self, bytes: &[u8]) {
        self.rest.push(bytes.to_vec());
    }
}

impl PacketBuf for VecBuf {
    fn head(&self) -> &[u8] {
        &self.first[self.headroom..]
    }

    fn head_mut(&mut self) -> &mut [u8] {
        &mut self.first[self.headroom..]
    }

    fn len(&self) -> usize {
        self.head().len() + self.rest.iter().map(Vec::len).sum::<usize>()
    }

    fn prepend(&mut self, n: usize) -> Option<&mut [u8]> {
        self.headroom = self.headroom.checked_sub(n)?;
        Some(self.head_mut())
    }

    fn adj(&mut self, n: usize) -> bool {
        let ok = n < self.head().len();
        if ok {
            self.headroom += n;
        }
        ok
    }

    fn truncate(&mut self, len: usize) {
        if len >= self.len() {
            return;
        }
        let mut left = len.saturating_sub(self.head().len());
        self.first.truncate(self.headroom + len);
        for s in &mut self.rest {
            s.truncate(left);
            left -= s.len();
        }
        self.rest.retain(|s| !s.is_empty());
    }

    fn append(&mut self, bytes: &[u8]) -> bool {
        let Some(left) = self.tailroom.checked_sub(bytes.len()) else { return false };
        self.tailroom = left;
        self.rest.last_mut().unwrap_or(&mut self.first).extend(bytes);
        true
    }

    fn copy_to(&self, offset: usize, dst: &mut [u8]) -> bool {
        let mut at = 0;
        self.for_each_slice(offset, dst.len(), &mut |s| {
            dst[at..at + s.len()].copy_from_slice(s);
            at += s.len();
        })
    }

    fn for_each_slice(&self, offset: usize, len: usize, f: &mut dyn FnMut(&[u8])) -> bool {
        if offset.checked_add(len).is_none_or(|end| end > self.len()) {
            return false;
        }
        let (mut skip, mut left) = (offset, len);
        for s in core::iter::once(self.head()).chain(self.rest.iter().map(Vec::as_slice)) {
            let from = skip.min(s.len());
            let n = (s.len() - from).min(left);
            if n > 0 {
                f(&s[from..from + n]);
            }
            skip -= from;
            left -= n;
        }
        true
    }

    fn meta(&self) -> &Meta {
        &self.meta
    }

    fn meta_mut(&mut self) -> &mut Meta {
        &mut self.meta
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chain_behaves_like_its_bytes() {
        let bytes: Vec<u8> = (0..100).collect();
        let mut b = VecBuf::segmented(&bytes, 10, &[5, 20, 21, 60, 200]);
        assert_eq!((b.segments(), b.len(), b.bytes()), (4, 100, bytes.clone()));
        let mut copy = [0; 45];
        assert!(b.copy_to(18, &mut copy));
        assert_eq!(copy[..], bytes[18..63]);
        assert!(!b.copy_to(56, &mut copy));
        assert!(b.append(&[7]) && b.bytes()[100] == 7);
        b.truncate(20);
        assert_eq!((b.segments(), b.bytes()), (1, bytes[..20].to_vec()));
        assert!(b.adj(19) && !b.adj(1));
        assert_eq!(b.head(), [19]);
        b.prepend(2).expect("there is room")[..2].copy_from_slice(&[1, 2]);
        assert_eq!(b.bytes(), [1, 2, 19]);
        assert!(b.prepend(VecBuf::ROOM * 2).is_none());
        assert!(!b.append(&[0; VecBuf::ROOM]));
    }
}
