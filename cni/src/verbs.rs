//! The verbs.

use podplane_api::{
    AddReply, AddRequest, AttachmentId, CheckRequest, DelRequest, GcRequest, ReadyRequest,
    client::{AgentClient, ClientError},
    enforced, pending,
};
use podplane_hostnet::{Netlink, Netns};

use crate::{
    CniError, Code, Command, Config, Environment, Version, host_end,
    output::{self, Made},
    ports,
    wire::{self, Plan},
};

/// Executes a call; the result goes to stdout.
pub(crate) fn execute(environment: &Environment, config: &Config) -> Result<String, CniError> {
    let needs = match environment.command {
        Command::Check => Version::V040,
        Command::Gc | Command::Status => Version::V110,
        Command::Add | Command::Del | Command::Version => Version::V030,
    };
    if config.version < needs {
        let message = format!(
            "cniVersion {} does not have this command; it came with {}",
            config.version.as_str(),
            needs.as_str()
        );
        return Err(CniError::new(Code::IncompatibleVersion, message));
    }
    let agent = AgentClient::new(&config.agent_socket);
    match environment.command {
        Command::Add => add(&agent, environment, config),
        Command::Del => del(&agent, environment, config).map(|()| String::new()),
        Command::Check => check(&agent, environment, config).map(|()| String::new()),
        Command::Gc => gc(&agent, config).map(|()| String::new()),
        Command::Status => status(&agent, config).map(|()| String::new()),
        Command::Version => Ok(String::new()),
    }
}

fn asked(what: &str, error: &ClientError) -> CniError {
    let code = if error.retry() { Code::TryAgain } else { Code::Refused };
    CniError::caused(code, what, error)
}

fn open_netns(environment: &Environment) -> Result<Netns, CniError> {
    let path = environment.netns.as_deref().unwrap_or_default();
    let invalid = |cause: String| CniError::caused(Code::InvalidEnvironment, format!("CNI_NETNS={path}"), cause);
    let netns = Netns::open_nofollow(path).map_err(|e| invalid(e.to_string()))?;
    if netns.same_as(&Netns::current()?)? {
        return Err(invalid("it is the node's own namespace; a pod on the host's network needs no plugin".into()));
    }
    Ok(netns)
}

fn add(agent: &AgentClient, environment: &Environment, config: &Config) -> Result<String, CniError> {
    let id = &environment.attachment;
    let netns = open_netns(environment)?;
    let path = environment.netns.clone().unwrap_or_default();
    let (pod, host_ports) = (environment.pod.clone(), config.host_ports.clone());
    let request = AddRequest { attachment: id.clone(), netns: path.clone(), pod, host_ports };
    let lease = match agent.add(&request) {
        Ok(lease) => lease,
        Err(error) => {
            // Whether a call that broke off took effect is unknown.
            if !error.is_down() && !matches!(error, ClientError::Api { .. }) {
                give_back(agent, config, id)?;
            }
            return Err(asked("the agent gave no addresses", &error));
        }
    };
    let attached = Plan::of(&lease).and_then(|plan| attach(agent, &netns, id, &plan));
    let made = |host_mac| Made { lease: &lease, host_mac, ifname: &id.ifname, netns: &path };
    match attached.and_then(|host_mac| output::result(config, &made(host_mac))) {
        Ok(result) => Ok(result),
        Err(error) => {
            // The first error is what counts; what cannot be undone now is done by the DEL that follows a failed ADD.
            let _ = undo(agent, config, id, &netns, &lease);
            Err(error)
        }
    }
}

fn attach(agent: &AgentClient, netns: &Netns, id: &AttachmentId, plan: &Plan<'_>) -> Result<String, CniError> {
    let host_mac = wire::make(&mut Netlink::open()?, netns, id, plan)?;
    agent.ready(&ReadyRequest { attachment: id.clone() }).map_err(|e| asked("the pod's port did not come up", &e))?;
    Ok(host_mac)
}

/// Takes back a failed ADD. The pod's own interface of that name is not ours when it was there before.
fn undo(
    agent: &AgentClient,
    config: &Config,
    id: &AttachmentId,
    netns: &Netns,
    lease: &AddReply,
) -> Result<(), CniError> {
    let mut netlink = Netlink::open()?;
    for name in host_end::find(&mut netlink, id, Some(netns), std::slice::from_ref(&lease.host_ifname))? {
        host_end::remove(&mut netlink, &name)?;
    }
    give_back(agent, config, id)
}

/// Tells the agent that the attachment is gone; where it does not hear that, leaves it a durable note. The agent's
/// answer may name host ends to be removed.
fn give_back(agent: &AgentClient, config: &Config, id: &AttachmentId) -> Result<(), CniError> {
    let request = DelRequest { attachment: id.clone() };
    match agent.del(&request) {
        Ok(released) => remove_all(&released.host_ifnames),
        Err(error) => pending::leave(&config.state_dir, &request).map(drop).map_err(|e| {
            let folder = pending::folder(&config.state_dir);
            let message = format!("the agent could not be told ({error}), nor a note be left in {}", folder.display());
            CniError::caused(Code::Io, message, e)
        }),
    }
}

fn remove_all(names: &[String]) -> Result<(), CniError> {
    let mut netlink = Netlink::open()?;
    // Nothing but host ends, whatever the agent says.
    names.iter().filter(|name| host_end::is_host_end(name)).try_for_each(|name| host_end::remove(&mut netlink, name))
}

/// Idempotent: an attachment that is gone, a namespace that is gone and an agent that is down are no errors.
fn del(agent: &AgentClient, environment: &Environment, config: &Config) -> Result<(), CniError> {
    let id = &environment.attachment;
    let netns = environment.netns.as_ref().and_then(|path| Netns::open_nofollow(path).ok());
    let mut netlink = Netlink::open()?;
    // The device first: when the agent gives the addresses to another pod, nobody may be using them.
    for name in host_end::find(&mut netlink, id, netns.as_ref(), &output::host_interfaces(config))? {
        host_end::remove(&mut netlink, &name)?;
    }
    host_end::sweep()?;
    give_back(agent, config, id)
}

fn check(agent: &AgentClient, environment: &Environment, config: &Config) -> Result<(), CniError> {
    if config.prev_result.is_none() {
        return Err(CniError::new(Code::InvalidConfig, "CHECK needs \"prevResult\", the result of ADD"));
    }
    let id = &environment.attachment;
    let lease = agent.check(&CheckRequest { attachment: id.clone() }).map_err(|error| match error.is_not_found() {
        true => CniError::caused(Code::UnknownContainer, format!("{} has no {}", id.container_id, id.ifname), error),
        false => asked("the agent gave no answer", &error),
    })?;
    let reported = output::addresses(config);
    let text = |a: &std::net::IpAddr| format!("{a}/{}", output::full_length(a));
    if let Some(missing) = lease.addresses.iter().map(text).find(|a| !reported.contains(a)) {
        return Err(CniError::new(Code::CheckFailed, format!("the lease has {missing}, prevResult has not")));
    }
    if let Some(missing) = ports::missing(&config.host_ports, &lease.host_ports) {
        return Err(CniError::new(Code::CheckFailed, missing));
    }
    wire::check(&mut Netlink::open()?, &open_netns(environment)?, id, &Plan::of(&lease)?)
}

fn gc(agent: &AgentClient, config: &Config) -> Result<(), CniError> {
    let Some(valid) = config.valid_attachments.clone() else {
        return Err(CniError::new(Code::InvalidConfig, "GC needs \"cni.dev/valid-attachments\""));
    };
    let released = agent.gc(&GcRequest { valid }).map_err(|e| asked("the agent could not clean up", &e))?;
    remove_all(&released.host_ifnames)?;
    host_end::sweep()
}

/// An agent that is away, on a node where policy was enforced before, is no reason for the runtime to declare the node
/// not ready: its pods keep their network, and an ADD is told to come again.
fn status(agent: &AgentClient, config: &Config) -> Result<(), CniError> {
    let outcome = agent.cni_status();
    let enforced = || config.agent_socket.parent().is_some_and(enforced::is_marked);
    if outcome.as_ref().is_err_and(ClientError::is_down) && enforced() {
        return Ok(());
    }
    outcome.map_err(|e| CniError::caused(Code::NotAvailable, "pods cannot be added now", e))
}
