//! What a watch has heard, on its way into the index.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use podplane_index::{Index, Kind, Object, ObjectKey};

use super::Shared;
use super::journal::Record;
use crate::desired::Desired;

/// How many objects of a list are applied at a time: nodes by the thousand must not be settled one by one, and neither
/// must all pods of a cluster be kept until the last has come.
const BATCH: usize = 2000;

/// Takes what is heard of one kind: a whole list first, every change then, and a whole list again whenever changes may
/// have been missed.
pub struct Sink {
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

    /// Nothing is heard, and why; what was known stays in force.
    pub fn trouble(&self, reason: String) {
        self.shared.trouble(self.kind, reason);
    }

    /// It is heard of again.
    pub fn fine(&self) {
        self.shared.fine(self.kind);
    }

    /// Ready when, from now on, some kind is heard of again.
    pub(super) fn heard_again(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut ticks = self.shared.heard_again.subscribe();
        async move {
            if ticks.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    pub(super) fn is_listed(&self) -> bool {
        self.shared.is_listed(self.kind)
    }

    /// Whether objects of the kind are in force.
    pub(super) fn has_objects(&self) -> bool {
        self.desired.read(|index| !index.keys(self.kind).is_empty())
    }

    /// The whole list begins, perhaps once more.
    pub fn begin(&mut self) {
        self.listing = Some(BTreeSet::new());
    }

    /// An object is there, in this state; with the reason, if that cannot be read: then its last state stays.
    pub fn put(&mut self, key: ObjectKey, object: Result<Object, String>) {
        if let Some(listing) = &mut self.listing {
            listing.insert(key.clone());
        }
        match object {
            Ok(object) => {
                self.shared.readable(&key);
                self.batch.insert(key, Change::Put(Box::new(object)));
            }
            // Also what is on its way into the index stays.
            Err(reason) => self.shared.unreadable(key, reason),
        }
        if self.batch.len() >= BATCH {
            self.flush();
        }
    }

    /// The object with this UID is gone.
    pub fn delete(&mut self, key: ObjectKey, uid: &str) {
        if let Some(listing) = &mut self.listing {
            listing.remove(&key);
        }
        self.shared.readable(&key);
        self.batch.insert(key, Change::Delete(uid.to_owned()));
    }

    /// The list was whole: what it did not name is gone.
    pub fn end(&mut self) {
        let named = self.listing.take().unwrap_or_default();
        self.apply(|index, kind| index.keys(kind).difference(&named).cloned().collect());
        self.shared.listed(self.kind, &named);
    }

    /// Applies what came since the last time; while a list comes in, only once it is much.
    pub fn settle(&mut self) {
        if self.listing.is_none() {
            self.flush();
        }
    }

    fn flush(&mut self) {
        if !self.batch.is_empty() {
            self.apply(|_, _| Vec::new());
        }
    }

    /// Applies the batch and removes what `gone` names then.
    fn apply(&mut self, gone: impl FnOnce(&Index, Kind) -> Vec<ObjectKey>) {
        let (batch, kind) = (std::mem::take(&mut self.batch), self.kind);
        let written = |change: &Change| match change {
            Change::Put(object) => serde_json::to_string(&**object).unwrap_or_default(),
            Change::Delete(_) => String::new(),
        };
        let batch: Vec<_> = batch.into_iter().map(|(key, change)| (key, written(&change), change)).collect();
        let ((refused, records), _) = self.desired.edit(|index| {
            let (mut refused, mut records) = (Vec::new(), BTreeMap::new());
            for (key, text, change) in batch {
                let record = match change {
                    Change::Put(object) => match index.apply(*object) {
                        Ok(()) => Record::Put(text),
                        Err(reason) => {
                            refused.push((key.clone(), reason));
                            // What it said before is what is in force.
                            Record::PutIfNew(text)
                        }
                    },
                    Change::Delete(uid) if kind == Kind::Pod => match index.delete_pod(&key, &uid) {
                        true => Record::Gone,
                        false => continue,
                    },
                    Change::Delete(_) => {
                        index.delete(&key);
                        Record::Gone
                    }
                };
                records.insert(key, record);
            }
            for key in gone(index, kind) {
                index.delete(&key);
                records.insert(key, Record::Gone);
            }
            (refused, records)
        });
        self.shared.keep(records);
        for (key, reason) in refused {
            tracing::error!(object = %key, reason, "refused; the last good state stays");
        }
    }
}
