//! The virtio network header (virtio 1.2 section 5.1.6) that PACKET_VNET_HDR puts before each frame, to and from our
//! metadata. Pure: no system calls, no buffers. What the header says is believed only where our own reading of the
//! frame agrees.

use podplane_packet::buf::{Csum, Gso};
use podplane_packet::checksum::fold;
use podplane_packet::gro::MIN_SIZE;
use podplane_packet::gso::check_kind;
use podplane_packet::parse::parse;
use podplane_packet::wire::proto::{SCTP, TCP};

/// The checksum from `csum_start` on is to be completed.
const NEEDS_CSUM: u8 = 1;
/// The device verified the checksum.
const DATA_VALID: u8 = 2;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_UDP_L4: u8 = 5;
/// Flag beside the type: the first segment carries CWR, the others must not (RFC 3168).
const GSO_ECN: u8 = 0x80;

/// Datagrams in one frame at most (Linux `UDP_MAX_SEGMENTS`).
pub(crate) const UDP_MAX_SEGMENTS: usize = 128;

/// `struct virtio_net_hdr` in host byte order, as AF_PACKET exchanges it.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct VnetHdr {
    flags: u8,
    gso_type: u8,
    hdr_len: u16,
    gso_size: u16,
    csum_start: u16,
    csum_offset: u16,
}

const _: () = assert!(size_of::<VnetHdr>() == VnetHdr::LEN);

/// What must be done to a frame's bytes so that its metadata become true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fix {
    /// Nothing.
    None,
    /// Sum from `start` to the end and store it at `start + offset`: a partial checksum that is not the outermost
    /// transport's, which our metadata cannot express.
    Complete {
        /// First byte that is summed.
        start: u16,
        /// Where the checksum lies, from `start`.
        offset: u16,
    },
    /// Store the pseudo-header sum: a verified frame that is to be cut needs its checksum in the partial form.
    Pseudo {
        /// The transport header.
        start: usize,
        /// Where the checksum lies, from `start`.
        offset: usize,
        /// The sum to store.
        sum: u16,
    },
}

/// A header that was believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// The checksum's state once `fix` is done.
    pub(crate) csum: Csum,
    /// Segmentation.
    pub(crate) gso: Gso,
    /// What to do first.
    pub(crate) fix: Fix,
}

/// The header contradicts the frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Contradiction;

impl VnetHdr {
    /// Bytes on the socket.
    pub(crate) const LEN: usize = 10;

    /// Reads what the header says about the frame of `len` bytes that starts with `head`.
    pub(crate) fn decode(&self, head: &[u8], len: usize) -> Result<Decoded, Contradiction> {
        match self.gso_type & !GSO_ECN {
            GSO_NONE => self.decode_plain(head, len),
            GSO_TCPV4 => self.decode_gso(head, len, Gso::Tcp4 { size: self.gso_size }),
            GSO_TCPV6 => self.decode_gso(head, len, Gso::Tcp6 { size: self.gso_size }),
            GSO_UDP_L4 => self.decode_gso(head, len, Gso::Udp { size: self.gso_size }),
            _ => Err(Contradiction),
        }
    }

    fn decode_plain(&self, head: &[u8], len: usize) -> Result<Decoded, Contradiction> {
        if self.flags & NEEDS_CSUM == 0 {
            let csum = if self.flags & DATA_VALID != 0 { Csum::Good } else { Csum::Unknown };
            return Ok(Decoded { csum, gso: Gso::None, fix: Fix::None });
        }
        let (start, offset) = (usize::from(self.csum_start), usize::from(self.csum_offset));
        if start < 14 || start + offset + 2 > head.len() {
            return Err(Contradiction);
        }
        if let Ok(p) = parse(head, len)
            && usize::from(p.l4_off) == start
        {
            // Its checksum is no Internet checksum.
            if p.proto == SCTP {
                return Err(Contradiction);
            }
            if p.csum_offset() == Some(self.csum_offset) {
                let csum = Csum::Partial { start: self.csum_start, offset: self.csum_offset };
                return Ok(Decoded { csum, gso: Gso::None, fix: Fix::None });
            }
        }
        let fix = Fix::Complete { start: self.csum_start, offset: self.csum_offset };
        Ok(Decoded { csum: Csum::Unknown, gso: Gso::None, fix })
    }

    fn decode_gso(&self, head: &[u8], len: usize, gso: Gso) -> Result<Decoded, Contradiction> {
        let p = parse(head, len).map_err(|_| Contradiction)?;
        check_kind(head, &p, gso).map_err(|_| Contradiction)?;
        let (l4, size) = (usize::from(p.l4_off), usize::from(self.gso_size));
        let offset = p.csum_offset().ok_or(Contradiction)?;
        // Judged is what the IP header says, cut is what there is: a short header before a long frame would pass every
        // check of size.
        if p.frame_len() != len {
            return Err(Contradiction);
        }
        let enough = match p.proto {
            TCP => size >= MIN_SIZE,
            _ => p.payload_len().div_ceil(size) <= UDP_MAX_SEGMENTS,
        };
        if !enough {
            return Err(Contradiction);
        }
        let fix = if self.flags & NEEDS_CSUM != 0 {
            if self.csum_start != p.l4_off || self.csum_offset != offset {
                return Err(Contradiction);
            }
            Fix::None
        } else if self.flags & DATA_VALID != 0 {
            Fix::Pseudo { start: l4, offset: usize::from(offset), sum: fold(p.pseudo_sum(p.l4_len())) }
        } else {
            return Err(Contradiction);
        };
        let gso = if p.payload_len() <= size { Gso::None } else { gso };
        Ok(Decoded { csum: Csum::Partial { start: p.l4_off, offset }, gso, fix })
    }

    /// The header for a frame that is not tunnelled, `shift` bytes longer at the front of its IP header than `head`
    /// because a VLAN tag is put in while sending. `None`: the metadata contradict the frame.
    pub(crate) fn encode(csum: Csum, gso: Gso, head: &[u8], shift: u16) -> Option<VnetHdr> {
        let Csum::Partial { start, offset } = csum else {
            return (gso == Gso::None).then(VnetHdr::default);
        };
        let mut hdr = VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_NONE,
            hdr_len: (start + shift).checked_add(offset + 2)?,
            gso_size: 0,
            csum_start: start + shift,
            csum_offset: offset,
        };
        if usize::from(start + offset) + 2 > head.len() {
            return None;
        }
        hdr.gso_type = match gso {
            Gso::None => return Some(hdr),
            Gso::Tcp4 { .. } => GSO_TCPV4,
            Gso::Tcp6 { .. } => GSO_TCPV6,
            Gso::Udp { .. } => GSO_UDP_L4,
        };
        let l4_len = match gso {
            Gso::Udp { .. } => 8,
            _ => {
                let at = usize::from(start);
                if head.get(at + 13)? & 0x80 != 0 {
                    hdr.gso_type |= GSO_ECN;
                }
                u16::from(head[at + 12] >> 4) * 4
            }
        };
        hdr.hdr_len = start + shift + l4_len;
        hdr.gso_size = gso.size();
        Some(hdr)
    }

    /// The header for UDP datagrams of `size` payload bytes each, ready made behind one set of headers whose UDP
    /// header is at `udp`.
    pub(crate) fn udp_gso(udp: u16, size: u16) -> VnetHdr {
        VnetHdr {
            flags: NEEDS_CSUM,
            gso_type: GSO_UDP_L4,
            hdr_len: udp + 8,
            gso_size: size,
            csum_start: udp,
            csum_offset: 6,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use podplane_packet::wire::Ipv4;
    use podplane_packet::wire::proto::UDP;

    use super::*;

    fn sealed(mut f: Vec<u8>) -> Vec<u8> {
        Ipv4::new_header(&mut f[14..]).expect("a header").fill_checksum();
        f
    }

    fn tcp4(payload: usize) -> Vec<u8> {
        let mut f = vec![0u8; 14 + 20 + 20 + payload];
        f[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
        f[16..18].copy_from_slice(&(40 + payload as u16).to_be_bytes());
        f[14 + 9] = TCP;
        f[14 + 20 + 12] = 0x50;
        sealed(f)
    }

    fn hdr(flags: u8, gso_type: u8, gso_size: u16, csum_start: u16, csum_offset: u16) -> VnetHdr {
        VnetHdr { flags, gso_type, hdr_len: 54, gso_size, csum_start, csum_offset }
    }

    #[test]
    fn what_is_sent_is_read_back() {
        let mut f = tcp4(5000);
        f[14 + 20 + 13] = 0x90;
        let csum = Csum::Partial { start: 34, offset: 16 };
        for gso in [Gso::Tcp4 { size: 1448 }, Gso::None] {
            let h = VnetHdr::encode(csum, gso, &f, 0).expect("consistent");
            assert_eq!(h.decode(&f, f.len()), Ok(Decoded { csum, gso, fix: Fix::None }));
        }
        let h = VnetHdr::encode(csum, Gso::Tcp4 { size: 1448 }, &f, 4).expect("consistent");
        assert_eq!((h.gso_type, h.csum_start, h.hdr_len), (GSO_TCPV4 | GSO_ECN, 38, 58));
    }

    #[test]
    fn contradictions_are_refused() {
        let f = tcp4(3000);
        let honest = hdr(NEEDS_CSUM, GSO_TCPV4, 1000, 34, 16);
        assert!(honest.decode(&f, f.len()).is_ok());
        for flag in [0x02, 0x04] {
            let mut f = f.clone();
            f[14 + 20 + 13] |= flag;
            assert_eq!(honest.decode(&f, f.len()), Err(Contradiction), "SYN or RST would be many");
        }
        for bad in [
            hdr(NEEDS_CSUM, GSO_TCPV6, 1000, 34, 16),
            hdr(NEEDS_CSUM, GSO_UDP_L4, 1000, 34, 16),
            hdr(NEEDS_CSUM, GSO_TCPV4, 1000, 30, 16),
            hdr(NEEDS_CSUM, GSO_TCPV4, 1000, 34, 6),
            hdr(NEEDS_CSUM, GSO_TCPV4, 1, 34, 16),
            hdr(0, GSO_TCPV4, 1000, 34, 16),
            hdr(NEEDS_CSUM, 3, 1000, 34, 16),
            hdr(NEEDS_CSUM, GSO_NONE, 0, 60_000, 16),
            hdr(NEEDS_CSUM, GSO_NONE, 0, 4, 2),
        ] {
            assert_eq!(bad.decode(&f, f.len()), Err(Contradiction), "{bad:?}");
        }
    }

    #[test]
    fn a_frame_longer_or_shorter_than_its_ip_packet_is_not_cut() {
        let honest = hdr(NEEDS_CSUM, GSO_TCPV4, 1000, 34, 16);
        let mut f = tcp4(3000);
        assert!(honest.decode(&f, f.len()).is_ok());
        for said in [0u16, 100, 3039, 3041] {
            f[16..18].copy_from_slice(&said.to_be_bytes());
            let f = if said < 20 { f.clone() } else { sealed(f.clone()) };
            assert_eq!(honest.decode(&f, f.len()), Err(Contradiction), "{said} of 3040");
        }
        let honest = hdr(NEEDS_CSUM, GSO_UDP_L4, 1000, 54, 6);
        let mut f = vec![0u8; 14 + 40 + 8 + 3000];
        f[12..15].copy_from_slice(&[0x86, 0xdd, 0x60]);
        f[20] = UDP;
        f[18..20].copy_from_slice(&3008u16.to_be_bytes());
        f[58..60].copy_from_slice(&3008u16.to_be_bytes());
        assert!(honest.decode(&f, f.len()).is_ok());
        f[18..20].copy_from_slice(&60u16.to_be_bytes());
        assert_eq!(honest.decode(&f, f.len()), Err(Contradiction));
    }

    #[test]
    fn a_foreign_partial_checksum_is_completed_and_a_verified_frame_made_partial() {
        let f = tcp4(3000);
        let d = hdr(NEEDS_CSUM, GSO_NONE, 0, 60, 6).decode(&f, f.len()).expect("within bounds");
        assert_eq!((d.csum, d.fix), (Csum::Unknown, Fix::Complete { start: 60, offset: 6 }));
        let d = hdr(DATA_VALID, GSO_TCPV4, 1000, 0, 0).decode(&f, f.len()).expect("verified");
        assert_eq!(d.csum, Csum::Partial { start: 34, offset: 16 });
        assert_eq!(d.fix, Fix::Pseudo { start: 34, offset: 16, sum: 6 + 3020 });
    }

    proptest! {
        #[test]
        fn whatever_is_believed_lies_within_the_frame(
            raw in any::<[u8; 10]>(), mut bytes in proptest::collection::vec(any::<u8>(), 14..200), more in 0usize..70_000,
            sane in any::<bool>(),
        ) {
            let h = VnetHdr {
                flags: raw[0] & 3, gso_type: if sane { raw[1] % 6 } else { raw[1] },
                hdr_len: u16::from_ne_bytes([raw[2], raw[3]]), gso_size: u16::from_ne_bytes([raw[4], raw[5]]),
                csum_start: if sane { 34 } else { u16::from_ne_bytes([raw[6], raw[7]]) },
                csum_offset: if sane { 16 } else { u16::from_ne_bytes([raw[8], raw[9]]) },
            };
            if sane && bytes.len() > 60 {
                bytes[12..15].copy_from_slice(&[0x08, 0x00, 0x45]);
                bytes[20..22].fill(0);
                bytes[23] = TCP;
                bytes[46] = 0x50;
            }
            let len = bytes.len() + more;
            if sane && bytes.len() > 60 {
                bytes[16..18].copy_from_slice(&((len - 14) as u16).to_be_bytes());
                bytes = sealed(bytes);
            }
            if let Ok(d) = h.decode(&bytes, len) {
                if let Csum::Partial { start, offset } = d.csum {
                    prop_assert!(usize::from(start + offset) + 2 <= bytes.len());
                    prop_assert!(VnetHdr::encode(d.csum, d.gso, &bytes, 4).is_some());
                }
                if let Fix::Complete { start, offset } = d.fix {
                    prop_assert!(usize::from(start) + usize::from(offset) + 2 <= bytes.len());
                }
                prop_assert!(d.gso == Gso::None || d.gso.size() > 0);
            }
        }
    }
}
