//! Cutting a GSO frame into the frames that go on a wire: which bytes each carries, and its headers. The payload is
//! not touched, so callers gather or copy it as suits their device.

use podplane_packet::buf::Gso;

use super::afpacket::frame::{Layout, TCP, UDP};
use super::sum::Sum;

/// TCP flags (RFC 9293 section 3.1, RFC 3168) that only one of the segments may carry.
const FIN: u8 = 0x01;
const PSH: u8 = 0x08;
const CWR: u8 = 0x80;

/// The longest headers of a frame that are cut: Ethernet with two tags, IPv6 with extension headers, TCP with options.
pub(crate) const MAX_HEADERS: usize = 256;

/// How a frame is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cutter {
    layout: Layout,
    headers: usize,
    payload: usize,
    size: usize,
}

impl Cutter {
    /// Plans the cutting of a frame of `len` bytes that starts with `head`. `None`: `gso` and the headers contradict
    /// each other.
    pub(crate) fn new(head: &[u8], len: usize, gso: Gso) -> Option<Cutter> {
        let layout = Layout::of(head)?;
        let headers = layout.l4 + layout.l4_len(head)?;
        let proto = match gso {
            Gso::None => return None,
            Gso::Udp { .. } => UDP,
            Gso::Tcp4 { .. } | Gso::Tcp6 { .. } => TCP,
        };
        let version_fits = match gso {
            Gso::Tcp4 { .. } => layout.v4,
            Gso::Tcp6 { .. } => !layout.v4,
            _ => true,
        };
        let payload = len.checked_sub(headers)?;
        let size = usize::from(gso.size());
        let fits = layout.proto == proto && version_fits && !layout.fragment && size > 0 && payload > 0;
        (fits && headers <= MAX_HEADERS).then_some(Cutter { layout, headers, payload, size })
    }

    /// How many frames there will be.
    pub(crate) fn count(&self) -> usize {
        self.payload.div_ceil(self.size)
    }

    /// Bytes of headers of each.
    pub(crate) fn headers(&self) -> usize {
        self.headers
    }

    /// Payload bytes of all but the last.
    pub(crate) fn size(&self) -> usize {
        self.size.min(self.payload)
    }

    /// Where frame `i`'s payload lies in the frame that is cut: offset and length.
    pub(crate) fn payload(&self, i: usize) -> (usize, usize) {
        let start = i * self.size;
        (self.headers + start, self.size.min(self.payload - start))
    }

    /// Writes the headers of frame `i` to `out` (as long as [`Cutter::headers`]), the checksums complete. `head` is
    /// the start of the frame that is cut, `payload` the sum of this frame's payload.
    pub(crate) fn write(&self, head: &[u8], i: usize, payload: Sum, out: &mut [u8]) {
        let Layout { l3, l4, v4, proto, .. } = self.layout;
        let bytes = self.payload(i).1;
        let last = i + 1 == self.count();
        out.copy_from_slice(&head[..self.headers]);
        if v4 {
            let id = u16::from_be_bytes([head[l3 + 4], head[l3 + 5]]).wrapping_add(i as u16);
            set_v4(&mut out[l3..l4], self.headers - l3 + bytes, id);
        } else {
            out[l3 + 4..l3 + 6].copy_from_slice(&((self.headers - l3 - 40 + bytes) as u16).to_be_bytes());
        }
        let l4_bytes = self.headers - l4 + bytes;
        let field = if proto == TCP {
            let seq = u32::from_be_bytes([head[l4 + 4], head[l4 + 5], head[l4 + 6], head[l4 + 7]]);
            out[l4 + 4..l4 + 8].copy_from_slice(&seq.wrapping_add((i * self.size) as u32).to_be_bytes());
            let once = (if last { 0 } else { FIN | PSH }) | (if i == 0 { 0 } else { CWR });
            out[l4 + 13] &= !once;
            l4 + 16
        } else {
            out[l4 + 4..l4 + 6].copy_from_slice(&(l4_bytes as u16).to_be_bytes());
            l4 + 6
        };
        out[field..field + 2].fill(0);
        let mut sum = Sum::from(self.layout.pseudo_sum(out, l4_bytes));
        sum.add(&out[l4..self.headers]);
        sum.join(payload);
        out[field..field + 2].copy_from_slice(&transport_checksum(sum, proto).to_be_bytes());
    }
}

/// The checksum as the transport stores it: UDP keeps zero for "none" (RFC 768).
pub(crate) fn transport_checksum(sum: Sum, proto: u8) -> u16 {
    match sum.checksum() {
        0 if proto == UDP => 0xffff,
        c => c,
    }
}

/// Sets total length and identification of an IPv4 header, and its checksum anew.
pub(crate) fn set_v4(header: &mut [u8], total: usize, id: u16) {
    header[2..4].copy_from_slice(&(total as u16).to_be_bytes());
    header[4..6].copy_from_slice(&id.to_be_bytes());
    header[10..12].fill(0);
    let mut sum = Sum::default();
    sum.add(header);
    header[10..12].copy_from_slice(&sum.checksum().to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame with correct lengths and no checksums, for tests of cutting and merging.
    pub(crate) fn frame(v4: bool, udp: bool, flags: u8, payload: &[u8]) -> Vec<u8> {
        let l4 = if udp { 8 } else { 32 };
        let mut f = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
        if v4 {
            f.extend([0x08, 0x00, 0x45, 0]);
            f.extend(((20 + l4 + payload.len()) as u16).to_be_bytes());
            f.extend([0x12, 0x34, 0x40, 0, 64, if udp { UDP } else { TCP }, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        } else {
            f.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            f.extend(((l4 + payload.len()) as u16).to_be_bytes());
            f.extend([if udp { UDP } else { TCP }, 64]);
            f.extend([0xfd; 16]);
            f.extend([0xfe; 16]);
        }
        f.extend([0x30, 0x39, 0x14, 0x51]);
        if udp {
            f.extend(((8 + payload.len()) as u16).to_be_bytes());
            f.extend([0, 0]);
        } else {
            f.extend([0xff, 0xff, 0xf0, 0, 0, 0, 0, 7, 0x80, flags, 1, 0, 0, 0, 0, 0]);
            f.extend([1, 1, 8, 10, 0, 0, 0, 1, 0, 0, 0, 2]);
        }
        f.extend(payload);
        f
    }

    /// Whether the transport checksum of a frame is right, summed slowly.
    pub(crate) fn transport_is_right(f: &[u8]) -> bool {
        let l = Layout::of(f).expect("an IP frame");
        let mut sum = u32::from(l.pseudo_sum(f, f.len() - l.l4));
        for pair in f[l.l4..].chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum == 0xffff
    }

    proptest! {
        #[test]
        fn the_frames_are_right_and_carry_every_byte_once(
            v4 in any::<bool>(), udp in any::<bool>(), size in 1u16..2000, len in 1usize..9000, seed in any::<u8>(),
        ) {
            let payload: Vec<u8> = (0..len).map(|i| (i as u8).wrapping_mul(7) ^ seed).collect();
            let f = frame(v4, udp, 0x10 | FIN | PSH | CWR, &payload);
            let gso = match (udp, v4) {
                (true, _) => Gso::Udp { size },
                (_, true) => Gso::Tcp4 { size },
                (_, false) => Gso::Tcp6 { size },
            };
            let c = Cutter::new(&f, f.len(), gso).expect("consistent");
            let mut carried: Vec<u8> = Vec::new();
            for i in 0..c.count() {
                let (at, n) = c.payload(i);
                let mut sum = Sum::default();
                sum.add(&f[at..at + n]);
                let mut out = vec![0; c.headers()];
                c.write(&f, i, sum, &mut out);
                out.extend(&f[at..at + n]);
                prop_assert!(transport_is_right(&out));
                let l = Layout::of(&out).expect("IP");
                if v4 {
                    prop_assert_eq!(usize::from(u16::from_be_bytes([out[l.l3 + 2], out[l.l3 + 3]])), out.len() - l.l3);
                    let mut ip = Sum::default();
                    ip.add(&out[l.l3..l.l4]);
                    prop_assert_eq!(ip.folded(), 0xffff);
                }
                if !udp {
                    let last = i + 1 == c.count();
                    prop_assert_eq!(out[l.l4 + 13] & (FIN | PSH) != 0, last);
                    prop_assert_eq!(out[l.l4 + 13] & CWR != 0, i == 0);
                    let seq = u32::from_be_bytes([out[l.l4 + 4], out[l.l4 + 5], out[l.l4 + 6], out[l.l4 + 7]]);
                    prop_assert_eq!(seq, 0xffff_f000u32.wrapping_add(carried.len() as u32));
                }
                carried.extend(&f[at..at + n]);
            }
            prop_assert_eq!(carried, payload);
        }
    }
}
