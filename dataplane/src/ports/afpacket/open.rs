//! Opening a kernel interface.

use std::collections::VecDeque;
use std::sync::Arc;

use podplane_packet::id::PortId;

use super::KernelPort;
use super::shared::{SEND, Shared, SocketBudget};
use super::socket::{InterfaceFacts, PacketSocket, interface_facts};
use crate::ports::coalesce::Coalescer;
use crate::ports::{BURST, OpenError, PortFacts, Role, TxFrom};

/// The least MTU of an interface: IPv6's (RFC 8200 section 5).
const LEAST_MTU: u32 = 1280;
/// The least MTU of an uplink: IPv6's and the outer headers over an IPv6 underlay.
const LEAST_UPLINK_MTU: u32 = LEAST_MTU + 70;

impl KernelPort {
    /// Opens the interface for `workers` workers; an end for each.
    pub(crate) fn open(
        port: PortId,
        name: &str,
        role: Role,
        workers: u8,
        budget: &Arc<SocketBudget>,
    ) -> Result<(PortFacts, Arc<Shared>, Vec<KernelPort>), OpenError> {
        let facts = interface_facts(name)?;
        let need = if role == Role::Uplink { LEAST_UPLINK_MTU } else { LEAST_MTU };
        if facts.mtu < need {
            return Err(OpenError::MtuTooSmall { name: name.to_owned(), mtu: facts.mtu, need });
        }
        let count = if role == Role::Uplink { usize::from(workers) } else { 1 };
        if count > 1 && !facts.up {
            return Err(OpenError::Down { name: name.to_owned() });
        }
        let shares: Vec<_> = (0..count).map(|_| budget.take()).collect();
        let sockets =
            shares.iter().map(|s| PacketSocket::open(name, s.bytes, SEND)).collect::<Result<Vec<_>, OpenError>>()?;
        attach(&sockets, &facts)?;
        let shared = Arc::new(Shared::new(facts.name.clone(), sockets, shares));
        let ends = (0..usize::from(workers)).map(|w| KernelPort::end(port, role, w, Arc::clone(&shared))).collect();
        let mtu = facts.mtu.min(u32::from(u16::MAX)) as u16;
        let ifindex = u32::try_from(facts.index).ok();
        Ok((PortFacts { name: facts.name, mac: facts.mac, mtu, ifindex, tx: TxFrom::Any }, shared, ends))
    }

    fn end(port: PortId, role: Role, worker: usize, shared: Arc<Shared>) -> KernelPort {
        let (socket, receives) = match role {
            Role::Single { home } => (0, home.index() == worker),
            Role::Uplink => (worker, true),
        };
        KernelPort {
            shared,
            socket,
            port,
            receives,
            uplink: role == Role::Uplink,
            ask: BURST,
            backlog: VecDeque::with_capacity(if receives { BURST } else { 0 }),
            split: None,
            coalescer: Coalescer::default(),
            resume: 0,
            stalled: None,
        }
    }
}

/// Binds the sockets; several share the interface's flows. A socket that is bound and not yet in the group would get
/// every frame, so all refuse everything until the group is whole.
fn attach(sockets: &[PacketSocket], facts: &InterfaceFacts) -> Result<(), OpenError> {
    if let [only] = sockets {
        return only.bind(facts.index);
    }
    let mut group = None;
    for s in sockets {
        s.refuse_all()?;
        s.bind(facts.index)?;
        group = Some(s.join_fanout(group)?);
    }
    sockets.iter().try_for_each(PacketSocket::accept_all)
}
