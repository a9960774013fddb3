//! Whether VXLAN datagrams that arrived in one UDP GSO frame carry consecutive TCP segments of one flow. Pure: works
//! on copies of headers.

use super::afpacket::frame::{Layout, TCP, be16};
use super::sum::Sum;

/// VXLAN's header (RFC 7348 section 5).
pub(crate) const VXLAN: usize = 8;
/// VXLAN's port (RFC 7348 section 8.1).
pub(crate) const VXLAN_PORT: u16 = 4789;
/// The longest VXLAN, Ethernet, IPv6 and TCP headers of what is merged (no VLAN tag, no IP options).
pub(crate) const MAX_INNER: usize = VXLAN + 14 + 40 + 60;

const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const ACK: u8 = 0x10;
const ECE: u8 = 0x40;
const CWR: u8 = 0x80;

/// The headers of one datagram's inner TCP segment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Segment {
    /// From the inner Ethernet header on.
    layout: Layout,
    /// VXLAN header included.
    headers: usize,
    payload: usize,
    seq: u32,
    flags: u8,
    id: u16,
    /// The headers with everything zeroed that differs between segments of one flow.
    same: [u8; MAX_INNER],
}

impl Segment {
    /// Reads the start of a datagram of `len` bytes (VXLAN header and inner frame) from a copy of its first bytes.
    /// `None`: not a TCP segment that could be part of a bigger one.
    pub(crate) fn read(start: &[u8], len: usize) -> Option<Segment> {
        let inner = start.get(VXLAN..)?;
        let layout = Layout::of(inner)?;
        let Layout { l3, l4, v4, proto, fragment } = layout;
        if proto != TCP || fragment || l3 != 14 || l4 != if v4 { 34 } else { 54 } {
            return None;
        }
        let headers = l4 + layout.l4_len(inner)?;
        let payload = (len - VXLAN).checked_sub(headers)?;
        let said = if v4 { usize::from(be16(inner, l3 + 2)?) } else { 40 + usize::from(be16(inner, l3 + 4)?) };
        let flags = inner[l4 + 13];
        if payload == 0 || said != len - VXLAN - l3 || flags & !(FIN | PSH | ACK | ECE | CWR) != 0 || flags & ACK == 0 {
            return None;
        }
        let mut same = [0; MAX_INNER];
        same[..VXLAN + headers].copy_from_slice(&start[..VXLAN + headers]);
        let s = &mut same[VXLAN..];
        let id = if v4 { be16(s, l3 + 4)? } else { 0 };
        if v4 {
            s[l3 + 2..l3 + 6].fill(0);
            s[l3 + 10..l3 + 12].fill(0);
        } else {
            s[l3 + 4..l3 + 6].fill(0);
        }
        let seq = u32::from_be_bytes([inner[l4 + 4], inner[l4 + 5], inner[l4 + 6], inner[l4 + 7]]);
        s[l4 + 4..l4 + 8].fill(0);
        s[l4 + 13] &= !(FIN | PSH | CWR);
        s[l4 + 16..l4 + 18].fill(0);
        Some(Segment { layout, headers: VXLAN + headers, payload, seq, flags, id, same })
    }

    /// Bytes of VXLAN and inner headers.
    pub(crate) fn headers(&self) -> usize {
        self.headers
    }

    /// Bytes of TCP payload.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    /// Whether the inner TCP checksum holds; `start` as for [`Segment::read`], `payload` the sum of the payload.
    pub(crate) fn verified(&self, start: &[u8], payload: Sum) -> bool {
        let inner = &start[VXLAN..self.headers];
        let l4_bytes = inner.len() - self.layout.l4 + self.payload;
        let mut sum = Sum::from(self.layout.pseudo_sum(inner, l4_bytes));
        sum.add(&inner[self.layout.l4..]);
        sum.join(payload);
        sum.folded() == 0xffff
    }

    /// Where the inner transport header starts, behind the VXLAN header.
    pub(crate) fn transport(&self) -> usize {
        self.layout.l4
    }

    /// Whether the inner packet is IPv4.
    pub(crate) fn v4(&self) -> bool {
        self.layout.v4
    }
}

/// Consecutive segments that become one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    first: Segment,
    count: usize,
    payload: usize,
    flags: u8,
    ended: bool,
}

impl Run {
    /// A run of one.
    pub(crate) fn new(first: Segment) -> Run {
        Run { first, count: 1, payload: first.payload, flags: first.flags, ended: first.flags & (FIN | PSH) != 0 }
    }

    /// Adds the segment that follows, if it belongs to the run.
    pub(crate) fn add(&mut self, next: &Segment) -> bool {
        let first = &self.first;
        let df = first.same[VXLAN + 14 + 6] & 0x40 != 0;
        let follows = !self.ended
            && next.headers == first.headers
            && next.same == first.same
            && next.seq == first.seq.wrapping_add(self.payload as u32)
            && next.payload <= first.payload
            && next.flags & CWR == 0
            && (!first.layout.v4 || df || next.id == first.id.wrapping_add(self.count as u16));
        if follows {
            self.count += 1;
            self.payload += next.payload;
            self.flags |= next.flags & (FIN | PSH);
            self.ended = next.payload < first.payload || next.flags & (FIN | PSH) != 0;
        }
        follows
    }

    /// How many segments it has.
    pub(crate) fn count(&self) -> usize {
        self.count
    }

    /// Their payload bytes together.
    pub(crate) fn payload(&self) -> usize {
        self.payload
    }

    /// Makes the first segment's headers those of the merged one: lengths, IPv4 checksum, flags, and the TCP checksum
    /// in its partial form. `headers` is VXLAN and inner headers.
    pub(crate) fn finish(&self, headers: &mut [u8]) {
        let Layout { l3, l4, v4, .. } = self.first.layout;
        let inner = &mut headers[VXLAN..];
        let l3_bytes = inner.len() - l3 + self.payload;
        if v4 {
            super::cut::set_v4(&mut inner[l3..l4], l3_bytes, self.first.id);
        } else {
            inner[l3 + 4..l3 + 6].copy_from_slice(&((l3_bytes - 40) as u16).to_be_bytes());
        }
        inner[l4 + 13] |= self.flags;
        let sum = self.first.layout.pseudo_sum(inner, inner.len() - l4 + self.payload);
        inner[l4 + 16..l4 + 18].copy_from_slice(&sum.to_be_bytes());
    }
}

#[cfg(test)]
mod tests {
    use podplane_packet::buf::Gso;
    use proptest::prelude::*;

    use super::*;
    use crate::ports::cut::{Cutter, tests::frame};

    /// Cuts a frame and puts a VXLAN header before each piece.
    fn datagrams(f: &[u8], gso: Gso) -> Vec<Vec<u8>> {
        let c = Cutter::new(f, f.len(), gso).expect("consistent");
        (0..c.count())
            .map(|i| {
                let (at, n) = c.payload(i);
                let mut sum = Sum::default();
                sum.add(&f[at..at + n]);
                let mut d = vec![8, 0, 0, 0, 0, 0, 1, 0];
                d.resize(VXLAN + c.headers(), 0);
                c.write(f, i, sum, &mut d[VXLAN..]);
                d.extend(&f[at..at + n]);
                d
            })
            .collect()
    }

    fn read(d: &[u8]) -> Option<Segment> {
        let s = Segment::read(&d[..d.len().min(MAX_INNER)], d.len())?;
        let mut sum = Sum::default();
        sum.add(&d[s.headers()..]);
        s.verified(d, sum).then_some(s)
    }

    proptest! {
        #[test]
        fn merging_undoes_cutting(v4 in any::<bool>(), size in 100u16..1500, len in 200usize..9000, flags in 0u8..4) {
            let flags = ACK | if flags & 1 != 0 { PSH } else { 0 } | if flags & 2 != 0 { CWR } else { 0 };
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let f = frame(v4, false, flags, &payload);
            let gso = if v4 { Gso::Tcp4 { size } } else { Gso::Tcp6 { size } };
            let all = datagrams(&f, gso);
            let mut run = Run::new(read(&all[0]).expect("a segment"));
            for d in &all[1..] {
                prop_assert!(run.add(&read(d).expect("a segment")));
            }
            prop_assert_eq!((run.count(), run.payload()), (all.len(), len));
            let n = run.first.headers();
            let mut headers = all[0][..n].to_vec();
            run.finish(&mut headers);
            let mut back = headers[VXLAN..].to_vec();
            back.extend(&payload);
            let mut whole = f.clone();
            let l = Layout::of(&whole).expect("IP");
            if v4 {
                super::super::cut::set_v4(&mut whole[l.l3..l.l4], f.len() - l.l3, 0x1234);
            }
            let sum = l.pseudo_sum(&whole, f.len() - l.l4);
            whole[l.l4 + 16..l.l4 + 18].copy_from_slice(&sum.to_be_bytes());
            prop_assert_eq!(back, whole);
        }
    }

    #[test]
    fn gaps_other_flows_and_odd_flags_are_not_merged() {
        let payload = vec![7; 3000];
        let f = frame(true, false, ACK, &payload);
        let all = datagrams(&f, Gso::Tcp4 { size: 1000 });
        let [a, b, c] = [0, 1, 2].map(|i| read(&all[i]).expect("a segment"));
        assert!(!Run::new(a).add(&c), "a gap");
        assert!(Run::new(a).add(&b));
        assert!(!Run::new(Segment { flags: ACK | PSH, ..a }).add(&b), "nothing follows a push");
        assert!(!Run::new(a).add(&Segment { flags: ACK | CWR, ..b }), "a second CWR");
        let mut other = b;
        other.same[VXLAN + 14 + 19] ^= 1;
        assert!(!Run::new(a).add(&other), "another destination");
        let syn = frame(true, false, 0x02, &payload);
        assert!(read(&datagrams(&syn, Gso::Tcp4 { size: 1000 })[0]).is_none(), "SYN");
        let mut broken = all[0].clone();
        broken[200] ^= 1;
        assert!(read(&broken).is_none(), "a wrong checksum");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(mut b in proptest::collection::vec(any::<u8>(), 8..MAX_INNER), v4: bool, more in 0usize..2000) {
            if b.len() > 40 {
                b[20..23].copy_from_slice(if v4 { &[8, 0, 0x45] } else { &[0x86, 0xdd, 0x60] });
            }
            let len = b.len() + more;
            if let Some(s) = Segment::read(&b, len) {
                prop_assert_eq!(s.headers() + s.payload(), len);
            }
        }
    }
}
