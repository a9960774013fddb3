//! Everything that can go wrong between an agent and an API server.

use super::*;

const PODS: &str = "/api/v1/pods";

impl Setup {
    async fn listed(api: impl FnOnce(&Api)) -> Setup {
        let setup = watched(api).await;
        setup.until_listed().await;
        setup
    }

    fn refused(&self) -> Vec<String> {
        self.watches.refused(&self.desired).into_iter().map(|it| format!("{} {}", it.place, it.reason)).collect()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_goes_on_where_it_was() {
    let setup = Setup::listed(|api| (2..5).for_each(|n| api.apply(&node(n)))).await;
    setup.api.cut();
    setup.api.apply(&node(5));
    setup.until_peers(&["n2", "n3", "n4", "n5"]).await;
    setup.api.delete(NODES, "n2");
    setup.until_peers(&["n3", "n4", "n5"]).await;
    assert_eq!(setup.api.count(NODES, "sendInitialEvents=true"), 1, "nothing was listed again");
    setup.until("no trouble", || setup.watches.troubles().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bookmark_says_where_to_go_on() {
    let setup = Setup::listed(|api| api.apply(&node(2))).await;
    (0..5).for_each(|n| {
        setup.api.put(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": format!("a{n}")}}))
    });
    setup.api.bookmark(NODES);
    let version = format!("resourceVersion={}", setup.api.version());
    // It must have been heard before the connection breaks; a later change on it says so.
    setup.api.apply(&node(3));
    setup.until_peers(&["n2", "n3"]).await;
    setup.api.bookmark(NODES);
    let later = format!("resourceVersion={}", setup.api.version());
    assert_ne!(version, later);
    let before = setup.api.count(NODES, "watch=true");
    let resumed = || setup.api.count(NODES, &later) > 0;
    while !resumed() {
        setup.api.cut();
        setup.until("another watch", || setup.api.count(NODES, "watch=true") > before).await;
        sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(setup.api.count(NODES, "sendInitialEvents=true"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_server_forgot_is_listed_again_and_what_is_gone_is_removed() {
    let setup = Setup::listed(|api| (2..6).for_each(|n| api.apply(&node(n)))).await;
    setup.api.lose(NODES, "n3");
    setup.api.forget();
    setup.api.cut();
    setup.until_peers(&["n2", "n4", "n5"]).await;
    // In the midst of a stream as well.
    setup.api.lose(NODES, "n4");
    let gone = json!({"kind": "Status", "apiVersion": "v1", "code": 410, "reason": "Expired", "message": "too old"});
    setup.api.say(NODES, &json!({"type": "ERROR", "object": gone}).to_string());
    setup.until_peers(&["n2", "n5"]).await;
    setup.until("no trouble", || setup.watches.troubles().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_asks_for_patience_gets_it() {
    let setup = Setup::listed(|api| {
        api.apply(&node(2));
        api.lock().refuse.insert(NODES, (2, 429, json!({"retryAfterSeconds": 2})));
    })
    .await;
    setup.until_peers(&["n2"]).await;
    let asked: Vec<Instant> =
        setup.api.lock().asked.iter().filter(|(_, uri)| uri.starts_with("/api/v1/nodes?")).map(|(at, _)| *at).collect();
    assert_eq!(asked.len(), 3);
    assert!(asked.windows(2).all(|pair| pair[1] - pair[0] >= Duration::from_secs(2)), "{asked:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_memory_lags_behind_is_asked_for_pages_of_its_store() {
    let setup = watched(|api| {
        (2..5).for_each(|n| api.apply(&node(n)));
        api.lock().lags = true;
    })
    .await;
    setup.until_listed().await;
    setup.until_peers(&["n2", "n3", "n4"]).await;
    assert!(setup.api.count(NODES, "limit=") > 0);
    let lists = setup.api.count(NODES, "limit=");
    // It goes on being behind: nothing is listed again and again for that.
    setup.until("more attempts", || setup.api.count(NODES, "watch=true") > 5).await;
    assert_eq!(setup.api.count(NODES, "limit="), lists);
    setup.api.lock().lags = false;
    setup.api.apply(&node(5));
    setup.until_peers(&["n2", "n3", "n4", "n5"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_counts_as_listed_before_all_kinds_are() {
    let setup = watched(|api| {
        api.lock().refuse.insert(PODS, (usize::MAX, 403, json!(null)));
        api.apply(&node(2));
    })
    .await;
    setup.until_peers(&["n2"]).await;
    setup.until("the trouble", || setup.watches.troubles().iter().any(|text| text.contains("ClusterRole"))).await;
    let troubles = setup.watches.troubles();
    assert!(troubles.len() == 1 && troubles[0].contains("heard of pods"), "{troubles:?}");
    assert!(setup.listed.try_recv().is_err());
    setup.api.lock().refuse.clear();
    setup.until_listed().await;
    setup.until("no trouble", || setup.watches.troubles().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_makes_no_sense_is_named_and_its_last_state_stays() {
    let setup = Setup::listed(|api| (2..4).for_each(|n| api.apply(&node(n)))).await;
    let broken = |cidrs: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n2"}, "spec": {"podCIDRs": cidrs},
            "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.2"}]}})
    };
    // Not readable; readable, but senseless; and again in a list.
    setup.api.put(broken(json!(3)));
    setup.until("n2 refused", || setup.refused().iter().any(|it| it.contains("Node n2") && it.contains("stays"))).await;
    setup.api.apply(&node(4));
    setup.until_peers(&["n2", "n3", "n4"]).await;
    setup.api.put(broken(json!(["10.0.2.0/99"])));
    setup.until("n2 refused", || setup.refused().iter().any(|it| it.contains("10.0.2.0/99"))).await;
    setup.api.put(broken(json!({"a": 1})));
    setup.api.forget();
    setup.api.cut();
    setup.until("a second list", || setup.api.count(NODES, "sendInitialEvents=true") == 2).await;
    setup.api.apply(&node(5));
    setup.until_peers(&["n2", "n3", "n4", "n5"]).await;
    setup.api.apply(&node(2));
    setup.until("all well", || setup.refused().is_empty()).await;
    setup.api.put(broken(json!(true)));
    setup.until("n2 refused", || setup.refused().len() == 1).await;
    setup.api.delete(NODES, "n2");
    setup.until_peers(&["n3", "n4", "n5"]).await;
    setup.until("all well", || setup.refused().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn words_that_cannot_be_read_make_it_list_again() {
    let setup = Setup::listed(|api| (2..4).for_each(|n| api.apply(&node(n)))).await;
    setup.api.lose(NODES, "n3");
    setup.api.say(NODES, "{\"type\":\"DELETED\",\"object\":{\"metadata\":{\"name\":7}}}");
    setup.until_peers(&["n2"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_server_is_waited_for() {
    let setup = watched(|api| {
        api.lock().slow = Duration::from_millis(300);
        (2..7).for_each(|n| api.apply(&node(n)));
    })
    .await;
    setup.until_listed().await;
    setup.until_peers(&["n2", "n3", "n4", "n5", "n6"]).await;
    assert_eq!(setup.api.count(NODES, "watch=true"), 1, "asked once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_nobody_told_of_is_asked_for() {
    use crate::attachments::Ask;
    let setup = watched(|api| {
        for collection in [PODS, "/api/v1/namespaces"] {
            api.lock().refuse.insert(collection, (usize::MAX, 500, json!(null)));
        }
        api.apply("apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n");
        api.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: p, namespace: a, uid: u1}\n");
    })
    .await;
    let key = |kind, namespace: &str, name: &str| ObjectKey { kind, namespace: namespace.into(), name: name.into() };
    let known = |key: &ObjectKey| setup.desired.read(|index| index.knows(key));
    setup.until("trouble with pods", || !setup.watches.troubles().is_empty()).await;
    let pod = key(Kind::Pod, "a", "p");
    assert!(!known(&pod));
    tokio::spawn(Arc::new(setup.watches.clone()).ask("a".into(), "p".into()));
    setup.until("the pod and its namespace", || known(&pod) && known(&key(Kind::Namespace, "", "a"))).await;
    setup.api.lock().refuse.clear();
    setup.api.delete(PODS, "a/p");
    setup.until("the pod's end", || !known(&pod)).await;
}
