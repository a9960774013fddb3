//! What the dataplane is told.

use std::collections::BTreeMap;

use podplane_config::v1;

/// What must be told to the dataplane, as a transaction: `Some` creates or replaces, `None` removes.
pub type Changes = BTreeMap<v1::Key, Option<v1::Object>>;

/// All that should be in force, and what of it changed since somebody asked.
#[derive(Debug, Default)]
pub(crate) struct Told {
    objects: BTreeMap<v1::Key, v1::Object>,
    changes: Changes,
}

impl Told {
    /// Says what an object is now; `None`: it is no more.
    pub(crate) fn set(&mut self, key: v1::Key, object: Option<v1::Object>) {
        if self.objects.get(&key) == object.as_ref() {
            return;
        }
        match &object {
            Some(object) => self.objects.insert(key.clone(), object.clone()),
            None => self.objects.remove(&key),
        };
        self.changes.insert(key, object);
    }

    pub(crate) fn get(&self, key: &v1::Key) -> Option<&v1::Object> {
        self.objects.get(key)
    }

    pub(crate) fn objects(&self) -> &BTreeMap<v1::Key, v1::Object> {
        &self.objects
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        std::mem::take(&mut self.changes)
    }
}
