//! The pods' ports: which are open, and which could not be opened.

use std::collections::BTreeMap;
use std::sync::Arc;

use podplane_config::v1::PortKind;
use podplane_config::valid::{Endpoint, State};
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::snapshot::MIN_MTU;
use podplane_tables::flow::OldFlows;

use super::homes::Homes;
use super::view::Baseline;
use crate::ports::{LinkState, PortFacts, PortIo, PortMonitor, PortOpener, Role};
use crate::worker::shared::Shared;

/// A pod's port that is open.
#[derive(Clone, Debug)]
pub struct Attached {
    /// Its index.
    pub id: PortId,
    /// Its home.
    pub home: WorkerId,
    /// Tells successive users of the index apart.
    pub incarnation: u32,
    /// What the agent says of it.
    pub endpoint: Endpoint,
    /// What the device says of itself.
    pub facts: PortFacts,
    /// The device's state.
    pub monitor: PortMonitor,
    /// What the index had counted before.
    pub baseline: Arc<Baseline>,
}

/// The pods' ports.
#[derive(Debug)]
pub struct Table {
    opener: PortOpener,
    shared: Arc<Shared>,
    homes: Homes,
    incarnations: u32,
    /// The flows of a former process, whose ports get their homes again.
    pub former: Option<Arc<OldFlows>>,
    /// Those that are open, by the endpoint's identity.
    pub attached: BTreeMap<String, Attached>,
    /// Those that are wanted and not open, with cause and cure.
    pub failed: BTreeMap<String, String>,
}

/// What is to be done to get from the table to a configuration. Nothing of it is in force before
/// [`Table::commit`].
#[derive(Debug)]
pub struct Plan {
    /// The ports as they will be.
    pub attached: BTreeMap<String, Attached>,
    /// What will not be open.
    pub failed: BTreeMap<String, String>,
    /// Ends to be sent to the workers.
    pub opened: Vec<(PortId, Vec<PortIo>)>,
    /// Ports to be closed.
    pub closed: Vec<(PortId, WorkerId)>,
    /// Indices taken, to be given back if nothing comes of it.
    taken: Vec<(PortId, WorkerId)>,
}

impl Table {
    /// No ports.
    pub fn new(opener: PortOpener, shared: Arc<Shared>) -> Table {
        let homes = Homes::new(shared.seats.len() as u8);
        Table {
            opener,
            shared,
            homes,
            incarnations: 0,
            former: None,
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
        }
    }

    /// Opens what `state` wants and is not open. An endpoint whose device is unchanged keeps its port.
    pub fn plan(&mut self, state: &State) -> Plan {
        let mut plan = Plan {
            attached: BTreeMap::new(),
            failed: BTreeMap::new(),
            opened: Vec::new(),
            closed: Vec::new(),
            taken: Vec::new(),
        };
        for (id, endpoint) in &state.endpoints {
            match self.attached.get(id) {
                Some(port) if stays(port, endpoint) => {
                    plan.attached.insert(id.clone(), Attached { endpoint: endpoint.clone(), ..port.clone() });
                }
                _ => self.open(id, endpoint, &mut plan),
            }
        }
        let kept = |id: &str, port: &Attached| plan.attached.get(id).is_some_and(|new| new.id == port.id);
        plan.closed = self.attached.iter().filter(|(id, port)| !kept(id, port)).map(|(_, p)| (p.id, p.home)).collect();
        plan
    }

    fn open(&mut self, id: &str, endpoint: &Endpoint, plan: &mut Plan) {
        let former = self.former.as_ref().and_then(|former| former.home(id));
        let Some((port, home)) = self.homes.take(former) else {
            plan.failed.insert(id.to_owned(), format!("this node has no room for more than {} ports", PortId::MAX));
            return;
        };
        plan.taken.push((port, home));
        let PortKind::Veth { host_ifname } = &endpoint.port;
        let opened = match self.opener.open_interface(port, host_ifname, Role::Single { home }) {
            Ok(opened) if opened.facts.mtu < MIN_MTU => Err(format!(
                "{host_ifname} has an MTU of {}, pods need {MIN_MTU}: ip link set {host_ifname} mtu {MIN_MTU}",
                opened.facts.mtu
            )),
            Ok(opened) => Ok(opened),
            Err(error) => Err(error.to_string()),
        };
        match opened {
            Ok(opened) => {
                self.incarnations += 1;
                let attached = Attached {
                    id: port,
                    home,
                    incarnation: self.incarnations,
                    endpoint: endpoint.clone(),
                    facts: opened.facts,
                    monitor: opened.monitor,
                    baseline: Arc::new(Baseline::take(&self.shared, port)),
                };
                plan.opened.push((port, opened.ends));
                plan.attached.insert(id.to_owned(), attached);
            }
            Err(reason) => {
                plan.taken.pop();
                self.homes.release(port, home);
                plan.failed.insert(id.to_owned(), reason);
            }
        }
    }

    /// What opens the ports.
    pub fn opener(&self) -> &PortOpener {
        &self.opener
    }

    /// Gives up a plan: what it opened must not have been sent to the workers.
    pub fn abandon(&mut self, plan: Plan) {
        plan.taken.iter().for_each(|(port, home)| self.homes.release(*port, *home));
    }

    /// Notes that a plan is in force, and that the ports that it closed have come back from the workers.
    pub fn commit(&mut self, plan: Plan) {
        plan.closed.iter().for_each(|(port, home)| self.homes.release(*port, *home));
        for (id, reason) in plan.failed.iter().filter(|(id, reason)| self.failed.get(*id) != Some(reason)) {
            tracing::warn!(endpoint = %id, %reason, "an endpoint is not connected");
        }
        self.attached = plan.attached;
        self.failed = plan.failed;
    }

    /// Whether an attached port's device has gone.
    pub fn any_gone(&self) -> bool {
        self.attached.values().any(|port| port.monitor.state() == LinkState::Gone)
    }

    /// Whether the device of one of these names is waited for.
    pub fn waits_for(&self, state: &State, ifname: &str) -> bool {
        self.failed.keys().filter_map(|id| state.endpoints.get(id)).any(|endpoint| {
            let PortKind::Veth { host_ifname } = &endpoint.port;
            host_ifname == ifname
        })
    }

    /// Whether a device of this index is in use.
    pub fn uses(&self, ifindex: u32) -> bool {
        self.attached.values().any(|port| port.facts.ifindex == Some(ifindex))
    }
}

/// Whether an open port serves an endpoint as it is now wanted.
fn stays(port: &Attached, endpoint: &Endpoint) -> bool {
    port.endpoint.port == endpoint.port && port.monitor.state() != LinkState::Gone && is_same_device(port)
}

/// Whether the device of the port's name is still the one that was opened: a pod's veth may have been made anew under
/// its old name before we read of its end. (No device of that name: it was renamed, or its end is reported soon.)
fn is_same_device(port: &Attached) -> bool {
    let now = nix::net::if_::if_nametoindex(port.facts.name.as_str()).ok();
    port.facts.ifindex.is_none() || now.is_none() || port.facts.ifindex == now
}
