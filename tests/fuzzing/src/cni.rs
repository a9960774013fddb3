//! What a container runtime gives the plugin: variables and the configuration on stdin.

use podplane_cni::{Code, Command, Config, Environment};

use crate::input::Input;

/// Container ID, interface, namespace and arguments, a line each; then the configuration. They are read for the command
/// that the first byte chooses.
///
/// # Panics
/// If what was taken breaks a rule of the specification that the rest of the plugin relies on.
pub fn cni(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(choice) = input.u8() else { return };
    let command = [Command::Add, Command::Del, Command::Check, Command::Gc, Command::Status][usize::from(choice % 5)];
    let lines = [(); 4].map(|()| std::str::from_utf8(input.until(b'\n')).ok());
    let var = |name: &str| {
        let at = ["CNI_CONTAINERID", "CNI_IFNAME", "CNI_NETNS", "CNI_ARGS"].iter().position(|known| *known == name)?;
        lines[at].map(str::to_owned)
    };
    match Environment::read(command, &var) {
        Ok(environment) => variables(command, &environment),
        Err(error) => assert!(error.code == Code::InvalidEnvironment && !error.message.contains('\n'), "{error}"),
    }
    let text = input.rest();
    match Config::parse(text) {
        Ok(config) => configuration(&config),
        Err(error) => assert!(!error.message.is_empty(), "a refusal without a reason"),
    }
    // What it answers to VERSION is JSON whatever comes in.
    let outcome = podplane_cni::run(&|name| (name == "CNI_COMMAND").then(|| "VERSION".to_owned()), &mut &*text);
    assert!(outcome.stdout.starts_with('{') && outcome.stdout.contains("cniVersion"), "{outcome:?}");
}

fn plain(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric())
}

fn variables(command: Command, environment: &Environment) {
    if !matches!(command, Command::Add | Command::Del | Command::Check) {
        return;
    }
    let id = &environment.attachment;
    assert!(plain(&id.container_id) && id.container_id.len() <= 200, "{id:?}");
    // What the kernel takes for an interface, less what would be another file in /proc/sys.
    let name = &id.ifname;
    assert!((1..16).contains(&name.len()) && !matches!(name.as_str(), "." | ".." | "lo"), "{id:?}");
    assert!(!name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()), "{id:?}");
    assert!(environment.netns.is_some() || command == Command::Del);
    if let Some(netns) = &environment.netns {
        assert!(netns.starts_with('/') && netns.split('/').all(|part| part != ".."), "{netns:?}");
    }
    if let Some(pod) = &environment.pod {
        assert!(!pod.name.is_empty() && !pod.namespace.is_empty(), "{pod:?}");
        // They become parts of paths and lines of logs.
        assert!([&pod.name, &pod.namespace, &pod.uid].iter().all(|t| !t.contains(['/', '\n', '\0', ' '])), "{pod:?}");
    }
}

fn configuration(config: &Config) {
    assert!(plain(&config.name), "{:?}", config.name);
    assert!(config.agent_socket.is_absolute() && config.state_dir.is_absolute());
    for id in config.valid_attachments.iter().flatten() {
        assert!(!id.container_id.is_empty() && !id.ifname.is_empty());
    }
}
