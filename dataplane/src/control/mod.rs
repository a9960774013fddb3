//! Control: one thread that listens to the agent, the kernel and the operator, opens and closes ports, and compiles
//! what the workers forward by. It may wait for workers (they are ours and always go on), never for a peer.
//!
//! | file | what |
//! |---|---|
//! | [`door`] | the socket: agents and questions |
//! | [`session`] | an agent's messages and our answers |
//! | [`table`], [`homes`] | the pods' ports |
//! | [`compile`] | from configuration and ports to a snapshot |
//! | [`flows`] | the flow memory, and that of the process before |
//! | [`publish`] | orders to workers, snapshots, quiescence |
//! | [`catalog`], [`rules`] | Services and host ports under their numbers; policy |
//! | [`nexthop`], [`neighbours`] | ways to peers and to the world outside, from the kernel |
//! | [`uplink`] | the uplink's interface: gone, back, of another MTU |
//! | [`answers`], [`listing`], [`explain`], [`view`] | introspection |

pub mod answers;
pub mod catalog;
pub mod compile;
pub mod door;
pub mod explain;
pub mod flows;
pub mod homes;
pub mod listing;
pub mod neighbours;
pub mod nexthop;
pub mod publish;
pub mod rules;
pub mod session;
pub mod table;
pub mod uplink;
pub mod view;

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_config::introspect::{Agent, Failure, Node, Peer};
use podplane_config::v1::EndpointFailure;
use podplane_config::valid::{State, Transaction};
use podplane_hostnet::events::{Event, Events, Interest};
use podplane_packet::id::PortId;
use podplane_pipeline::Snapshot;
use podplane_pipeline::resume::FlowStore;

use self::answers::Answers;
use self::catalog::Catalog;
use self::compile::Base;
use self::door::{Arrival, Hall};
use self::flows::{FlowKeeper, Users};
use self::nexthop::NextHops;
use self::publish::{Publisher, WorkerLost};
use self::session::{Heard, Session, SessionError};
use self::table::{Attached, Plan, Table};
use self::uplink::{News, UplinkWatch};
use self::view::{PortView, View};
use crate::signals::Stop;
use crate::worker::shared::Shared;

/// How often control looks at what nobody reports: next hops without an answer, the workers' load.
const TICK: Duration = Duration::from_secs(2);
/// After which answers that found no room are sent again.
const RESEND: Duration = Duration::from_millis(10);
/// How many of the workers' questions for neighbours are heard at once: they may come faster than the kernel answers, and
/// must not keep control from its agent.
const ASKED: usize = 64;
/// How long routes may keep changing before they are asked again, so that a routing daemon's start costs one round.
const SETTLE: Duration = Duration::from_millis(50);

/// What control works with.
#[derive(Debug)]
pub struct Parts {
    /// What it shares with the workers.
    pub shared: Arc<Shared>,
    /// What does not change.
    pub base: Base,
    /// The way to the workers.
    pub publisher: Publisher,
    /// The pods' ports.
    pub table: Table,
    /// The memory of the flows.
    pub flows: FlowKeeper,
    /// The uplink and the host port, as introspection shows them.
    pub own_ports: Vec<PortView>,
    /// The uplink's interface.
    pub uplink: UplinkWatch,
    /// The node's side of the host port.
    pub host_index: u32,
    /// Agents that come.
    pub hall: Arc<Hall>,
    /// Where introspection looks.
    pub view: Arc<ArcSwap<View>>,
    /// Introspection, to be told of time.
    pub answers: Arc<Answers>,
    /// Whether to end.
    pub stop: Arc<Stop>,
}

/// Control.
pub struct Control {
    parts: Parts,
    events: Events,
    hops: NextHops,
    session: Option<Session>,
    state: State,
    /// The Services and rules of `state`.
    catalog: Catalog,
    /// What compiling the last change of policy took.
    policy_compiled: Duration,
    agent: Agent,
    /// The agent may have sent more than was read.
    hear_again: bool,
    /// Ports came or went in the kernel.
    links_changed: bool,
    /// Next hops changed.
    hops_changed: bool,
    routes_changed_at: Option<Instant>,
    next_tick: Instant,
}

impl Control {
    /// Control of a dataplane that forwards between uplink and host port.
    ///
    /// # Errors
    /// No netlink sockets.
    pub fn new(parts: Parts) -> podplane_hostnet::Result<Control> {
        let control = Control {
            events: Events::subscribe(Interest::LINKS | Interest::NEIGHBOURS | Interest::ROUTES | Interest::ADDRESSES)?,
            hops: NextHops::new(parts.host_index)?,
            parts,
            session: None,
            state: State::default(),
            catalog: Catalog::default(),
            policy_compiled: Duration::ZERO,
            agent: Agent::default(),
            hear_again: false,
            links_changed: false,
            hops_changed: false,
            routes_changed_at: None,
            next_tick: Instant::now() + TICK,
        };
        control.show();
        Ok(control)
    }

    /// Works until it is told to stop.
    ///
    /// # Errors
    /// A worker is gone.
    pub fn run(&mut self) -> Result<(), WorkerLost> {
        while !self.parts.stop.is_requested() {
            self.parts.shared.control.bell().hush();
            if let Some(agent) = self.parts.hall.take() {
                self.admit(agent);
            }
            self.hear_agent()?;
            self.hear_workers();
            self.hear_kernel();
            self.tick();
            if let Some(news) = self.parts.uplink.take_news() {
                self.follow_uplink(news)?;
            }
            if std::mem::take(&mut self.links_changed) {
                self.reconcile()?;
            }
            if std::mem::take(&mut self.hops_changed) {
                self.update_hops()?;
            }
            if self.parts.shared.is_broken() {
                return Err(WorkerLost);
            }
            self.wait();
        }
        Ok(())
    }

    /// Waits for something to do.
    fn wait(&self) {
        let sleeper = &self.parts.shared.control;
        let _doze = sleeper.doze();
        let busy = self.hear_again
            || !self.parts.hall.is_empty()
            || !self.parts.shared.wanted.is_empty()
            || self.parts.stop.is_requested()
            || self.parts.shared.is_broken();
        if busy {
            return;
        }
        let mut until = self.next_tick.saturating_duration_since(Instant::now());
        if self.session.as_ref().is_some_and(Session::has_backlog) {
            until = until.min(RESEND);
        }
        if let Some(at) = self.routes_changed_at {
            until = until.min((at + SETTLE).saturating_duration_since(Instant::now()));
        }
        let mut fds = vec![
            PollFd::new(sleeper.bell().as_fd(), PollFlags::POLLIN),
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(session) = &self.session {
            fds.push(PollFd::new(session.bell(), PollFlags::POLLIN));
        }
        // A millisecond more, or the last fraction of one would be waited for in vain.
        let timeout = PollTimeout::try_from(until + Duration::from_millis(1)).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut fds, timeout);
    }

    /// A new agent takes the place of the old one. Nothing else changes before it has sent all it knows.
    fn admit(&mut self, Arrival { link, kept }: Arrival) {
        if let Some(kept) = kept {
            self.parts.flows.offered(kept);
        }
        let replaced = self.session.replace(Session::new(link)).is_some();
        tracing::info!(replaced, "an agent has connected");
        self.agent.connected = true;
        self.hear_again = true;
        self.show();
    }

    fn dismiss(&mut self, error: &SessionError) {
        tracing::warn!(%error, "the agent is gone; packets go on as configured");
        self.session = None;
        self.agent.connected = false;
        self.show();
    }

    fn hear_agent(&mut self) -> Result<(), WorkerLost> {
        self.hear_again = false;
        let Some(mut session) = self.session.take() else { return Ok(()) };
        let result = match session.flush().and_then(|()| session.hear()) {
            Ok(Heard::Nothing) => Ok(()),
            Ok(Heard::More) => {
                self.hear_again = true;
                Ok(())
            }
            Ok(Heard::Transaction(transaction)) => {
                self.hear_again = true;
                self.transact(&mut session, &transaction)?
            }
            Err(error) => Err(error),
        };
        self.session = Some(session);
        if let Err(error) = result {
            self.dismiss(&error);
        }
        Ok(())
    }

    /// Applies a transaction whole, or refuses it whole, and answers.
    fn transact(
        &mut self,
        session: &mut Session,
        transaction: &Transaction,
    ) -> Result<Result<(), SessionError>, WorkerLost> {
        let generation = transaction.generation;
        let checked =
            session.check(transaction).and_then(|()| self.state.apply(transaction).map_err(|r| r.to_string()));
        let applied = match checked {
            Ok(state) => self.apply(state)?,
            Err(reason) => Err(reason),
        };
        let answered = match applied {
            Ok(()) => {
                self.agent.applied = Some(generation);
                self.agent.refused = None;
                tracing::debug!(generation, "a transaction is in force");
                session.applied(transaction, self.failures())
            }
            Err(reason) => {
                tracing::warn!(generation, %reason, "a transaction was refused; the configuration stays as it was");
                self.agent.refused = Some(reason.clone());
                session.refused(transaction, reason)
            }
        };
        self.show();
        Ok(answered)
    }

    /// Puts a configuration in force: opens ports, compiles, publishes, waits for the workers, closes ports. `Err` with
    /// the reason if it cannot be compiled; then nothing has changed.
    fn apply(&mut self, state: State) -> Result<Result<(), String>, WorkerLost> {
        let begins = self.parts.flows.is_waiting() && state.local.is_some();
        if begins {
            self.go_on_with_former();
        }
        let mut plan = self.parts.table.plan(&state);
        self.hops.follow(state.peers.values().map(|peer| peer.vtep));
        let began = Instant::now();
        let catalog = self.catalog.follow(&state);
        let previous = self.parts.publisher.current();
        let compiled = self.compile(&state, &catalog, &plan, &previous).and_then(|snapshot| match begins {
            true => self.begin_flows(snapshot, &state, &catalog, &plan),
            false => Ok((snapshot, None)),
        });
        if !state.policy.is_same(&self.state.policy) {
            self.policy_compiled = began.elapsed();
        }
        let (snapshot, stores) = match compiled {
            Ok(compiled) => compiled,
            Err(reason) => {
                self.parts.table.abandon(plan);
                self.hops.follow(self.state.peers.values().map(|peer| peer.vtep));
                return Ok(Err(reason));
            }
        };
        self.parts.publisher.attach(std::mem::take(&mut plan.opened))?;
        if let Some(stores) = stores {
            self.parts.publisher.lend(stores)?;
            self.parts.table.former = None;
        }
        let neighbours = self.hops.known();
        self.parts.flows.name(&Users { snapshot: &snapshot, ports: &plan.attached, neighbours: &neighbours });
        self.parts.publisher.publish(snapshot)?;
        let closed: Vec<PortId> = plan.closed.iter().map(|(port, _)| *port).collect();
        self.parts.publisher.detach(&closed)?;
        self.parts.table.commit(plan);
        self.state = state;
        self.catalog = catalog;
        Ok(Ok(()))
    }

    fn compile(&self, state: &State, catalog: &Catalog, plan: &Plan, previous: &Snapshot) -> Result<Snapshot, String> {
        let config = self.parts.base.with(state, catalog, plan.attached.values(), &self.hops);
        Snapshot::compile(&config, Some(previous)).map_err(|error| error.to_string())
    }

    /// Sees to it that a former process' flows find what they need: the same owners, homes and neighbours.
    fn go_on_with_former(&mut self) {
        let Some(old) = self.parts.flows.old() else { return };
        self.parts.base.seed = old.seed();
        for address in old.neighbours() {
            self.hops_changed |= self.hops.ask(address, PortId::HOST);
        }
        self.parts.table.former = Some(Arc::clone(old));
    }

    /// The first configuration's flows. They count as judged under `snapshot`, and are judged anew under the one that
    /// follows it, which alone comes into force: so what has changed since the former process ended is noticed, and
    /// what only got another number is not taken for changed.
    fn begin_flows(
        &mut self,
        snapshot: Snapshot,
        state: &State,
        catalog: &Catalog,
        plan: &Plan,
    ) -> Result<(Snapshot, Option<Vec<FlowStore>>), String> {
        let mut next = self.compile(state, catalog, plan, &snapshot)?;
        next.changed().stamp_all(next.generation());
        let neighbours = self.hops.known();
        let users = Users { snapshot: &snapshot, ports: &plan.attached, neighbours: &neighbours };
        let Some((stores, served)) = self.parts.flows.begin(&users) else { return Ok((next, None)) };
        next.remember(&served);
        Ok((next, Some(stores)))
    }

    /// Devices came or went: opens those that are waited for, closes those that are gone.
    fn reconcile(&mut self) -> Result<(), WorkerLost> {
        let before = self.parts.table.failed.clone();
        if let Err(reason) = self.apply(self.state.clone())? {
            tracing::error!(%reason, "the configuration in force cannot be compiled with the ports that are left");
        }
        let failed = self.failures();
        if self.parts.table.failed != before
            && let Some(Err(error)) = self.session.as_mut().map(|session| session.applied_still(failed))
        {
            self.dismiss(&error);
        }
        self.show();
        Ok(())
    }

    /// Does what the uplink's news ask for. Packets that it would have carried meanwhile were dropped by name.
    fn follow_uplink(&mut self, news: News) -> Result<(), WorkerLost> {
        match news {
            News::Back => match self.parts.uplink.reopen(self.parts.table.opener()) {
                Ok(None) => {}
                Ok(Some(opened)) => {
                    self.parts.publisher.detach(&[PortId::UPLINK])?;
                    self.parts.publisher.attach(vec![(PortId::UPLINK, opened.ends)])?;
                    if let Some(view) = self.parts.own_ports.iter_mut().find(|port| port.id == PortId::UPLINK) {
                        (view.facts, view.monitor) = (opened.facts, opened.monitor);
                    }
                    tracing::info!("the uplink is back");
                    // What the kernel knew of next hops went with the interface's carrier.
                    self.routes_changed_at.get_or_insert_with(Instant::now);
                    self.show();
                }
                Err(error) => tracing::warn!(%error, "the uplink cannot be opened again yet"),
            },
            News::Mtu(mtu) => {
                tracing::info!(mtu, "the uplink has another MTU");
                self.parts.uplink.set_mtu(mtu);
                self.parts.base.mtu = mtu;
                self.parts.own_ports.iter_mut().for_each(|port| port.mtu = mtu);
                // Tunnels follow at once, and with them what senders are told.
                self.reconcile()?;
                // What pods get from now on is the agent's to say: it hears of the MTU when it connects.
                if self.session.take().is_some() {
                    tracing::info!("the agent is to connect again, to hear of the MTU");
                    self.agent.connected = false;
                    self.show();
                }
            }
        }
        Ok(())
    }

    /// Next hops changed, nothing else.
    fn update_hops(&mut self) -> Result<(), WorkerLost> {
        let attached = self.parts.table.attached.values();
        let config = self.parts.base.with(&self.state, &self.catalog, attached, &self.hops);
        match Snapshot::compile(&config, Some(&self.parts.publisher.current())) {
            Ok(snapshot) => {
                let (ports, neighbours) = (&self.parts.table.attached, self.hops.known());
                self.parts.flows.name(&Users { snapshot: &snapshot, ports, neighbours: &neighbours });
                self.parts.publisher.publish(snapshot)?;
            }
            Err(error) => tracing::error!(%error, "the next hops in force cannot be compiled"),
        }
        self.show();
        Ok(())
    }

    /// Workers have packets for neighbours that nobody knows.
    fn hear_workers(&mut self) {
        for _ in 0..ASKED {
            let Some((address, by)) = self.parts.shared.wanted.pop() else { break };
            self.hops_changed |= self.hops.ask(address, by);
        }
    }

    fn hear_kernel(&mut self) {
        loop {
            match self.events.pending() {
                Ok(events) if events.is_empty() => break,
                Ok(events) => events.iter().for_each(|event| self.kernel_says(event)),
                Err(error) => {
                    tracing::warn!(%error, "cannot hear of changes of the node's network");
                    break;
                }
            }
        }
        if self.routes_changed_at.is_some_and(|at| at.elapsed() >= SETTLE) {
            self.routes_changed_at = None;
            self.hops_changed |= self.hops.routes_changed();
        }
    }

    fn kernel_says(&mut self, event: &Event) {
        self.parts.uplink.heard(event);
        match event {
            Event::Link(link) => self.links_changed |= self.parts.table.waits_for(&self.state, &link.name),
            Event::LinkGone(link) => self.links_changed |= self.parts.table.uses(link.index),
            Event::Neighbour(neighbour) => self.hops_changed |= self.hops.neighbour_changed(neighbour),
            Event::RoutesChanged { .. } | Event::AddressesChanged => {
                self.routes_changed_at.get_or_insert_with(Instant::now);
            }
            Event::Overrun => {
                self.routes_changed_at.get_or_insert_with(Instant::now);
                self.hops_changed |= self.hops.read_neighbours();
                self.links_changed = true;
            }
            Event::NeighbourGone(_) | Event::RulesChanged => {}
        }
    }

    fn tick(&mut self) {
        if Instant::now() < self.next_tick {
            return;
        }
        self.next_tick = Instant::now() + TICK;
        self.hops_changed |= self.hops.retry();
        self.parts.uplink.look_again();
        self.parts.answers.sample_load();
        self.links_changed |= self.parts.table.any_gone();
    }

    fn failures(&self) -> Vec<EndpointFailure> {
        let failure = |(id, reason): (&String, &String)| EndpointFailure { id: id.clone(), reason: reason.clone() };
        self.parts.table.failed.iter().map(failure).collect()
    }

    /// Shows introspection what there is now.
    fn show(&self) {
        let (state, table) = (&self.state, &self.parts.table);
        let pod = |id: &String| state.endpoints.get(id).map_or_else(String::new, |endpoint| endpoint.pod.clone());
        let failure =
            |(id, reason): (&String, &String)| Failure { id: id.clone(), pod: pod(id), reason: reason.clone() };
        let peer = |(name, peer): (&String, &podplane_config::valid::Peer)| Peer {
            name: name.clone(),
            vtep: peer.vtep,
            via: self.hops.via(peer.vtep),
            next_hop: self.hops.mac(peer.vtep).map(|mac| mac.to_string()),
        };
        let node = state.local.as_ref().map(|local| Node {
            name: local.name.clone(),
            vtep: local.vtep,
            vni: local.vni.get(),
            pod_mtu: local.pod_mtu,
        });
        let mut ports = self.parts.own_ports.clone();
        ports.extend(table.attached.iter().map(|(id, port)| pod_view(id, port)));
        ports.sort_by_key(|port| port.id);
        self.parts.view.store(Arc::new(View {
            agent: self.agent.clone(),
            node,
            peers: state.peers.iter().map(peer).collect(),
            failed: table.failed.iter().map(failure).collect(),
            ports,
            catalog: self.catalog.clone(),
            policy_compiled: self.policy_compiled,
        }));
    }
}

fn pod_view(id: &str, port: &Attached) -> PortView {
    PortView {
        id: port.id,
        facts: port.facts.clone(),
        monitor: port.monitor.clone(),
        endpoint: id.to_owned(),
        pod: port.endpoint.pod.clone(),
        home: Some(port.home),
        mac: port.endpoint.mac,
        addresses: port.endpoint.addresses.iter().collect(),
        policy: port.endpoint.policy,
        mtu: port.facts.mtu,
        baseline: Arc::clone(&port.baseline),
    }
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Control").field("state", &self.state).field("agent", &self.agent).finish_non_exhaustive()
    }
}
