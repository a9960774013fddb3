//! Each check passes on a healthy host, and says what is wrong and how to cure it on one that is not.

use std::collections::BTreeSet;

use super::super::facts::{Api, Pool};
use super::*;

fn healthy() -> Facts {
    Facts {
        kernel: "6.1.0-30-amd64".into(),
        cpu_flags: BASELINE.into_iter().chain(["aes", "avx2"]).map(str::to_owned).collect(),
        cpus: 4,
        memory_mib: 8192,
        hugepages: vec![Pool { page_kib: 2048, total: 576, free: 576 }],
        iommu_groups: 12,
        nic: interface("up", 1500, false),
        nf_tables: Some(true),
        runtimes: vec!["/run/containerd/containerd.sock".into()],
        plugins: Some(vec!["loopback".into()]),
        networks: Some(vec!["10-podplane.conflist".into(), "99-other.conf".into()]),
        ports: BTreeSet::from([(Protocol::Tcp, 22), (Protocol::Udp, 68)]),
        rp_filter: Some(2),
        ipv6: true,
        clock_kept: Some(true),
        kube_proxy: false,
        agent_runs: false,
        api: Some(Api { url: "https://192.0.2.1:6443".into(), version: Some("v1.36.0".into()), ..Api::default() }),
    }
}

fn interface(state: &str, mtu: u64, bridged: bool) -> Nic {
    Nic::Interface { name: "eth0".into(), exists: true, state: state.into(), mtu, bridged }
}

fn pci(driver: &str) -> Nic {
    Nic::Pci { address: "0000:01:00.0".into(), exists: true, driver: Some(driver.into()) }
}

fn want() -> Want {
    Want { memory_mib: 1024, hugepages: true, conf_dir: "/etc/cni/net.d".into(), bin_dir: "/opt/cni/bin".into() }
}

/// The checks that do not pass after `change`, by name and verdict.
fn complaints(change: impl FnOnce(&mut Facts)) -> Vec<(&'static str, Verdict)> {
    let mut facts = healthy();
    change(&mut facts);
    let checks = judge(&facts, &want());
    for check in &checks {
        assert_eq!(check.fix.is_none(), check.verdict == Verdict::Pass, "a cure where it is needed: {check:?}");
        assert!(!check.found.is_empty() && check.fix.as_deref() != Some(""), "{check:?}");
    }
    checks.iter().filter(|check| check.verdict != Verdict::Pass).map(|check| (check.name, check.verdict)).collect()
}

#[test]
fn a_healthy_host_passes_every_check_and_names_are_unique() {
    assert!(complaints(|_| {}).is_empty());
    let names: Vec<_> = judge(&healthy(), &want()).iter().map(|check| check.name).collect();
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), names.len());
}

#[test]
fn each_fault_fails_its_own_check_alone() {
    type Fault = (&'static str, fn(&mut Facts));
    let faults: [Fault; 25] = [
        ("kernel", |f| f.kernel = "5.10.0-9-amd64".into()),
        ("kernel", |f| f.kernel = "6.0.19".into()),
        ("kernel", |f| f.kernel = String::new()),
        ("nf_tables", |f| f.nf_tables = Some(false)),
        ("cpu", |f| {
            f.cpu_flags.remove("sse4_2");
        }),
        ("cpu", |f| f.cpu_flags.clear()),
        ("memory", |f| f.memory_mib = 255),
        ("hugepages", |f| f.hugepages.clear()),
        ("hugepages", |f| f.hugepages[0].free = 575),
        ("nic", |f| {
            f.nic = Nic::Interface { name: "eth9".into(), exists: false, state: String::new(), mtu: 0, bridged: false }
        }),
        ("nic", |f| f.nic = interface("down", 1500, false)),
        ("nic", |f| f.nic = interface("up", 1349, false)),
        ("nic", |f| f.nic = interface("up", 1500, true)),
        ("nic", |f| f.nic = Nic::Pci { address: "0000:01:00.0".into(), exists: false, driver: None }),
        ("nic", |f| f.nic = pci("ixgbe")),
        ("iommu", |f| (f.nic, f.iommu_groups) = (pci("vfio-pci"), 0)),
        ("runtime", |f| f.runtimes.clear()),
        ("cni-conf", |f| f.networks.as_mut().unwrap().insert(0, "05-cilium.conflist".into())),
        ("kube-proxy", |f| f.kube_proxy = true),
        ("ports", |f| {
            f.ports.insert((Protocol::Tcp, 10256));
        }),
        ("ports", |f| {
            f.ports.insert((Protocol::Tcp, 10249));
        }),
        ("vxlan", |f| {
            f.ports.insert((Protocol::Udp, 4789));
        }),
        ("rp_filter", |f| f.rp_filter = Some(1)),
        ("clock", |f| f.api.as_mut().unwrap().clock_ahead_seconds = Some(-6)),
        ("api-server", |f| f.api.as_mut().unwrap().error = Some("connection refused".into())),
    ];
    for (i, (name, fault)) in faults.into_iter().enumerate() {
        assert_eq!(complaints(fault), [(name, Verdict::Fail)], "fault {i}");
    }
}

#[test]
fn what_is_only_worse_than_it_could_be_is_a_warning() {
    type Flaw = (&'static str, fn(&mut Facts));
    let flaws: [Flaw; 9] = [
        ("cpu", |f| {
            f.cpu_flags.remove("aes");
        }),
        ("cpu", |f| f.cpus = 1),
        ("nic", |f| f.nic = Nic::Unnamed),
        ("cni-bin", |f| f.plugins = None),
        ("cni-conf", |f| f.networks = None),
        ("ipv6", |f| f.ipv6 = false),
        ("clock", |f| f.clock_kept = Some(false)),
        ("clock", |f| f.clock_kept = None),
        ("api-server", |f| f.api = None),
    ];
    for (i, (name, flaw)) in flaws.into_iter().enumerate() {
        assert_eq!(complaints(flaw), [(name, Verdict::Warn)], "flaw {i}");
    }
}

#[test]
fn what_looks_like_a_fault_and_is_none_passes() {
    // Podplane itself holds ports and hugepages where it runs already.
    assert!(
        complaints(|f| {
            f.agent_runs = true;
            f.hugepages[0].free = 0;
            f.ports.insert((Protocol::Tcp, 10256));
        })
        .is_empty()
    );
    // A port of the other protocol is another port.
    assert!(
        complaints(|f| {
            f.ports.insert((Protocol::Udp, 10256));
            f.ports.insert((Protocol::Tcp, 4789));
        })
        .is_empty()
    );
    for driver in ["vfio-pci", "mlx5_core"] {
        assert!(complaints(|f| f.nic = pci(driver)).is_empty());
    }
    assert!(complaints(|f| (f.nic, f.iommu_groups) = (pci("mlx5_core"), 0)).is_empty());
    assert!(complaints(|f| f.kernel = "7.0-rc1".into()).is_empty());
    assert!(complaints(|f| f.nf_tables = None).is_empty());
    let mut plain = healthy();
    plain.hugepages.clear();
    let no_huge = Want { hugepages: false, ..want() };
    assert!(judge(&plain, &no_huge).iter().all(|check| check.verdict == Verdict::Pass));
    plain.memory_mib = 1279;
    assert_eq!(judge(&plain, &no_huge).iter().find(|check| check.name == "memory").unwrap().verdict, Verdict::Fail);
}

#[test]
fn the_json_form_is_a_contract() {
    let one = |check| serde_json::to_string(&check).unwrap();
    let pass = one(Check::pass("kernel", "6.1"));
    assert_eq!(pass, r#"{"name":"kernel","verdict":"pass","found":"6.1"}"#);
    let fail = one(Check::fail("vxlan", "taken", "free it"));
    assert_eq!(fail, r#"{"name":"vxlan","verdict":"fail","found":"taken","fix":"free it"}"#);
}
