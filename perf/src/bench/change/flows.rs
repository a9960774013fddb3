//! What goes on while endpoints change: 65,536 flows through other Services, and TCP connections through the one that
//! changes.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Scope, ScopedJoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podplane_config::v1::{Object, Protocol};

use super::BUSY_PODS;
use crate::bench::Family;
use crate::netns::Netns;
use crate::node::{Node, pod_addresses};
use crate::services::{PORTS, SERVICES, cluster_ip, service};

/// Services of the flows, beside the ten thousand.
const BUSY_SERVICES: u32 = 128;
/// Sockets of each busy pod; each sends to each busy Service.
const SOCKETS: usize = 64;
const FLOWS: usize = SOCKETS * BUSY_SERVICES as usize * 8;
const _: () = assert!(FLOWS == 1 << 16);
const BUSY_PORT: u16 = 7009;
/// Datagrams sent at a time, and the pause between: each flow has one a second, if the machine can.
const BATCH: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);

/// The busy Services, each served by all busy pods.
pub(super) fn services() -> impl Iterator<Item = Object> {
    let backends: Vec<_> = BUSY_PODS.map(|pod| pod_addresses(pod)[0]).collect();
    (0..BUSY_SERVICES)
        .map(move |i| service(&format!("bench/busy{i}"), busy_address(i), &[(Protocol::Udp, BUSY_PORT)], &backends))
}

fn busy_address(i: u32) -> std::net::IpAddr {
    cluster_ip(Family::V4, SERVICES + 1 + i)
}

/// The 65,536 flows.
#[derive(Debug)]
pub(super) struct Background {
    /// Where their datagrams end: nobody reads them, the kernel drops what does not fit.
    _sinks: Vec<UdpSocket>,
}

impl Background {
    /// Starts sending.
    pub(super) fn start<'scope, 'env>(
        scope: &'scope Scope<'scope, 'env>,
        node: &Node,
        over: &'scope AtomicBool,
    ) -> Result<Background> {
        let (mut sinks, mut sockets) = (Vec::new(), Vec::new());
        for pod in BUSY_PODS {
            let bind = |port: u16| {
                node.pod(pod)?.enter(move || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)))?.context("binding")
            };
            sinks.push(bind(BUSY_PORT)?);
            for _ in 0..SOCKETS {
                sockets.push(bind(0)?);
            }
        }
        scope.spawn(move || send(&sockets, over));
        Ok(Background { _sinks: sinks })
    }

    /// Waits until all flows are in the table.
    pub(super) fn fill(&self, node: &Node) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.check(node).is_err() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(100));
        }
        self.check(node).map(drop)
    }

    /// How many flows are in the table; an error if some are missing.
    pub(super) fn check(&self, node: &Node) -> Result<u64> {
        let flows = node.flows()?.halves / 2;
        if flows < FLOWS as u64 {
            bail!("only {flows} of {FLOWS} flows are in the table");
        }
        Ok(flows)
    }
}

fn send(sockets: &[UdpSocket], over: &AtomicBool) {
    let mut at = 0usize;
    while !over.load(Ordering::Relaxed) {
        for _ in 0..BATCH {
            at = (at + 1) % FLOWS;
            let target = (busy_address((at / sockets.len()) as u32), BUSY_PORT);
            // What a full queue refuses is sent again with the next turn.
            let _ = sockets[at % sockets.len()].send_to(&[0], SocketAddr::from(target));
        }
        std::thread::sleep(PAUSE);
    }
}

/// Answers every byte with the pod's number.
pub(super) fn serve_tcp<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    netns: &Netns,
    pod: u8,
    over: &'scope AtomicBool,
) -> Result<()> {
    let address = SocketAddr::new(pod_addresses(pod)[0], PORTS[1].1);
    let listener = netns.enter(move || TcpListener::bind(address))?.context("binding the server")?;
    listener.set_nonblocking(true)?;
    scope.spawn(move || {
        while !over.load(Ordering::Relaxed) {
            let Ok((mut stream, _)) = listener.accept() else {
                std::thread::sleep(Duration::from_millis(5));
                continue;
            };
            let _ = (stream.set_nonblocking(false), stream.set_nodelay(true));
            // Ends with the client's end of the connection.
            scope.spawn(move || while stream.read_exact(&mut [0]).is_ok() && stream.write_all(&[pod]).is_ok() {});
        }
    });
    Ok(())
}

/// Connections through the Service that changes.
#[derive(Debug)]
pub(super) struct Established {
    connections: Vec<TcpStream>,
    server: u8,
}

impl Established {
    /// Opens them; `server` is the endpoint now.
    pub(super) fn connect(client: &podplane_hostnet::Netns, target: SocketAddr, server: u8) -> Result<Established> {
        let open = || TcpStream::connect_timeout(&target, Duration::from_secs(5));
        let connections = client.run(|| (0..16).map(|_| open()).collect::<std::io::Result<Vec<_>>>())?;
        let connections = connections.context("connecting through the Service")?;
        for connection in &connections {
            connection.set_nodelay(true)?;
            connection.set_read_timeout(Some(Duration::from_secs(5)))?;
        }
        Ok(Established { connections, server })
    }

    /// Talks over all of them by turns until it is over; how many round trips there were. An error: one broke, or another
    /// server answered.
    pub(super) fn run<'scope>(
        self,
        scope: &'scope Scope<'scope, '_>,
        over: &'scope AtomicBool,
    ) -> ScopedJoinHandle<'scope, Result<u64>> {
        scope.spawn(move || {
            let mut trips = 0;
            while !over.load(Ordering::Relaxed) {
                for mut connection in &self.connections {
                    let mut server = [0];
                    connection.write_all(&[1]).context("an established connection broke")?;
                    connection.read_exact(&mut server).context("an established connection broke")?;
                    if server[0] != self.server {
                        bail!("an established connection changed its server");
                    }
                    trips += 1;
                }
                std::thread::sleep(Duration::from_millis(1));
            }
            Ok(trips)
        })
    }
}
