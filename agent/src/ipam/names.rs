//! What is derived from an attachment's identity, so that it is the same whenever it is asked.

use std::hash::Hasher;

use podplane_api::AttachmentId;
use podplane_hostnet::Mac;
use siphasher::sip::SipHasher24;

/// Any two numbers, but never others: names must not change with a new version.
const KEYS: (u64, u64) = (0x506f_6470_6c61_6e65, 0x6174_7461_6368_6564);

fn hash(id: &AttachmentId, use_: u8, attempt: u32) -> u64 {
    let mut hasher = SipHasher24::new_with_keys(KEYS.0, KEYS.1);
    hasher.write_u8(use_);
    hasher.write_u32(attempt.to_le());
    hasher.write(id.container_id.as_bytes());
    hasher.write_u8(b'/');
    hasher.write(id.ifname.as_bytes());
    hasher.finish()
}

/// The pod's Ethernet address: unicast and locally administered (IEEE 802 section 8.4), never the gateway's.
pub(super) fn mac(id: &AttachmentId) -> Mac {
    let derive = |attempt| {
        let mut mac = [0; 6];
        mac.copy_from_slice(&hash(id, b'm', attempt).to_be_bytes()[..6]);
        mac[0] = mac[0] & 0xfc | 0x02;
        Mac(mac)
    };
    match derive(0) {
        Mac::GATEWAY => derive(1),
        mac => mac,
    }
}

/// The host end's name; `attempt` counts the ones that others have already.
pub(super) fn host_ifname(id: &AttachmentId, attempt: u32) -> String {
    format!("pp{:012x}", hash(id, b'i', attempt) >> 16)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(container_id: &str, ifname: &str) -> AttachmentId {
        AttachmentId { container_id: container_id.into(), ifname: ifname.into() }
    }

    /// A changed value would rename the devices of running pods.
    #[test]
    fn names_are_for_ever() {
        assert_eq!(host_ifname(&id("c1", "eth0"), 0), "ppea7baaf07dd1");
        assert_eq!(mac(&id("c1", "eth0")).to_string(), "4a:b9:16:e1:93:0f");
    }

    #[test]
    fn names_differ_by_all_that_identifies() {
        let names = [id("c1", "eth0"), id("c1", "eth1"), id("c2", "eth0")].map(|id| host_ifname(&id, 0));
        assert!(names[0] != names[1] && names[0] != names[2] && names[1] != names[2]);
        assert_ne!(host_ifname(&id("c1", "eth0"), 0), host_ifname(&id("c1", "eth0"), 1));
        assert!(names.iter().all(|name| name.len() == 14 && name.starts_with("pp")));
        for container in 0..100 {
            let mac = mac(&id(&container.to_string(), "eth0"));
            assert!(!mac.is_group() && mac.0[0] & 2 == 2);
        }
    }
}
