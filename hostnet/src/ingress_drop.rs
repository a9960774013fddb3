//! `table netdev podplane`: one chain per device that drops all that the kernel would receive from it.
//!
//! AF_PACKET sockets see a frame before this hook, so our workers get their copy and the kernel does not handle its own:
//! no ICMP unreachable for VXLAN, no RST for a NodePort, no ARP answer on a pod's host end.
//! The chain is to be added before the device comes up. Since Linux 6.16 a chain outlives its device, so it is removed
//! by whoever removes the device.
//!
//! nf_tables is spoken directly over netlink: no `nft` is needed on the node, a CNI ADD executes nothing, and a
//! removal can be conditional on the ruleset's generation, which `nft` does not offer: two plugins that run at the same
//! time must not delete the table under each other's new chain.

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP};
use netlink_sys::protocols::NETLINK_NETFILTER;

use crate::{
    Netlink, Result, links,
    raw::{Attributes, RawSocket, Request, attributes},
};

/// Name of the table.
pub const TABLE: &str = "podplane";

/// linux/netfilter/nfnetlink.h and nf_tables.h.
const NFNL_MSG_BATCH_BEGIN: u16 = 16;
const NFNL_MSG_BATCH_END: u16 = 17;
const NFNL_SUBSYS_NFTABLES: u16 = 10;
const NFNL_BATCH_GENID: u16 = 1;
const NFPROTO_NETDEV: u8 = 5;
const NF_NETDEV_INGRESS: u32 = 0;
const NF_DROP: u32 = 0;
const NFT_MSG_NEWTABLE: u16 = 0;
const NFT_MSG_DELTABLE: u16 = 2;
const NFT_MSG_NEWCHAIN: u16 = 3;
const NFT_MSG_GETCHAIN: u16 = 4;
const NFT_MSG_DELCHAIN: u16 = 5;
const NFT_MSG_GETGEN: u16 = 16;
const NFTA_TABLE_NAME: u16 = 1;
const NFTA_CHAIN_TABLE: u16 = 1;
const NFTA_CHAIN_NAME: u16 = 3;
const NFTA_CHAIN_HOOK: u16 = 4;
const NFTA_CHAIN_POLICY: u16 = 5;
const NFTA_CHAIN_TYPE: u16 = 7;
const NFTA_HOOK_HOOKNUM: u16 = 1;
const NFTA_HOOK_PRIORITY: u16 = 2;
const NFTA_HOOK_DEV: u16 = 3;
const NFTA_GEN_ID: u16 = 1;
/// Before any other ingress chain (`NF_IP_PRI_RAW_BEFORE_DEFRAG` - 100).
const PRIORITY: i32 = -550;
/// Removals that lost a race against another change of the ruleset are repeated this many times.
const TRIES: usize = 64;

/// Drops all that the kernel would receive from `ifname`, in the caller's network namespace. There already: no error.
pub fn add(ifname: &str) -> Result<()> {
    // Linux 6.16 takes chains for devices that do not exist yet: a misspelt name would go unnoticed.
    Netlink::open()?.need_link(ifname)?;
    let mut nft = Nft::open()?;
    let what =
        || format!("drop the kernel's ingress on {ifname} (needs nf_tables in the kernel, CONFIG_NF_TABLES_NETDEV)");
    let chain = |with_hook: bool| {
        let mut a = chain_name(ifname);
        if with_hook {
            a.nest(NFTA_CHAIN_HOOK, |hook| {
                hook.push(NFTA_HOOK_HOOKNUM, &NF_NETDEV_INGRESS.to_be_bytes());
                hook.push(NFTA_HOOK_PRIORITY, &PRIORITY.to_be_bytes());
                hook.push_str(NFTA_HOOK_DEV, ifname);
            });
            a.push(NFTA_CHAIN_POLICY, &NF_DROP.to_be_bytes());
            a.push_str(NFTA_CHAIN_TYPE, "filter");
        }
        a
    };
    // A chain of that name may be left from a device that is gone: without its hook on some kernels, so it is made anew.
    // Both happen in one transaction, and the new hook is in place before the old one goes.
    let mut changes = vec![change(NFT_MSG_NEWTABLE, NLM_F_CREATE, &table_name())];
    if chains(&mut nft)?.iter().any(|name| name == ifname) {
        changes.push(change(NFT_MSG_DELCHAIN, 0, &chain(false)));
    }
    changes.push(change(NFT_MSG_NEWCHAIN, NLM_F_CREATE, &chain(true)));
    match nft.commit(&what, None, changes.clone()) {
        // The chain that was to be replaced went meanwhile, with its device or by another process.
        Err(e) if e.is_not_found() && changes.len() == 3 => {
            changes.remove(1);
            nft.commit(&what, None, changes)
        }
        other => other,
    }
}

/// Lets the kernel receive from `ifname` again; the table goes with its last chain. Not there: no error.
pub fn remove(ifname: &str) -> Result<()> {
    links::check_name(ifname)?;
    remove_where(&|| format!("end the ingress drop on {ifname}"), &mut |name| Ok(name == ifname)).map(drop)
}

/// Removes the chains of devices that `ours` says yes to and that do not exist (any more); returns their names.
pub fn remove_orphans(ours: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let mut netlink = Netlink::open()?;
    let what = || "remove the ingress drops of devices that are gone".to_string();
    remove_where(&what, &mut |name| Ok(ours(name) && netlink.link(name)?.is_none()))
}

/// Removes the chains that `doomed` says yes to, provided that nobody changed the ruleset since it was read.
fn remove_where(what: &dyn Fn() -> String, doomed: &mut dyn FnMut(&str) -> Result<bool>) -> Result<Vec<String>> {
    let mut nft = Nft::open()?;
    let mut tries = 0;
    loop {
        let generation = nft.generation()?;
        let present = chains(&mut nft)?;
        let mut names = Vec::new();
        for name in &present {
            if doomed(name)? {
                names.push(name.clone());
            }
        }
        if names.is_empty() {
            return Ok(names);
        }
        let mut changes: Vec<Change> = names.iter().map(|n| change(NFT_MSG_DELCHAIN, 0, &chain_name(n))).collect();
        if present.len() == names.len() {
            changes.push(change(NFT_MSG_DELTABLE, 0, &table_name()));
        }
        tries += 1;
        match nft.commit(what, Some(generation), changes) {
            Ok(()) => return Ok(names),
            // The ruleset changed since its generation was read, or the chains went with another process.
            Err(e) if (e.errno() == Some(libc::ERESTART) || e.is_not_found()) && tries < TRIES => {}
            Err(e) => return Err(e),
        }
    }
}

/// Whether the kernel's ingress of `ifname` is dropped.
pub fn is_on(ifname: &str) -> Result<bool> {
    Ok(list()?.iter().any(|name| name == ifname))
}

/// The devices whose ingress is dropped.
pub fn list() -> Result<Vec<String>> {
    chains(&mut Nft::open()?)
}

/// Removes the table with all its chains. Not there: no error.
pub fn remove_all() -> Result<()> {
    let what = || format!("remove the table netdev {TABLE}");
    crate::error::gone_is_fine(Nft::open()?.commit(&what, None, vec![change(NFT_MSG_DELTABLE, 0, &table_name())]))
}

/// Names of the table's chains; they are their devices' names.
fn chains(nft: &mut Nft) -> Result<Vec<String>> {
    let mut payload = nfgenmsg(NFPROTO_NETDEV, 0);
    payload.extend(&Attributes::default().push_str(NFTA_CHAIN_TABLE, TABLE).0);
    let request = Request { kind: NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, flags: NLM_F_DUMP, payload };
    let what = || format!("list the chains of table netdev {TABLE} (needs nf_tables in the kernel)");
    let replies = nft.socket.request(&what, &request)?;
    let text = |value: &[u8]| String::from_utf8_lossy(value).trim_end_matches('\0').to_string();
    let mut names = Vec::new();
    for reply in replies {
        let body = reply.payload.get(4..).unwrap_or_default();
        let of = |wanted: u16| attributes(body).find(|(kind, _)| *kind == wanted).map(|(_, v)| text(v));
        if of(NFTA_CHAIN_TABLE).as_deref() == Some(TABLE) {
            names.extend(of(NFTA_CHAIN_NAME).and_then(|n| n.strip_prefix("drop-").map(str::to_string)));
        }
    }
    Ok(names)
}

struct Nft {
    socket: RawSocket,
}

#[derive(Clone)]
struct Change {
    kind: u16,
    flags: u16,
    payload: Vec<u8>,
}

impl Nft {
    fn open() -> Result<Self> {
        Ok(Nft { socket: RawSocket::open(NETLINK_NETFILTER)? })
    }

    /// The ruleset's generation, big endian as the kernel wants it back.
    fn generation(&mut self) -> Result<Vec<u8>> {
        let kind = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN;
        let request = Request { kind, flags: 0, payload: nfgenmsg(0, 0) };
        let replies = self.socket.request(&|| "read the generation of the nftables ruleset".into(), &request)?;
        let id = replies.iter().find_map(|reply| {
            attributes(reply.payload.get(4..)?).find(|(kind, _)| *kind == NFTA_GEN_ID).map(|(_, v)| v.to_vec())
        });
        Ok(id.unwrap_or_default())
    }

    /// Commits `changes` as one transaction; with a `generation` only if the ruleset is still at it.
    fn commit(&mut self, what: &dyn Fn() -> String, generation: Option<Vec<u8>>, changes: Vec<Change>) -> Result<()> {
        let mut begin = nfgenmsg(0, NFNL_SUBSYS_NFTABLES);
        if let Some(id) = generation.filter(|id| !id.is_empty()) {
            begin.extend(&Attributes::default().push(NFNL_BATCH_GENID, &id).0);
        }
        // Begin and end are acknowledged too: a refused generation is answered on the first.
        let mut requests = vec![Request { kind: NFNL_MSG_BATCH_BEGIN, flags: 0, payload: begin }];
        requests.extend(changes.into_iter().map(|c| Request { kind: c.kind, flags: c.flags, payload: c.payload }));
        let end = nfgenmsg(0, NFNL_SUBSYS_NFTABLES);
        requests.push(Request { kind: NFNL_MSG_BATCH_END, flags: 0, payload: end });
        self.socket.batch(what, &requests)
    }
}

/// `struct nfgenmsg`: family, version, resource (big endian).
fn nfgenmsg(family: u8, resource: u16) -> Vec<u8> {
    let [high, low] = resource.to_be_bytes();
    vec![family, 0, high, low]
}

fn change(message: u16, flags: u16, attributes: &Attributes) -> Change {
    let mut payload = nfgenmsg(NFPROTO_NETDEV, 0);
    payload.extend(&attributes.0);
    Change { kind: NFNL_SUBSYS_NFTABLES << 8 | message, flags: flags | NLM_F_ACK, payload }
}

fn table_name() -> Attributes {
    let mut a = Attributes::default();
    a.push_str(NFTA_TABLE_NAME, TABLE);
    a
}

fn chain_name(ifname: &str) -> Attributes {
    let mut a = Attributes::default();
    // The prefix makes an identifier of names that start with a digit, so that `nft list ruleset` can be read back.
    a.push_str(NFTA_CHAIN_TABLE, TABLE).push_str(NFTA_CHAIN_NAME, &format!("drop-{ifname}"));
    a
}
