//! The host end of a pod's veth pair: how it is marked, found again and removed.

use podplane_api::AttachmentId;
use podplane_hostnet::{Link, Netlink, Netns, ingress_drop, links};

use crate::CniError;

/// Whether a name is one that the agent gives to host ends: "pp" and twelve hexadecimal digits.
pub(crate) fn is_host_end(name: &str) -> bool {
    name.strip_prefix("pp").is_some_and(|rest| rest.len() == 12 && rest.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// The alias that says whose host end it is, for those who find it without the agent.
pub(crate) fn alias(id: &AttachmentId) -> String {
    format!("podplane {} {}", id.container_id, id.ifname)
}

/// Whether `link` may be the host end of `id`'s pair: a veth with our kind of name that is not marked as another's.
/// One that a killed ADD had no time to mark has no alias.
fn may_be_of(link: &Link, id: &AttachmentId) -> bool {
    is_host_end(&link.name)
        && link.kind.as_deref() == Some("veth")
        && link.alias.as_ref().is_none_or(|text| *text == alias(id))
}

/// Host ends that belong to `id` by their mark, by being the peer of the pod's interface, or by name in `reported`.
pub(crate) fn find(
    netlink: &mut Netlink,
    id: &AttachmentId,
    netns: Option<&Netns>,
    reported: &[String],
) -> Result<Vec<String>, CniError> {
    let mark = alias(id);
    let peer = netns.and_then(|netns| peer_index(netns, &id.ifname));
    let ours = |link: &Link| {
        let marked = link.alias.as_deref() == Some(&mark);
        marked || reported.contains(&link.name) || Some(link.index) == peer
    };
    let links = netlink.links()?;
    Ok(links.into_iter().filter(|l| may_be_of(l, id) && ours(l)).map(|l| l.name).collect())
}

/// Index of the pod interface's peer, in the namespace that it was made from.
fn peer_index(netns: &Netns, ifname: &str) -> Option<u32> {
    let link = Netlink::open_in(netns).ok()?.link(ifname).ok()??;
    link.link.filter(|_| link.kind.as_deref() == Some("veth"))
}

/// Removes a host end, the pod's end with it, and its ingress drop. Not there: no error.
pub(crate) fn remove(netlink: &mut Netlink, name: &str) -> Result<(), CniError> {
    links::check_name(name)?;
    netlink.delete_link(name)?;
    ingress_drop::remove(name)?;
    Ok(())
}

/// Removes ingress drops of host ends that went with their pod's namespace (Linux 6.16 keeps them).
pub(crate) fn sweep() -> Result<(), CniError> {
    ingress_drop::remove_orphans(is_host_end)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::is_host_end;

    #[test]
    fn names() {
        assert!(is_host_end("pp0123456789ab"));
        for other in ["podplane0", "pp0123", "pp0123456789abc", "pp0123456789xy", "eth0", ""] {
            assert!(!is_host_end(other), "{other}");
        }
    }
}
