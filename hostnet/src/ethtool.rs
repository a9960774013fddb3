//! Offload features of devices, through ethtool's netlink family (Linux 5.6): no ioctl, hence no unsafe code.

use netlink_sys::protocols::NETLINK_GENERIC;

use crate::{
    Error, Netns, Result,
    raw::{Attributes, RawSocket, Request, attributes},
};

/// Offloads of a veth that a virtio network header cannot describe: a frame that uses one would reach our AF_PACKET
/// socket with a header that says nothing of it. Tunnel, GRE, IPIP and SCTP segmentation, SCTP checksums, and the
/// partial and list forms of GSO.
pub const NOT_IN_VIRTIO: &[&str] = &[
    "tx-udp_tnl-segmentation",
    "tx-udp_tnl-csum-segmentation",
    "tx-gre-segmentation",
    "tx-gre-csum-segmentation",
    "tx-ipxip4-segmentation",
    "tx-ipxip6-segmentation",
    "tx-gso-partial",
    "tx-tunnel-remcsum-segmentation",
    "tx-sctp-segmentation",
    "tx-checksum-sctp",
    "tx-esp-segmentation",
    "tx-gso-list",
];

/// `GENL_ID_CTRL`, `CTRL_CMD_GETFAMILY`, `CTRL_ATTR_FAMILY_{ID,NAME}` (linux/genetlink.h).
const GENL_ID_CTRL: u16 = 0x10;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;

/// linux/ethtool_netlink.h.
const ETHTOOL_MSG_FEATURES_GET: u8 = 11;
const ETHTOOL_MSG_FEATURES_SET: u8 = 12;
const ETHTOOL_A_FEATURES_HEADER: u16 = 1;
const ETHTOOL_A_FEATURES_WANTED: u16 = 3;
const ETHTOOL_A_FEATURES_ACTIVE: u16 = 4;
const ETHTOOL_A_HEADER_DEV_NAME: u16 = 2;
const ETHTOOL_A_HEADER_FLAGS: u16 = 3;
const ETHTOOL_FLAG_OMIT_REPLY: u32 = 2;
const ETHTOOL_A_BITSET_BITS: u16 = 3;
const ETHTOOL_A_BITSET_BITS_BIT: u16 = 1;
const ETHTOOL_A_BITSET_BIT_NAME: u16 = 2;
const ETHTOOL_A_BITSET_BIT_VALUE: u16 = 3;

/// A channel to ethtool, of the namespace it was opened in.
pub struct Ethtool {
    socket: RawSocket,
    family: u16,
}

impl Ethtool {
    /// Opens a channel for the caller's network namespace.
    pub fn open() -> Result<Self> {
        let mut socket = RawSocket::open(NETLINK_GENERIC)?;
        let mut payload = vec![CTRL_CMD_GETFAMILY, 1, 0, 0];
        payload.extend(&Attributes::default().push_str(CTRL_ATTR_FAMILY_NAME, "ethtool").0);
        let what = || "find ethtool's netlink family (needs Linux 5.6 with CONFIG_ETHTOOL_NETLINK)".to_string();
        let replies = socket.request(&what, &Request { kind: GENL_ID_CTRL, flags: 0, payload })?;
        let id = replies.iter().find_map(|reply| {
            let mut found = attributes(reply.payload.get(4..)?).filter(|(kind, _)| *kind == CTRL_ATTR_FAMILY_ID);
            Some(u16::from_ne_bytes(found.next()?.1.try_into().ok()?))
        });
        let family = id.ok_or_else(|| Error::Decode { what: what(), reason: "no id in the answer".into() })?;
        Ok(Ethtool { socket, family })
    }

    /// Opens a channel for `netns`.
    pub fn open_in(netns: &Netns) -> Result<Self> {
        netns.run(Ethtool::open)?
    }

    /// Names of the features that are active on a device (as in `ethtool -k`, the kernel's names).
    pub fn active_features(&mut self, ifname: &str) -> Result<Vec<String>> {
        let payload = self.payload(ETHTOOL_MSG_FEATURES_GET, ifname, 0).0;
        let what = || format!("read the offloads of {ifname}");
        let replies = self.socket.request(&what, &Request { kind: self.family, flags: 0, payload })?;
        let mut names = Vec::new();
        for reply in &replies {
            let body = reply.payload.get(4..).unwrap_or_default();
            for (_, bitset) in attributes(body).filter(|(kind, _)| *kind == ETHTOOL_A_FEATURES_ACTIVE) {
                names.extend(bit_names(bitset));
            }
        }
        Ok(names)
    }

    /// Switches features on or off. Names that this kernel does not know are skipped; a feature that the device holds
    /// fixed stays as it is (read [`Ethtool::active_features`] to be sure).
    pub fn set_features(&mut self, ifname: &str, features: &[(&str, bool)]) -> Result<()> {
        match self.try_set(ifname, features) {
            // One unknown name spoils the request: then one at a time.
            Err(e) if unknown_name(&e) && features.len() > 1 => {
                for feature in features {
                    self.set_features(ifname, std::slice::from_ref(feature))?;
                }
                Ok(())
            }
            Err(e) if unknown_name(&e) => Ok(()),
            other => other,
        }
    }

    /// Switches off what [`NOT_IN_VIRTIO`] lists.
    pub fn keep_to_virtio(&mut self, ifname: &str) -> Result<()> {
        let off: Vec<(&str, bool)> = NOT_IN_VIRTIO.iter().map(|name| (*name, false)).collect();
        self.set_features(ifname, &off)
    }

    fn try_set(&mut self, ifname: &str, features: &[(&str, bool)]) -> Result<()> {
        let mut payload = self.payload(ETHTOOL_MSG_FEATURES_SET, ifname, ETHTOOL_FLAG_OMIT_REPLY);
        let mut tail = Attributes::default();
        tail.nest(ETHTOOL_A_FEATURES_WANTED, |bitset| {
            bitset.nest(ETHTOOL_A_BITSET_BITS, |bits| {
                for (name, on) in features {
                    bits.nest(ETHTOOL_A_BITSET_BITS_BIT, |bit| {
                        bit.push_str(ETHTOOL_A_BITSET_BIT_NAME, name);
                        if *on {
                            bit.push(ETHTOOL_A_BITSET_BIT_VALUE, &[]);
                        }
                    });
                }
            });
        });
        payload.0.extend(tail.0);
        let what = || format!("change the offloads of {ifname}");
        self.socket.request(&what, &Request { kind: self.family, flags: 0, payload: payload.0 }).map(drop)
    }

    /// `struct genlmsghdr` and ethtool's header attribute.
    fn payload(&self, command: u8, ifname: &str, flags: u32) -> Attributes {
        let mut payload = Attributes(vec![command, 1, 0, 0]);
        payload.nest(ETHTOOL_A_FEATURES_HEADER, |header| {
            header.push_str(ETHTOOL_A_HEADER_DEV_NAME, ifname);
            header.push(ETHTOOL_A_HEADER_FLAGS, &flags.to_ne_bytes());
        });
        payload
    }
}

fn unknown_name(error: &Error) -> bool {
    match error {
        Error::Kernel { errno: libc::EINVAL | libc::EOPNOTSUPP, detail, .. } => {
            detail.as_deref().is_some_and(|d| d.contains("bit name"))
        }
        _ => false,
    }
}

/// Names of the bits that are listed in a bitset without a mask.
fn bit_names(bitset: &[u8]) -> Vec<String> {
    let mut names = Vec::new();
    for (_, bits) in attributes(bitset).filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS) {
        for (_, bit) in attributes(bits).filter(|(kind, _)| *kind == ETHTOOL_A_BITSET_BITS_BIT) {
            let name = attributes(bit).find(|(kind, _)| *kind == ETHTOOL_A_BITSET_BIT_NAME);
            names.extend(name.map(|(_, n)| String::from_utf8_lossy(n).trim_end_matches('\0').to_string()));
        }
    }
    names
}
