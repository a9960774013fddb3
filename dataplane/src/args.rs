//! The command line.

use std::path::PathBuf;
use std::str::FromStr;

use clap::Parser;
use ipnet::IpNet;
use podplane_packet::id::WorkerId;
use podplane_pipeline::TIMEOUTS;
use podplane_tables::flow::{TimeoutClass, Timeouts};

/// The longest name of a network interface, in bytes (`IFNAMSIZ` less the terminator).
const MAX_IFNAME: usize = 15;

/// Podplane's dataplane: owns the node's uplink and connects its pods. One per node, as root; configured by
/// podplane-agent over RUN/dataplane.sock. Without an agent it passes everything between the uplink and the node.
#[derive(Clone, Debug, Parser)]
#[command(name = "podplane-dataplane", version = podplane_version::line())]
pub struct Args {
    /// The device to the other nodes: iface:NAME (a kernel interface), ethdev:DEVARGS (a DPDK device, such as
    /// ethdev:net_tap0,iface=dtap0) or pci:ADDRESS (a NIC bound to vfio-pci).
    #[arg(long, value_name = "DEVICE", env = "PODPLANE_UPLINK")]
    pub uplink: Uplink,

    /// The kernel interface that an ethdev uplink sits on and that must be taken over; for net_af_packet it is read
    /// from the device arguments (iface=NAME).
    #[arg(long, value_name = "NAME", value_parser = ifname)]
    pub uplink_ifname: Option<String>,

    /// How many workers forward packets.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=WorkerId::MAX as i64))]
    pub workers: u8,

    /// CPUs that workers are bound to, such as 2-5,8: worker i runs on the i-th, and over again. Without it the
    /// scheduler places them.
    #[arg(long, value_name = "LIST")]
    pub lcores: Option<CpuList>,

    /// Memory in MiB for packet buffers and flow tables, from hugepages where there are enough.
    #[arg(long, value_name = "MIB", default_value_t = 1024, value_parser = clap::value_parser!(u32).range(64..=1 << 20))]
    pub memory: u32,

    /// Do not use hugepages: slower, and no physical NIC without an IOMMU.
    #[arg(long)]
    pub no_huge: bool,

    /// Workers never sleep: the lowest latency, for the price of one CPU each.
    #[arg(long)]
    pub busy_poll: bool,

    /// Where the sockets are.
    #[arg(long, value_name = "DIR", default_value = "/run/podplane")]
    pub run_dir: PathBuf,

    /// Where the record of the take-over is.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/podplane")]
    pub state_dir: PathBuf,

    /// The uplink's MTU in bytes, in place of the device's own.
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u16).range(1350..=9702))]
    pub mtu: Option<u16>,

    /// An address of the node with its prefix length, for uplinks that are no kernel interface (tap, PCI); may be
    /// given several times.
    #[arg(long, value_name = "ADDRESS/LENGTH")]
    pub host_address: Vec<IpNet>,

    /// How long flows of a class may be silent, such as tcp-established=7200; may be given several times. Classes: other,
    /// tcp-opening, tcp-established, tcp-closing, tcp-closed, udp, udp-stream, icmp, sctp, deny.
    #[arg(long, value_name = "CLASS=SECONDS")]
    pub timeout: Vec<FlowTimeout>,

    /// Memory in MiB for the tables that choose among Services' backends, at most: a configuration that needs more is
    /// refused. A set of 10 backends takes 2 KiB, one of 1,000 takes 250 KiB, alike sets share theirs.
    #[arg(long, value_name = "MIB", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    pub service_memory: u32,

    /// Where the start fails (too few hugepages, no such interface), wait so many seconds and try again in place of
    /// ending, so that nobody starts it over and over; the agent says why. 0: end.
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    pub retry_start: u16,

    /// What is logged: a level (error, warn, info, debug, trace) or a filter as of tracing-subscriber.
    #[arg(long, value_name = "FILTER", default_value = "info", env = "PODPLANE_LOG")]
    pub log: String,
}

/// The device to the other nodes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Uplink {
    /// A kernel interface, through our AF_PACKET driver.
    Iface(String),
    /// A DPDK device by its arguments.
    Ethdev(String),
    /// A PCI device by its address.
    Pci(String),
}

impl Uplink {
    /// The kernel interface that must be taken over, as far as the device says.
    pub fn kernel_interface(&self) -> Option<&str> {
        match self {
            Uplink::Iface(name) => Some(name),
            Uplink::Ethdev(devargs) if devargs.starts_with("net_af_packet") || devargs.starts_with("net_af_xdp") => {
                devargs.split(',').find_map(|arg| arg.strip_prefix("iface="))
            }
            _ => None,
        }
    }

    /// Whether the device is a tap: its kernel side has the device's own Ethernet address.
    pub fn is_tap(&self) -> bool {
        matches!(self, Uplink::Ethdev(devargs) if devargs.starts_with("net_tap"))
    }
}

impl std::fmt::Display for Uplink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Uplink::Iface(name) => write!(f, "iface:{name}"),
            Uplink::Ethdev(devargs) => write!(f, "ethdev:{devargs}"),
            Uplink::Pci(address) => write!(f, "pci:{address}"),
        }
    }
}

impl FromStr for Uplink {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        const FORMS: &str = "iface:NAME, ethdev:DEVARGS or pci:ADDRESS";
        match text.split_once(':') {
            Some(("iface", name)) => ifname(name).map(Uplink::Iface),
            Some(("ethdev", "")) => Err(format!("no device in {text:?}: give {FORMS}")),
            Some(("ethdev", devargs)) => Ok(Uplink::Ethdev(devargs.to_owned())),
            Some(("pci", address)) => pci_address(address).map(Uplink::Pci),
            _ => Err(format!("{text:?} is no device: give {FORMS}")),
        }
    }
}

fn ifname(name: &str) -> Result<String, String> {
    let bad = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if name.is_empty() || name.len() > MAX_IFNAME || name == "." || name == ".." || name.contains(bad) {
        return Err(format!("{name:?} is no name of a network interface (1 to {MAX_IFNAME} bytes)"));
    }
    Ok(name.to_owned())
}

/// `0000:01:00.0`, with or without the domain; device arguments may follow after a comma.
fn pci_address(text: &str) -> Result<String, String> {
    let address = text.split(',').next().unwrap_or_default();
    let (bus, function) = address.rsplit_once('.').ok_or_else(|| bad_pci(text))?;
    let parts: Vec<&str> = bus.split(':').collect();
    let hex = |part: &&str, len: usize| part.len() == len && part.bytes().all(|b| b.is_ascii_hexdigit());
    let whole = match parts.as_slice() {
        [bus, device] => hex(bus, 2) && hex(device, 2),
        [domain, bus, device] => hex(domain, 4) && hex(bus, 2) && hex(device, 2),
        _ => false,
    };
    if !whole || !matches!(function.as_bytes(), [b'0'..=b'7']) {
        return Err(bad_pci(text));
    }
    Ok(text.to_owned())
}

fn bad_pci(text: &str) -> String {
    format!("{text:?} is no PCI address; `dpdk-devbind.py --status` lists them as 0000:01:00.0")
}

/// How long flows of one class may be silent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowTimeout {
    /// Which flows.
    pub class: TimeoutClass,
    /// How long, in seconds.
    pub seconds: u32,
}

/// The longest time that flows may be silent: a week, far from where the workers' clocks wrap.
const LONGEST: u32 = 7 * 24 * 3600;
/// The longest time for which a refusal is remembered: it would outlive its cause.
const LONGEST_DENY: u32 = 60;

impl FromStr for FlowTimeout {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let classes = || CLASSES.map(|(name, _)| name).join(", ");
        let (name, seconds) = text.split_once('=').ok_or_else(|| format!("{text:?} is not CLASS=SECONDS"))?;
        let class = CLASSES.iter().find(|(known, _)| *known == name).map(|(_, class)| *class);
        let class = class.ok_or_else(|| format!("{name:?} is no class of flows; there are {}", classes()))?;
        let longest = if class == TimeoutClass::Deny { LONGEST_DENY } else { LONGEST };
        let seconds = seconds.parse().ok().filter(|s| (1..=longest).contains(s));
        let seconds = seconds.ok_or_else(|| format!("{name} takes 1 to {longest} seconds"))?;
        Ok(FlowTimeout { class, seconds })
    }
}

/// The classes of flows by name.
const CLASSES: [(&str, TimeoutClass); TimeoutClass::COUNT] = [
    ("other", TimeoutClass::Other),
    ("tcp-opening", TimeoutClass::TcpOpening),
    ("tcp-established", TimeoutClass::TcpEstablished),
    ("tcp-closing", TimeoutClass::TcpClosing),
    ("tcp-closed", TimeoutClass::TcpClosed),
    ("udp", TimeoutClass::Udp),
    ("udp-stream", TimeoutClass::UdpStream),
    ("icmp", TimeoutClass::Icmp),
    ("sctp", TimeoutClass::Sctp),
    ("deny", TimeoutClass::Deny),
];

/// A list of CPUs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CpuList(Vec<usize>);

impl CpuList {
    /// The CPU of a worker.
    pub fn of(&self, worker: WorkerId) -> usize {
        self.0[worker.index() % self.0.len()]
    }
}

impl FromStr for CpuList {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let bad = || format!("{text:?} is no list of CPUs such as 2-5,8");
        let number = |s: &str| s.parse::<usize>().ok().filter(|&cpu| cpu < libc::CPU_SETSIZE as usize).ok_or_else(bad);
        let mut cpus = Vec::new();
        for part in text.split(',') {
            match part.split_once('-') {
                Some((first, last)) => {
                    let (first, last) = (number(first)?, number(last)?);
                    if last < first {
                        return Err(bad());
                    }
                    cpus.extend(first..=last);
                }
                None => cpus.push(number(part)?),
            }
        }
        Ok(CpuList(cpus))
    }
}

impl Args {
    /// The kernel interface that must be taken over.
    pub fn taken_over(&self) -> Option<&str> {
        self.uplink_ifname.as_deref().or_else(|| self.uplink.kernel_interface())
    }

    /// How long flows may be silent: the pipeline's defaults, but for what `--timeout` says; of several for one class the
    /// last counts.
    pub fn timeouts(&self) -> Timeouts {
        let mut timeouts = TIMEOUTS;
        for FlowTimeout { class, seconds } in &self.timeout {
            timeouts.0[*class as usize] = seconds * 1000;
        }
        timeouts
    }

    /// What clap cannot see: options that contradict each other.
    ///
    /// # Errors
    /// The cause and the cure.
    pub fn check(&self) -> Result<(), String> {
        if let (Uplink::Iface(name), Some(other)) = (&self.uplink, &self.uplink_ifname)
            && name != other
        {
            return Err(format!("--uplink iface:{name} is the interface itself: leave --uplink-ifname {other} out"));
        }
        if let (Some(name), false) = (self.taken_over(), self.host_address.is_empty()) {
            return Err(format!(
                "--host-address is for uplinks without a kernel interface; {name} brings its own addresses: give \
                 them to it, or leave the option out"
            ));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &[&str]) -> Result<Args, clap::Error> {
        Args::try_parse_from(["podplane-dataplane"].iter().chain(line))
    }

    #[test]
    fn uplinks_are_read_and_nonsense_is_refused() {
        let of = |text: &str| text.parse::<Uplink>();
        assert_eq!(of("iface:eth0"), Ok(Uplink::Iface("eth0".into())));
        assert_eq!(of("ethdev:net_tap0,iface=dtap0"), Ok(Uplink::Ethdev("net_tap0,iface=dtap0".into())));
        assert_eq!(of("pci:0000:01:00.0"), Ok(Uplink::Pci("0000:01:00.0".into())));
        assert_eq!(of("pci:01:00.0,key=1"), Ok(Uplink::Pci("01:00.0,key=1".into())));
        for bad in ["eth0", "iface:", "iface:a/b", "iface:0123456789abcdef", "ethdev:", "pci:1:0.0", "pci:01:00.8", ""]
        {
            assert!(of(bad).is_err(), "{bad}");
        }
        for text in ["iface:eth0", "ethdev:net_tap0,iface=dtap0", "pci:0000:01:00.0"] {
            assert_eq!(of(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn the_interface_to_take_over_follows_from_the_device() {
        let over = |line: &[&str]| args(line).unwrap().taken_over().map(str::to_owned);
        assert_eq!(over(&["--uplink", "iface:eth0"]).as_deref(), Some("eth0"));
        assert_eq!(over(&["--uplink", "ethdev:net_af_packet0,qpairs=2,iface=eth1"]).as_deref(), Some("eth1"));
        assert_eq!(over(&["--uplink", "ethdev:net_tap0,iface=dtap0"]), None);
        assert_eq!(over(&["--uplink", "pci:01:00.0"]), None);
        assert_eq!(over(&["--uplink", "ethdev:net_x", "--uplink-ifname", "eth2"]).as_deref(), Some("eth2"));
    }

    #[test]
    fn contradictions_are_refused_with_a_cure() {
        let check = |line: &[&str]| args(line).unwrap().check();
        assert!(check(&["--uplink", "iface:eth0", "--host-address", "10.0.0.1/24"]).unwrap_err().contains("eth0"));
        assert!(check(&["--uplink", "iface:eth0", "--uplink-ifname", "eth1"]).is_err());
        assert_eq!(check(&["--uplink", "ethdev:net_tap0", "--host-address", "10.0.0.1/24"]), Ok(()));
        assert!(args(&["--uplink", "iface:eth0", "--workers", "0"]).is_err());
        assert!(args(&["--uplink", "iface:eth0", "--workers", "65"]).is_err());
        assert!(args(&[]).is_err(), "an uplink is required");
    }

    #[test]
    fn timeouts_are_those_of_the_pipeline_but_for_what_is_said() {
        let of = |line: &[&str]| args(&[&["--uplink", "iface:eth0"], line].concat()).map(|args| args.timeouts());
        assert_eq!(of(&[]).unwrap(), TIMEOUTS);
        let some = of(&["--timeout", "udp=5", "--timeout", "tcp-established=7200", "--timeout", "udp=6"]).unwrap();
        assert_eq!((some.of(TimeoutClass::Udp), some.of(TimeoutClass::TcpEstablished)), (6000, 7_200_000));
        assert_eq!(some.of(TimeoutClass::UdpStream), TIMEOUTS.of(TimeoutClass::UdpStream));
        for (i, (name, class)) in CLASSES.iter().enumerate() {
            assert_eq!((*class as usize, of(&["--timeout", &format!("{name}=9")]).unwrap().of(*class)), (i, 9000));
        }
        for bad in ["udp", "udp=", "udp=0", "udp=604801", "deny=61", "tcp=5", "udp=-1", "=5"] {
            assert!(of(&["--timeout", bad]).is_err(), "{bad}");
        }
    }

    #[test]
    fn workers_are_dealt_to_the_listed_cpus() {
        let list: CpuList = "2-3,8".parse().unwrap();
        assert_eq!((0..5).map(|i| list.of(WorkerId(i))).collect::<Vec<_>>(), [2, 3, 8, 2, 3]);
        for bad in ["", "a", "3-2", "1,,2", "99999"] {
            assert!(bad.parse::<CpuList>().is_err(), "{bad}");
        }
    }
}
