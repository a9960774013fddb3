//! Removals that the CNI plugin left while the agent was down.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use inotify::{Inotify, WatchMask};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use podplane_api::pending;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::attachments::{Attachments, name};

/// How often records that could not be delivered are tried again.
const AGAIN: Duration = Duration::from_secs(10);
/// How often the watching thread looks whether anybody still needs it.
const TICK_MS: u16 = 500;

/// Delivers the records of `state_dir` now, and those that are left later as they come.
pub async fn start(state_dir: &Path, attachments: Arc<Attachments>) -> io::Result<()> {
    let folder = pending::folder(state_dir);
    fs::create_dir_all(&folder)?;
    let mut ticks = watch(&folder)?;
    deliver(&folder, &attachments).await;
    tokio::spawn(async move {
        loop {
            // A tick, or time to try again.
            if let Ok(None) = timeout(AGAIN, ticks.recv()).await {
                tokio::time::sleep(AGAIN).await;
            }
            deliver(&folder, &attachments).await;
        }
    });
    Ok(())
}

async fn deliver(folder: &Path, attachments: &Attachments) {
    let records: Vec<PathBuf> = match fs::read_dir(folder) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).filter(|path| pending::is_record(path)).collect(),
        Err(e) => {
            tracing::error!(folder = %folder.display(), reason = %e, "cannot read the removals that were left");
            return;
        }
    };
    for path in records {
        let request = match pending::read(&path) {
            Ok(request) => request,
            Err(e) => {
                let aside = path.with_extension("invalid");
                tracing::error!(file = %path.display(), reason = %e, "no removal can be read from it; put aside");
                let _ = fs::rename(&path, aside);
                continue;
            }
        };
        match attachments.bury(&request.attachment).await {
            Ok(()) => {
                tracing::info!(
                    attachment = name(&request.attachment),
                    "gave back what was deleted while the agent was down"
                );
                let _ = fs::remove_file(&path);
            }
            Err(e) => tracing::error!(file = %path.display(), reason = %e, "could not be delivered; tried again"),
        }
    }
}

fn watch(folder: &Path) -> io::Result<mpsc::Receiver<()>> {
    let mut inotify = Inotify::init()?;
    inotify.watches().add(folder, WatchMask::MOVED_TO | WatchMask::CLOSE_WRITE)?;
    let (sender, receiver) = mpsc::channel(1);
    std::thread::Builder::new().name("pending-del".into()).spawn(move || {
        let mut buffer = [0; 4096];
        while !sender.is_closed() {
            let ready = poll(&mut [PollFd::new(inotify.as_fd(), PollFlags::POLLIN)], PollTimeout::from(TICK_MS));
            if !matches!(ready, Ok(n) if n > 0) {
                continue;
            }
            // Which file it was does not matter: the folder is read. A tick that waits already covers this one.
            let _ = inotify.read_events(&mut buffer).map(Iterator::count);
            let _ = sender.try_send(());
        }
    })?;
    Ok(receiver)
}
