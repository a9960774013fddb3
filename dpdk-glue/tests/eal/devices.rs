//! Virtual devices, in the process's own network namespace.

use std::ffi::c_void;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use arrayvec::ArrayVec;
use dpdk_glue::ethdev::{DevError, Port, PortConfig, RxOffloads, RxQueue, TxOffloads};
use dpdk_glue::{Eal, Mbuf, Mempool};

use crate::pool;

type Burst = ArrayVec<Mbuf, 32>;

/// A started port with one queue each way.
fn started(eal: &Eal, devargs: &str, pool: &Mempool) -> Port {
    let mut port = Port::attach(eal, devargs).unwrap();
    port.configure(&PortConfig { rx_pools: vec![pool.clone()], ..PortConfig::default() }).unwrap();
    port.start().unwrap();
    port
}

pub(crate) fn null_bursts(eal: &Eal) {
    let pool = pool(eal, "null", 255, 2048);
    let port = started(eal, "net_null0,size=90", &pool);
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    let mut burst = Burst::new();
    burst.push(pool.alloc().unwrap());
    assert_eq!(rx.rx_burst(&mut burst), 31, "the room that is left");
    assert_eq!((burst.len(), burst[31].pkt_len(), pool.in_use()), (32, 90, 32));
    assert_eq!(rx.rx_burst(&mut burst), 0, "there is no room");
    assert_eq!(tx.tx_prepare(&mut burst).0, 32);
    assert_eq!((tx.tx_burst(&mut burst), burst.len(), pool.in_use()), (32, 0, 0));
    let stats = port.stats().unwrap();
    assert_eq!((stats.rx_packets, stats.tx_packets), (31, 32));
}

pub(crate) fn queues_and_states(eal: &Eal) {
    let pool = pool(eal, "states", 255, 2048);
    let mut port = Port::attach(eal, "net_null0").unwrap();
    assert!(matches!(port.start(), Err(DevError::NotConfigured(_))));
    let config = PortConfig {
        rx_pools: vec![pool.clone(); 2],
        tx_queues: 2,
        rx_offloads: RxOffloads::TCP_LRO,
        tx_offloads: TxOffloads::MULTI_SEGS | TxOffloads::TCP_TSO,
        ..PortConfig::default()
    };
    let granted = port.configure(&config).unwrap();
    let info = port.info().unwrap();
    assert_eq!((info.device.as_str(), info.driver.as_str()), ("net_null0", "net_null"));
    assert!(info.tx_offloads.contains(granted.tx_offloads) && info.rx_offloads.contains(granted.rx_offloads));
    assert_eq!(granted.rx_offloads, RxOffloads::NONE, "net_null cannot merge segments");
    assert!(port.rx_queue(0).is_none(), "the port is stopped");
    port.start().unwrap();

    let (first, second) = (port.rx_queue(0).unwrap(), port.rx_queue(1).unwrap());
    assert!(port.rx_queue(0).is_none(), "one queue, two owners");
    assert!(port.rx_queue(2).is_none() && port.tx_queue(2).is_none());
    drop(second);
    assert!(port.rx_queue(1).is_some(), "a queue that was given back");
    assert!(matches!(port.stop(), Err(DevError::QueuesInUse(_))));
    assert!(matches!(port.configure(&config), Err(DevError::QueuesInUse(_))));
    // The queue works on another thread, and closes the port when it is the last.
    drop(port);
    assert!(matches!(Port::attach(eal, "net_null0"), Err(DevError::InUse(_))));
    let work = move |mut rx: RxQueue| rx.rx_burst(&mut Burst::new());
    assert_eq!(std::thread::spawn(move || work(first)).join().unwrap(), 32);
    let port = Port::attach(eal, "net_null0").expect("the device went with its last queue");
    assert_eq!((port.mtu().unwrap(), port.link().unwrap().up), (1500, false));
    port.close().unwrap();
}

pub(crate) fn refusals(eal: &Eal) {
    let cause = |devargs: &str| Port::attach(eal, devargs).unwrap_err();
    assert!(matches!(cause(""), DevError::Arguments(_)));
    assert!(matches!(cause("a\0b"), DevError::Arguments(_)));
    assert!(cause("net_nosuchdriver0").to_string().contains("plugin"), "{}", cause("net_nosuchdriver0"));
    assert!(cause("0000:ff:1f.7").to_string().contains("vfio-pci"));
    let pool = pool(eal, "refused", 255, 2048);
    let mut port = Port::attach(eal, "net_null0").unwrap();
    let config = PortConfig { rx_pools: vec![pool], tx_queues: u16::MAX, ..PortConfig::default() };
    assert!(matches!(port.configure(&config), Err(DevError::TooMany { wanted: 65535, .. })));
}

/// net_ring sends into the ring that it receives from, and takes no more than it holds.
pub(crate) fn ring_order(eal: &Eal) {
    let pool = pool(eal, "ring", 4095, 64);
    let port = started(eal, "net_ring0", &pool);
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    let mut next = 0u32..;
    let mut burst = Burst::new();
    let sent = loop {
        while !burst.is_full() {
            let mut m = pool.alloc().unwrap();
            m.append(4).unwrap().copy_from_slice(&next.next().unwrap().to_be_bytes());
            burst.push(m);
        }
        let before = number(&burst[0]);
        let sent = tx.tx_burst(&mut burst);
        if sent < 32 {
            break before + sent as u32;
        }
    };
    assert!(sent % 32 != 0, "the device took a part of a burst");
    let left: Vec<u32> = burst.iter().map(number).collect();
    assert_eq!(left, (sent..sent + burst.len() as u32).collect::<Vec<_>>(), "what was not taken, in order");
    let mut expected = 0..sent;
    let mut got = Burst::new();
    while rx.rx_burst(&mut got) != 0 {
        assert!(got.drain(..).all(|m| expected.next() == Some(number(&m))), "order");
    }
    assert_eq!(expected.len(), 0);
    drop(burst);
    assert_eq!(pool.in_use(), 0);
}

fn number(m: &Mbuf) -> u32 {
    u32::from_be_bytes(m.data().try_into().unwrap())
}

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// Counts, as packet capture does.
unsafe extern "C" fn count(_: u16, _: u16, _: *mut *mut dpdk_sys::rte_mbuf, n: u16, _: u16, _: *mut c_void) -> u16 {
    SEEN.fetch_add(usize::from(n), Ordering::Relaxed);
    n
}

/// Drops the first packet of each burst.
unsafe extern "C" fn drop_first(_: u16, _: u16, packets: *mut *mut dpdk_sys::rte_mbuf, n: u16, _: *mut c_void) -> u16 {
    // SAFETY: DPDK gives n packets, of which the callback may drop some and move the rest.
    unsafe {
        dpdk_sys::shim_pktmbuf_free(*packets);
        std::ptr::copy(packets.add(1), packets, usize::from(n) - 1);
    }
    n - 1
}

pub(crate) fn callbacks(eal: &Eal) {
    let pool = pool(eal, "callbacks", 255, 2048);
    let port = started(eal, "net_null0", &pool);
    // SAFETY: the port and its queues exist; the callbacks live as long as the process.
    let (seen, dropped) = unsafe {
        let null = std::ptr::null_mut();
        let seen = dpdk_sys::rte_eth_add_rx_callback(port.id(), 0, Some(count), null);
        (seen, dpdk_sys::rte_eth_add_tx_callback(port.id(), 0, Some(drop_first), null))
    };
    assert!(!seen.is_null() && !dropped.is_null());
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    let mut burst = Burst::new();
    assert_eq!((rx.rx_burst(&mut burst), SEEN.load(Ordering::Relaxed)), (32, 32));
    assert_eq!((tx.tx_burst(&mut burst), burst.len(), pool.in_use()), (31, 0, 0), "a dropped packet is lost or kept");
    // DPDK keeps them when the port is closed: they would work for the next device of that number.
    // SAFETY: as above, and nobody is in a burst.
    let removed = unsafe {
        [
            dpdk_sys::rte_eth_remove_rx_callback(port.id(), 0, seen),
            dpdk_sys::rte_eth_remove_tx_callback(port.id(), 0, dropped),
        ]
    };
    assert_eq!(removed, [0, 0]);
    assert_eq!((rx.rx_burst(&mut burst), tx.tx_burst(&mut burst)), (32, 32));
}

pub(crate) fn tap_interrupts(eal: &Eal) {
    let pool = pool(eal, "tap", 4095, 2048);
    let mut port = Port::attach(eal, "net_tap0,iface=gluetap0").unwrap();
    let config = PortConfig {
        rx_pools: vec![pool.clone()],
        rx_interrupts: true,
        mtu: Some(1400),
        tx_offloads: TxOffloads::MULTI_SEGS,
        ..PortConfig::default()
    };
    let granted = port.configure(&config).unwrap();
    assert_eq!((granted.mtu, granted.tx_offloads), (1400, TxOffloads::MULTI_SEGS));
    port.start().unwrap();
    assert_ne!(port.mac().unwrap(), [0; 6]);
    port.set_promiscuous(true).unwrap();
    assert!(port.promiscuous());
    let mut rx = port.rx_queue(0).unwrap();
    rx.enable_interrupt().unwrap();

    // The kernel greets a new interface with IPv6 multicast of its own.
    bring_up("gluetap0");
    let fd = rx.interrupt_fd().expect("net_tap has receive interrupts").as_raw_fd();
    assert!(readable(fd, Duration::from_secs(60)), "no interrupt");
    rx.disable_interrupt().unwrap();
    let burst = wait_for_packets(&mut rx);
    assert!(burst[0].pkt_len() > 54 && burst[0].port() == port.id());
    drop((burst, rx));
    port.close().unwrap();
    assert_eq!(pool.in_use(), 0, "the device kept buffers");
    let gone = !std::path::Path::new("/proc/sys/net/ipv4/conf/gluetap0").exists();
    assert!(gone, "the interface outlives its port");
}

pub(crate) fn af_packet(eal: &Eal) {
    let pool = pool(eal, "af_packet", 4095, 2048);
    let port = started(eal, "net_af_packet0,iface=lo", &pool);
    let (mut rx, mut tx) = (port.rx_queue(0).unwrap(), port.tx_queue(0).unwrap());
    assert!(rx.interrupt_fd().is_none());
    assert!(rx.enable_interrupt().is_err(), "net_af_packet has no receive interrupts");
    // An Ethernet type for experiments (IEEE 802, 0x88b5), which nothing on lo answers.
    let mut frame = pool.alloc().unwrap();
    frame.append(60).unwrap().fill(0x5a);
    frame.data_mut()[..14].copy_from_slice(&[0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
    let sent = frame.data().to_vec();
    let mut burst = Burst::new();
    burst.push(frame);
    assert_eq!(tx.tx_burst(&mut burst), 1);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !wait_for_packets(&mut rx).iter().any(|m| m.data() == sent) {
        assert!(Instant::now() < deadline, "lo did not bring the frame back");
    }
}

fn wait_for_packets(rx: &mut RxQueue) -> Burst {
    let (mut burst, deadline) = (Burst::new(), Instant::now() + Duration::from_secs(60));
    while rx.rx_burst(&mut burst) == 0 {
        assert!(Instant::now() < deadline, "no packet came");
        std::thread::sleep(Duration::from_millis(1));
    }
    burst
}

fn readable(fd: i32, timeout: Duration) -> bool {
    let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let deadline = Instant::now() + timeout;
    loop {
        // SAFETY: one pollfd, ours. (net_tap's signal may interrupt it.)
        match unsafe { libc::poll(&mut poll, 1, 100) } {
            1 => return true,
            _ if Instant::now() > deadline => return false,
            _ => {}
        }
    }
}

/// Brings an interface of this namespace up.
pub(crate) fn bring_up(name: &str) {
    // SAFETY: a socket of ours and a request that is zeroed and filled as SIOCSIFFLAGS wants it.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM, 0);
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
            *to = from as _;
        }
        assert_eq!(libc::ioctl(socket, libc::SIOCGIFFLAGS, &mut request), 0, "{name}");
        request.ifr_ifru.ifru_flags |= libc::IFF_UP as i16;
        assert_eq!(libc::ioctl(socket, libc::SIOCSIFFLAGS, &request), 0, "{name}");
        libc::close(socket);
    }
}
