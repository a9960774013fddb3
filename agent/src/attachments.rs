//! What the CNI calls mean: leases, endpoints, and waiting for the dataplane.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::BoxFuture;
use podplane_api::{
    AddReply, AddRequest, ApiError, Attachment, AttachmentId, CheckRequest, DelRequest, GcRequest, ReadyRequest,
    Released,
};
use podplane_config::v1;
use podplane_hostnet::Mac;
use podplane_hostnet::node_routes::{GATEWAY_V4, GATEWAY_V6};
use podplane_index::{Index, PodIdentity};
use tokio::sync::OwnedMutexGuard;
use tokio::time::{Instant, timeout_at};

use crate::desired::{Desired, Version};
use crate::host::HostLinks;
use crate::host_ports;
use crate::ipam::{self, IpamError, Lease, Store, Wish};
use crate::publish::{NotApplied, Observer};

/// How long `ready` waits for the pod's object, and then for the workers.
pub const READY_WITHIN: Duration = Duration::from_secs(10);
/// How long `del` waits for the workers: addresses cool down anyway.
pub const DEL_WITHIN: Duration = Duration::from_secs(2);

/// After this part of that time the pod's object is asked for.
const ASK_AFTER: u32 = 8;

/// An error answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .error.message)]
pub struct Refusal {
    /// The HTTP status.
    pub status: u16,
    /// The body.
    pub error: ApiError,
}

/// Something that the caller must change first.
pub(crate) fn refuse(status: u16, message: impl Into<String>) -> Refusal {
    Refusal { status, error: ApiError { message: message.into(), retry: false } }
}

/// Something that may pass.
pub(crate) fn later(message: impl Into<String>) -> Refusal {
    Refusal { status: 503, error: ApiError { message: message.into(), retry: true } }
}

impl From<IpamError> for Refusal {
    fn from(error: IpamError) -> Self {
        match &error {
            IpamError::Identity(_) => refuse(400, error.to_string()),
            _ if error.retry() => later(error.to_string()),
            _ => refuse(500, error.to_string()),
        }
    }
}

impl From<NotApplied> for Refusal {
    fn from(error: NotApplied) -> Self {
        match error {
            NotApplied::NotConnected(_) | NotApplied::Slow(_) => later(error.to_string()),
            NotApplied::Failed(_) | NotApplied::Refused(_) => refuse(500, error.to_string()),
        }
    }
}

/// The node's attachments.
pub struct Attachments {
    store: Arc<Store>,
    desired: Arc<Desired>,
    observer: Observer,
    host: Arc<dyn HostLinks>,
    /// Calls for one attachment come one after the other.
    locks: Mutex<HashMap<AttachmentId, Arc<tokio::sync::Mutex<()>>>>,
    ready_within: Duration,
    /// Who can be asked for a pod that nobody has told of.
    ask: Option<Arc<dyn Ask>>,
}

/// Asks for a pod's object, so that the index knows it, where waiting for it did not help.
pub trait Ask: Send + Sync {
    /// Asks once, for the pod and its namespace.
    fn ask(self: Arc<Self>, namespace: String, name: String) -> BoxFuture<'static, ()>;
}

impl Attachments {
    /// The attachments of `store`.
    pub fn new(store: Arc<Store>, desired: Arc<Desired>, observer: Observer, host: Arc<dyn HostLinks>) -> Self {
        let ready_within = READY_WITHIN;
        Attachments { store, desired, observer, host, locks: Mutex::default(), ready_within, ask: None }
    }

    /// The same, asking this one for pods that nobody has told of.
    #[must_use]
    pub fn with_ask(self, ask: Arc<dyn Ask>) -> Self {
        Attachments { ask: Some(ask), ..self }
    }

    /// The same, waiting for another time in `ready`.
    #[must_use]
    pub fn with_ready_within(mut self, within: Duration) -> Self {
        self.ready_within = within;
        self
    }

    /// Reserves addresses.
    pub async fn add(&self, request: &AddRequest) -> Result<AddReply, Refusal> {
        let _lock = self.lock(&request.attachment).await;
        let (obstacle, mtu, ranges) = self.desired.read(|index| {
            let ranges = index.local().map(|local| local.pod_cidrs.clone()).unwrap_or_default();
            (index.obstacle(), index.pod_mtu(), ranges)
        });
        if let Some(obstacle) = obstacle {
            return Err(later(obstacle));
        }
        let Some(mtu) = mtu else { return Err(later(self.never_connected())) };
        let host_ports = host_ports::of(&request.host_ports, &ranges).map_err(|reason| refuse(400, reason))?;
        let name = name(&request.attachment);
        if let Some(reason) = self.desired.read(|index| conflict(index, &name, &host_ports)) {
            return Err(refuse(409, reason));
        }
        let request = request.clone();
        let reserved = self
            .on_disk(move |store| {
                let (id, netns, pod) = (&request.attachment, request.netns.as_str(), request.pod.as_ref());
                let host_ports = host_ports.as_slice();
                store.reserve(&Wish { id, netns, pod, ranges: &ranges, mtu, host_ports }, ipam::now())
            })
            .await?;
        for address in &reserved.reused_early {
            tracing::warn!(%address, "given out again before its cool-down: the node's range has no other address left");
        }
        Ok(reply(&reserved.lease))
    }

    /// Connects an attachment whose devices exist, and waits until the workers forward for it.
    pub async fn ready(&self, request: &ReadyRequest) -> Result<(), Refusal> {
        let _lock = self.lock(&request.attachment).await;
        let id = request.attachment.clone();
        let Some(lease) = self.on_disk(move |store| store.get(&id)).await? else {
            return Err(unknown(&request.attachment));
        };
        let name = name(&request.attachment);
        let (attached, _) = self.desired.edit(|index| {
            // Who has come in between: two ADDs may want the same host port.
            let taken = conflict(index, &name, &lease.host_ports).filter(|_| !lease.ready);
            taken.map_or_else(|| index.attach_to(endpoint(&lease), identity(&lease), false), Err)
        });
        attached.map_err(|reason| refuse(409, reason))?;
        let outcome = match self.known(&name, identity(&lease)).await {
            Ok(version) => self.observer.applied(version, Some(&name), self.ready_within).await.map_err(Refusal::from),
            Err(refusal) => Err(refusal),
        };
        let outcome = match outcome {
            Ok(()) => {
                let id = request.attachment.clone();
                self.on_disk(move |store| store.set_ready(&id, true)).await
            }
            Err(refusal) => Err(refusal),
        };
        if outcome.is_err() && !lease.ready {
            // The runtime will give up this pod: nothing half-connected stays.
            self.desired.edit(|index| index.detach(&name));
        }
        outcome
    }

    /// Waits until a new endpoint's policy is known: the runtime may have heard of the pod earlier than we do. Answers
    /// the version that has to be in force for the endpoint to be.
    async fn known(&self, name: &str, pod: Option<PodIdentity>) -> Result<Version, Refusal> {
        let deadline = Instant::now() + self.ready_within;
        let mut ask = self.ask.clone().zip(pod);
        // First time for whoever tells of all pods anyway.
        let ask_at = Instant::now() + self.ready_within / ASK_AFTER;
        let mut ticks = self.desired.subscribe();
        loop {
            let ((withheld, awaited), version) = self.desired.seen(|index| {
                let withheld = index.withheld().find(|withheld| withheld.id == name);
                (withheld, index.awaits_pod(name).map(str::to_owned))
            });
            match (withheld, awaited) {
                (None, _) => return Ok(version),
                (Some(withheld), None) => return Err(refuse(409, withheld.reason)),
                (_, Some(reason)) => {
                    let until = if ask.is_some() { ask_at } else { deadline };
                    if matches!(timeout_at(until, ticks.changed()).await, Ok(Ok(()))) {
                        continue;
                    }
                    if let Some((ask, pod)) = ask.take() {
                        tokio::spawn(ask.ask(pod.namespace, pod.name));
                    } else {
                        return Err(later(format!(
                            "{reason}; not within {:?}: does this agent hear of it (podplane status)?",
                            self.ready_within
                        )));
                    }
                }
            }
        }
    }

    /// Gives everything of an attachment back.
    pub async fn del(&self, request: &DelRequest) -> Result<Released, Refusal> {
        let _lock = self.lock(&request.attachment).await;
        self.release(&request.attachment).await
    }

    async fn release(&self, id: &AttachmentId) -> Result<Released, Refusal> {
        let name = name(id);
        let (told, version) = self.desired.edit(|index| {
            let told = index.objects().contains_key(&v1::Key::Endpoint(name.clone()));
            index.detach(&name);
            told
        });
        if told
            && self.observer.look(|progress| progress.connected)
            && let Err(e) = self.observer.applied(version, None, DEL_WITHIN).await
        {
            tracing::warn!(attachment = name, reason = %e, "released although not known to be disconnected");
        }
        let id = id.clone();
        match self.on_disk(move |store| store.release(&id, ipam::now())).await {
            Ok(lease) => Ok(Released { host_ifnames: lease.into_iter().map(|lease| lease.host_ifname).collect() }),
            // What cannot identify an attachment has none.
            Err(refusal) if refusal.status == 400 => Ok(Released::default()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Gives an attachment back whose plugin cannot do its part any more, and removes its host end.
    pub async fn bury(&self, id: &AttachmentId) -> Result<(), Refusal> {
        let _lock = self.lock(id).await;
        let key = id.clone();
        let lease = self.on_disk(move |store| store.get(&key)).await?;
        if let Some(lease) = lease {
            let host = self.host.clone();
            let ifname = lease.host_ifname.clone();
            let removed = tokio::task::spawn_blocking(move || host.remove(&ifname)).await;
            removed.map_err(|e| refuse(500, e.to_string()))?.map_err(|e| later(e.to_string()))?;
        }
        self.release(id).await.map(drop)
    }

    /// The lease of an attachment that is in force.
    pub async fn check(&self, request: &CheckRequest) -> Result<AddReply, Refusal> {
        let id = request.attachment.clone();
        let lease = self.on_disk(move |store| store.get(&id)).await?;
        let Some(lease) = lease else { return Err(unknown(&request.attachment)) };
        let name = name(&request.attachment);
        if !lease.ready {
            return Err(refuse(404, format!("{name} was added but never became ready: delete the pod's sandbox")));
        }
        if let Some(withheld) = self.desired.read(|index| index.withheld().find(|withheld| withheld.id == name)) {
            return Err(refuse(404, withheld.reason));
        }
        let refused = self.desired.read(|index| index.refused_host_ports().find(|refused| refused.id == name));
        if let Some(refused) = refused {
            return Err(refuse(404, refused.reason));
        }
        let (connected, failed) = self.observer.look(|p| (p.connected, p.failed.get(&name).cloned()));
        match failed {
            Some(reason) => Err(refuse(404, format!("the dataplane could not connect {name}: {reason}"))),
            None if !connected => Err(later(self.not_connected())),
            None => Ok(reply(&lease)),
        }
    }

    /// Gives back every attachment that is not listed.
    pub async fn gc(&self, request: &GcRequest) -> Result<Released, Refusal> {
        let mut released = Released::default();
        for lease in self.on_disk(Store::list).await? {
            if !request.valid.contains(&lease.id) {
                tracing::info!(attachment = name(&lease.id), "given back: the runtime does not know it any more");
                let delete = DelRequest { attachment: lease.id };
                released.host_ifnames.extend(self.del(&delete).await?.host_ifnames);
            }
        }
        Ok(released)
    }

    /// Why no pod can be added now.
    pub fn obstacle(&self) -> Option<String> {
        let obstacle = self.desired.read(Index::obstacle);
        obstacle.or_else(|| {
            self.observer.look(|progress| match (progress.connected, progress.version, &progress.refused) {
                (false, ..) => Some(NotApplied::NotConnected(progress.trouble.clone()).to_string()),
                (_, None, Some((_, reason))) => Some(NotApplied::Refused(reason.clone()).to_string()),
                (_, None, None) => Some("the dataplane has not applied the first configuration yet".into()),
                (_, Some(_), _) => None,
            })
        })
    }

    /// All attachments, for status.
    pub async fn list(&self) -> Result<Vec<Attachment>, Refusal> {
        let leases = self.on_disk(Store::list).await?;
        let in_force = self.observer.look(|p| p.version.is_some());
        let failed = self.observer.look(|p| p.failed.clone());
        let withheld: Vec<_> = self.desired.read(|index| index.withheld().map(|w| w.id).collect());
        let attachment = |lease: Lease| {
            let name = name(&lease.id);
            let ready = lease.ready && in_force && !failed.contains_key(&name) && !withheld.contains(&name);
            let Lease { id, pod, addresses, host_ifname, .. } = lease;
            Attachment { id, pod, addresses, host_ifname, ready }
        };
        Ok(leases.into_iter().map(attachment).collect())
    }

    /// After a start: gives back what is gone, and names the rest to the dataplane.
    pub async fn reconcile(&self) -> Result<(), Refusal> {
        let (mut kept, mut gone) = (Vec::new(), Vec::new());
        for lease in self.on_disk(Store::list).await? {
            match self.is_gone(&lease) {
                true => gone.push(lease),
                false => kept.push(lease),
            }
        }
        for lease in gone {
            tracing::info!(attachment = name(&lease.id), netns = lease.netns, "given back: its namespace is gone");
            if let Err(e) = self.bury(&lease.id).await {
                tracing::error!(attachment = name(&lease.id), reason = %e, "could not be given back");
            }
        }
        self.desired.edit(|index| {
            for lease in kept.iter().filter(|lease| lease.ready) {
                if let Err(reason) = index.attach_to(endpoint(lease), identity(lease), true) {
                    tracing::error!(attachment = name(&lease.id), reason, "cannot be connected");
                }
            }
        });
        Ok(())
    }

    /// Gives back what belongs to sandboxes that are gone now and were so at the last call, which answered `suspects`;
    /// answers those that are. A plugin that is at work may have its sandbox taken away under it: that is its runtime's
    /// DEL to end, which comes soon.
    pub async fn sweep(&self, suspects: &BTreeSet<AttachmentId>) -> Result<BTreeSet<AttachmentId>, Refusal> {
        let mut gone = BTreeSet::new();
        for lease in self.on_disk(Store::list).await? {
            if !self.is_gone(&lease) {
                continue;
            }
            if !suspects.contains(&lease.id) {
                gone.insert(lease.id);
                continue;
            }
            tracing::info!(attachment = name(&lease.id), netns = lease.netns, "given back: its namespace is gone");
            if let Err(e) = self.bury(&lease.id).await {
                tracing::error!(attachment = name(&lease.id), reason = %e, "could not be given back");
                gone.insert(lease.id);
            }
        }
        Ok(gone)
    }

    /// Whether the sandbox is gone. Where even the folder of its namespace cannot be seen (the agent in a container
    /// without it), only a host end that is gone as well says so.
    fn is_gone(&self, lease: &Lease) -> bool {
        let path = Path::new(&lease.netns);
        if lease.netns.is_empty() || !matches!(path.try_exists(), Ok(false)) {
            return false;
        }
        let seen = path.starts_with("/proc") || path.parent().is_some_and(Path::exists);
        seen || matches!(self.host.exists(&lease.host_ifname), Ok(false))
    }

    fn never_connected(&self) -> String {
        format!("the pods' MTU is not known before the dataplane was connected once; {}", self.not_connected())
    }

    fn not_connected(&self) -> String {
        NotApplied::NotConnected(self.observer.look(|p| p.trouble.clone())).to_string()
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        f: impl FnOnce(&Store) -> Result<T, IpamError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let store = self.store.clone();
        let done = tokio::task::spawn_blocking(move || f(&store)).await;
        Ok(done.map_err(|e| refuse(500, e.to_string()))??)
    }

    async fn lock(&self, id: &AttachmentId) -> OwnedMutexGuard<()> {
        let lock = {
            let mut locks = self.locks.lock().unwrap_or_else(PoisonError::into_inner);
            locks.retain(|_, lock| Arc::strong_count(lock) > 1);
            locks.entry(id.clone()).or_default().clone()
        };
        lock.lock_owned().await
    }
}

/// Why a new attachment cannot have its host ports.
fn conflict(index: &Index, name: &str, ports: &[v1::HostPort]) -> Option<String> {
    ports.iter().find_map(|port| index.host_port_conflict(name, port))
}

fn unknown(id: &AttachmentId) -> Refusal {
    refuse(404, format!("there is no attachment {}: it was never added, or deleted", name(id)))
}

/// An attachment's identity as the dataplane knows it.
pub(crate) fn name(id: &AttachmentId) -> String {
    format!("{}/{}", id.container_id, id.ifname)
}

/// The pod that an attachment belongs to.
fn identity(lease: &Lease) -> Option<PodIdentity> {
    let pod = lease.pod.clone().filter(|pod| !pod.name.is_empty())?;
    Some(PodIdentity { namespace: pod.namespace, name: pod.name, uid: pod.uid })
}

fn endpoint(lease: &Lease) -> v1::Endpoint {
    v1::Endpoint {
        id: name(&lease.id),
        pod: lease.pod.as_ref().map(|pod| format!("{}/{}", pod.namespace, pod.name)).unwrap_or_default(),
        port: v1::PortKind::Veth { host_ifname: lease.host_ifname.clone() },
        mac: lease.mac,
        addresses: lease.addresses.clone(),
        host_ports: lease.host_ports.clone(),
        policy: Default::default(),
    }
}

fn reply(lease: &Lease) -> AddReply {
    let has = |v4: bool| lease.addresses.iter().any(|a| a.is_ipv4() == v4);
    let v4 = has(true).then_some(IpAddr::V4(GATEWAY_V4));
    AddReply {
        host_ifname: lease.host_ifname.clone(),
        mac: Mac(lease.mac).to_string(),
        addresses: lease.addresses.clone(),
        gateways: v4.into_iter().chain(has(false).then_some(IpAddr::V6(GATEWAY_V6))).collect(),
        gateway_mac: Mac::GATEWAY.to_string(),
        mtu: lease.mtu,
        host_ports: host_ports::mappings(&lease.host_ports),
    }
}
