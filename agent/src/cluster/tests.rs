use super::*;

fn options(api_server: Option<&str>, credentials: &Path) -> ClusterOptions {
    ClusterOptions { api_server: api_server.map(str::to_owned), credentials: credentials.to_owned(), kubeconfig: None }
}

async fn refusal(options: &ClusterOptions) -> String {
    Cluster::prepare(options, "n1").await.unwrap_err().to_string()
}

#[tokio::test]
async fn what_can_never_work_is_refused_with_its_cure() {
    let folder = tempfile::tempdir().unwrap();
    for url in ["", "192.0.2.1:6443", "ftp://192.0.2.1", "https://"] {
        assert!(refusal(&options(Some(url), folder.path())).await.contains("is no address such as"), "{url}");
    }
    assert!(refusal(&options(None, folder.path())).await.contains("--api-server"));
    let https = options(Some("https://192.0.2.1:6443"), folder.path());
    let refused = refusal(&https).await;
    assert!(refused.contains("token") && refused.contains("--credentials"), "{refused}");
    std::fs::write(folder.path().join("token"), "\n").unwrap();
    assert!(refusal(&https).await.contains("it is empty"));
    std::fs::write(folder.path().join("token"), "t").unwrap();
    assert!(refusal(&https).await.contains("ca.crt"));
    std::fs::write(folder.path().join("ca.crt"), "no certificate").unwrap();
    let refused = refusal(&https).await;
    assert!(refused.contains("cannot prepare the connection"), "{refused}");
    // Where a system has no certificates of its own, as our image, asking for them would fail.
    let config = from_folder(folder.path(), https.api_server.as_deref()).await.unwrap();
    assert_eq!((config.root_cert, config.root_cert_file), (Some(Vec::new()), Some(folder.path().join("ca.crt"))));
    let kubeconfig = Some(folder.path().join("kubeconfig"));
    let refused = refusal(&ClusterOptions { kubeconfig, ..https }).await;
    assert!(refused.contains("cannot use the kubeconfig"), "{refused}");
}

#[tokio::test]
async fn a_kubeconfig_says_where_the_api_server_is_unless_a_flag_does() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("kubeconfig");
    let text = "apiVersion: v1\nkind: Config\ncurrent-context: a\ncontexts: [{name: a, context: {cluster: c, user: u}}]\n\
                clusters: [{name: c, cluster: {server: \"http://192.0.2.1:6443\"}}]\nusers: [{name: u, user: {token: t}}]\n";
    std::fs::write(&file, text).unwrap();
    let mut options = ClusterOptions { kubeconfig: Some(file), ..ClusterOptions::default() };
    assert_eq!(Cluster::prepare(&options, "n1").await.unwrap().url, "http://192.0.2.1:6443");
    options.api_server = Some("http://192.0.2.2:6443".into());
    assert_eq!(Cluster::prepare(&options, "n1").await.unwrap().url, "http://192.0.2.2:6443");
}

#[test]
fn the_service_kubernetes_is_no_address_of_the_api_server() {
    let check = |url: &str, told| check_address(&url.parse().unwrap(), told).map_err(|e| e.to_string());
    for (url, told) in [
        ("https://kubernetes.default.svc:443", None),
        ("https://kubernetes", None),
        ("https://Kubernetes.default.svc.cluster.local", None),
        ("https://10.96.0.1:443", Some("10.96.0.1")),
        ("https://[fd00:10:96::1]", Some("fd00:10:96::1")),
    ] {
        assert!(check(url, told).unwrap_err().contains("--api-server"), "{url}");
    }
    check("https://192.0.2.1:6443", Some("10.96.0.1")).unwrap();
    check("https://kubernetes.example.org", None).unwrap();
}

#[tokio::test]
async fn whoever_does_not_answer_is_named_with_what_to_do() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let folder = tempfile::tempdir().unwrap();
    let cluster = Cluster::prepare(&options(Some(&format!("http://{address}")), folder.path()), "n1").await.unwrap();
    let trouble = cluster.check().await.unwrap_err();
    assert!(trouble.contains("cannot be reached") && trouble.contains("--api-server"), "{trouble}");
    assert!(unanswered("u", "invalid peer certificate: UnknownIssuer").contains("ca.crt"));
    assert!(unanswered("u", "received corrupt message of type InvalidContentType").contains("does not speak TLS"));
    assert!(unanswered("u", "dns error: failed to lookup address information").contains("cannot be resolved"));
    let answer = |code| answered("u", &kube::core::Status::failure("why", "Reason").with_code(code));
    for (code, words) in [(401, "--credentials"), (403, "ClusterRole"), (429, "patience"), (503, "trouble of its own")]
    {
        assert!(answer(code).contains(words) && answer(code).contains("why"), "{}", answer(code));
    }
}
