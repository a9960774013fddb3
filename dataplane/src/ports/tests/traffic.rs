//! Two pods joined by the loop alone.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use podplane_packet::buf::{Gso, PacketBuf};
use podplane_packet::id::{PortId, WorkerId};
use podplane_pipeline::DropReason;
use podplane_pipeline::counters::WorkerCounters;

use super::lab::{Forwarder, Netns, Op, pools};
use super::{alone, eventually, readable};
use crate::ports::{Buffers, Burst, LinkState, OpenError, OpenedPort, PortIo, PortOpener, Role, TxQueue};

/// Two pods, `a` and `b`, whose veths end in `dp`.
pub(super) struct Pods {
    pub(super) a: Netns,
    pub(super) b: Netns,
    pub(super) dp: Netns,
}

impl Pods {
    pub(super) fn new() -> Pods {
        let pods = Pods { a: Netns::new("a"), b: Netns::new("b"), dp: Netns::new("dp") };
        pods.dp.silence();
        pods.a.veth("eth0", &pods.dp, "da");
        pods.b.veth("eth0", &pods.dp, "db");
        for (ns, n) in [(&pods.a, 1), (&pods.b, 2)] {
            ns.exec(&format!("ip addr add 10.77.0.{n}/24 dev eth0"));
            ns.exec(&format!("ip addr add fd77::{n}/64 dev eth0 nodad"));
        }
        pods
    }

    /// Opens an interface of `dp` as a pod's port of a dataplane with one worker.
    pub(super) fn open(&self, port: u16, name: &'static str) -> OpenedPort {
        let role = Role::Single { home: WorkerId(0) };
        self.dp.within(move || PortOpener::new(1, 64 << 20).open_interface(PortId(port), name, role)).expect("it opens")
    }
}

pub(super) fn end(opened: OpenedPort) -> PortIo {
    opened.ends.into_iter().next().expect("one worker")
}

fn joined(pods: &Pods) -> Forwarder {
    let ports = vec![end(pods.open(2, "da")), end(pods.open(3, "db"))];
    Forwarder::start(ports, vec![(0, 1, Op::Plain), (1, 0, Op::Plain)], false)
}

/// The byte at a place of the test stream.
fn pattern(i: usize) -> u8 {
    (i % 251) as u8 ^ (i >> 12) as u8
}

/// Sends `len` bytes by TCP from `a` to `b` at `address`, and checks that each arrives in its place.
pub(super) fn tcp_transfer(a: &Netns, b: &Netns, address: IpAddr, len: usize) {
    let listener = b.within(move || TcpListener::bind(SocketAddr::new(address, 0))).expect("the address is there");
    let to = listener.local_addr().expect("bound");
    let server = std::thread::spawn(move || {
        let (mut s, _) = listener.accept().expect("a connection");
        s.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let (mut buf, mut at) = (vec![0; 256 << 10], 0);
        loop {
            let n = patient(|| s.read(&mut buf)).expect("data keep coming");
            if n == 0 {
                break;
            }
            assert!(buf[..n].iter().enumerate().all(|(i, b)| *b == pattern(at + i)), "wrong bytes after {at}");
            at += n;
        }
        s.write_all(b"x").expect("the way back");
        at
    });
    a.within(move || {
        let mut s = patient(|| TcpStream::connect_timeout(&to, Duration::from_secs(60))).expect("connects");
        s.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
        let data: Vec<u8> = (0..len).map(pattern).collect();
        s.write_all(&data).expect("sends");
        s.shutdown(std::net::Shutdown::Write).expect("ends");
        s.read_exact(&mut [0]).expect("all of it arrived");
    });
    assert_eq!(server.join().expect("the server"), len);
}

/// Repeats a call that a signal interrupted (net_tap raises SIGIO).
fn patient<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// Sends datagrams of these sizes from `a` and checks that an echo of each comes back.
pub(super) fn udp_echo(a: &Netns, b: &Netns, address: IpAddr, sizes: &'static [usize]) {
    let server = b.within(move || UdpSocket::bind(SocketAddr::new(address, 0))).expect("the address is there");
    server.set_read_timeout(Some(Duration::from_millis(100))).expect("a socket");
    let to = server.local_addr().expect("bound");
    let over = Arc::new(AtomicBool::new(false));
    let echo = std::thread::spawn({
        let over = over.clone();
        move || {
            let mut buf = vec![0; 65_536];
            while !over.load(Relaxed) {
                if let Ok((n, from)) = server.recv_from(&mut buf) {
                    server.send_to(&buf[..n], from).expect("the way back");
                }
            }
        }
    });
    a.within(move || {
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let s = UdpSocket::bind(any).expect("a socket");
        s.set_read_timeout(Some(Duration::from_secs(2))).expect("a socket");
        for &n in sizes {
            let data: Vec<u8> = (0..n).map(pattern).collect();
            // A kernel that is short of time may lose a datagram: what is asked is what becomes of those that pass.
            let came = (0..20).any(|_| {
                s.send_to(&data, to).expect("sends");
                echoed(&s, &data)
            });
            assert!(came, "no echo of {n} bytes");
        }
    });
    over.store(true, Relaxed);
    echo.join().expect("the echo");
}

/// Whether the echo of `data` comes within the socket's patience; one of a datagram that was given up is passed over.
fn echoed(socket: &UdpSocket, data: &[u8]) -> bool {
    let mut buf = vec![0; 65_536];
    while let Ok(got) = patient(|| socket.recv(&mut buf)) {
        if got == data.len() {
            assert!(buf[..got] == *data, "the echo of {got} bytes differs");
            return true;
        }
    }
    false
}

#[test]
fn ping_tcp_and_udp_pass_and_big_frames_stay_whole() {
    let _alone = alone();
    let pods = Pods::new();
    let fwd = joined(&pods);
    pods.a.exec("ping -q -c 3 -i 0.05 -W 20 10.77.0.2");
    pods.a.exec("ping -q -c 3 -i 0.05 -W 20 fd77::2");
    pods.a.exec("ping -q -c 2 -i 0.05 -s 20000 -W 20 10.77.0.2");
    for address in ["10.77.0.2", "fd77::2"] {
        let address: IpAddr = address.parse().expect("an address");
        tcp_transfer(&pods.a, &pods.b, address, 32 << 20);
        udp_echo(&pods.a, &pods.b, address, &[1, 17, 1000, 1472, 9000, 60_000]);
    }
    let longest = fwd.seen.longest.load(Relaxed);
    assert!(longest > 60_000, "TCP was to pass in whole GSO frames, the longest had {longest} bytes");
    assert_eq!(fwd.counters.total_drops(DropReason::TxDevice), 0);
    assert_eq!(fwd.counters.total_drops(DropReason::RxTruncated), 0);
}

#[test]
fn iperf3_runs_through_the_loop() {
    let _alone = alone();
    let pods = Pods::new();
    let _fwd = joined(&pods);
    let server = pods.b.spawn({
        let ns = pods.b.name.clone();
        move || super::lab::run(&format!("ip netns exec {ns} iperf3 -s -1 -B 10.77.0.2"))
    });
    eventually("iperf3 listens", || pods.b.exec("ss -ltnH").contains(":5201"));
    let out = pods.a.exec("iperf3 -c 10.77.0.2 -t 1 -C cubic -f m");
    assert!(out.contains("receiver"), "{out}");
    server.join().expect("the server");
}

#[test]
fn udp_gso_passes_whole() {
    let _alone = alone();
    let pods = Pods::new();
    let fwd = joined(&pods);
    pods.a.exec("ping -q -c 1 -W 20 10.77.0.2");
    let server = pods.b.within(|| UdpSocket::bind("10.77.0.2:0")).expect("the address is there");
    server.set_read_timeout(Some(Duration::from_secs(60))).expect("a socket");
    let to = server.local_addr().expect("bound");
    pods.a.within(move || {
        let s = UdpSocket::bind("0.0.0.0:0").expect("a socket");
        nix::sys::socket::setsockopt(&s, nix::sys::socket::sockopt::UdpGsoSegment, &1000).expect("UDP_SEGMENT");
        let data: Vec<u8> = (0..20_500).map(pattern).collect();
        s.send_to(&data, to).expect("sends");
    });
    let (mut buf, mut at) = (vec![0; 65_536], 0);
    while at < 20_500 {
        let n = patient(|| server.recv(&mut buf)).expect("a datagram");
        assert_eq!(n, 1000.min(20_500 - at));
        assert!(buf[..n].iter().enumerate().all(|(i, b)| *b == pattern(at + i)));
        at += n;
    }
    assert!(fwd.seen.longest.load(Relaxed) > 20_000, "in one frame");
}

#[test]
fn an_interface_that_goes_is_a_state() {
    let _alone = alone();
    let pods = Pods::new();
    let (a, b) = (pods.open(2, "da"), pods.open(3, "db"));
    let (watch_a, watch_b) = (a.monitor.clone(), b.monitor.clone());
    let fwd = Forwarder::start(vec![end(a), end(b)], vec![(0, 1, Op::Plain), (1, 0, Op::Plain)], false);
    pods.a.exec("ping -q -c 1 -W 20 10.77.0.2");

    pods.dp.exec("ip link set db down");
    pods.dp.within({
        let watch = watch_b.clone();
        move || assert_eq!(watch.state(), LinkState::Down)
    });
    pods.dp.exec("ip link set db up");
    pods.a.exec("ping -q -c 1 -W 20 10.77.0.2");
    pods.dp.within(move || assert_eq!(watch_b.state(), LinkState::Up));

    // The command becomes ping itself.
    let ping = ["netns", "exec", &pods.a.name, "ping", "-q", "-i", "0.01", "10.77.0.2"];
    let mut pinging = Command::new("ip").args(ping).stdout(Stdio::null()).spawn().expect("ip starts");
    pods.dp.exec("ip link del db");
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        eventually("the loop saw it", || fwd.seen.gone.load(Relaxed));
        let lost = || fwd.counters.total_drops(DropReason::PortDown) > 0;
        eventually("what is for the lost port is counted", lost);
    }));
    pinging.kill().and_then(|()| pinging.wait()).expect("our own child");
    outcome.expect("both");
    pods.a.exec("ip link set eth0 down");
    pods.dp.within(move || assert_eq!(watch_a.state(), LinkState::Up, "its own end is up still"));
}

#[test]
fn a_lost_interface_can_be_taken_out_of_epoll() {
    let _alone = alone();
    let pods = Pods::new();
    let (bufs, counters) = (&mut Buffers::new(&pools()), &WorkerCounters::default());
    let mut port = end(pods.open(2, "da"));
    let watched = |port: &PortIo| port.wait_fd().map(readable);
    eventually("the pod says something", || {
        pods.a.exec("ip neigh flush dev eth0");
        let _ = pods.a.within(|| UdpSocket::bind("10.77.0.1:0").and_then(|s| s.send_to(b"?", "10.77.0.9:9")));
        watched(&port) == Some(true)
    });
    pods.dp.exec("ip link del da");
    let mut burst = Burst::new();
    eventually("it is gone", || port.rx(bufs, &mut burst, counters).state == LinkState::Gone);
    assert!(burst.is_empty(), "what was not read is lost");
    assert_eq!(watched(&port), Some(true), "it stays readable for ever: a worker that could not forget it would spin");
}

/// A frame of a protocol that nobody answers.
fn frame(payload: usize) -> Vec<u8> {
    let mut f = vec![0xff; 6];
    f.extend([2, 0, 0, 0, 0, 9, 0x88, 0xb5]);
    f.extend((0..payload).map(pattern));
    f
}

#[test]
fn a_vlan_tag_travels_in_the_metadata_and_a_bad_frame_costs_itself_only() {
    let _alone = alone();
    let pods = Pods::new();
    let (bufs, counters) = (&mut Buffers::new(&pools()), &WorkerCounters::default());
    let mut from = end(pods.open(2, "da"));
    let to = pods.a.within(|| {
        let role = Role::Single { home: WorkerId(0) };
        PortOpener::new(1, 64 << 20).open_interface(PortId(9), "eth0", role).expect("it opens")
    });
    let mut to = end(to);
    let mut queue = TxQueue::default();
    let send = |bytes: Vec<u8>, change: &dyn Fn(&mut podplane_packet::buf::Meta)| {
        let mut pkt = pools().alloc(bytes.len()).expect("a buffer");
        assert!(pkt.append(&bytes));
        change(pkt.meta_mut());
        pkt
    };
    queue.push(send(frame(50), &|m| m.vlan = Some(0x6005))).expect("room");
    queue.push(send(frame(3000), &|_| {})).expect("room"); // longer than the MTU: EMSGSIZE
    queue.push(send(frame(51), &|m| m.gso = Gso::Tcp4 { size: 100 })).expect("room"); // not TCP at all
    queue.push(send(frame(52), &|_| {})).expect("room");
    let out = from.tx(bufs, &mut queue, counters);
    assert_eq!((out.packets, queue.len(), queue.bytes()), (2, 0, 0));
    assert_eq!(counters.total_drops(DropReason::TxDevice), 1);
    assert_eq!(counters.total_drops(DropReason::BadOffload), 1);

    let mut got: Vec<(Option<u16>, Vec<u8>)> = Vec::new();
    let mut burst = Burst::new();
    eventually("both arrive", || {
        let fd = to.wait_fd().map(readable);
        to.rx(bufs, &mut burst, counters);
        assert!(fd == Some(true) || burst.is_empty());
        for p in burst.drain(..) {
            if p.head()[12..14] == [0x88, 0xb5] {
                assert_eq!(p.meta().port, PortId(9));
                got.push((p.meta().vlan, p.head().to_vec()));
            }
        }
        got.len() >= 2
    });
    assert_eq!(got, [(Some(0x6005), frame(50)), (None, frame(52))]);
}

#[test]
fn what_cannot_be_opened_says_why() {
    let _alone = alone();
    let pods = Pods::new();
    pods.dp.exec("ip link set db down");
    pods.dp.exec("ip link set da mtu 1300");
    pods.dp.within(|| {
        let opener = PortOpener::new(2, 64 << 20);
        let open = |name, role| opener.open_interface(PortId(0), name, role).map(|o| o.facts);
        assert!(matches!(open("nope", Role::Uplink), Err(OpenError::NoInterface { .. })));
        assert!(matches!(open("a/b", Role::Uplink), Err(OpenError::BadName { .. })));
        assert!(matches!(open("", Role::Uplink), Err(OpenError::BadName { .. })));
        assert!(matches!(open("lo", Role::Uplink), Err(OpenError::NotEthernet { .. })));
        assert!(matches!(open("db", Role::Uplink), Err(OpenError::Down { .. })));
        assert!(matches!(open("da", Role::Uplink), Err(OpenError::MtuTooSmall { mtu: 1300, .. })));
        let facts = open("db", Role::Single { home: WorkerId(1) }).expect("a pod's port may be down");
        assert_eq!((facts.name.as_str(), facts.mtu), ("db", 1500));
    });
}
