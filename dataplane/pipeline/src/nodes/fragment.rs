//! Cuts an IPv4 packet without DF to the next hop's MTU (RFC 791 section 3.2).
//!
//! Uses: `cut`, `ip`, `out`, `pass`. Sets: nothing; the fragments take the packet's place.
//!
//! The transport checksum is completed before, for no port could do it any more. Options without the copied flag stay
//! in the first fragment only. A fragment may be smaller than the MTU, so that it fits a small buffer.
//!
//! Next: `deliver`, `encap` or `outside` for each fragment.

use podplane_packet::buf::{Csum, PacketBuf};
use podplane_packet::checksum;
use podplane_packet::wire::ipv4::{self, IPV4_LEN};
use podplane_tables::flow::Action;

use super::classify::ETH_LEN;
use super::{Next, Pkt, World, deliver, encap, outside};
use crate::drop::DropReason;
use crate::env::Env;
use crate::graph::Node;
use crate::headers;
use crate::world::Ctx;

pub(crate) const NODE: Node = Node {
    does: "Cuts IPv4 packets without DF to the MTU.",
    drops: &[DropReason::FragmentationFailed, DropReason::BadOffload, DropReason::NoBuffers, DropReason::NotJudged],
    parses: false,
};

/// The longest fragment, header included: it must fit a small buffer.
const LONGEST: usize = 1600;
/// The longest IPv4 header.
const MAX_HEADER: usize = 60;

pub(crate) fn process<E: Env>(w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
    if checksum::complete(&mut p.buf).is_err() {
        return Next::Drop(DropReason::BadOffload);
    }
    match cut(w, p) {
        Ok(()) => Next::Replaced,
        Err(reason) => Next::Drop(reason),
    }
}

fn cut<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>) -> Result<(), DropReason> {
    let l3 = usize::from(p.ctx.l3);
    let first_len = usize::from(p.ctx.ip.header);
    let mut first = [0; MAX_HEADER];
    let header = p.buf.head().get(l3..l3 + first_len).ok_or(DropReason::FragmentationFailed)?;
    first.get_mut(..first_len).ok_or(DropReason::FragmentationFailed)?.copy_from_slice(header);
    let (later, later_len) = later_header(&first[..first_len]);
    let limit = usize::from(p.ctx.cut).min(LONGEST);
    let payload = (p.ctx.ip.len as usize).saturating_sub(first_len);
    let flags = u16::from_be_bytes([first[6], first[7]]);
    let (base, more_after) = (flags & ipv4::OFFSET_MASK, flags & ipv4::MF);
    let mut done = 0;
    while done < payload {
        let header = if done == 0 { &first[..first_len] } else { &later[..later_len] };
        let room = limit.saturating_sub(header.len()) & !7;
        if room == 0 {
            return Err(DropReason::FragmentationFailed);
        }
        let take = room.min(payload - done);
        let last = done + take == payload;
        let offset = base + (done / 8) as u16;
        let field = offset | if last { more_after } else { ipv4::MF };
        let piece = build(w, p, header, field, l3 + first_len + done, take)?;
        send(w, p, piece)?;
        done += take;
    }
    Ok(())
}

/// The header of all fragments but the first: options without the copied flag are left out (RFC 791 section 3.1).
fn later_header(first: &[u8]) -> ([u8; MAX_HEADER], usize) {
    let mut header = [0; MAX_HEADER];
    header[..IPV4_LEN].copy_from_slice(&first[..IPV4_LEN]);
    let mut len = IPV4_LEN;
    for option in ipv4::options(&first[IPV4_LEN..]).map_while(Result::ok).filter(ipv4::Ipv4Option::copied) {
        let size = 2 + option.data.len();
        if let Some(place) = header.get_mut(len..len + size) {
            place[0] = option.kind;
            place[1] = size as u8;
            place[2..].copy_from_slice(option.data);
            len += size;
        }
    }
    // Zeros behind the options mean "end of options".
    len = len.next_multiple_of(4).min(MAX_HEADER);
    header[0] = 0x40 | (len / 4) as u8;
    (header, len)
}

fn build<E: Env>(
    w: &mut World<'_, E>,
    p: &Pkt<E::Buf>,
    header: &[u8],
    flags_offset: u16,
    from: usize,
    take: usize,
) -> Result<E::Buf, DropReason> {
    let mut buf = w.env.alloc().ok_or(DropReason::NoBuffers)?;
    let eth = usize::from(p.ctx.l3) - ETH_LEN;
    let mut ok = buf.append(&p.buf.head()[eth..eth + ETH_LEN]) && buf.append(header);
    ok = ok && p.buf.for_each_slice(from, take, &mut |bytes| ok_append(&mut buf, bytes));
    if !ok || buf.len() != ETH_LEN + header.len() + take {
        w.st.abandoned += 1;
        return Err(DropReason::NoBuffers);
    }
    let ip = &mut buf.head_mut()[ETH_LEN..];
    ip[2..4].copy_from_slice(&((header.len() + take) as u16).to_be_bytes());
    ip[6..8].copy_from_slice(&flags_offset.to_be_bytes());
    headers::fill_v4_checksum(ip, header.len());
    *buf.meta_mut() = podplane_packet::buf::Meta { port: p.ctx.via.port, csum: Csum::Unknown, ..Default::default() };
    Ok(buf)
}

/// A failure shows in the length afterwards.
fn ok_append<B: PacketBuf>(buf: &mut B, bytes: &[u8]) {
    let _ = buf.append(bytes);
}

fn send<E: Env>(w: &mut World<'_, E>, p: &Pkt<E::Buf>, buf: E::Buf) -> Result<(), DropReason> {
    let pass = p.ctx.pass.as_ref().ok_or(DropReason::NotJudged)?.for_fragment();
    let mut ctx = Ctx::new(p.ctx.via.port);
    ctx.via = p.ctx.via;
    ctx.class = p.ctx.class;
    ctx.l3 = ETH_LEN as u16;
    ctx.ip = p.ctx.ip;
    ctx.hash = p.ctx.hash;
    ctx.out = p.ctx.out;
    ctx.pass = Some(pass);
    let mut piece = Pkt { buf, ctx: &mut ctx };
    let next = match piece.ctx.out {
        Action::Encap(_) | Action::Enter(_) => encap::process(w, &mut piece),
        Action::Outside(_) => outside::process(w, &mut piece),
        _ => deliver::process(w, &mut piece),
    };
    w.finish(piece, next);
    Ok(())
}
