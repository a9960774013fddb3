//! Services while things change: backends come and go, clients notice as little as they should.

use std::collections::BTreeSet;
use std::process::Child;
use std::thread::sleep;
use std::time::Duration;

use podplane_tests::services::{Client, Talker, connect, datagrams, fetch, idler, server, service};
use podplane_tests::{Lab, eventually, succeed, text};

/// Seconds of a short affinity.
const SHORT: u64 = 2;

fn lab(name: &str, manifests: &[String]) -> Lab {
    let lab = Lab::up(name, &["--nodes", "2", "--workers", "2"]);
    lab.apply(&manifests.concat());
    lab
}

fn finish(child: Child) -> String {
    text(&child.wait_with_output().expect("our own child")).trim().to_owned()
}

fn names(answers: &[(String, String)]) -> BTreeSet<String> {
    answers.iter().map(|(name, _)| name.clone()).collect()
}

fn pod(lab: &Lab, verb: &str, name: &str) {
    succeed(&mut lab.command(&["pod", verb, &format!("default/{name}")]));
}

#[test]
fn no_request_fails_while_backends_are_replaced_under_load() {
    let client = idler("client", 1, "");
    let lab = lab(
        "t-drain",
        &[server("a", 1, "web", "", ""), server("b", 2, "web", "", ""), client, service("web", "web", "")],
    );
    let [v4, v6] = lab.cluster_ips("default/web");
    let client = Client::pod("client");
    for address in [&v4, &v6] {
        lab.until_answers(&client, address, 80);
    }
    let loads: Vec<_> = [&v4, &v6].map(|address| lab.start_client(&client, &["load", address, "80"])).into();
    sleep(Duration::from_millis(500));
    // A rolling update: a new pod, then the old one goes: it is drained before its processes end.
    for (old, new, node) in [("a", "c", 1), ("b", "d", 2)] {
        lab.apply(&server(new, node, "web", "", ""));
        pod(&lab, "terminate", old);
        for address in [&v4, &v6] {
            eventually("new requests go elsewhere", || {
                let answers = fetch(&lab, &client, address, 80, 8).ok()?;
                (!names(&answers).contains(old)).then_some(())
            });
        }
        sleep(Duration::from_millis(1500));
        pod(&lab, "delete", old);
    }
    // And one that only loses its readiness for a while.
    pod(&lab, "unready", "c");
    sleep(Duration::from_millis(500));
    pod(&lab, "ready", "c");
    for load in loads {
        let said = finish(load);
        let words: Vec<_> = said.split(' ').collect();
        let good: u64 = words[1].parse().expect("a count");
        assert!(good > 20, "the load was none: {said}");
        assert_eq!(words[3], "0", "requests failed: {said}");
    }
    assert_eq!(names(&fetch(&lab, &client, &v4, 80, 16).expect("answers")), ["c", "d"].map(str::to_owned).into());
}

#[test]
fn a_dns_like_service_whose_only_pod_is_replaced_answers_the_same_socket_again() {
    let lab = lab("t-dns", &[server("old", 2, "dns", "", ""), idler("client", 1, ""), service("dns", "dns", "")]);
    let [v4, v6] = lab.cluster_ips("default/dns");
    let client = Client::pod("client");
    lab.until_answers(&client, &v4, 80);
    // One socket asks ten times a second, as a resolver with a fixed source port does.
    let askers = [&v4, &v6].map(|address| Talker::start(&lab, &client, &["until", address, "80", "new "]));
    let askers = askers.map(|mut asker| {
        assert!(asker.line().starts_with("old "));
        asker
    });
    pod(&lab, "delete", "old");
    lab.apply(&server("new", 1, "dns", "", ""));
    for asker in askers {
        let said = asker.finish();
        assert!(
            said.lines().last().is_some_and(|line| line.starts_with("new ")),
            "the flow still goes to the dead pod:\n{said}"
        );
    }
}

#[test]
fn a_large_download_survives_the_end_of_its_endpoint_and_of_its_service() {
    let lab = lab("t-large", &[server("a", 2, "web", "", ""), idler("client", 1, ""), service("web", "web", "")]);
    let [v4, v6] = lab.cluster_ips("default/web");
    let client = Client::pod("client");
    lab.until_answers(&client, &v4, 80);
    // More than all buffers on the way hold: the server is still at it when the client goes on.
    let bytes = (200 << 20).to_string();
    let downloads = [&v4, &v6].map(|address| {
        let mut download = Talker::start(&lab, &client, &["download", address, "80", &bytes]);
        assert_eq!(download.line(), "begun");
        download
    });
    lab.apply(&server("b", 1, "web", "", ""));
    pod(&lab, "terminate", "a");
    eventually("new connections go to the new pod", || {
        let answers = fetch(&lab, &client, &v4, 80, 8).ok()?;
        (names(&answers) == ["b".to_owned()].into()).then_some(())
    });
    lab.delete("{apiVersion: v1, kind: Service, metadata: {name: web, namespace: default}}");
    eventually("the Service is gone", || (connect(&lab, &client, &v4, 80) == "silence").then_some(()));
    for mut download in downloads {
        download.say();
        assert_eq!(download.finish(), bytes);
    }
}

#[test]
fn a_client_keeps_its_backend_and_what_has_none_is_refused() {
    // Longer than a busy machine can take for this test.
    let affine = "sessionAffinity: ClientIP, sessionAffinityConfig: {clientIP: {timeoutSeconds: 3600}},";
    let lab = lab(
        "t-affine",
        &[
            server("a", 1, "web", "", ""),
            server("b", 2, "web", "", ""),
            server("c", 2, "web", "", ""),
            idler("client", 1, ""),
            service("affine", "web", &format!("type: NodePort, {affine}")),
            service("short", "web", &affine.replace("3600", &SHORT.to_string())),
            service("web", "web", ""),
            service("empty", "nobody", "type: NodePort,"),
        ],
    );
    let client = Client::pod("client");
    let (addresses, node_port) = (lab.cluster_ips("default/affine"), lab.node_port("default/affine"));
    for (address, node) in addresses.iter().zip(["10.77.0.11", "fd00:10:77::11"]) {
        lab.until_answers(&client, address, 80);
        let mine = names(&fetch(&lab, &client, address, 80, 20).expect("answers"));
        assert_eq!(mine.len(), 1, "one client, many backends: {mine:?}");
        let by_node_port = names(&fetch(&lab, &client, node, node_port, 5).expect("answers"));
        assert_eq!(by_node_port, mine, "the Service's addresses share the affinity");
    }
    // Its backend goes, and the client gets another one that stays.
    let mine = names(&fetch(&lab, &client, &addresses[0], 80, 1).expect("an answer"));
    let mine = mine.first().expect("one").clone();
    pod(&lab, "unready", &mine);
    let moved = eventually("another backend", || {
        let now = names(&fetch(&lab, &client, &addresses[0], 80, 10).ok()?);
        (now.len() == 1 && !now.contains(&mine)).then_some(now)
    });
    pod(&lab, "ready", &mine);
    assert_eq!(names(&fetch(&lab, &client, &addresses[0], 80, 10).expect("answers")), moved);

    // A short affinity: its backend goes, the client moves, and once it has rested for longer than the affinity lasts it
    // goes where it went at first, for the choice is by its address.
    let [short, _] = lab.cluster_ips("default/short");
    let asked = |times| fetch(&lab, &client, &short, 80, times).map(|answers| names(&answers));
    lab.until_answers(&client, &short, 80);
    let first = asked(10).expect("answers");
    let name = first.first().expect("one").clone();
    pod(&lab, "unready", &name);
    eventually("another backend", || asked(4).ok().filter(|now| !now.contains(&name)));
    pod(&lab, "ready", &name);
    eventually("the first backend again", || {
        sleep(Duration::from_secs(SHORT + 1));
        (asked(4).ok()? == first).then_some(())
    });

    let (empty, node_port) = (lab.cluster_ips("default/empty"), lab.node_port("default/empty"));
    let web = lab.cluster_ips("default/web");
    for (i, node) in ["10.77.0.11", "fd00:10:77::11"].into_iter().enumerate() {
        for client in [Client::pod("client"), Client::Node(1)] {
            lab.meets(&client, &empty[i], 80, "refused", "no endpoints");
            let udp = succeed(&mut client.client(&lab, &["udp", &empty[i], "80", "2", "0.1", "20"]));
            assert!(udp.contains("refused"), "{client:?} gets no port unreachable: {udp}");
            lab.meets(&client, &web[i], 4321, "refused", "a port that the Service lacks");
            let unallocated = ["10.96.77.77", "fd00:10:96::7777"][i];
            lab.meets(&client, unallocated, 80, "silence", "no Service has it");
        }
        lab.meets(&Client::outside(), node, node_port, "refused", "no endpoints");
    }
}

#[test]
fn pods_leave_the_cluster_under_their_nodes_address() {
    let lab = lab("t-leave", &[idler("client", 1, ""), idler("other", 2, "")]);
    let [python, script] = podplane_tests::services::program("serve.py");
    let mut server = lab.exec("@outside", &[&python, &script, "world", "8080"]).spawn().expect("the server starts");
    let outcome = std::panic::catch_unwind(|| {
        for (name, node) in [("client", ["10.77.0.11", "fd00:10:77::11"]), ("other", ["10.77.0.12", "fd00:10:77::12"])]
        {
            let client = Client::pod(name);
            // On the node's own link, and behind its default route.
            let worlds = [["10.77.0.1", "fd00:10:77::1"], ["203.0.113.1", "2001:db8:203::1"]];
            for (address, node) in worlds.iter().flat_map(|world| world.iter().zip(node)) {
                lab.until_answers(&client, address, 8080);
                let expected = ("world".to_owned(), node.to_owned());
                assert_eq!(fetch(&lab, &client, address, 8080, 3).expect("answers"), vec![expected.clone(); 3]);
                assert_eq!(datagrams(&lab, &client, address, 8080, 2).expect("answers"), vec![expected; 2]);
                succeed(&mut client.command(&lab, &["ping", "-c", "2", "-i", "0.2", "-W", "20", address]));
                // What is too big for one packet comes back in fragments; over IPv6 the first ones are too big for the
                // pod, and the world hears so.
                succeed(
                    &mut client.command(&lab, &["ping", "-c", "3", "-i", "0.3", "-W", "20", "-s", "4000", address]),
                );
            }
        }
    });
    server.kill().expect("our own child");
    server.wait().expect("our own child");
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}
