//! Namespaces of a test, gone when it ends, and what iproute2 says about them (an observer that is not our own code).
#![allow(dead_code, missing_docs, reason = "shared by several test programs, none of which uses all of it")]

use std::{
    process::{Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
};

use podplane_hostnet::{Netlink, Netns};

pub struct Space {
    pub name: String,
    pub netns: Netns,
    pub netlink: Netlink,
}

impl Space {
    pub fn new(what: &str) -> Space {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("pp-hostnet-{what}-{}-{n}", std::process::id());
        let netns = Netns::create(&name).expect("create a namespace (these tests need root)");
        let netlink = Netlink::open_in(&netns).unwrap();
        let mut space = Space { name, netns, netlink };
        let lo = space.netlink.need_link("lo").unwrap().index;
        space.netlink.set_up(lo, true).unwrap();
        space
    }

    /// Runs `f` inside.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        self.netns.run(f).unwrap()
    }

    /// Output of a command inside; it must succeed.
    pub fn sh(&self, command: &str) -> String {
        let output = self.run(|| Command::new("sh").args(["-ec", command]).stdin(Stdio::null()).output().unwrap());
        let err = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command}: {err}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Whether a command inside succeeds.
    pub fn ok(&self, command: &str) -> bool {
        let run = || Command::new("sh").args(["-ec", command]).stdin(Stdio::null()).output().unwrap().status.success();
        self.run(run)
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}
