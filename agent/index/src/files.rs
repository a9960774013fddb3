//! Which file's word counts for which object.
//!
//! Each file is taken whole or refused whole; a refused file's last good content stays. An object that several files
//! name is taken from the first of them by name, whatever came first in time.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use crate::k8s::{Object, ObjectKey};
use crate::manifest::{self, Ignored, ParseError};

/// The files of a folder.
#[derive(Debug, Default)]
pub struct Files {
    files: BTreeMap<PathBuf, File>,
    /// The files that name an object.
    owners: BTreeMap<ObjectKey, BTreeSet<PathBuf>>,
}

#[derive(Debug, Default)]
struct File {
    objects: BTreeMap<ObjectKey, (u64, Object)>,
    /// Whether `objects` are what it said once, if only nothing.
    was_read: bool,
    error: Option<ParseError>,
}

/// What a change of a file means: `Some` is an object's new state, `None` its removal.
pub type Events = BTreeMap<ObjectKey, Option<Object>>;

/// A file or an object of a file that is not used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: u64,
    /// What is wrong.
    pub reason: String,
}

impl Files {
    /// Takes the new text of a file. A malformed one changes nothing but [`Files::refused`].
    pub fn put(&mut self, path: &Path, text: &str) -> (Events, Vec<Ignored>) {
        let parsed = manifest::parse(text).and_then(|manifest| Ok((by_key(manifest.objects)?, manifest.ignored)));
        match parsed {
            Ok((objects, ignored)) => {
                let events = self.replace(path, Some(File { objects, was_read: true, error: None }));
                (events, ignored)
            }
            Err(error) => {
                self.fail(path, error);
                (Events::new(), Vec::new())
            }
        }
    }

    /// Says that a file could not be read; its last good content stays.
    pub fn fail(&mut self, path: &Path, error: ParseError) {
        self.files.entry(path.to_owned()).or_default().error = Some(error);
    }

    /// Takes a file away.
    pub fn remove(&mut self, path: &Path) -> Events {
        self.replace(path, None)
    }

    /// The files that are known, for a rescan.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path)
    }

    /// Files that have an error and no good content of before, so that nobody knows what they are to say.
    pub fn never_read(&self) -> impl Iterator<Item = &Path> {
        let unread = self.files.iter().filter(|(_, file)| file.error.is_some() && !file.was_read);
        unread.map(|(path, _)| path.as_path())
    }

    /// Where an object stands that is in use.
    pub fn place(&self, key: &ObjectKey) -> Option<(&Path, u64)> {
        let path = self.owners.get(key)?.first()?;
        Some((path, self.files.get(path)?.objects.get(key)?.0))
    }

    /// The error of one file.
    pub fn error(&self, path: &Path) -> Option<&ParseError> {
        self.files.get(path)?.error.as_ref()
    }

    /// Malformed files, and objects that another file names already.
    pub fn refused(&self) -> Vec<Refused> {
        let malformed = self.files.iter().filter_map(|(path, file)| {
            let error = file.error.as_ref()?;
            let kept = if file.objects.is_empty() { "" } else { "; its last good content stays in force" };
            Some(Refused { path: path.clone(), line: error.line, reason: format!("{}{kept}", error.reason) })
        });
        let doubled = self.owners.iter().filter(|(_, paths)| paths.len() > 1).flat_map(|(key, paths)| {
            let first = paths.first();
            paths.iter().skip(1).filter_map(move |path| {
                let line = self.files.get(path)?.objects.get(key)?.0;
                let reason = format!("{key} is also in {}, which counts: remove one of them", first?.display());
                Some(Refused { path: path.clone(), line, reason })
            })
        });
        malformed.chain(doubled).collect()
    }

    /// The object that counts of those that files state under `key`.
    fn counting(&self, key: &ObjectKey) -> Option<&Object> {
        let first = self.owners.get(key)?.first()?;
        self.files.get(first)?.objects.get(key).map(|(_, object)| object)
    }

    fn replace(&mut self, path: &Path, new: Option<File>) -> Events {
        let keys = |file: Option<&File>| -> BTreeSet<ObjectKey> {
            file.iter().flat_map(|file| file.objects.keys().cloned()).collect()
        };
        let mut touched = keys(self.files.get(path));
        touched.extend(keys(new.as_ref()));
        let before: BTreeMap<_, _> =
            touched.into_iter().map(|key| (key.clone(), self.counting(&key).cloned())).collect();
        for key in before.keys() {
            let stated = new.as_ref().is_some_and(|file| file.objects.contains_key(key));
            let owners = self.owners.entry(key.clone()).or_default();
            if stated {
                owners.insert(path.to_owned())
            } else {
                owners.remove(path)
            };
            if owners.is_empty() {
                self.owners.remove(key);
            }
        }
        match new {
            Some(file) => self.files.insert(path.to_owned(), file),
            None => self.files.remove(path),
        };
        let changed = before.into_iter().filter_map(|(key, before)| {
            let now = self.counting(&key);
            (now != before.as_ref()).then(|| (key.clone(), now.cloned()))
        });
        changed.collect()
    }
}

fn by_key(placed: Vec<manifest::Placed>) -> Result<BTreeMap<ObjectKey, (u64, Object)>, ParseError> {
    let mut objects: BTreeMap<ObjectKey, (u64, Object)> = BTreeMap::new();
    for manifest::Placed { line, object } in placed {
        let key = object.key();
        if let Some((first, _)) = objects.get(&key) {
            return Err(ParseError { line, reason: format!("{key} stands in this file already, in line {first}") });
        }
        objects.insert(key, (line, object));
    }
    Ok(objects)
}

#[cfg(test)]
mod tests;
