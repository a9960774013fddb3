//! What a watch has heard, on its way into the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podplane_index::{Index, Kind, Object, ObjectKey};

use super::Shared;
use super::wire::Wire;
use crate::desired::Desired;

/// How many objects of a list are applied at a time: nodes by the thousand must not be settled one by one, and neither
/// must all pods of a cluster be kept until the last has come.
const BATCH: usize = 2000;

/// Takes what one kind's watch hears.
pub(super) struct Sink {
    kind: Kind,
    shared: Arc<Shared>,
    desired: Arc<Desired>,
    batch: BTreeMap<ObjectKey, Change>,
    /// While a list comes in: what it named so far.
    listing: Option<BTreeSet<ObjectKey>>,
}

enum Change {
    Put(Box<Object>),
    /// With the UID of what is gone.
    Delete(String),
}

impl Sink {
    pub(super) fn new(kind: Kind, shared: Arc<Shared>, desired: Arc<Desired>) -> Sink {
        Sink { kind, shared, desired, batch: BTreeMap::new(), listing: None }
    }

    /// Whether objects of the kind are in force.
    pub(super) fn has_objects(&self) -> bool {
        self.desired.read(|index| !index.keys(self.kind).is_empty())
    }

    /// The whole list begins, perhaps once more.
    pub(super) fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// An object is there, in this state.
    pub(super) fn put(&mut self, wire: &Wire) {
        let key = wire.key(self.kind);
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        match wire.object(self.kind) {
            Ok(object) => {
                self.shared.readable(&key);
                self.batch.insert(key, Change::Put(Box::new(object)));
            }
            // Its old state stays, in the index and in what is on its way there.
            Err(reason) => self.shared.unreadable(key, reason),
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// An object is gone.
    pub(super) fn delete(&mut self, wire: &Wire) {
        let key = wire.key(self.kind);
        if let Some(listing) = &mut self.listing {
            listing.remove(&key);
        }
        self.shared.readable(&key);
        self.batch.insert(key, Change::Delete(wire.uid().to_owned()));
    }

    /// The list was whole: what it did not name is gone.
    pub(super) fn end(&mut self) {
        let named = self.listing.take().unwrap_or_default();
        self.apply(|index, kind| index.keys(kind).difference(&named).for_each(|key| index.delete(key)));
        self.shared.listed(self.kind, &named);
    }

    /// Applies what came since the last time; while a list comes in, only once it is much.
    pub(super) fn settle(&mut self) {
        if self.listing.is_none() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.apply(|_, _| ());
        }
    }

    fn apply(&mut self, then: impl FnOnce(&mut Index, Kind)) {
        let (batch, kind) = (std::mem::take(&mut self.batch), self.kind);
        let (refused, _) = self.desired.edit(|index| {
            let mut refused = Vec::new();
            for (key, change) in batch {
                match change {
                    Change::Put(object) => {
                        if let Err(reason) = index.apply(*object) {
                            refused.push((key, reason));
                        }
                    }
                    Change::Delete(uid) if kind == Kind::Pod => index.delete_pod(&key, &uid),
                    Change::Delete(_) => index.delete(&key),
                }
            }
            then(index, kind);
            refused
        });
        self.shared.say(&self.desired, &refused);
    }
}
