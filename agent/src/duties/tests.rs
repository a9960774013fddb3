//! In a network namespace with a taken-over interface, looked at with iproute2. Needs root.

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use podplane_hostnet::{Netlink, Netns, Peer, Veth};

use super::*;
use crate::desired::Version;
use crate::publish;
use crate::testing::{Dataplane, index, node};

struct Space {
    name: String,
    netns: Netns,
    dir: tempfile::TempDir,
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = Netns::delete(&self.name);
    }
}

impl Space {
    /// A namespace whose only interface, with an address of each family, has been taken over.
    fn new() -> Space {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pp-agent-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let netns = Netns::create(&name).expect("create a namespace (this test needs root)");
        let space = Space { name, netns, dir: tempfile::tempdir().unwrap() };
        let peer = Peer { name: "cable", mac: None, netns: None };
        let mut netlink = Netlink::open_in(&space.netns).unwrap();
        netlink.create_veth(&Veth { name: "up0", mac: None, mtu: None, peer }).unwrap();
        space.ip("link set lo up");
        space.ip("link set cable up");
        space.ip("link set up0 up");
        space.ip("addr add 192.0.2.1/24 dev up0");
        space.ip("addr add fd01::1/64 dev up0 nodad");
        let state = space.path();
        space.netns.run(|| takeover::take_over("up0", &state).unwrap()).unwrap();
        space
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    fn ip(&self, arguments: &str) -> String {
        let run = || Command::new("ip").args(arguments.split(' ')).output().unwrap();
        let output = self.netns.run(run).unwrap();
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Space) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while !condition(self) {
            let seen = (self.ip("route show"), self.ip("-6 route show"), self.ip("neigh show"));
            assert!(Instant::now() < deadline, "not within a minute: {what}; {seen:#?}");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// Runs `f` in the namespace with duties at work.
    fn with_duties<F: Future<Output = ()>>(&self, f: impl FnOnce(Arc<Desired>, Placed) -> F + Send) {
        let test = || {
            // Threads inherit the namespace of the one that makes them.
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let desired = Arc::new(Desired::new(index()));
                desired.complete();
                let observer = publish::start(&self.path(), desired.clone());
                let (state_dir, run_dir) = (self.path(), self.path());
                let trouble = Trouble::default();
                let placed = Placed::default();
                let duties = Duties {
                    state_dir,
                    run_dir,
                    desired: desired.clone(),
                    observer,
                    trouble: trouble.clone(),
                    placed: placed.clone(),
                };
                tokio::spawn(duties.run());
                f(desired, placed).await;
                assert_eq!(trouble.get(), None);
            });
            runtime.shutdown_timeout(Duration::from_millis(100));
        };
        self.netns.run(test).unwrap();
    }
}

fn apply(desired: &Desired, name: &str, address: &str, cidrs: &str) -> Version {
    desired.edit(|index| index.apply(node(name, address, cidrs)).unwrap()).1
}

#[test]
fn routes_follow_the_nodes_and_are_put_back() {
    let space = Space::new();
    let dataplane = Dataplane::start(&space.path(), 1500);
    space.with_duties(async |desired, placed| {
        sleep(Duration::from_millis(300)).await;
        assert!(desired.read(|index| placed.obstacle(index)).is_some(), "nobody said yet which routes there are");
        apply(&desired, "n1", "192.0.2.1", "10.0.1.0/24");
        apply(&desired, "n2", "192.0.2.2", "10.0.2.0/24, \"fd00:2::/64\"");
        let has = |prefix: &'static str| {
            move |space: &Space| {
                let route = space.ip(&format!("route show {prefix}"));
                route.contains("via 169.254.1.2 dev podplane0")
                    && route.contains("src 192.0.2.1")
                    && route.contains("mtu 1450")
            }
        };
        space.until("said to be in place", |_| desired.read(|index| placed.obstacle(index)).is_none()).await;
        assert!(has("10.0.1.0/24")(&space) && has("10.0.2.0/24")(&space), "they are when it is said");
        let own = space.ip("route get 10.0.2.7");
        assert!(own.contains("via 169.254.1.1 dev podplane0 table 101 src 192.0.2.1"), "what the node sends: {own}");
        // This node said nothing of an IPv6 address of its own.
        assert_eq!(space.ip("-6 route show fd00:2::/64"), "");
        let gateway = |space: &Space| {
            space.ip("neigh show").contains("169.254.1.1 dev podplane0 lladdr 02:50:50:00:00:01 PERMANENT")
        };
        assert!(gateway(&space));
        // The quickest of some: a busy machine may take its time now and then.
        let mut quickest = PERIOD;
        for _ in 0..6 {
            let start = Instant::now();
            space.ip("route del 10.0.2.0/24");
            space.until("put back", has("10.0.2.0/24")).await;
            quickest = quickest.min(start.elapsed());
        }
        assert!(quickest < PERIOD / 4, "found by looking, not by listening: {quickest:?}");
        space.ip("neigh del 169.254.1.1 dev podplane0");
        space.until("the neighbour put back", gateway).await;
        desired.edit(|index| index.delete(&node("n2", "192.0.2.2", "").key()));
        space.until("removed with its node", |space| space.ip("route show 10.0.2.0/24").is_empty()).await;
        assert!(has("10.0.1.0/24")(&space));
    });
    drop(dataplane);
    let state = space.path();
    space.netns.run(|| remove_all(&state).unwrap()).unwrap();
    assert_eq!(space.ip("route show 10.0.1.0/24 table all"), "");
    assert!(!space.ip("rule").contains("lookup 101"));
    space.netns.run(|| takeover::restore(&state).unwrap()).unwrap();
}

#[test]
fn the_uplink_is_given_back_once_the_dataplane_has_been_gone() {
    let space = Space::new();
    let given_back = |space: &Space| {
        space.ip("addr show dev up0").contains("192.0.2.1/24") && !space.ip("link show").contains("podplane0")
    };
    let dataplane = Dataplane::start(&space.path(), 1500);
    let mut dataplane = Some(dataplane);
    space.with_duties(async |desired, _| {
        apply(&desired, "n1", "192.0.2.1", "10.0.1.0/24");
        // Longer than the record is fresh.
        sleep(GONE + Duration::from_millis(500)).await;
        assert!(!given_back(&space));
        let start = Instant::now();
        drop(dataplane.take());
        space.until("given back", given_back).await;
        let took = start.elapsed();
        assert!(took >= GONE, "{took:?}");
    });
    assert_eq!(takeover::read_record(&space.path()).unwrap(), None);
}
