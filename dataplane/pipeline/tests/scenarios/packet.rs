//! Packets as text: from text to bytes, from bytes to text, and patterns.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;

use podplane_packet::buf::{Csum, Gso, Meta};
use podplane_packet::checksum;
use podplane_packet::id::Mac;
use podplane_packet::parse::{Addrs, L4, Parsed, Verdict, parse, parse_l3, transport_ok};
use podplane_packet::testing::{FrameSpec, Ip, Transport, VecBuf};
use podplane_packet::wire::ipv4::MF;
use podplane_packet::wire::{EtherType, Ipv4, proto};

use crate::common::addresses;

/// What addresses are called, in one family.
#[derive(Clone, Debug)]
pub struct Names {
    by_name: BTreeMap<String, IpAddr>,
}

impl Names {
    pub fn new(declared: &BTreeMap<String, Vec<IpAddr>>, v6: bool) -> Names {
        let mut names = Names { by_name: BTreeMap::new() };
        for (name, all) in declared {
            all.iter().filter(|a| a.is_ipv6() == v6).for_each(|a| names.add(name, *a));
        }
        names
    }

    /// # Panics
    /// If the name, or the address, has a meaning already: the file must choose another.
    pub fn add(&mut self, name: &str, address: IpAddr) {
        assert!(!self.by_name.values().any(|a| *a == address), "{address} is named already, before '{name}'");
        let before = self.by_name.insert(name.to_owned(), address);
        assert_eq!(before, None, "the name '{name}' is given twice");
    }

    pub fn address(&self, name: &str) -> Result<IpAddr, String> {
        self.by_name.get(name).copied().ok_or_else(|| format!("'{name}' is no name of an address in this family"))
    }

    fn name(&self, address: IpAddr) -> String {
        let found = self.by_name.iter().find(|(_, a)| **a == address);
        found.map_or_else(|| address.to_string(), |(name, _)| name.clone())
    }

    /// `name:port`.
    pub fn socket(&self, text: &str) -> Result<(IpAddr, u16), String> {
        let (name, port) = text.split_once(':').unwrap_or((text, "0"));
        let port = port.parse().map_err(|_| format!("'{port}' is no port"))?;
        Ok((self.address(name)?, port))
    }
}

/// What `$names` in patterns stood for.
#[derive(Clone, Debug, Default)]
pub struct Variables(BTreeMap<String, String>);

impl fmt::Display for Variables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl Variables {
    pub fn new() -> Variables {
        Variables::default()
    }

    /// The text with what its variables stand for.
    pub fn put_in(&self, text: &str) -> Result<String, String> {
        let mut out = text.to_owned();
        for (name, value) in self.0.iter().rev() {
            out = out.replace(name, value);
        }
        if out.contains('$') { Err(format!("a variable of '{text}' stands for nothing yet")) } else { Ok(out) }
    }

    /// Whether a piece is what the pattern says; a new variable takes it.
    fn piece(&mut self, pattern: &str, actual: &str) -> bool {
        if !pattern.starts_with('$') {
            return pattern == actual;
        }
        self.0.entry(pattern.to_owned()).or_insert_with(|| actual.to_owned()) == actual
    }
}

/// Whether a packet, as [`describe`] words it, is like a pattern: the same kind and ends, and every further word of the
/// pattern. Variables keep what they took only if all of it is.
pub fn matches(pattern: &str, actual: &str, variables: &mut Variables) -> bool {
    let mut tried = variables.clone();
    let ok = all(pattern, actual, &mut tried);
    if ok {
        *variables = tried;
    }
    ok
}

fn all(pattern: &str, actual: &str, variables: &mut Variables) -> bool {
    let (pattern, about) = split_about(pattern);
    let (actual, actual_about) = split_about(actual);
    let words: Vec<&str> = pattern.split_whitespace().collect();
    let found: Vec<&str> = actual.split_whitespace().collect();
    let (Some(head), Some(found_head)) = (words.get(..4), found.get(..4)) else { return false };
    let ends = head.iter().zip(found_head).all(|(p, a)| {
        let (p, a): (Vec<_>, Vec<_>) = (p.split(':').collect(), a.split(':').collect());
        p.len() == a.len() && p.iter().zip(a).all(|(p, a)| variables.piece(p, a))
    });
    let rest = words[4..].iter().all(|p| match p.split_once("=$") {
        None => found[4..].contains(p),
        Some((key, _)) => found[4..]
            .iter()
            .filter_map(|a| a.split_once('='))
            .any(|(k, value)| k == key && variables.piece(&p[key.len() + 1..], value)),
    });
    let about = match (about, actual_about) {
        (None, _) => true,
        (Some(p), Some(a)) => all(p, a, variables),
        (Some(_), None) => false,
    };
    ends && rest && about
}

fn split_about(text: &str) -> (&str, Option<&str>) {
    text.split_once(" about ").map_or((text, None), |(a, b)| (a, Some(b)))
}

/// The bytes behind a transport header: the same for every packet of that length.
fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7) as u8).collect()
}

const FLAGS: [(&str, u8); 5] = [("FIN", 1), ("SYN", 2), ("RST", 4), ("PSH", 8), ("ACK", 16)];

/// Type and code.
type Icmp = (u8, u8);

/// ICMP errors: name, type and code of IPv4, of IPv6.
const ERRORS: [(&str, Icmp, Icmp); 6] = [
    ("port-unreachable", (3, 3), (1, 4)),
    ("too-big", (3, 4), (2, 0)),
    ("ttl-exceeded", (11, 0), (3, 0)),
    ("no-route", (3, 0), (1, 0)),
    ("host-unreachable", (3, 1), (1, 3)),
    ("prohibited", (3, 13), (1, 1)),
];

/// The `key=value` words of a packet.
struct Options<'a>(Vec<&'a str>);

impl Options<'_> {
    fn get(&self, key: &str, default: u32) -> Result<u32, String> {
        let found = self.0.iter().filter_map(|w| w.split_once('=')).find(|(k, _)| *k == key);
        found.map_or(Ok(default), |(_, v)| v.parse().map_err(|_| format!("'{v}' is no number")))
    }
}

/// What a text says beyond the packet's fields.
#[derive(Clone, Copy, Debug, Default)]
pub struct Shape {
    /// Only these bytes behind the IP header: a fragment.
    piece: Option<(usize, usize)>,
    /// The checksum is left to whoever sends the packet on.
    partial: bool,
    /// It is to be cut into segments of that many bytes.
    gso: u16,
    /// Only so many bytes behind the IP header, which says so.
    short: Option<usize>,
}

/// Reads the words that say so.
pub fn shape(text: &str) -> Result<Shape, String> {
    let words: Vec<&str> = split_about(text).0.split_whitespace().collect();
    let options = Options(words.clone());
    let (from, to) = (options.get("from", 0)? as usize, options.get("to", 0)? as usize);
    let gso = options.get("gso", 0)? as u16;
    let short = words.iter().any(|w| w.starts_with("short=")).then(|| options.get("short", 0)).transpose()?;
    let short = short.map(|n| n as usize);
    Ok(Shape { piece: (to > from).then_some((from, to)), partial: gso != 0 || words.contains(&"partial"), gso, short })
}

/// The frame of a packet in its shape.
pub fn frame(spec: &FrameSpec, shape: Shape) -> Result<VecBuf, String> {
    if let Some((from, to)) = shape.piece {
        return cut(spec, from, to).map(|bytes| VecBuf::new(&bytes));
    }
    let mut bytes = spec.build();
    if let Some(short) = shape.short {
        shorten(spec, &mut bytes, short);
        return Ok(VecBuf::new(&bytes));
    }
    if !shape.partial {
        return Ok(VecBuf::new(&bytes));
    }
    let p = parse(&bytes, bytes.len()).map_err(|e| e.to_string())?;
    let len = p.l4_len() as u32;
    let pseudo = match p.addrs {
        Addrs::V4 { src, dst } => checksum::pseudo_v4(src, dst, p.proto, len),
        Addrs::V6 { src, dst } => checksum::pseudo_v6(src, dst, p.proto, len),
        Addrs::None => 0,
    };
    let offset: u16 = if p.proto == proto::TCP { 16 } else { 6 };
    let at = usize::from(p.l4_off + offset);
    bytes[at..at + 2].copy_from_slice(&checksum::fold(pseudo).to_be_bytes());
    let gso = match (shape.gso, p.addrs.is_v6()) {
        (0, _) => Gso::None,
        (size, false) => Gso::Tcp4 { size },
        (size, true) => Gso::Tcp6 { size },
    };
    let csum = Csum::Partial { start: p.l4_off, offset };
    Ok(VecBuf::new(&bytes).with_meta(Meta { csum, gso, ..Meta::default() }))
}

/// Takes the packet's end away.
fn shorten(spec: &FrameSpec, bytes: &mut Vec<u8>, keep: usize) {
    let (l3, l4) = (spec.l2_len(), spec.l2_len() + spec.l3_header_len());
    bytes.truncate(l4 + keep);
    let len = (bytes.len() - l3) as u16;
    match Ipv4::new_header(&mut bytes[l3..]) {
        Ok(mut ip) => {
            ip.set_total_len(len);
            ip.fill_checksum();
        }
        Err(_) => bytes[l3 + 4..l3 + 6].copy_from_slice(&(len - 40).to_be_bytes()),
    }
}

/// A fragment: bytes `from` to `to` of what is behind the IP header.
fn cut(spec: &FrameSpec, from: usize, to: usize) -> Result<Vec<u8>, String> {
    let mut spec = spec.clone();
    if let Ip::V6 { extensions, .. } = &mut spec.ip {
        extensions.push((proto::FRAGMENT, vec![0, 0, 0, 0, 0, 77]));
    }
    let whole = spec.build();
    let (l3, l4) = (spec.l2_len(), spec.l2_len() + spec.l3_header_len());
    let data = whole.get(l4 + from..l4 + to).ok_or("the fragment goes beyond its packet")?;
    let more = l4 + to < whole.len();
    let mut f = [&whole[..l4], data].concat();
    let len = (f.len() - l3) as u16;
    if let Ok(mut ip) = Ipv4::new_header(&mut f[l3..]) {
        ip.set_total_len(len);
        ip.set_flags_offset((from / 8) as u16 | if more { MF } else { 0 });
        ip.fill_checksum();
    } else {
        f[l3 + 4..l3 + 6].copy_from_slice(&(len - 40).to_be_bytes());
        f[l4 - 6..l4 - 4].copy_from_slice(&(from as u16 | u16::from(more)).to_be_bytes());
    }
    Ok(f)
}

/// Makes the packet that a text describes; MACs are left to whoever sends it.
pub fn build(text: &str, names: &Names) -> Result<FrameSpec, String> {
    let (text, about) = split_about(text);
    let words: Vec<&str> = text.split_whitespace().collect();
    let &[kind, src, ">", dst, ..] = &words[..] else { return Err(format!("'{text}' is not 'KIND FROM > TO ...'")) };
    let ((src, sport), (dst, dport)) = (names.socket(src)?, names.socket(dst)?);
    let options = Options(words[4..].to_vec());
    let v6 = src.is_ipv6();
    let mut ip = addresses(src, dst);
    let extended = words.contains(&"extended");
    match &mut ip {
        Ip::V4 { df, options: more, .. } => {
            *df = options.get("df", 1)? == 1;
            if extended {
                // No operation, and a router alert (RFC 2113).
                *more = vec![1, 1, 1, 1, 148, 4, 0, 0];
            }
        }
        Ip::V6 { extensions, .. } if extended => {
            // Hop-by-hop and destination options, each of padding alone (RFC 8200 section 4.2).
            *extensions = vec![(0, vec![1, 4, 0, 0, 0, 0]), (60, vec![1, 4, 0, 0, 0, 0])];
        }
        Ip::V6 { .. } => {}
    }
    let mut body = payload(options.get("len", if kind == "tcp" { 0 } else { 16 })? as usize);
    let l4 = match kind {
        "tcp" => {
            let words = options.0.iter().filter(|w| !w.contains('=') && !matches!(**w, "partial" | "extended"));
            let flags = words.flat_map(|w| w.split(',')).map(|w| {
                let found = FLAGS.iter().find(|(name, _)| *name == w);
                found.map(|f| f.1).ok_or_else(|| format!("'{w}' is no TCP flag"))
            });
            let flags = flags.sum::<Result<u8, String>>()?;
            let (seq, ack) = (options.get("seq", 1000)?, options.get("ack", 2000)?);
            Transport::Tcp { sport, dport, seq, ack, flags, window: 500, options: Vec::new() }
        }
        "udp" => Transport::Udp { sport, dport },
        "sctp" => Transport::Sctp { sport, dport },
        "ping" | "pong" => {
            let id = options.get("id", 1)? as u16;
            let kind = if v6 { 128 + u8::from(kind == "pong") } else { 8 * u8::from(kind == "ping") };
            Transport::Icmp { kind, code: 0, rest: [(id >> 8) as u8, id as u8, 0, 1] }
        }
        other => {
            let error = ERRORS.iter().find(|(name, ..)| *name == other);
            let (_, four, six) = error.ok_or_else(|| format!("'{other}' is no kind of packet"))?;
            let (kind, code) = if v6 { *six } else { *four };
            let about = about.ok_or_else(|| format!("'{text}': an error is about a packet"))?;
            let quoted = build(about, names)?.build()[14..].to_vec();
            body = quoted[..quoted.len().min(options.get("quote", 500)? as usize)].to_vec();
            Transport::Icmp { kind, code, rest: options.get("mtu", 0)?.to_be_bytes() }
        }
    };
    let ttl = options.get("ttl", 64)? as u8;
    Ok(FrameSpec { dst_mac: Mac::default(), src_mac: Mac::default(), vlan: None, tos: 0, ttl, ip, l4, payload: body })
}

fn flags(bits: u8) -> String {
    FLAGS.iter().filter(|(_, bit)| bits & bit != 0).map(|(name, _)| *name).collect::<Vec<_>>().join(",")
}

/// Words a frame, after checking all that a text does not say.
///
/// # Errors
/// A header, checksum or payload is wrong.
pub fn describe(bytes: &[u8], names: &Names) -> Result<String, String> {
    let p = parse(bytes, bytes.len()).map_err(|e| format!("a frame that came out cannot be parsed: {e}"))?;
    if transport_ok(&VecBuf::new(bytes), &p) == Verdict::Bad {
        return Err(format!("wrong checksum: {}", word(&p, bytes, names)));
    }
    if p.proto == proto::SCTP && p.fragment.is_none() {
        let packet = &bytes[p.l4_off.into()..p.frame_len()];
        let mut zeroed = packet.to_vec();
        zeroed[8..12].fill(0);
        let crc = podplane_packet::testing::naive_crc32c(&zeroed).to_le_bytes();
        if packet[8..12] != crc {
            return Err(format!("wrong CRC: {}", word(&p, bytes, names)));
        }
    }
    let text = word(&p, bytes, names);
    if let L4::IcmpError { .. } = p.l4 {
        return Ok(format!("{text} about {}", quoted(&p, bytes, names)?));
    }
    let body = &bytes[p.payload_off.into()..p.frame_len()];
    let ok = match p.fragment {
        None => body == payload(body.len()),
        Some(f) if f.is_first() => first_fragment(&p, bytes),
        // Behind a UDP header.
        Some(f) => body == &payload(usize::from(f.offset) - 8 + body.len())[usize::from(f.offset) - 8..],
    };
    if ok { Ok(text) } else { Err(format!("another payload, or a fragment's wrong checksum: {text}")) }
}

/// Whether a first fragment is that of a UDP packet as it would have been sent: its checksum covers what is not here.
fn first_fragment(p: &Parsed, bytes: &[u8]) -> bool {
    let data = &bytes[p.l4_off.into()..p.frame_len()];
    let (Some(src), Some(dst), L4::Ports { src: sport, dst: dport }) = (p.addrs.src(), p.addrs.dst(), p.l4) else {
        return false;
    };
    let len = usize::from(u16::from_be_bytes([data[4], data[5]])) - 8;
    let mac = Mac::default();
    let (ip, l4) = (addresses(src, dst), Transport::Udp { sport, dport });
    let whole = FrameSpec { dst_mac: mac, src_mac: mac, vlan: None, tos: 0, ttl: 64, ip, l4, payload: payload(len) };
    p.proto == proto::UDP && whole.build()[whole.l2_len() + whole.l3_header_len()..].starts_with(data)
}

/// Words a packet that an error quotes, whose checksums must be right as far as it goes.
fn quoted(p: &Parsed, bytes: &[u8], names: &Names) -> Result<String, String> {
    let e = p.embedded(bytes).map_err(|e| format!("a quotation cannot be parsed: {e}"))?;
    let ethertype = if e.addrs.is_v6() { EtherType::IPV6 } else { EtherType::IPV4 };
    let frame = [&[0; 14][..], &bytes[e.l3_off.into()..p.frame_len()]].concat();
    if let Ok(inner) = parse_l3(&frame, ethertype, None, 14, frame.len())
        && transport_ok(&VecBuf::new(&frame), &inner) == Verdict::Bad
    {
        return Err(format!("wrong checksum in the quotation of: {}", word(p, bytes, names)));
    }
    Ok(ends(e.proto, e.l4, &e.addrs, names))
}

fn ends(protocol: u8, l4: L4, addrs: &Addrs, names: &Names) -> String {
    let (src, dst) = (addrs.src().map(|a| names.name(a)), addrs.dst().map(|a| names.name(a)));
    let (src, dst) = (src.unwrap_or_default(), dst.unwrap_or_default());
    match (protocol, l4) {
        (proto::TCP, L4::Ports { src: s, dst: d }) => format!("tcp {src}:{s} > {dst}:{d}"),
        (proto::UDP, L4::Ports { src: s, dst: d }) => format!("udp {src}:{s} > {dst}:{d}"),
        (proto::SCTP, L4::Ports { src: s, dst: d }) => format!("sctp {src}:{s} > {dst}:{d}"),
        (_, L4::Echo { request, id }) => {
            format!("{} {src} > {dst} id={id}", if request { "ping" } else { "pong" })
        }
        (_, L4::IcmpError { kind, code }) => {
            let v6 = addrs.is_v6();
            let named = ERRORS.iter().find(|(_, four, six)| (kind, code) == if v6 { *six } else { *four });
            let kind = named.map_or_else(|| format!("icmp-{kind}-{code}"), |e| e.0.to_owned());
            format!("{kind} {src} > {dst}")
        }
        _ => format!("protocol-{protocol} {src} > {dst}"),
    }
}

fn word(p: &Parsed, bytes: &[u8], names: &Names) -> String {
    let mut text = ends(p.proto, p.l4, &p.addrs, names);
    let at = usize::from(p.l4_off);
    let number = |at: usize| u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
    if p.proto == proto::TCP && p.l4 != L4::None {
        text += &format!(" {} seq={} ack={}", flags(p.tcp_flags.0), number(at + 4), number(at + 8));
    }
    if matches!(p.l4, L4::IcmpError { .. }) {
        text += &format!(" mtu={}", number(at + 4));
    }
    if let Some(f) = p.fragment {
        text += &format!(" offset={} more={}", f.offset, u8::from(f.more));
    }
    format!("{text} ttl={} len={}", p.ttl, p.payload_len())
}
