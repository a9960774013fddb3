//! Text form of Ethernet addresses, and fresh ones.

use podplane_packet::id::Mac;

use crate::{Error, Result};

/// Reads `aa:bb:cc:dd:ee:ff`: six groups of exactly two hexadecimal digits.
pub fn parse_mac(text: &str) -> Result<Mac> {
    let bad = || Error::Invalid(format!("\"{text}\" is not an Ethernet address: expected aa:bb:cc:dd:ee:ff"));
    let mut bytes = [0u8; 6];
    let mut groups = text.split(':');
    for byte in &mut bytes {
        let group = groups.next().ok_or_else(bad)?;
        if group.len() != 2 || !group.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(bad());
        }
        *byte = u8::from_str_radix(group, 16).map_err(|_| bad())?;
    }
    if groups.next().is_some() {
        return Err(bad());
    }
    Ok(Mac(bytes))
}

/// A fresh locally administered unicast address, from the kernel's random numbers.
pub fn random_mac() -> Result<Mac> {
    let what = "read /dev/urandom";
    let mut bytes = [0u8; 6];
    let mut file = std::fs::File::open("/dev/urandom").map_err(|e| Error::io(what, e))?;
    std::io::Read::read_exact(&mut file, &mut bytes).map_err(|e| Error::io(what, e))?;
    bytes[0] = (bytes[0] | 0x02) & 0xfe;
    Ok(Mac(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trip_and_refusals() {
        assert_eq!(parse_mac("02:50:50:00:00:01").unwrap(), Mac::GATEWAY);
        assert_eq!(parse_mac("02:50:50:00:00:01").unwrap().to_string(), "02:50:50:00:00:01");
        for bad in
            ["", "02:50:50:00:00", "02:50:50:00:00:01:02", "2:50:50:00:00:01", "+2:50:50:00:00:01", "gg:50:50:00:00:01"]
        {
            assert!(parse_mac(bad).is_err(), "{bad}");
        }
        let mac = random_mac().unwrap();
        assert!(!mac.is_group() && mac.0[0] & 2 != 0);
    }
}
