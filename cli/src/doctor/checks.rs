//! What `podplane doctor` makes of a host: pure functions, each with the command that cures what it finds.

use serde::Serialize;

use super::facts::{Facts, Nic, Protocol};

/// The oldest kernel: chains of `netdev` tables that are added before their device comes up, managed neighbours.
const KERNEL: (u32, u32) = (6, 1);
/// What every x86-64-v2 CPU has, as /proc/cpuinfo calls it; DPDK of Debian asks for the same.
const BASELINE: [&str; 6] = ["cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"];
/// Drivers of the kernel that leave a device to user space.
const USER_SPACE: [&str; 3] = ["vfio-pci", "uio_pci_generic", "igb_uio"];
/// Drivers whose DPDK counterpart works beside them.
const BIFURCATED: [&str; 3] = ["mlx5_core", "mlx4_core", "mana"];
/// The port of VXLAN (RFC 7348 section 5).
const VXLAN: u16 = 4789;
/// What Podplane serves in kube-proxy's place.
const PROXY_PORTS: [u16; 2] = [10256, 10249];
/// Certificates and tokens fail by more than this.
const MAX_SKEW_SECONDS: i64 = 5;
/// An uplink under this leaves pods less than IPv6's 1280 bytes.
const MIN_MTU: u64 = 1350;

/// What a check found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Pass,
    /// Podplane works, but not as well as it could.
    Warn,
    /// Podplane will not work.
    Fail,
}

/// One line of the report; its JSON form is a tested contract.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A stable name.
    pub name: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// What is there.
    pub found: String,
    /// What to do about it; nothing where it passed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fix: Option<String>,
}

impl Check {
    fn pass(name: &'static str, found: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Pass, found: found.into(), fix: None }
    }

    fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { name, verdict: Verdict::Warn, found: found.into(), fix: Some(fix.into()) }
    }

    fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
        Check { verdict: Verdict::Fail, ..Check::warn(name, found, fix) }
    }
}

/// What the node is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Want {
    /// MiB for the dataplane.
    pub memory_mib: u64,
    /// Whether from hugepages.
    pub hugepages: bool,
    /// Where configurations of networks are, for what is said.
    pub conf_dir: String,
    /// Where plugins are.
    pub bin_dir: String,
}

/// All checks, in the order of a report.
pub fn judge(facts: &Facts, want: &Want) -> Vec<Check> {
    let mut checks = vec![
        kernel(facts),
        nf_tables(facts),
        cpu(facts),
        memory(facts, want),
        hugepages(facts, want),
        nic(facts),
        iommu(facts),
        runtime(facts),
        plugins(facts, want),
        networks(facts, want),
        kube_proxy(facts),
        proxy_ports(facts),
        vxlan(facts),
        rp_filter(facts),
        ipv6(facts),
        clock(facts),
    ];
    checks.push(api(facts));
    checks
}

fn kernel(facts: &Facts) -> Check {
    let mut numbers = facts.kernel.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>());
    let version = match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor),
        _ => (0, 0),
    };
    if version >= KERNEL {
        return Check::pass("kernel", facts.kernel.clone());
    }
    let found = format!("{}, {}.{} or newer is needed", facts.kernel, KERNEL.0, KERNEL.1);
    Check::fail("kernel", found, "apt-get install linux-image-amd64 && reboot")
}

fn nf_tables(facts: &Facts) -> Check {
    match facts.nf_tables {
        Some(true) => Check::pass("nf_tables", "there"),
        Some(false) => Check::fail(
            "nf_tables",
            "the kernel has no nf_tables: it would answer what is the dataplane's",
            "boot a kernel with CONFIG_NF_TABLES and CONFIG_NF_TABLES_NETDEV (every distribution's has them)",
        ),
        None => Check::pass("nf_tables", "not loaded; the kernel does not list its modules"),
    }
}

fn cpu(facts: &Facts) -> Check {
    let has = |flag: &str| facts.cpu_flags.contains(flag);
    let missing: Vec<&str> = BASELINE.into_iter().filter(|flag| !has(flag)).collect();
    if !missing.is_empty() {
        let found = format!("x86-64-v2 lacks {}", missing.join(", "));
        return Check::fail(
            "cpu",
            found,
            "give the virtual machine the host's CPU model (qemu: -cpu host), or take a newer CPU",
        );
    }
    if !has("aes") {
        let fix = "give the virtual machine the host's CPU model (qemu: -cpu host)";
        return Check::warn("cpu", "no AES: looking flows up costs four times as much", fix);
    }
    if facts.cpus < 2 {
        let fix = "give the machine a second CPU, so that a worker does not take turns with everything else";
        return Check::warn("cpu", "one CPU", fix);
    }
    let vectors = ["avx512f", "avx2"].into_iter().find(|flag| has(flag)).unwrap_or("sse4_2");
    Check::pass("cpu", format!("{} CPUs, {vectors}", facts.cpus))
}

fn memory(facts: &Facts, want: &Want) -> Check {
    // Beside the packet buffers: the processes themselves, tables of Services.
    let need = if want.hugepages { 256 } else { want.memory_mib + 256 };
    let found = format!("{} MiB available, {need} needed", facts.memory_mib);
    if facts.memory_mib >= need {
        return Check::pass("memory", found);
    }
    Check::fail("memory", found, "free memory, or give the dataplane less (--memory; dataplane.memory in the chart)")
}

fn hugepages(facts: &Facts, want: &Want) -> Check {
    let total: u64 = facts.hugepages.iter().map(|pool| pool.page_kib * pool.total / 1024).sum();
    let free: u64 = facts.hugepages.iter().map(|pool| pool.page_kib * pool.free / 1024).sum();
    let found = format!("{free} MiB free of {total} MiB");
    if !want.hugepages {
        return Check::pass("hugepages", format!("{found}, none asked for"));
    }
    // A restarted dataplane copies the flows out of the former one's memory: both are there for a moment.
    let need = want.memory_mib + want.memory_mib / 8;
    let held = facts.agent_runs;
    if free >= need || (held && total >= need) {
        return Check::pass("hugepages", found);
    }
    let fix = format!("podplane-hugepages setup --memory {need} && systemctl restart kubelet");
    Check::fail("hugepages", format!("{found}, {need} MiB needed (--no-huge: do without)"), fix)
}

fn nic(facts: &Facts) -> Check {
    match &facts.nic {
        Nic::Unnamed => Check::warn("nic", "no uplink named: not looked at", "podplane doctor --uplink iface:NAME"),
        Nic::Other => Check::pass("nic", "a DPDK device: not looked at"),
        Nic::Interface { name, exists: false, .. } => {
            Check::fail("nic", format!("there is no interface {name}"), "ip -br link, and name one of those")
        }
        Nic::Interface { name, bridged: true, .. } => Check::fail(
            "nic",
            format!("{name} is or belongs to a bridge, bond or VRF"),
            format!("ip link set {name} nomaster, or name a device of its own"),
        ),
        Nic::Interface { name, state, .. } if state == "down" => {
            Check::fail("nic", format!("{name} is down"), format!("ip link set {name} up"))
        }
        Nic::Interface { name, mtu, .. } if *mtu < MIN_MTU => Check::fail(
            "nic",
            format!("{name} has MTU {mtu}, {MIN_MTU} is the least"),
            format!("ip link set {name} mtu 1500"),
        ),
        Nic::Interface { name, state, mtu, .. } => Check::pass("nic", format!("{name}, {state}, MTU {mtu}")),
        Nic::Pci { address, exists: false, .. } => {
            Check::fail("nic", format!("there is no PCI device {address}"), "lspci -D | grep -i ethernet")
        }
        Nic::Pci { address, driver, .. } => {
            let driver = driver.as_deref().unwrap_or("none");
            if USER_SPACE.contains(&driver) || BIFURCATED.contains(&driver) {
                return Check::pass("nic", format!("{address}, driver {driver}"));
            }
            let fix = format!("modprobe vfio-pci && driverctl set-override {address} vfio-pci");
            Check::fail("nic", format!("{address} has the driver {driver}: the kernel's own, or none"), fix)
        }
    }
}

fn iommu(facts: &Facts) -> Check {
    let needed = matches!(&facts.nic, Nic::Pci { driver, .. } if driver.as_deref() == Some("vfio-pci"));
    match facts.iommu_groups {
        0 if needed => Check::fail(
            "iommu",
            "off: the NIC could reach all memory",
            "add intel_iommu=on (or amd_iommu=on) iommu=pt to GRUB_CMDLINE_LINUX, then update-grub && reboot",
        ),
        0 => Check::pass("iommu", "off; only a NIC at vfio-pci needs it"),
        groups => Check::pass("iommu", format!("{groups} groups")),
    }
}

fn runtime(facts: &Facts) -> Check {
    match facts.runtimes.first() {
        Some(socket) => Check::pass("runtime", socket.display().to_string()),
        None => Check::fail("runtime", "no socket of containerd or CRI-O", "systemctl enable --now containerd"),
    }
}

fn plugins(facts: &Facts, want: &Want) -> Check {
    let folder = &want.bin_dir;
    match &facts.plugins {
        None => Check::warn(
            "cni-bin",
            format!("{folder} is missing; the installation makes it"),
            format!("mkdir -p {folder}"),
        ),
        Some(programs) if programs.iter().any(|program| program == "podplane-cni") => {
            Check::pass("cni-bin", format!("podplane-cni is in {folder}"))
        }
        Some(_) => Check::pass("cni-bin", format!("{folder} is there, podplane-cni not yet")),
    }
}

fn networks(facts: &Facts, want: &Want) -> Check {
    let folder = &want.conf_dir;
    let Some(names) = &facts.networks else {
        let found = format!("{folder} is missing; the installation makes it");
        return Check::warn("cni-conf", found, format!("mkdir -p {folder}"));
    };
    match names.first() {
        None => Check::pass("cni-conf", format!("{folder} is empty")),
        Some(first) if first.contains("podplane") => Check::pass("cni-conf", format!("{folder}/{first} comes first")),
        Some(first) => Check::fail(
            "cni-conf",
            format!("the runtime takes {folder}/{first}"),
            format!("mv {folder}/{first} {folder}/{first}.off (and uninstall that network)"),
        ),
    }
}

fn kube_proxy(facts: &Facts) -> Check {
    if !facts.kube_proxy {
        return Check::pass("kube-proxy", "does not run");
    }
    let fix = "kubectl -n kube-system delete daemonset kube-proxy, then on each node kube-proxy --cleanup";
    Check::fail("kube-proxy", "runs: Podplane serves Services itself", fix)
}

fn proxy_ports(facts: &Facts) -> Check {
    let taken: Vec<String> =
        PROXY_PORTS.iter().filter(|port| facts.ports.contains(&(Protocol::Tcp, **port))).map(u16::to_string).collect();
    let ports = PROXY_PORTS.map(|port| port.to_string()).join(", ");
    if taken.is_empty() || facts.agent_runs {
        let whose = if taken.is_empty() { "free" } else { "Podplane's" };
        return Check::pass("ports", format!("TCP {ports}: {whose}"));
    }
    let fix = format!("ss -lntp 'sport = :{}', and stop that program", taken[0]);
    Check::fail("ports", format!("TCP {} in use by another program", taken.join(", ")), fix)
}

fn vxlan(facts: &Facts) -> Check {
    if !facts.ports.contains(&(Protocol::Udp, VXLAN)) {
        return Check::pass("vxlan", format!("UDP {VXLAN} is free"));
    }
    let fix = "ip -br link show type vxlan, then ip link delete NAME (and uninstall the network that made it)";
    Check::fail("vxlan", format!("UDP {VXLAN} is used by the kernel or another program"), fix)
}

fn rp_filter(facts: &Facts) -> Check {
    match facts.rp_filter {
        Some(1) => Check::fail(
            "rp_filter",
            "net.ipv4.conf.all.rp_filter is 1: replies to the node's own connections are dropped",
            "sysctl -w net.ipv4.conf.all.rp_filter=0 (and in /etc/sysctl.d)",
        ),
        Some(value) => Check::pass("rp_filter", format!("net.ipv4.conf.all.rp_filter is {value}")),
        None => Check::pass("rp_filter", "not there"),
    }
}

fn ipv6(facts: &Facts) -> Check {
    if facts.ipv6 {
        return Check::pass("ipv6", "on");
    }
    let fix = "sysctl -w net.ipv6.conf.all.disable_ipv6=0 (and no ipv6.disable=1 on the kernel's command line)";
    Check::warn("ipv6", "off: pods get IPv4 only", fix)
}

fn clock(facts: &Facts) -> Check {
    let fix = "apt-get install chrony && chronyc makestep";
    match facts.api.as_ref().and_then(|api| api.clock_ahead_seconds) {
        Some(ahead) if ahead.abs() > MAX_SKEW_SECONDS => Check::fail(
            "clock",
            format!("the API server's clock is {ahead} s ahead of ours: tokens and certificates fail"),
            fix,
        ),
        Some(ahead) => Check::pass("clock", format!("{ahead} s from the API server's")),
        None if facts.clock_kept == Some(false) => {
            Check::warn("clock", "systemd-timesyncd has no answer yet", "timedatectl timesync-status")
        }
        None if facts.clock_kept == Some(true) => Check::pass("clock", "kept by timesyncd or chrony"),
        None => Check::warn("clock", "no timesyncd and no chrony: nobody known keeps it", fix),
    }
}

fn api(facts: &Facts) -> Check {
    match &facts.api {
        None => Check::warn(
            "api-server",
            "not named: not asked",
            "podplane doctor --api-server https://HOST:6443 (or --kubeconfig FILE)",
        ),
        Some(api) => match (&api.error, &api.version) {
            (Some(error), _) => {
                let host = api.url.trim_end_matches('/');
                Check::fail("api-server", error.clone(), format!("curl -k {host}/version, from this node"))
            }
            (None, Some(version)) => Check::pass("api-server", format!("{} answers, {version}", api.url)),
            (None, None) => Check::pass("api-server", format!("{} answers", api.url)),
        },
    }
}

#[cfg(test)]
mod tests;
