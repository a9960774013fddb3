//! The addresses of a range that pods can have.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// Family and address; sorts as addresses do.
pub(super) type Bytes = [u8; 17];

pub(super) fn to_bytes(address: IpAddr) -> Bytes {
    let mut bytes = [0; 17];
    bytes[0] = if address.is_ipv4() { 4 } else { 6 };
    bytes[1..].copy_from_slice(&number(address).to_be_bytes());
    bytes
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u32::from(v4).into(),
        IpAddr::V6(v6) => v6.into(),
    }
}

pub(super) fn from_bytes(bytes: &Bytes) -> IpAddr {
    let mut number = [0; 16];
    number.copy_from_slice(&bytes[1..]);
    let number = u128::from_be_bytes(number);
    // The family decides how much of the number there is.
    if bytes[0] == 4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() }
}

/// From the network's + 2 (the network itself is nobody's, IPv6: the routers' anycast address of RFC 4291 section
/// 2.6.1; + 1 is the node's) to the last but IPv4's broadcast.
#[derive(Clone, Copy, Debug)]
pub(super) struct Room {
    v4: bool,
    first: u128,
    last: u128,
}

impl Room {
    pub(super) fn of(net: &IpNet) -> Room {
        let v4 = net.addr().is_ipv4();
        let (network, end) = (number(net.network()), number(net.broadcast()));
        Room { v4, first: network.saturating_add(2), last: end - u128::from(v4) }
    }

    /// Whether a pod can have `address`, one of the range.
    pub(super) fn holds(&self, address: IpAddr) -> bool {
        (self.first..=self.last).contains(&number(address))
    }

    /// How many addresses there are, as many as fit the type.
    pub(super) fn size(&self) -> u64 {
        let all = self.last.checked_sub(self.first).map_or(0, |less| less.saturating_add(1));
        u64::try_from(all).unwrap_or(u64::MAX)
    }

    /// All addresses once, beginning behind `cursor`.
    pub(super) fn behind(&self, cursor: Option<IpAddr>) -> impl Iterator<Item = IpAddr> + use<> {
        let Room { v4, first, last } = *self;
        let start = match cursor.map(number) {
            Some(cursor) if (first..last).contains(&cursor) => cursor + 1,
            _ => first,
        };
        let address =
            move |number: u128| if v4 { Ipv4Addr::from(number as u32).into() } else { Ipv6Addr::from(number).into() };
        (start..=last).chain(first..start).map(address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(net: &str, cursor: Option<&str>) -> Vec<String> {
        let room = Room::of(&net.parse().unwrap());
        room.behind(cursor.map(|c| c.parse().unwrap())).map(|a| a.to_string()).collect()
    }

    #[test]
    fn network_own_address_and_broadcast_are_left_out() {
        assert_eq!(all("10.0.0.0/29", None), ["10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"]);
        assert_eq!(all("fd00::/126", None), ["fd00::2", "fd00::3"]);
        assert_eq!(all("10.0.0.0/30", None), ["10.0.0.2"]);
        assert_eq!(all("10.0.0.0/31", None), [""; 0]);
        assert_eq!(all("10.0.0.0/32", None), [""; 0]);
        assert_eq!(Room::of(&"10.0.0.0/24".parse().unwrap()).size(), 253);
        assert_eq!(Room::of(&"10.0.0.0/32".parse().unwrap()).size(), 0);
        assert_eq!(Room::of(&"fd00::/48".parse().unwrap()).size(), u64::MAX);
        assert_eq!(Room::of(&"ffff::/16".parse().unwrap()).size(), u64::MAX);
    }

    #[test]
    fn the_search_begins_behind_the_last_and_wraps() {
        assert_eq!(all("10.0.0.0/29", Some("10.0.0.5")), ["10.0.0.6", "10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5"]);
        assert_eq!(all("10.0.0.0/29", Some("10.0.0.6"))[0], "10.0.0.2");
        assert_eq!(all("10.0.0.0/29", Some("192.0.2.1"))[0], "10.0.0.2");
    }

    #[test]
    fn bytes_sort_as_addresses_and_come_back() {
        let addresses: Vec<IpAddr> = ["0.0.0.0", "9.255.0.1", "10.0.0.1", "255.255.255.255", "::1", "fd00::1"]
            .map(|a| a.parse().unwrap())
            .into();
        assert!(addresses.windows(2).all(|pair| to_bytes(pair[0]) < to_bytes(pair[1])));
        assert!(addresses.iter().all(|a| from_bytes(&to_bytes(*a)) == *a));
    }
}
