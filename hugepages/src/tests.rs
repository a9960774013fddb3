//! On a sysfs of plain files, and on a kernel that is short of memory.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use super::*;

struct Machine {
    dir: tempfile::TempDir,
}

impl Machine {
    fn new(pools: &[(u32, u64, u64)]) -> Machine {
        let machine = Machine { dir: tempfile::tempdir().unwrap() };
        for &(numa, total, free) in pools {
            let dir = machine.pool(numa);
            fs::create_dir_all(&dir).unwrap();
            fs::write(dir.join("nr_hugepages"), total.to_string()).unwrap();
            fs::write(dir.join("free_hugepages"), free.to_string()).unwrap();
        }
        machine
    }

    fn pool(&self, numa: u32) -> PathBuf {
        self.dir.path().join(format!("devices/system/node/node{numa}/hugepages/hugepages-2048kB"))
    }

    fn total(&self, numa: u32) -> u64 {
        fs::read_to_string(self.pool(numa).join("nr_hugepages")).unwrap().trim().parse().unwrap()
    }

    fn sysfs(&self) -> Sysfs {
        Sysfs::new(self.dir.path())
    }

    fn record(&self) -> PathBuf {
        self.dir.path().join("record.json")
    }
}

fn need(mib: u64, numa: &[u32]) -> Need {
    Need { mib, size: PageSize::Mib2, numa: numa.to_vec() }
}

#[test]
fn setup_adds_what_is_short_and_release_gives_back_just_that() {
    let machine = Machine::new(&[(0, 10, 4), (1, 0, 0)]);
    setup(&machine.sysfs(), &need(42, &[]), &machine.record()).unwrap();
    // 21 pages: 11 on the first, of which 4 are free, 10 on the second.
    assert_eq!((machine.total(0), machine.total(1)), (17, 10));
    release(&machine.sysfs(), &machine.record()).unwrap();
    assert_eq!((machine.total(0), machine.total(1)), (10, 0));
    assert!(!machine.record().exists());
    release(&machine.sysfs(), &machine.record()).unwrap();
    assert_eq!(machine.total(0), 10, "a second release has nothing to give back");
}

#[test]
fn setups_add_up_and_one_release_gives_all_back() {
    let machine = Machine::new(&[(0, 0, 0)]);
    setup(&machine.sysfs(), &need(20, &[]), &machine.record()).unwrap();
    // Plain files do not count free pages: the second setup finds none.
    setup(&machine.sysfs(), &need(20, &[]), &machine.record()).unwrap();
    assert_eq!(machine.total(0), 20);
    release(&machine.sysfs(), &machine.record()).unwrap();
    assert_eq!(machine.total(0), 0);
}

#[test]
fn enough_is_left_alone() {
    let machine = Machine::new(&[(0, 512, 512)]);
    setup(&machine.sysfs(), &need(1024, &[]), &machine.record()).unwrap();
    assert_eq!(machine.total(0), 512);
    assert!(check(&machine.sysfs(), &need(1024, &[]), &[], false).unwrap());
    assert!(!check(&machine.sysfs(), &need(1026, &[]), &[], true).unwrap());
}

#[test]
fn what_is_short_is_said_with_the_command_that_fixes_it() {
    let machine = Machine::new(&[(0, 8, 3)]);
    let verdicts = plan::judge(&machine.sysfs().pools().unwrap(), &need(16, &[0])).unwrap();
    let text = describe(&verdicts[0], &need(16, &[0]));
    assert!(text.contains("5 short (10 MiB)"), "{text}");
    assert!(text.contains("podplane-hugepages setup --memory 16 --size 2M --numa 0"), "{text}");
}

/// A kernel with memory for `limit` pages.
struct Short {
    limit: u64,
    pool: std::cell::RefCell<pools::Pool>,
}

impl Pools for Short {
    fn pools(&self) -> Result<Vec<pools::Pool>> {
        Ok(vec![self.pool.borrow().clone()])
    }

    fn set_total(&self, _: u32, _: PageSize, pages: u64) -> Result<u64> {
        let mut pool = self.pool.borrow_mut();
        let used = pool.total - pool.free;
        pool.total = pages.min(self.limit).max(used);
        pool.free = pool.total - used;
        Ok(pool.total)
    }
}

fn short(limit: u64, total: u64, free: u64) -> Short {
    Short { limit, pool: std::cell::RefCell::new(pools::Pool { numa: 0, size: PageSize::Mib2, total, free }) }
}

#[test]
fn a_kernel_that_has_no_memory_left_is_an_error_and_nothing_stays_reserved() {
    let (kernel, dir) = (short(12, 5, 0), tempfile::tempdir().unwrap());
    let error = setup(&kernel, &need(20, &[]), &dir.path().join("record.json")).unwrap_err().to_string();
    assert!(error.contains("3 fewer 2M pages") && error.contains("6 MiB short"), "{error}");
    assert!(error.contains("compact_memory") && error.contains("hugepages=15"), "{error}");
    assert_eq!(kernel.pool.borrow().total, 5, "what could be reserved is given back");
}

#[test]
fn pages_in_use_are_not_given_back_silently() {
    let (kernel, dir) = (short(100, 0, 0), tempfile::tempdir().unwrap());
    let record = dir.path().join("record.json");
    setup(&kernel, &need(20, &[]), &record).unwrap();
    kernel.pool.borrow_mut().free = 4;
    let error = release(&kernel, &record).unwrap_err().to_string();
    assert!(error.contains("6 2M pages of numa 0 are still in use"), "{error}");
    assert!(record.exists(), "the next release tries again");
}

#[test]
fn an_unknown_numa_node_is_named_with_those_that_exist() {
    let machine = Machine::new(&[(0, 8, 3), (1, 8, 3)]);
    let error = plan::judge(&machine.sysfs().pools().unwrap(), &need(16, &[7])).unwrap_err().to_string();
    assert!(error.contains("NUMA node 7") && error.contains("0, 1"), "{error}");
}

#[test]
fn a_damaged_record_says_what_to_do() {
    let machine = Machine::new(&[(0, 8, 3)]);
    fs::write(machine.record(), "{").unwrap();
    let error = format!("{:#}", release(&machine.sysfs(), &machine.record()).unwrap_err());
    assert!(error.contains("remove it"), "{error}");
}

#[test]
fn a_nic_is_judged_by_its_driver() {
    let machine = Machine::new(&[(0, 8, 3)]);
    let sysfs = machine.dir.path();
    assert!(nic::look(sysfs, "0000:01:00.0").problems[0].what.contains("no such"));
    assert!(nic::look(sysfs, "../../etc").problems[0].what.contains("no such"));
    let bind = |driver: &str| {
        let device = sysfs.join("bus/pci/devices/0000:01:00.0");
        fs::create_dir_all(&device).unwrap();
        let _ = fs::remove_file(device.join("driver"));
        symlink(Path::new("../../drivers").join(driver), device.join("driver")).unwrap();
        nic::look(sysfs, "0000:01:00.0")
    };
    assert!(bind("ixgbe").problems[0].fix.contains("vfio-pci"));
    assert!(bind("vfio-pci").problems[0].what.contains("IOMMU"));
    assert_eq!(bind("mlx5_core").problems, []);
    fs::create_dir_all(sysfs.join("kernel/iommu_groups/0")).unwrap();
    assert_eq!(bind("vfio-pci").problems, []);
}
