//! Processes that outlive the command that started them, and are ended by the next one.
//!
//! A process is remembered by its id and its start time: an id that was given to somebody else is left alone.

use std::fs::{self, OpenOptions};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::state::{Lab, read, remove, write};

/// A running process.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Remembered {
    pid: i32,
    /// Field 22 of /proc/PID/stat, clock ticks since boot.
    started: u64,
}

/// The start time of a live process; `None` for none and for a zombie. A process that was killed is a zombie by its
/// first thread already while others still hold its files and sockets: that one is not gone yet.
fn started(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain anything, so count from its end.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let (state, threads, started) = (fields.first()?, fields.get(17)?, fields.get(19)?);
    if *state == "Z" && ["0", "1"].contains(threads) { None } else { started.parse().ok() }
}

/// Starts `command` in the network namespace `netns` as a session of its own, with its output in `logs/NAME.log`.
pub fn start(lab: &Lab, name: &str, netns: &str, command: &[String]) -> Result<()> {
    let log = OpenOptions::new().create(true).append(true).open(lab.log(name)).context("opening a log file")?;
    let child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .arg("--")
        .args(command)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.join(" ")))?;
    let pid = child.id() as i32;
    let started = started(pid).unwrap_or(0);
    write(&record(lab, name), &Remembered { pid, started })
}

fn record(lab: &Lab, name: &str) -> std::path::PathBuf {
    lab.dir.join("processes").join(format!("{name}.json"))
}

/// Names of all remembered processes that start with `prefix`.
pub fn names(lab: &Lab, prefix: &str) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(lab.dir.join("processes"))
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok()?.strip_suffix(".json").map(str::to_owned))
        .filter(|name| name.starts_with(prefix) && !name.starts_with('.'))
        .collect();
    names.sort();
    names
}

/// Whether a process runs.
pub fn alive(lab: &Lab, name: &str) -> bool {
    pid(lab, name).is_some()
}

/// The id of a running process.
pub fn pid(lab: &Lab, name: &str) -> Option<i32> {
    let remembered: Remembered = read(&record(lab, name)).ok()?;
    (started(remembered.pid) == Some(remembered.started)).then_some(remembered.pid)
}

/// Ends processes and all that they started: asks first, all at once, and insists after half a minute.
pub fn stop(lab: &Lab, names: &[String]) -> Result<()> {
    let signal = |signal| {
        for pid in names.iter().filter_map(|name| pid(lab, name)) {
            // Its group, which is its own: a container's command may have started others.
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    };
    signal(Signal::SIGTERM);
    let ended = |within: Duration| {
        let deadline = Instant::now() + within;
        while names.iter().any(|name| alive(lab, name)) {
            if Instant::now() > deadline {
                return false;
            }
            sleep(Duration::from_millis(10));
        }
        true
    };
    if !ended(Duration::from_secs(30)) {
        for name in names.iter().filter(|name| alive(lab, name)) {
            eprintln!("podplane: {name} does not end when asked, and is killed: see {}", lab.log(name).display());
        }
        signal(Signal::SIGKILL);
        // The kernel takes its time with a process that has much memory, on a busy machine above all.
        ended(Duration::from_secs(60));
    }
    for name in names {
        if let Some(pid) = pid(lab, name) {
            bail!("process {pid} ({name}) does not end: see {}", lab.log(name).display());
        }
        remove(&record(lab, name))?;
    }
    Ok(())
}

/// Waits until `ready` says yes; an error with the end of the log when the process ends or time is up.
pub fn wait_ready(lab: &Lab, name: &str, within: Duration, mut ready: impl FnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + within;
    while !ready() {
        let ended = !alive(lab, name);
        if ended || Instant::now() > deadline {
            let what = if ended { "ended" } else { "is not ready in time" };
            bail!("{name} {what}; the end of its log:\n{}", tail(&lab.log(name)));
        }
        sleep(Duration::from_millis(20));
    }
    Ok(())
}

fn tail(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
