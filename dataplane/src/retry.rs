//! A start that failed: why, for the agent to say, and another try.
//!
//! EAL starts once in the life of a process, so another try is another program in the same process: whoever started us
//! sees no end and begins no crash loop.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};
use std::{env, io, thread};

use dpdk_glue::{EalError, PoolError};
use podplane_config::link::LinkError;
use podplane_config::trouble::{StartTrouble, TroubleKind};
use sd_notify::NotifyState;

use crate::alone::NotAlone;
use crate::memory::NotFree;
use crate::signals::Stop;
use crate::start::notify;

/// How often a wait looks whether the end was asked for.
const LOOK: Duration = Duration::from_millis(100);
/// How long a start may take beyond the wait before it.
const START: Duration = Duration::from_secs(90);

/// Leaves the reason in `run_dir`, where no other dataplane runs.
pub fn leave(run_dir: &Path, error: &anyhow::Error) {
    let Some(kind) = kind(error) else { return };
    let trouble = StartTrouble { kind, message: format!("{error:#}") };
    if let Err(error) = trouble.write(run_dir) {
        tracing::warn!(%error, "the agent cannot be told why");
    }
}

/// What is lacking; `None`: nothing but that another one runs.
fn kind(error: &anyhow::Error) -> Option<TroubleKind> {
    for cause in error.chain() {
        if cause.is::<NotAlone>() || matches!(cause.downcast_ref(), Some(LinkError::Refused(_))) {
            return None;
        }
        match cause.downcast_ref::<EalError>() {
            Some(EalError::NoHugepages { .. }) => return Some(TroubleKind::Hugepages),
            Some(EalError::Init { errno, .. }) if errno.number() == libc::ENOMEM => {
                return Some(TroubleKind::Memory);
            }
            _ => {}
        }
        if cause.is::<NotFree>() || matches!(cause.downcast_ref(), Some(PoolError::NoMemory { .. })) {
            return Some(TroubleKind::Memory);
        }
    }
    Some(TroubleKind::Other)
}

/// Waits, and begins anew. Returns if it cannot, and with `None` if the end was asked for.
pub fn again(pause: Duration, stop: &Stop) -> Option<io::Error> {
    tracing::info!(seconds = pause.as_secs(), "trying again");
    let patience = u32::try_from((pause + START).as_micros()).unwrap_or(u32::MAX);
    notify(&[NotifyState::ExtendTimeoutUsec(patience), NotifyState::Status("waiting to start again; see the log")]);
    let until = Instant::now() + pause;
    while Instant::now() < until {
        if stop.is_requested() {
            return None;
        }
        thread::sleep(LOOK);
    }
    if let Err(error) = dpdk_glue::files::close_on_exec() {
        return Some(error);
    }
    let mut arguments = env::args_os();
    // Not by its path: an upgrade may have put another one there, whose arguments these are not.
    let mut program = Command::new("/proc/self/exe");
    program.arg0(arguments.next().unwrap_or_default());
    Some(program.args(arguments).exec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lacking_is_told_by_its_kind() {
        let hugepages = EalError::NoHugepages { wanted_mib: 512, free_mib: 3, pages: 256 };
        let memory = NotFree { wanted_mib: 9, free_mib: 1 };
        let pool = PoolError::NoMemory { name: "small".into(), mib: 7 };
        for (error, expected) in [
            (anyhow::Error::new(hugepages), Some(TroubleKind::Hugepages)),
            (anyhow::Error::new(memory), Some(TroubleKind::Memory)),
            (anyhow::Error::new(pool).context("making the pools"), Some(TroubleKind::Memory)),
            (anyhow::anyhow!("there is no interface eth7"), Some(TroubleKind::Other)),
            (anyhow::Error::new(NotAlone::Another(7)), None),
        ] {
            assert_eq!(kind(&error), expected, "{error:#}");
        }
    }
}
