//! The configuration that should be in force, shared by those who change it and the one who tells the dataplane.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use podplane_config::v1;
use podplane_index::{Changes, Index, OwnNode};
use tokio::sync::watch;

use crate::metrics::Programming;

/// Counts the changes: "in force" means that the dataplane applied this version or a later one.
pub type Version = u64;

/// The index with what the dataplane has not been told yet.
#[derive(Debug)]
pub struct Desired {
    inner: Mutex<Inner>,
    /// Ticks whenever there may be something to tell.
    ticks: watch::Sender<u64>,
    /// What this node's object says of the node's life; ticks when that changes.
    own: watch::Sender<Option<OwnNode>>,
    programming: Programming,
}

#[derive(Debug)]
struct Inner {
    index: Index,
    untold: Changes,
    version: Version,
    /// Whether the source has been read once: before, a full synchronisation would remove what is only not read yet.
    complete: bool,
}

/// All that should be in force.
#[derive(Debug)]
pub struct Whole {
    /// The objects.
    pub objects: Vec<v1::Object>,
    /// Their version.
    pub version: Version,
}

impl Desired {
    /// Begins with an index that has not been told to anybody.
    pub fn new(index: Index) -> Self {
        let inner = Inner { index, untold: Changes::new(), version: 0, complete: false };
        Desired {
            inner: Mutex::new(inner),
            ticks: watch::Sender::new(0),
            own: watch::Sender::default(),
            programming: Programming::default(),
        }
    }

    /// Times changes until they are in force.
    pub fn programming(&self) -> &Programming {
        &self.programming
    }

    /// Changes the index; answers with the version that has to be in force for the change to be.
    pub fn edit<T>(&self, change: impl FnOnce(&mut Index) -> T) -> (T, Version) {
        let mut inner = self.lock();
        let answer = change(&mut inner.index);
        let stated = inner.index.take_stated_times();
        if inner.settle() {
            // What is read first is as old as it is: it says nothing about how fast changes are.
            if inner.complete {
                self.programming.changed(inner.version, stated.iter().filter_map(|text| time(text)).collect());
            }
            self.ticks.send_modify(|tick| *tick += 1);
        }
        self.own.send_if_modified(|known| {
            let news = known.as_ref() != inner.index.own_node();
            if news {
                *known = inner.index.own_node().cloned();
            }
            news
        });
        (answer, inner.version)
    }

    /// What this node's object says of the node's life; `None`: there is none.
    pub fn own_node(&self) -> Option<OwnNode> {
        self.own.borrow().clone()
    }

    /// Wakes whenever that changes.
    pub fn follow_own_node(&self) -> watch::Receiver<Option<OwnNode>> {
        self.own.subscribe()
    }

    /// Looks something up.
    pub fn read<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.lock().index)
    }

    /// Looks something up; answers with the version that has to be in force for it to be.
    pub fn seen<T>(&self, look: impl FnOnce(&Index) -> T) -> (T, Version) {
        let inner = self.lock();
        (look(&inner.index), inner.version)
    }

    /// Says that the source and the leases have been read once.
    pub fn complete(&self) {
        self.lock().complete = true;
        self.ticks.send_modify(|tick| *tick += 1);
    }

    /// All that should be in force, for a dataplane whose uplink has `uplink_mtu`; it counts as told from now on.
    /// `None`: it is not known yet. This node's object must be there: a folder that is empty for a moment, or a name
    /// that is mistyped, must not disconnect running pods at an agent's restart.
    pub fn whole(&self, uplink_mtu: u16) -> Option<Whole> {
        let mut inner = self.lock();
        inner.index.set_uplink_mtu(uplink_mtu);
        inner.settle();
        if !inner.complete || !inner.index.objects().contains_key(&v1::Key::Local) {
            return None;
        }
        inner.untold.clear();
        Some(Whole { objects: inner.index.objects().values().cloned().collect(), version: inner.version })
    }

    /// What changed since it was told last, and what is `owed`; both count as told from now on. `None`: no change.
    pub fn untold(&self, owed: &mut BTreeSet<v1::Key>) -> Option<(Changes, Version)> {
        let mut inner = self.lock();
        if inner.untold.is_empty() {
            return None;
        }
        inner.tell_again(std::mem::take(owed));
        Some((std::mem::take(&mut inner.untold), inner.version))
    }

    /// Has these told again as they are now.
    pub fn tell_again(&self, keys: BTreeSet<v1::Key>) {
        self.lock().tell_again(keys);
    }

    /// Wakes whenever there may be something to tell.
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.ticks.subscribe()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic while the lock is held ends the process in release builds; in tests the state is still whole.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn tell_again(&mut self, keys: BTreeSet<v1::Key>) {
        for key in keys {
            let now = self.index.objects().get(&key).cloned();
            self.untold.insert(key, now);
        }
    }

    fn settle(&mut self) -> bool {
        let changes = self.index.settle();
        let any = !changes.is_empty();
        if any {
            self.version += 1;
            self.untold.extend(changes);
        }
        any
    }
}

/// RFC 3339 as the API server's clients write it.
fn time(text: &str) -> Option<SystemTime> {
    text.parse::<k8s_openapi::jiff::Timestamp>().ok().map(SystemTime::from)
}
