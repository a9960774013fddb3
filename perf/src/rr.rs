//! Request and response of one byte: how long a round trip takes.
//!
//! The program is its own client and server (`podplane-perf rr-server`, `rr-client`), started inside of namespaces.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Child;
use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::netns::in_netns;
use crate::stats::quantile;

/// The port of both servers.
const PORT: u16 = 7007;
/// Round trips that are not counted.
const WARM_UP: usize = 200;

/// What a round trip is made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// One connection.
    Tcp,
    /// A connection for each byte, opened and closed.
    Connect,
    /// Datagrams; a lost one is an error.
    Udp,
}

impl Protocol {
    /// As `rr-client` takes it.
    pub fn name(self) -> &'static str {
        match self {
            Protocol::Tcp => "tcp",
            Protocol::Connect => "connect",
            Protocol::Udp => "udp",
        }
    }
}

impl FromStr for Protocol {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Protocol::Tcp, Protocol::Connect, Protocol::Udp];
        all.into_iter().find(|p| p.name() == text).ok_or_else(|| "tcp, connect or udp".to_owned())
    }
}

/// Serves both protocols, both families, until it is ended.
pub fn serve() -> Result<()> {
    let any: IpAddr = "::".parse()?;
    let udp = UdpSocket::bind((any, PORT)).context("binding the UDP server")?;
    std::thread::spawn(move || {
        let mut byte = [0; 1];
        while let Ok((n, from)) = udp.recv_from(&mut byte) {
            let _ = udp.send_to(&byte[..n], from);
        }
    });
    let tcp = TcpListener::bind((any, PORT)).context("binding the TCP server")?;
    for stream in tcp.incoming() {
        let mut stream = stream?;
        stream.set_nodelay(true)?;
        std::thread::spawn(move || {
            let mut byte = [0; 1];
            while stream.read_exact(&mut byte).is_ok() && stream.write_all(&byte).is_ok() {}
        });
    }
    Ok(())
}

/// Makes `count` round trips and prints the median and the 99th percentile in microseconds.
pub fn ask(server: IpAddr, protocol: Protocol, count: usize) -> Result<()> {
    let mut trip = connect(SocketAddr::new(server, PORT), protocol)?;
    for _ in 0..WARM_UP {
        trip()?;
    }
    let mut times = Vec::with_capacity(count);
    for _ in 0..count {
        let began = Instant::now();
        trip()?;
        times.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times.sort_by(f64::total_cmp);
    println!("{:.2} {:.2}", quantile(&times, 0.5), quantile(&times, 0.99));
    Ok(())
}

/// One round trip, to be called again and again.
type Trip = Box<dyn FnMut() -> Result<()>>;

fn connect(address: SocketAddr, protocol: Protocol) -> Result<Trip> {
    Ok(match protocol {
        Protocol::Tcp => {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_nodelay(true)?;
            Box::new(move || {
                stream.write_all(&[1])?;
                Ok(stream.read_exact(&mut [0])?)
            })
        }
        Protocol::Connect => Box::new(move || {
            let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5))?;
            stream.set_nodelay(true)?;
            stream.write_all(&[1])?;
            Ok(stream.read_exact(&mut [0])?)
        }),
        Protocol::Udp => {
            let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" })?;
            socket.connect(address)?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Box::new(move || {
                socket.send(&[1])?;
                socket.recv(&mut [0]).context("a datagram was lost")?;
                Ok(())
            })
        }
    })
}

/// A running server; ended when it goes out of scope.
#[derive(Debug)]
pub struct Server(Child);

impl Server {
    /// Starts one in a namespace.
    pub fn start(netns: &str) -> Result<Server> {
        let program = std::env::current_exe()?;
        let child =
            in_netns(netns, &program.to_string_lossy(), &["rr-server"]).spawn().context("starting the server")?;
        std::thread::sleep(Duration::from_millis(200));
        Ok(Server(child))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The median round trip from `netns` in microseconds.
pub fn median(netns: &str, server: &str, protocol: Protocol, count: usize) -> Result<f64> {
    let program = std::env::current_exe()?;
    let args = ["rr-client", server, protocol.name(), &count.to_string()];
    let out = in_netns(netns, &program.to_string_lossy(), &args).output()?;
    if !out.status.success() {
        bail!("the client failed: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    let text = String::from_utf8_lossy(&out.stdout);
    text.split_whitespace().next().and_then(|n| n.parse().ok()).with_context(|| format!("no median in {text:?}"))
}
