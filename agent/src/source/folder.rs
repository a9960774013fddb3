//! A folder of manifests, read and watched, never written.
//!
//! Runs on a thread of its own: parsing a cluster's objects must not hold up the CNI server. Writers replace files by
//! renaming; one that writes in place is read when it closes the file.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::ErrorKind;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use std::{fs, io};

use inotify::{EventMask, Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_api::RefusedObject;
use podplane_index::ObjectKey;
use podplane_index::files::{Events, Files};
use podplane_index::manifest::ParseError;

use crate::desired::Desired;

/// The longest file that is read, in bytes.
const MAX_FILE: u64 = 256 * 1024 * 1024;
/// Between two attempts to watch a folder that is not there.
const RETRY: Duration = Duration::from_millis(200);
/// How often the thread looks whether anybody still needs it.
const TICK_MS: u16 = 500;

/// A folder that is being watched; dropping it ends the watching.
#[derive(Clone, Debug)]
pub struct Folder(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    files: Files,
    trouble: Option<String>,
    /// Kinds that were said to be ignored.
    ignored: BTreeSet<String>,
    /// Refusals that were said.
    said: BTreeSet<(ObjectKey, String)>,
}

impl Folder {
    /// Reads and watches `dir`; `scanned` is called once, after everything in it has been applied to `desired`. A file
    /// that cannot be read, and never could, may hold policies: until it is mended or removed, not everything is applied.
    pub fn start(dir: &Path, desired: Arc<Desired>, scanned: impl FnOnce() + Send + 'static) -> io::Result<Folder> {
        let shared = Arc::new(Shared { state: Mutex::default() });
        let thread = Watcher { shared: Arc::downgrade(&shared), dir: dir.to_owned(), desired };
        std::thread::Builder::new().name("folder".into()).spawn(move || thread.run(scanned))?;
        Ok(Folder(shared))
    }

    /// Why the folder cannot be read.
    pub fn trouble(&self) -> Option<String> {
        self.0.lock().trouble.clone()
    }

    /// Files and objects that are not used as they are now, with their places.
    pub fn refused(&self, desired: &Desired) -> Vec<RefusedObject> {
        let state = self.0.lock();
        let place = |path: &Path, line| format!("{}:{line}", path.display());
        let files = state.files.refused().into_iter();
        let mut refused: Vec<_> =
            files.map(|r| RefusedObject { place: place(&r.path, r.line), reason: r.reason }).collect();
        desired.read(|index| {
            refused.extend(index.refused().map(|(key, reason)| RefusedObject {
                place: state.files.place(&key).map_or_else(|| key.to_string(), |(path, line)| place(path, line)),
                reason: format!("{key}: {reason}"),
            }));
        });
        refused
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Watcher {
    /// Gone when nobody needs the thread any more.
    shared: Weak<Shared>,
    dir: PathBuf,
    desired: Arc<Desired>,
}

/// What a batch of events asks for.
#[derive(Default)]
struct Work {
    names: BTreeSet<PathBuf>,
    rescan: bool,
    gone: bool,
}

impl Watcher {
    fn run(self, scanned: impl FnOnce()) {
        let mut scanned = Some(scanned);
        while self.shared.strong_count() > 0 {
            match self.watch_until_gone(&mut scanned) {
                Ok(()) => {}
                Err(e) => self.trouble(format!("cannot watch {}: {e}", self.dir.display())),
            }
            std::thread::sleep(RETRY);
        }
    }

    /// Watches until the folder or the need is gone.
    fn watch_until_gone(&self, scanned: &mut Option<impl FnOnce()>) -> io::Result<()> {
        let mut inotify = Inotify::init()?;
        let mask = WatchMask::CLOSE_WRITE
            | WatchMask::CREATE
            | WatchMask::MOVED_TO
            | WatchMask::MOVED_FROM
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(&self.dir, mask)?;
        // Watched first, read then: what changes in between is read twice, not never.
        self.rescan()?;
        self.finish(scanned);
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let ready = poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::from(TICK_MS));
            if self.shared.strong_count() == 0 {
                return Ok(());
            }
            match ready {
                Ok(0) | Err(nix::Error::EINTR) => continue,
                Ok(_) => {}
                Err(e) => return Err(e.into()),
            }
            let work = self.work(&mut inotify, &mut buffer)?;
            if work.rescan {
                self.rescan()?;
            } else {
                self.take(work.names.iter());
            }
            if work.gone {
                return Err(ErrorKind::NotFound.into());
            }
            self.finish(scanned);
        }
    }

    /// Says that everything was read, once it was. What only this process never read is not what should not be: to tell
    /// the dataplane so would open pods whose policies stand in a file with a mistake.
    fn finish(&self, scanned: &mut Option<impl FnOnce()>) {
        let Some(shared) = self.shared.upgrade().filter(|_| scanned.is_some()) else { return };
        let unread = shared.lock().files.never_read().map(|path| path.display().to_string()).collect::<Vec<_>>();
        if unread.is_empty() {
            shared.lock().trouble = None;
            scanned.take().into_iter().for_each(|scanned| scanned());
        } else {
            let files = unread.join(", ");
            self.trouble(format!(
                "the dataplane is told nothing before all files could be read once, for policies may stand in them: mend \
                 or remove {files}"
            ));
        }
    }

    fn work(&self, inotify: &mut Inotify, buffer: &mut [u8]) -> io::Result<Work> {
        let mut work = Work::default();
        loop {
            let events = match inotify.read_events(buffer) {
                Ok(events) => events,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(work),
                Err(e) => return Err(e),
            };
            for event in events {
                let lost = EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::IGNORED | EventMask::UNMOUNT;
                work.gone |= event.mask.intersects(lost);
                work.rescan |= event.mask.contains(EventMask::Q_OVERFLOW);
                let Some(name) = event.name else { continue };
                let path = self.dir.join(name);
                if !is_manifest(&path) {
                    // A volume that Kubernetes mounts changes all of its files by renaming the link `..data`.
                    work.rescan |= name.as_encoded_bytes().starts_with(b"..");
                } else if !event.mask.contains(EventMask::CREATE) || is_whole(&path) {
                    work.names.insert(path);
                }
            }
        }
    }

    /// Reads everything; what is not there any more is removed.
    fn rescan(&self) -> io::Result<()> {
        let mut paths = BTreeSet::new();
        for entry in fs::read_dir(&self.dir)? {
            paths.insert(entry?.path());
        }
        paths.retain(|path| is_manifest(path));
        if let Some(shared) = self.shared.upgrade() {
            let mut state = shared.lock();
            state.trouble = None;
            paths.extend(state.files.paths().map(Path::to_owned));
        }
        self.take(paths.iter());
        Ok(())
    }

    fn take<'p>(&self, paths: impl Iterator<Item = &'p PathBuf>) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.lock();
        let mut events = Events::new();
        for path in paths {
            events.extend(state.read(path));
        }
        if events.is_empty() {
            return;
        }
        // One edit for all: a file that was renamed, or a rescan, is one change.
        let (refused, _) = self.desired.edit(|index| {
            let mut refused = BTreeMap::new();
            for (key, object) in events {
                match object {
                    Some(object) => drop(index.apply(object).map_err(|reason| refused.insert(key, reason))),
                    None => index.delete(&key),
                }
            }
            refused
        });
        for (key, reason) in &refused {
            let (path, line) = state.files.place(key).unwrap_or((&self.dir, 0));
            tracing::error!(file = %path.display(), line, object = %key, reason, "refused; the last good state stays");
        }
        let State { files, said, .. } = &mut *state;
        self.desired.read(|index| {
            let now: BTreeSet<(ObjectKey, String)> =
                index.refused().map(|(key, reason)| (key, reason.to_owned())).collect();
            // What an object says of itself was said above, with what becomes of it.
            for (key, reason) in now.difference(said).filter(|(key, _)| !refused.contains_key(key)) {
                let (path, line) = files.place(key).unwrap_or((&self.dir, 0));
                tracing::error!(file = %path.display(), line, object = %key, reason, "not, or not wholly, in force");
            }
            *said = now;
        });
    }

    fn trouble(&self, trouble: String) {
        let Some(shared) = self.shared.upgrade() else { return };
        let mut state = shared.lock();
        if state.trouble.as_ref() != Some(&trouble) {
            tracing::error!("{trouble}");
            state.trouble = Some(trouble);
        }
    }
}

impl State {
    fn read(&mut self, path: &Path) -> Events {
        match load(path) {
            Ok(None) => self.files.remove(path),
            Ok(Some(text)) => {
                let (events, ignored) = self.files.put(path, &text);
                if let Some(error) = self.files.error(path) {
                    let (line, reason) = (error.line, &error.reason);
                    tracing::error!(file = %path.display(), line, reason, "refused; its last good content stays");
                }
                for note in ignored {
                    if self.ignored.insert(note.kind.clone()) {
                        tracing::info!(file = %path.display(), line = note.line, kind = note.kind, "not used by this agent");
                    }
                }
                events
            }
            Err(e) => {
                tracing::error!(file = %path.display(), reason = %e, "not readable; its last good content stays");
                self.files.fail(path, ParseError { line: 1, reason: format!("not readable: {e}") });
                Events::new()
            }
        }
    }
}

/// The text of a file; `None`: there is no such file.
fn load(path: &Path) -> io::Result<Option<String>> {
    match fs::metadata(path) {
        Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
        Ok(metadata) if !metadata.is_file() => return Ok(None),
        Ok(metadata) if metadata.len() > MAX_FILE => {
            return Err(io::Error::other(format!("longer than {MAX_FILE} bytes: split it")));
        }
        Ok(_) => {}
    }
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// By its name, as `kubectl` chooses; what begins with a dot is somebody's draft.
fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let known = ["yaml", "yml", "json"].map(|e| Some(OsStr::new(e))).contains(&path.extension());
    known && !hidden
}

/// Whether a file that was just created has its content: a link has, a file that is being written is read when closed.
fn is_whole(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::symlink_metadata(path).is_ok_and(|m| m.file_type().is_symlink() || m.nlink() > 1)
}

#[cfg(test)]
mod tests;
