//! Our own reading of a frame's headers, against which offload metadata is checked. Reads, never changes.

/// TCP's protocol number.
pub(crate) const TCP: u8 = 6;
/// UDP's protocol number.
pub(crate) const UDP: u8 = 17;
/// SCTP's protocol number, whose checksum is no Internet checksum.
pub(crate) const SCTP: u8 = 132;

/// How many VLAN tags and IPv6 extension headers are followed.
const MAX_TAGS: usize = 2;
const MAX_EXTENSIONS: usize = 8;

/// Where the headers of an IP packet lie, from the first byte of the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    /// The IP header.
    pub(crate) l3: usize,
    /// The transport header.
    pub(crate) l4: usize,
    /// Whether the IP header is version 4.
    pub(crate) v4: bool,
    /// The transport protocol's number.
    pub(crate) proto: u8,
    /// Whether this is a fragment (whose transport header cannot be trusted to be there).
    pub(crate) fragment: bool,
}

/// Reads two bytes in network order.
#[inline]
pub(crate) fn be16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

impl Layout {
    /// Finds the headers of the frame that starts with `head`. `None`: not IP, or cut short.
    pub(crate) fn of(head: &[u8]) -> Option<Layout> {
        let mut at = 12;
        let mut ethertype = be16(head, at)?;
        for _ in 0..MAX_TAGS {
            if ethertype != 0x8100 && ethertype != 0x88a8 {
                break;
            }
            at += 4;
            ethertype = be16(head, at)?;
        }
        match ethertype {
            0x0800 => Self::v4(head, at + 2),
            0x86dd => Self::v6(head, at + 2),
            _ => None,
        }
    }

    fn v4(head: &[u8], l3: usize) -> Option<Layout> {
        let first = *head.get(l3)?;
        let ihl = usize::from(first & 0x0f) * 4;
        if first >> 4 != 4 || ihl < 20 || head.len() < l3 + ihl {
            return None;
        }
        let fragment = be16(head, l3 + 6)? & 0x3fff != 0;
        Some(Layout { l3, l4: l3 + ihl, v4: true, proto: head[l3 + 9], fragment })
    }

    fn v6(head: &[u8], l3: usize) -> Option<Layout> {
        if head.len() < l3 + 40 || head[l3] >> 4 != 6 {
            return None;
        }
        let (mut proto, mut at, mut fragment) = (head[l3 + 6], l3 + 40, false);
        for _ in 0..MAX_EXTENSIONS {
            match proto {
                0 | 43 | 60 => {
                    let next = *head.get(at)?;
                    at += 8 + usize::from(*head.get(at + 1)?) * 8;
                    proto = next;
                }
                44 => {
                    let next = *head.get(at)?;
                    fragment |= be16(head, at + 2)? & 0xfff9 != 0;
                    at += 8;
                    proto = next;
                }
                _ => return (head.len() >= at).then_some(Layout { l3, l4: at, v4: false, proto, fragment }),
            }
        }
        None
    }

    /// Where the packet ends by its IP header's own length, from the first byte of the frame. `None`: cut short.
    pub(crate) fn l3_end(&self, head: &[u8]) -> Option<usize> {
        match self.v4 {
            true => Some(self.l3 + usize::from(be16(head, self.l3 + 2)?)),
            false => Some(self.l3 + 40 + usize::from(be16(head, self.l3 + 4)?)),
        }
    }

    /// Where the checksum lies in the transport header of a protocol that has an Internet checksum over the
    /// pseudo-header.
    pub(crate) fn csum_offset(&self) -> Option<usize> {
        match self.proto {
            TCP => Some(16),
            UDP => Some(6),
            _ => None,
        }
    }

    /// The length of the transport header; `None` if it is not TCP or UDP, or not whole within `head`.
    pub(crate) fn l4_len(&self, head: &[u8]) -> Option<usize> {
        let len = match self.proto {
            TCP => usize::from(*head.get(self.l4 + 12)? >> 4) * 4,
            UDP => 8,
            _ => return None,
        };
        (len >= 8 && (self.proto == UDP || len >= 20) && head.len() >= self.l4 + len).then_some(len)
    }

    /// The uncomplemented pseudo-header sum (RFC 9293 section 3.1, RFC 8200 section 8.1) for `l4_bytes` bytes of
    /// transport header and payload, as a partial checksum stores it.
    pub(crate) fn pseudo_sum(&self, head: &[u8], l4_bytes: usize) -> u16 {
        let addresses = if self.v4 { &head[self.l3 + 12..self.l3 + 20] } else { &head[self.l3 + 8..self.l3 + 40] };
        let mut sum = u64::from(self.proto) + (l4_bytes as u64 & 0xffff) + ((l4_bytes as u64) >> 16);
        for pair in addresses.chunks_exact(2) {
            sum += u64::from(u16::from_be_bytes([pair[0], pair[1]]));
        }
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn finds_tcp_behind_tags_options_and_extensions() {
        let mut f = vec![0u8; 12];
        f.extend([0x81, 0x00, 0x00, 0x05, 0x08, 0x00, 0x46]);
        f.resize(12 + 4 + 2 + 24 + 20, 0);
        f[18 + 9] = TCP;
        f[18 + 24 + 12] = 0x50;
        let l = Layout::of(&f).expect("IPv4 behind a tag");
        assert_eq!((l.l3, l.l4, l.v4, l.proto, l.fragment), (18, 42, true, TCP, false));
        assert_eq!(l.l4_len(&f), Some(20));

        let mut f = vec![0u8; 12];
        f.extend([0x86, 0xdd, 0x60]);
        f.resize(14 + 40 + 8 + 8 + 8, 0);
        f[14 + 6] = 0;
        f[54] = 44;
        f[62] = UDP;
        f[64..66].copy_from_slice(&[0, 9]);
        let l = Layout::of(&f).expect("IPv6 with hop-by-hop and fragment");
        assert_eq!((l.l4, l.v4, l.proto, l.fragment), (70, false, UDP, true));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_within_bounds(mut bytes in proptest::collection::vec(any::<u8>(), 0..160), kind in 0u8..3) {
            if bytes.len() >= 15 && kind < 2 {
                bytes[12..15].copy_from_slice(if kind == 0 { &[0x08, 0x00, 0x45] } else { &[0x86, 0xdd, 0x60] });
            }
            if let Some(l) = Layout::of(&bytes) {
                prop_assert!(l.l3 < l.l4 && l.l4 <= bytes.len());
                if let Some(n) = l.l4_len(&bytes) {
                    prop_assert!(l.l4 + n <= bytes.len());
                }
                let _ = l.pseudo_sum(&bytes, 65_536);
            }
        }
    }
}
