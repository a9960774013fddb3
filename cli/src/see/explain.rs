//! `podplane explain`: what would become of a packet, without sending one.

use std::path::Path;

use anyhow::{Result, bail};
use podplane_config::introspect::{Behind, Direction, Explained, Imaginary, Judgement, Party, Question, Verdict};

use super::ask;
use crate::output::{self, Format};

/// The packet.
#[derive(Debug, clap::Args)]
pub struct ExplainArgs {
    /// Who sends it: a pod (NAMESPACE/NAME), node/NAME, or an address.
    from: String,
    /// Whom it is sent to: the same, or a Service's address. An arrow, '->', may stand before it; quote that for the
    /// shell.
    #[arg(allow_hyphen_values = true)]
    to: String,
    /// Whom it is sent to, behind an arrow.
    #[arg(hide = true)]
    behind_arrow: Option<String>,
    /// tcp, udp, sctp or icmp.
    #[arg(long, default_value = "tcp", ignore_case = true, value_parser = ["tcp", "udp", "sctp", "icmp"])]
    proto: String,
    /// The port that it is sent to; 80 if absent.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// IPv6 where both sides have both families.
    #[arg(short = '6', long)]
    ipv6: bool,
    /// How to print; wide also shows the nodes of the graph that it passed.
    #[arg(short, long, default_value = "table")]
    output: Format,
}

/// `podplane explain`: exit status 1 where the packet does not go on.
pub fn explain(run_dir: &Path, args: &ExplainArgs) -> Result<bool> {
    let packet = imaginary(args)?;
    let explained: Explained = ask(run_dir, Question::Explain { packet })?;
    match args.output {
        Format::Json => output::json(&explained)?,
        Format::Table => println!("{}", lines(&explained).join("\n")),
        Format::Wide => println!("{}\npath       {}", lines(&explained).join("\n"), explained.path.join(" > ")),
    }
    Ok(matches!(explained.verdict, Verdict::Accept | Verdict::Answer))
}

fn imaginary(args: &ExplainArgs) -> Result<Imaginary> {
    let arrow = matches!(args.to.as_str(), "->" | "to");
    let to = match &args.behind_arrow {
        Some(to) if arrow => to,
        None if !arrow => &args.to,
        _ => bail!("say FROM TO, or FROM '->' TO, and options behind: podplane explain default/a default/b --port 80"),
    };
    let icmp = args.proto.eq_ignore_ascii_case("icmp");
    if icmp && args.port.is_some() {
        bail!("ICMP has no ports: leave --port out");
    }
    let port = if icmp { 0 } else { args.port.unwrap_or(80) };
    let (from, to) = (args.from.trim().to_owned(), to.trim().to_owned());
    Ok(Imaginary { from, to, protocol: args.proto.to_uppercase(), port, ipv6: args.ipv6 })
}

fn lines(e: &Explained) -> Vec<String> {
    let port = if e.port == 0 { String::new() } else { format!(" port {}", e.port) };
    let mut lines = vec![
        format!("packet     {} -> {}, {}{port}", party(&e.from), party(&e.to), e.protocol),
        format!("enters by  {}", e.enters),
    ];
    if let Some(service) = &e.service {
        let name = if service.port.is_empty() { String::new() } else { format!(" port {}", service.port) };
        let backend = match service.backend {
            Some(address) => {
                let pod = if service.pod.is_empty() { String::new() } else { format!(" ({})", service.pod) };
                let place = std::net::SocketAddr::new(address, service.backend_port);
                format!("{place}{pod}, one of {}; another source port may get another", service.backends)
            }
            None => "no backend".to_owned(),
        };
        lines.push(format!("service    {}{name}: {backend}", service.service));
    }
    lines.extend(e.judged.iter().map(judgement));
    if e.judged.is_empty() && e.verdict == Verdict::Accept {
        lines.push("policy     none of this node's pods is asked".to_owned());
    }
    if let Some(address) = e.seen_as {
        lines.push(format!("seen as    {address}"));
    }
    if let Some(leaves) = &e.leaves {
        let name = if leaves.name.is_empty() { String::new() } else { format!(" {}", leaves.name) };
        let to = match leaves.to {
            Behind::Pod => format!("to pod{name}"),
            Behind::Host => "to this node itself".to_owned(),
            Behind::Node => format!("through the tunnel to node{name}, which judges its own pods"),
            Behind::Outside => "to the world outside".to_owned(),
        };
        lines.push(format!("leaves by  {} {to}", leaves.port));
    }
    let reason = if e.reason.is_empty() { String::new() } else { format!(" ({})", e.reason) };
    lines.push(format!("verdict    {}{reason}: {}", verdict(e.verdict), e.explanation));
    lines
}

fn party(party: &Party) -> String {
    if party.name.is_empty() { party.address.to_string() } else { format!("{} ({})", party.address, party.name) }
}

fn judgement(j: &Judgement) -> String {
    let direction = match j.direction {
        Direction::Ingress => "ingress",
        Direction::Egress => "egress",
    };
    let said = if j.accept { "accepted" } else { "denied" };
    let why = match (&j.rule, j.set) {
        (Some(rule), _) => format!("{said} by {} (tier {}, {})", rule.name, rule.tier, rule.action),
        (None, Some(_)) => format!("{said}: none of its rules matches"),
        (None, None) => format!("{said}: no policy selects the pod in this direction"),
    };
    format!("{direction:<10} of {}: {why}", j.pod)
}

fn verdict(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accepted",
        Verdict::Drop => "dropped",
        Verdict::Refuse => "refused",
        Verdict::Answer => "answered here",
        Verdict::Wait => "waits",
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use podplane_config::introspect::{Leaves, RuleHits, ServiceChoice};

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: ExplainArgs,
    }

    fn asked(words: &[&str]) -> Result<Imaginary> {
        imaginary(&Line::try_parse_from([&["explain"], words].concat())?.args)
    }

    #[test]
    fn with_and_without_an_arrow() {
        let packet = asked(&["a/b", "->", "c/d", "--proto", "UDP", "--port", "53"]).unwrap();
        assert_eq!(packet, asked(&["a/b", "c/d", "--proto", "udp", "--port", "53"]).unwrap());
        assert_eq!((packet.protocol.as_str(), packet.port), ("UDP", 53));
        assert_eq!(asked(&["a/b", "10.0.0.1"]).unwrap().port, 80);
        assert_eq!(asked(&["a/b", "::1", "--proto", "icmp"]).unwrap().port, 0);
        assert!(asked(&["a/b", "and", "c/d"]).is_err());
        assert!(asked(&["a/b", "c/d", "--proto", "icmp", "--port", "1"]).is_err());
        assert!(asked(&["a/b", "c/d", "--port", "0"]).is_err());
    }

    fn explained() -> Explained {
        let party = |address: &str, name: &str| Party { address: address.parse().unwrap(), name: name.into() };
        let rule = RuleHits {
            id: 3,
            name: "NetworkPolicy isolation".into(),
            tier: "NetworkPolicy".into(),
            action: "Deny".into(),
            hits: 9,
        };
        Explained {
            generation: 5,
            from: party("10.244.1.2", "demo/near"),
            to: party("10.96.0.9", ""),
            protocol: "TCP".into(),
            port: 80,
            enters: "pp1".into(),
            verdict: Verdict::Drop,
            reason: "policy-ingress".into(),
            explanation: "The pod's policy does not accept this.".into(),
            service: Some(ServiceChoice {
                service: "demo/shop".into(),
                port: "http".into(),
                backend: Some("10.244.1.3".parse().unwrap()),
                backend_port: 8080,
                pod: "demo/web".into(),
                backends: 2,
            }),
            judged: vec![
                Judgement {
                    direction: Direction::Egress,
                    pod: "demo/near".into(),
                    set: None,
                    accept: true,
                    rule: None,
                },
                Judgement {
                    direction: Direction::Ingress,
                    pod: "demo/web".into(),
                    set: Some(1),
                    accept: false,
                    rule: Some(rule),
                },
            ],
            leaves: None,
            seen_as: None,
            path: vec!["classify".into(), "policy".into()],
        }
    }

    #[test]
    fn the_verdict_names_the_rule_and_the_service() {
        let expected = [
            "packet     10.244.1.2 (demo/near) -> 10.96.0.9, TCP port 80",
            "enters by  pp1",
            "service    demo/shop port http: 10.244.1.3:8080 (demo/web), one of 2; another source port may get another",
            "egress     of demo/near: accepted: no policy selects the pod in this direction",
            "ingress    of demo/web: denied by NetworkPolicy isolation (tier NetworkPolicy, Deny)",
            "verdict    dropped (policy-ingress): The pod's policy does not accept this.",
        ];
        assert_eq!(lines(&explained()), expected);
        let mut far = explained();
        far.verdict = Verdict::Accept;
        far.judged.clear();
        far.leaves = Some(Leaves { port: "eth0".into(), to: Behind::Node, name: "node2".into() });
        let lines = lines(&far);
        assert!(
            lines.iter().any(|l| l == "leaves by  eth0 through the tunnel to node node2, which judges its own pods")
        );
    }

    #[test]
    fn the_dataplane_is_asked_and_its_answer_is_read() {
        let (dir, server) = super::super::testing::dataplane(explained());
        let args = Line::try_parse_from(["explain", "demo/near", "10.96.0.9"]).unwrap().args;
        assert!(!explain(dir.path(), &args).unwrap(), "it does not go on");
        assert_eq!(server.join().unwrap(), Question::Explain { packet: imaginary(&args).unwrap() });
    }
}
