//! New flows, one after the other, each of one datagram that says to which change it belongs and when it was sent.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::thread::Scope;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::netns::Netns;
use crate::node::pod_addresses;
use crate::services::PORTS;

/// Between two probes.
const PAUSE: Duration = Duration::from_millis(1).checked_div(4).expect("four is not zero");
/// Source ports of probes, one after the other: none comes again while its flow lives.
const SOURCES: std::ops::Range<u16> = 10_000..60_000;

/// A probe that came in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Arrival {
    /// Where.
    pub(super) pod: u8,
    /// The change that it belongs to.
    pub(super) change: usize,
    /// When it was sent.
    pub(super) sent: Instant,
    /// When it came in.
    pub(super) at: Instant,
}

/// All probes' times count from here.
fn epoch() -> Instant {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    *EPOCH.get_or_init(Instant::now)
}

/// Tells of probes that come into a pod.
pub(super) fn serve<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    netns: &Netns,
    pod: u8,
    tell: &Sender<Arrival>,
    over: &'scope AtomicBool,
) -> Result<()> {
    let address = SocketAddr::new(pod_addresses(pod)[0], PORTS[2].1);
    let socket = netns.enter(move || UdpSocket::bind(address))?.context("binding the probes' server")?;
    socket.set_read_timeout(Some(Duration::from_millis(100)))?;
    let tell = tell.clone();
    scope.spawn(move || {
        let mut datagram = [0; 16];
        while !over.load(Ordering::Relaxed) {
            let Ok(16) = socket.recv(&mut datagram) else { continue };
            let at = Instant::now();
            let number = |i: usize| u64::from_le_bytes(std::array::from_fn(|k| datagram[i + k]));
            let arrival =
                Arrival { pod, change: number(0) as usize, sent: epoch() + Duration::from_nanos(number(8)), at };
            // Nobody listens any more: the measurement has failed or is over.
            let _ = tell.send(arrival);
        }
    });
    Ok(())
}

/// Sends probes while it is told to.
#[derive(Debug)]
pub(super) struct Prober<'a> {
    change: &'a AtomicUsize,
}

impl<'scope> Prober<'scope> {
    /// Starts one in a pod; it waits.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        netns: &Netns,
        target: SocketAddr,
        over: &'scope AtomicBool,
    ) -> Result<Prober<'scope>> {
        epoch();
        let change: &'scope AtomicUsize = Box::leak(Box::default());
        let netns = netns.open()?;
        scope.spawn(move || netns.run(|| probes(target, change, over)));
        Ok(Prober { change })
    }

    /// Probes for this change from now on.
    pub(super) fn probe(&self, change: usize) {
        self.change.store(change, Ordering::Relaxed);
    }

    /// No more probes.
    pub(super) fn pause(&self) {
        self.change.store(0, Ordering::Relaxed);
    }
}

fn probes(target: SocketAddr, change: &AtomicUsize, over: &AtomicBool) {
    let mut sources = SOURCES.cycle();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(PAUSE);
        let change = change.load(Ordering::Relaxed);
        if change == 0 {
            continue;
        }
        let Some(source) = sources.next() else { return };
        let Ok(socket) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, source)) else { continue };
        let sent = epoch().elapsed().as_nanos() as u64;
        let datagram = [(change as u64).to_le_bytes(), sent.to_le_bytes()].concat();
        // One that is lost is followed by another.
        let _ = socket.send_to(&datagram, target);
    }
}
