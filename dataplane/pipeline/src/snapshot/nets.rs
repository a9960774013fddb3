//! Addresses and ranges of them.

use std::net::IpAddr;

use super::Prefix;

/// A few ranges of addresses, compared one after another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Nets(Box<[Net]>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Net {
    bits: u128,
    mask: u128,
}

/// An address as a number, IPv4 in its mapped form, which no packet may have.
#[inline]
pub(crate) fn number(a: IpAddr) -> u128 {
    match a {
        IpAddr::V4(a) => 0xffff_0000_0000 | u128::from(u32::from(a)),
        IpAddr::V6(a) => a.into(),
    }
}

impl Nets {
    /// `None`: a prefix is longer than its family's addresses.
    pub(crate) fn new<'a>(prefixes: impl IntoIterator<Item = &'a Prefix>) -> Option<Nets> {
        let net = |p: &Prefix| {
            let len = match p.addr {
                IpAddr::V4(_) if p.len <= 32 => 96 + u32::from(p.len),
                IpAddr::V6(_) if p.len <= 128 => u32::from(p.len),
                _ => return None,
            };
            let mask = u128::MAX.checked_shl(128 - len).unwrap_or(0);
            // All of IPv6 is no IPv4 address.
            Some(Net { bits: number(p.addr) & mask, mask })
        };
        prefixes.into_iter().map(net).collect::<Option<_>>().map(Nets)
    }

    /// Whether one of the ranges holds the address.
    #[inline]
    pub(crate) fn contains(&self, a: IpAddr) -> bool {
        let (bits, v4) = (number(a), a.is_ipv4());
        // Short IPv6 prefixes would hold mapped addresses.
        self.0.iter().any(|n| bits & n.mask == n.bits && v4 == (n.bits >> 32 == 0xffff))
    }
}

/// Whether an address can be a node's, a pod's or a VTEP's.
pub(super) fn usable(a: IpAddr) -> bool {
    match a {
        IpAddr::V4(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_broadcast() || a.is_link_local())
                && a.octets()[0] != 0
                && a.octets()[0] < 240
        }
        IpAddr::V6(a) => {
            !(a.is_unspecified() || a.is_loopback() || a.is_multicast() || a.is_unicast_link_local())
                && a.to_ipv4_mapped().is_none()
        }
    }
}

impl Prefix {
    /// The network's first address. `None`: the length exceeds the family's.
    pub(super) fn network(&self) -> Option<IpAddr> {
        match self.addr {
            IpAddr::V4(a) if self.len <= 32 => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                Some(IpAddr::V4((u32::from(a) & mask).into()))
            }
            IpAddr::V6(a) if self.len <= 128 => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                Some(IpAddr::V6((u128::from(a) & mask).into()))
            }
            _ => None,
        }
    }

    pub(super) fn overlaps(&self, other: &Prefix) -> bool {
        let len = self.len.min(other.len);
        self.addr.is_ipv4() == other.addr.is_ipv4()
            && Prefix { addr: self.addr, len }.network() == Prefix { addr: other.addr, len }.network()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_not_mixed_up() {
        let prefix = |addr: &str, len| Prefix { addr: addr.parse().expect("an address"), len };
        let ip = |a: &str| a.parse::<IpAddr>().expect("an address");
        let nets = Nets::new(&[prefix("::", 0), prefix("10.1.2.3", 8)]).expect("valid");
        assert!(nets.contains(ip("2001:db8::1")) && nets.contains(ip("10.255.0.1")));
        assert!(!nets.contains(ip("11.0.0.1")), "all of IPv6 is none of IPv4");
        let all = Nets::new(&[prefix("0.0.0.0", 0)]).expect("valid");
        assert!(all.contains(ip("192.0.2.1")) && !all.contains(ip("::1")));
        assert_eq!(Nets::new(&[prefix("10.0.0.0", 33)]), None);
    }
}
