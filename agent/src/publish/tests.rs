use podplane_config::v1::{Endpoint, PortKind};
use podplane_index::ObjectKey;

use super::*;
use crate::testing::{Dataplane, index, node};

const SOON: Duration = Duration::from_secs(60);

fn endpoint(n: u8) -> Endpoint {
    Endpoint {
        id: format!("c{n}/eth0"),
        pod: String::new(),
        port: PortKind::Veth { host_ifname: format!("pp{n}") },
        mac: [2, 0, 0, 0, 0, n],
        addresses: vec![format!("10.0.1.{n}").parse().unwrap()],
        host_ports: Vec::new(),
        policy: Default::default(),
    }
}

fn desired() -> Arc<Desired> {
    let desired = Desired::new(index());
    desired.edit(|index| {
        index.apply(node("n1", "192.0.2.1", "10.0.1.0/24")).unwrap();
        index.apply(node("n2", "192.0.2.2", "10.0.2.0/24")).unwrap();
    });
    desired.complete();
    Arc::new(desired)
}

fn attach(desired: &Desired, n: u8) -> Version {
    desired.edit(|index| index.attach(endpoint(n)).unwrap()).1
}

#[tokio::test]
async fn first_everything_then_what_changes() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    let desired = desired();
    let observer = start(dir.path(), desired.clone());
    let version = attach(&desired, 2);
    observer.applied(version, Some("c2/eth0"), SOON).await.unwrap();
    let version = attach(&desired, 3);
    observer.applied(version, Some("c3/eth0"), SOON).await.unwrap();
    let version = desired.edit(|index| index.detach("c2/eth0")).1;
    observer.applied(version, None, SOON).await.unwrap();
    let seen = dataplane.lock();
    assert_eq!(seen.state.local.as_ref().unwrap().pod_mtu, 1450);
    assert!(seen.state.peers.contains_key("n2"));
    assert_eq!(seen.state.endpoints.keys().collect::<Vec<_>>(), ["c3/eth0"]);
    assert_eq!(seen.transactions.iter().map(|t| t.1).filter(|full| *full).count(), 1);
    assert_eq!(seen.transactions.last().unwrap().2, 2, "the endpoint and its address");
    let progress = observer.now();
    assert_eq!((progress.sent, progress.applied), (progress.applied, seen.transactions.last().unwrap().0));
}

#[tokio::test]
async fn nothing_is_told_before_all_is_known() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    let desired = Arc::new(Desired::new(index()));
    let mut observer = start(dir.path(), desired.clone());
    while !observer.look(|p| p.connected) {
        observer.changed().await;
    }
    desired.edit(|index| index.apply(node("n2", "192.0.2.2", "10.0.2.0/24")).unwrap());
    desired.complete();
    sleep(Duration::from_millis(50)).await;
    assert_eq!(dataplane.lock().transactions, []);
    let (_, version) = desired.edit(|index| index.apply(node("n1", "192.0.2.1", "10.0.1.0/24")).unwrap());
    observer.applied(version, None, SOON).await.unwrap();
    assert_eq!(dataplane.lock().state.peers.len(), 1);
    // Once it has been told, its removal is as well.
    let n1 = node("n1", "192.0.2.1", "10.0.1.0/24").key();
    let (_, version) = desired.edit(|index| index.delete(&ObjectKey { ..n1 }));
    observer.applied(version, None, SOON).await.unwrap();
    assert_eq!(dataplane.lock().state.local, None);
}

#[tokio::test]
async fn a_restarted_dataplane_gets_everything_and_waiters_wait_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let first = Dataplane::start(dir.path(), 1500);
    let desired = desired();
    let observer = start(dir.path(), desired.clone());
    observer.applied(attach(&desired, 2), None, SOON).await.unwrap();
    drop(first);
    let mut watch = observer.clone();
    while observer.look(|p| p.connected) {
        watch.changed().await;
    }
    let version = attach(&desired, 3);
    let short = Duration::from_millis(200);
    let error = observer.applied(version, None, short).await.unwrap_err();
    assert!(matches!(error, NotApplied::NotConnected(_)), "{error}");
    let waiting = tokio::spawn(async move { observer.applied(version, Some("c3/eth0"), SOON).await });
    let second = Dataplane::start(dir.path(), 9000);
    waiting.await.unwrap().unwrap();
    let seen = second.lock();
    assert_eq!(seen.state.endpoints.len(), 2);
    assert_eq!(seen.state.local.as_ref().unwrap().pod_mtu, 8950);
    assert_eq!((seen.transactions.len(), seen.transactions[0].1), (1, true));
}

#[test]
fn a_restarted_agent_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    let mut states = Vec::new();
    for _ in 0..2 {
        // A runtime that is dropped takes the agent with it.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let desired = desired();
            let version = attach(&desired, 2);
            start(dir.path(), desired).applied(version, None, SOON).await.unwrap();
        });
        states.push(dataplane.lock().state.clone());
    }
    assert_eq!(states[0], states[1]);
    assert_eq!(dataplane.lock().transactions.iter().map(|t| t.1).collect::<Vec<_>>(), [true, true]);
}

#[tokio::test]
async fn an_endpoint_that_fails_is_named_and_tried_again() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    dataplane.lock().fails.insert("c2/eth0".into(), "no such device".into());
    let desired = desired();
    let observer = start(dir.path(), desired.clone());
    let version = attach(&desired, 2);
    let error = observer.applied(version, Some("c2/eth0"), SOON).await.unwrap_err();
    assert_eq!(error, NotApplied::Failed("no such device".into()));
    observer.applied(version, None, SOON).await.unwrap();
    dataplane.lock().fails.clear();
    let told = dataplane.lock().transactions.len();
    dataplane.until("told again", |seen| seen.transactions.len() > told).await;
    let mut watch = observer.clone();
    while observer.look(|p| !p.failed.is_empty()) {
        watch.changed().await;
    }
}

#[tokio::test]
async fn what_is_refused_blocks_nothing_that_comes_later() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    dataplane.lock().refuses.insert("c2/eth0".into());
    let desired = desired();
    let observer = start(dir.path(), desired.clone());
    let base = desired.edit(|_| ()).1;
    observer.applied(base, None, SOON).await.unwrap();
    let version = attach(&desired, 2);
    let error = observer.applied(version, Some("c2/eth0"), SOON).await.unwrap_err();
    assert_eq!(error, NotApplied::Refused("as the test says".into()));
    let (_, version) = desired.edit(|index| index.detach("c2/eth0"));
    observer.applied(version, None, SOON).await.unwrap();
    observer.applied(attach(&desired, 3), Some("c3/eth0"), SOON).await.unwrap();
    assert_eq!(dataplane.lock().state.endpoints.keys().collect::<Vec<_>>(), ["c3/eth0"]);
}

#[tokio::test]
async fn a_silent_dataplane_is_slow() {
    let dir = tempfile::tempdir().unwrap();
    let dataplane = Dataplane::start(dir.path(), 1500);
    dataplane.lock().silent = true;
    let desired = desired();
    let observer = start(dir.path(), desired.clone());
    dataplane.until("connected", |seen| !seen.transactions.is_empty()).await;
    let error = observer.applied(attach(&desired, 2), None, Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, NotApplied::Slow(_)), "{error}");
}
