use std::sync::mpsc;
use std::time::Duration;

use podplane_config::v1::Key;
use serde_json::json;

mod corpus;
mod faults;
mod restart;

use super::*;
use crate::testing::api::Api;
use crate::testing::index;

const NODES: &str = "/api/v1/nodes";
const CLUSTER_POLICIES: &str = "/apis/policy.networking.k8s.io/v1alpha2/clusternetworkpolicies";

struct Setup {
    api: Api,
    desired: Arc<Desired>,
    watches: Watches,
    listed: mpsc::Receiver<()>,
    state: Arc<tempfile::TempDir>,
}

fn node(n: u8) -> String {
    format!(
        "apiVersion: v1\nkind: Node\nmetadata: {{name: n{n}, uid: u{n}}}\nspec: {{podCIDRs: [10.0.{n}.0/24]}}\n\
         status: {{addresses: [{{type: InternalIP, address: 192.0.2.{n}}}]}}\n"
    )
}

async fn watched(prepare: impl FnOnce(&Api)) -> Setup {
    let api = Api::start();
    prepare(&api);
    start(api, Arc::new(tempfile::tempdir().unwrap())).await
}

async fn start(api: Api, state: Arc<tempfile::TempDir>) -> Setup {
    let desired = Arc::new(Desired::new(index()));
    let (sender, listed) = mpsc::channel();
    let cluster = api.cluster().await;
    let listed_once = move || sender.send(()).unwrap();
    let watches = Watches::start(cluster, state.path(), desired.clone(), listed_once).unwrap();
    Setup { api, desired, watches, listed, state }
}

impl Setup {
    fn peers(&self) -> Vec<String> {
        let name = |key: &Key| match key {
            Key::Peer(name) => Some(name.clone()),
            _ => None,
        };
        self.desired.read(|index| index.objects().keys().filter_map(name).collect())
    }

    async fn until_peers(&self, wanted: &[&str]) {
        self.until(&format!("{wanted:?}"), || self.peers() == wanted).await;
    }

    async fn until(&self, what: &str, condition: impl Fn() -> bool) {
        let start = Instant::now();
        while !condition() {
            assert!(
                start.elapsed() < Duration::from_secs(120),
                "{what}: {:?} {:?}",
                self.peers(),
                self.watches.troubles()
            );
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn until_listed(&self) {
        self.until("all kinds listed", || self.listed.try_recv().is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_streamed_and_changes_follow() {
    let setup = watched(|api| (2..9).for_each(|n| api.apply(&node(n)))).await;
    setup.until_listed().await;
    setup.until_peers(&["n2", "n3", "n4", "n5", "n6", "n7", "n8"]).await;
    assert_eq!(setup.watches.troubles(), [""; 0]);
    setup.api.apply(&node(9));
    setup.api.delete(NODES, "n2");
    setup.until_peers(&["n3", "n4", "n5", "n6", "n7", "n8", "n9"]).await;
    assert_eq!(setup.api.count(NODES, "limit="), 0, "no list of pages");
    assert_eq!(setup.api.count(NODES, "sendInitialEvents=true"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_does_not_stream_lists_is_asked_for_pages() {
    let setup = watched(|api| {
        api.lock().no_streaming = true;
        (2..9).for_each(|n| api.apply(&node(n)));
    })
    .await;
    setup.until_listed().await;
    setup.until_peers(&["n2", "n3", "n4", "n5", "n6", "n7", "n8"]).await;
    assert_eq!(setup.api.count(NODES, "continue="), 2, "three pages");
    setup.api.apply(&node(9));
    setup.until_peers(&["n2", "n3", "n4", "n5", "n6", "n7", "n8", "n9"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_that_is_not_installed_is_found_later() {
    let setup = watched(|api| {
        api.lock().absent.insert(CLUSTER_POLICIES);
        api.apply(&node(2));
    })
    .await;
    setup.until_listed().await;
    assert_eq!(setup.watches.troubles(), [""; 0]);
    setup.api.lock().absent.clear();
    setup.api.put(json!({"apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": "p"}, "spec": {"tier": "Admin", "priority": 1, "subject": {"namespaces": {}}}}));
    setup.until("the policy", || setup.desired.read(|index| !index.policies().is_empty())).await;
}
