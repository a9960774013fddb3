//! One corpus of objects through both sources.

use std::collections::BTreeMap;

use podplane_config::v1::Object;

use super::*;
use crate::source::folder::Folder;

/// All kinds, with what is refused, skipped, or claimed by two.
const CORPUS: &str = include_str!("corpus.yaml");

/// What an index makes of its objects; less the numbers of selectors and rules, which depend on who came first.
#[derive(Debug, PartialEq)]
struct Outcome {
    objects: BTreeMap<Key, Object>,
    rules: usize,
    services: Vec<podplane_index::ServiceReport>,
    policies: BTreeMap<String, String>,
    pods: Vec<String>,
    refused: BTreeMap<String, String>,
}

fn outcome(desired: &Desired) -> Outcome {
    desired.edit(|index| index.set_uplink_mtu(1500));
    desired.read(|index| {
        let mut objects = index.objects().clone();
        objects.retain(|key, _| !matches!(key, Key::Rule(_) | Key::RuleSet(_)));
        for object in objects.values_mut() {
            match object {
                Object::Address(address) => address.selectors = vec![0; address.selectors.len()],
                Object::Endpoint(endpoint) => endpoint.policy = Default::default(),
                _ => {}
            }
        }
        let policies = index.policies().into_iter().map(|policy| (policy.key.to_string(), format!("{policy:?}")));
        let pods = crate::policies::list(index).pods.into_iter().map(|mut pod| {
            pod.compiled_us = 0;
            for rules in pod.ingress.iter_mut().chain(&mut pod.egress) {
                rules.set = 0;
                rules.rules.iter_mut().for_each(|rule| rule.id = 0);
            }
            format!("{pod:?}")
        });
        Outcome {
            rules: index.objects().len() - objects.len(),
            services: index.services(),
            policies: policies.collect(),
            pods: pods.collect(),
            refused: index.refused().map(|(key, reason)| (key.to_string(), reason.to_owned())).collect(),
            objects,
        }
    })
}

fn attach(desired: &Desired) {
    let (attached, _) = desired.edit(|index| {
        let endpoint = podplane_config::v1::Endpoint {
            id: "c/eth0".into(),
            pod: "shop/web".into(),
            port: podplane_config::v1::PortKind::Veth { host_ifname: "pp0".into() },
            mac: [2; 6],
            addresses: vec!["10.244.1.7".parse().unwrap()],
            host_ports: Vec::new(),
            policy: Default::default(),
        };
        let pod = podplane_index::PodIdentity { namespace: "shop".into(), name: "web".into(), uid: "uid-web".into() };
        index.attach_to(endpoint, Some(pod), false)
    });
    attached.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sources_and_the_checkpoint_mean_the_same() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("corpus.yaml"), CORPUS).unwrap();
    let by_folder = Arc::new(Desired::new(index()));
    attach(&by_folder);
    let (sender, scanned) = mpsc::channel();
    let source = Folder::start(folder.path(), by_folder.clone(), move || sender.send(()).unwrap()).unwrap();
    scanned.recv_timeout(Duration::from_secs(120)).unwrap();
    assert_eq!(source.trouble(), None);
    let wanted = outcome(&by_folder);
    assert!(wanted.refused.len() >= 4 && wanted.services.len() >= 3 && wanted.policies.len() >= 3, "{wanted:#?}");
    assert!(wanted.rules > 0 && wanted.pods.len() == 1, "{wanted:#?}");

    let setup = watched(|api| api.apply(CORPUS)).await;
    attach(&setup.desired);
    setup.until_listed().await;
    // Services that another proxy serves are not even sent; a folder holds them, and says that it skips them.
    let served = |outcome: &Outcome| {
        let named = |report: &&podplane_index::ServiceReport| !format!("{report:?}").contains("skipped-by-label");
        outcome.services.iter().filter(named).cloned().collect::<Vec<_>>()
    };
    let got = outcome(&setup.desired);
    assert_eq!(served(&got), served(&wanted));
    assert_eq!(Outcome { services: Vec::new(), ..got }, Outcome { services: Vec::new(), ..outcome(&by_folder) });

    setup.watches.close();
    let Setup { mut api, state, .. } = setup;
    api.go_away();
    let setup = start(api, state).await;
    attach(&setup.desired);
    setup.until_listed().await;
    let got = outcome(&setup.desired);
    assert_eq!(served(&got), served(&wanted));
    assert_eq!(Outcome { services: Vec::new(), ..got }, Outcome { services: Vec::new(), ..wanted });
}
