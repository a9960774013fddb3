//! Small datagrams as fast as they are taken, none lost: the server gives credit for what came in. So the packets of both
//! sides are as many as were sent, and CPU per packet means the same on both.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::cpu::Threads;
use crate::netns::Netns;

/// Bytes of each datagram: with headers below 128 bytes.
const PAYLOAD: usize = 64;
/// Datagrams under way at most.
const WINDOW: u64 = 256;
/// The server answers once for so many.
const CREDIT: u64 = 32;
/// How long credit may take; then what is under way counts as lost.
const LOST: Duration = Duration::from_millis(200);

/// A server in a pod; ended when it goes out of scope.
#[derive(Debug)]
pub struct Server {
    received: Arc<AtomicU64>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts one on `port` of a pod's address.
    pub fn start(pod: &Netns, address: IpAddr, port: u16) -> Result<Server> {
        let socket = pod.enter(move || UdpSocket::bind((address, port)))?.context("binding the server")?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        let (received, over) = (Arc::<AtomicU64>::default(), Arc::<AtomicBool>::default());
        let (count, stop) = (received.clone(), over.clone());
        let thread = std::thread::spawn(move || serve(&socket, &count, &stop));
        Ok(Server { received, over, thread: Some(thread) })
    }

    /// Datagrams that came in so far.
    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(socket: &UdpSocket, received: &AtomicU64, over: &AtomicBool) {
    let mut datagram = [0; PAYLOAD];
    while !over.load(Ordering::Relaxed) {
        let Ok((_, from)) = socket.recv_from(&mut datagram) else { continue };
        // Only this thread writes it.
        let so_far = received.load(Ordering::Relaxed) + 1;
        received.store(so_far, Ordering::Relaxed);
        if so_far.is_multiple_of(CREDIT) {
            let _ = socket.send_to(&[1], from);
        }
    }
}

/// What a flood gave.
#[derive(Clone, Copy, Debug)]
pub struct Flood {
    /// Thousands of datagrams a second that the server received.
    pub kpps: f64,
    /// CPU time of the threads that forward for each of them, in nanoseconds.
    pub cpu_ns: f64,
}

/// Floods `address` from a pod for `seconds`; `server` counts, `forwarders` do the work between.
pub fn flood(pod: &Netns, address: SocketAddr, server: &Server, forwarders: &Threads, seconds: f64) -> Result<Flood> {
    let own: IpAddr = if address.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    let socket = pod.enter(move || UdpSocket::bind((own, 0)))?.context("binding the client")?;
    socket.connect(address)?;
    socket.set_read_timeout(Some(LOST))?;
    let (first, before, began) = (server.received(), forwarders.ran()?, Instant::now());
    let (mut sent, mut lost, mut credit) = (0u64, 0u64, WINDOW);
    while began.elapsed().as_secs_f64() < seconds {
        for _ in 0..credit {
            socket.send(&[0; PAYLOAD])?;
        }
        sent += credit;
        credit = match socket.recv(&mut [0; 8]) {
            Ok(_) => CREDIT,
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                lost += WINDOW;
                WINDOW
            }
            Err(e) => return Err(e).context("the flood was answered with an error"),
        };
    }
    let took = began.elapsed().as_secs_f64();
    let ran = forwarders.ran()? - before;
    let received = server.received() - first;
    if received == 0 || lost > sent / 10 {
        bail!("of {sent} datagrams {received} came in, and credit for {lost} never came");
    }
    Ok(Flood { kpps: received as f64 / took / 1e3, cpu_ns: ran as f64 / received as f64 })
}
