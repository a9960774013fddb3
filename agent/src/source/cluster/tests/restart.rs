//! The API server away, and the agent started again meanwhile.

use super::*;

impl Setup {
    /// Ends the agent's part; the folder and the server stay.
    fn end(self) -> (Api, Arc<tempfile::TempDir>) {
        self.watches.close();
        (self.api, self.state)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_changes_nothing() {
    let mut setup = watched(|api| (2..4).for_each(|n| api.apply(&node(n)))).await;
    setup.until_listed().await;
    setup.api.go_away();
    setup.until("trouble", || !setup.watches.troubles().is_empty()).await;
    setup
        .until("one trouble for all", || {
            let troubles = setup.watches.troubles();
            troubles.len() == 1
                && troubles[0].contains("nodes, namespaces, pods")
                && troubles[0].contains("--api-server")
        })
        .await;
    assert_eq!(setup.peers(), ["n2", "n3"]);
    setup.api.apply(&node(4));
    setup.api.delete(NODES, "n2");
    setup.api.come_back();
    setup.until_peers(&["n3", "n4"]).await;
    setup.until("no trouble", || setup.watches.troubles().is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_server_an_agent_begins_with_what_was_applied_last() {
    let setup = watched(|api| (2..5).for_each(|n| api.apply(&node(n)))).await;
    setup.until_listed().await;
    setup.api.delete(NODES, "n2");
    setup.until_peers(&["n3", "n4"]).await;
    let (mut api, state) = setup.end();
    api.go_away();
    api.apply(&node(5));
    api.lose(NODES, "n3");

    let mut setup = start(api, state).await;
    setup.until_listed().await;
    assert_eq!(setup.peers(), ["n3", "n4"], "also what was not listed again is in force");
    setup.until("trouble", || !setup.watches.troubles().is_empty()).await;
    setup.api.come_back();
    setup.until_peers(&["n4", "n5"]).await;
    let (mut api, state) = setup.end();
    api.go_away();

    // What was told after the restart is kept as well.
    let setup = start(api, state).await;
    setup.until_listed().await;
    assert_eq!(setup.peers(), ["n4", "n5"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_removed_before_a_list_is_whole() {
    let setup = watched(|api| (2..9).for_each(|n| api.apply(&node(n)))).await;
    setup.until_listed().await;
    let (api, state) = setup.end();
    api.lock().slow = Duration::from_millis(200);
    api.delete(NODES, "n8");
    let setup = start(api, state).await;
    setup
        .until("the end of n8", || {
            let peers = setup.peers();
            // Nothing before the checkpoint was read, and nothing between all and all that is left.
            assert!([0, 6, 7].contains(&peers.len()), "{peers:?}");
            peers.len() == 6
        })
        .await;
    assert_eq!(setup.peers(), ["n2", "n3", "n4", "n5", "n6", "n7"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_is_damaged_or_anothers_is_not_used() {
    let setup = watched(|api| (2..5).for_each(|n| api.apply(&node(n)))).await;
    setup.until_listed().await;
    let (mut api, state) = setup.end();
    api.go_away();
    let file = state.path().join(CHECKPOINT);
    let whole = std::fs::read(&file).unwrap();
    let mut damaged = whole.clone();
    damaged[whole.len() / 4] ^= 1;
    let others = String::from_utf8(whole).unwrap().replacen(" n1 ", " n7 ", 1).into_bytes();
    for bad in [damaged, others, b"hello\n".to_vec(), Vec::new()] {
        std::fs::write(&file, bad).unwrap();
        let setup = start(api, state.clone()).await;
        setup.until("trouble", || !setup.watches.troubles().is_empty()).await;
        assert!(setup.peers().is_empty() && setup.listed.try_recv().is_err());
        setup.watches.close();
        api = setup.api;
    }
    api.come_back();
    let setup = start(api, state).await;
    setup.until_listed().await;
    assert_eq!(setup.peers(), ["n2", "n3", "n4"]);
}
