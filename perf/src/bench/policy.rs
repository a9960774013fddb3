//! How long policies take until they are in force: all of them, and one change among them. Every change is seen by a
//! question about a packet that it decides.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use podplane_config::introspect::{Direction, Imaginary, Policies};
use podplane_config::v1::{Key, Object};

use crate::netns::Netns;
use crate::node::{Node, Start};
use crate::policies::{
    self, ADDRESSES, POLICIES, RULES, Ranges, WAITING, address, all, first_rule, own_port, rule_name,
};
use crate::stats::{Summary, quantile};

/// Pods of the node where policies change.
const FEW_PODS: u8 = 2;
/// Pods of the node that loads them.
const PODS: u8 = 200;
/// How many elements are changed in nftables, at most: they take it long.
const ELEMENTS: usize = 100;
/// How often nftables' whole map is replaced.
const REPLACED: usize = 5;

/// What loading took.
#[derive(Clone, Copy, Debug)]
pub struct Loaded {
    /// Seconds from the first message until every worker judges by it.
    pub seconds: Summary,
    /// Resident memory of the dataplane in MiB before, with its pods connected, and after.
    pub memory: [Summary; 2],
    /// What the compiled tables take of it by their own count, in MiB, and the seconds that it took to compile them; of
    /// the last start.
    pub tables: [f64; 2],
}

/// Starts a dataplane with 200 pods as often as told and tells it all policies in one transaction.
pub fn load(starts: usize, start: Start) -> Result<Loaded> {
    let (mut seconds, mut before, mut after, mut tables) = (Vec::new(), Vec::new(), Vec::new(), [0.0; 2]);
    for _ in 0..starts {
        let mut node = Node::up("bench-o", PODS, start)?;
        // Connecting pods is measured elsewhere.
        node.commit(true, node.objects())?;
        before.push(node.memory()?);
        let told = all(node.objects(), PODS);
        seconds.push(node.commit(true, told)?.as_secs_f64());
        after.push(node.memory()?);
        let there = in_force(&node, PODS)?;
        tables = [there.table_bytes as f64 / f64::from(1 << 20), there.compiled_us as f64 / 1e6];
        for pod in [0, u32::from(PODS) - 1] {
            // One whose first rule has a selector that matches somebody.
            let policy = POLICIES - u32::from(PODS) + pod;
            decides(&node, policy, matched(policy)?, own_port(policy, 0), PODS)?;
        }
    }
    let summary = |values: &[f64]| Summary::of(values).context("no start");
    Ok(Loaded { seconds: summary(&seconds)?, memory: [summary(&before)?, summary(&after)?], tables })
}

/// A pod of another node that the first rule of a policy is about.
fn matched(policy: u32) -> Result<u32> {
    let selector = policies::first_selector(policy);
    (PODS.into()..ADDRESSES).find(|n| policies::selectors(*n).contains(&selector)).context("a selector matches no pod")
}

/// All that was told is there.
fn in_force(node: &Node, pods: u8) -> Result<Policies> {
    let there = node.policies()?;
    let with_policy = there.endpoints.iter().filter(|e| e.ingress.is_some() && e.egress.is_some()).count();
    let counts = [there.addresses, there.rules.len(), there.sets.len(), with_policy];
    let pods = usize::from(pods);
    let wanted = [ADDRESSES as usize, RULES as usize + 1, pods * 2, pods];
    if counts != wanted {
        bail!("addresses, rules, rule sets and pods in force are {counts:?} in place of {wanted:?}");
    }
    Ok(there)
}

/// The first rule of a policy lets pod `from` connect to a pod of that policy at this port.
fn decides(node: &Node, policy: u32, from: u32, port: u16, pods: u8) -> Result<()> {
    let to = address(policy % u32::from(pods), pods).to_string();
    let from = address(from, pods).to_string();
    let about = format!("what comes from {from} to {to} at port {port}");
    let said = node.explain(Imaginary { from, to, protocol: "TCP".to_owned(), port, ipv6: false })?;
    let judged = said.judged.iter().find(|judged| judged.direction == Direction::Ingress);
    let judged = judged.with_context(|| format!("{about} is not judged: {}", said.explanation))?;
    match &judged.rule {
        Some(rule) if judged.accept && rule.name == rule_name(first_rule(policy)) => Ok(()),
        _ => bail!("{about} is not decided by policy {policy}: {}", said.explanation),
    }
}

/// What changes took, in milliseconds: median and 99th percentile.
#[derive(Clone, Copy, Debug)]
pub struct Changed {
    /// Changes of each kind.
    pub changes: usize,
    /// From the first message until every worker judges by it: an address comes that 1,000 rules select.
    pub address: [f64; 2],
    /// A rule gets other ports.
    pub ports: [f64; 2],
    /// A rule gets another selector.
    pub selector: [f64; 2],
    /// nftables.
    pub kernel: Kernel,
}

/// What changes take nftables, in milliseconds: median and 99th percentile of whole runs of `nft -f`.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Changes of one element.
    pub changes: usize,
    /// For nothing: what the program itself takes.
    pub nothing: [f64; 2],
    /// One element changed of a map of as many ranges as there are rules, for each of [`Ranges::ALL`].
    pub one: [[f64; 2]; 2],
    /// All elements replaced, for each of them.
    pub all: [[f64; 2]; 2],
}

/// Makes `changes` of each kind, then some in nftables.
pub fn change(changes: usize, start: Start) -> Result<Changed> {
    if changes == 0 {
        bail!("no changes, no figure");
    }
    let mut node = Node::up("bench-o", FEW_PODS, start)?;
    let told = all(node.objects(), FEW_PODS);
    node.commit(true, told)?;
    in_force(&node, FEW_PODS)?;
    let address = quantiles(addresses(&mut node, changes)?);
    let [ports, selector] = rules(&mut node, changes)?.map(quantiles);
    drop(node);
    Ok(Changed { changes, address, ports, selector, kernel: kernel(changes.min(ELEMENTS))? })
}

/// Each comes with a class of its own, for the one before is gone by then.
fn addresses(node: &mut Node, changes: usize) -> Result<Vec<Duration>> {
    let mut took = Vec::with_capacity(changes);
    for i in 0..changes as u32 {
        if i > 0 {
            node.remove(vec![Key::Address(address(ADDRESSES + i - 1, FEW_PODS))])?;
        }
        took.push(node.commit(false, vec![selected(ADDRESSES + i)])?);
        let policy = i % WAITING;
        decides(node, policy, ADDRESSES + i, own_port(policy, 0), FEW_PODS)?;
    }
    Ok(took)
}

/// A pod that the first rules of a thousand policies are about.
fn selected(n: u32) -> Object {
    policies::pod(n, FEW_PODS, (0..WAITING).collect())
}

/// A first rule gets other ports, then another selector, which about a hundred pods match.
fn rules(node: &mut Node, changes: usize) -> Result<[Vec<Duration>; 2]> {
    let newcomer = ADDRESSES + changes as u32 - 1;
    let elsewhere = u32::from(FEW_PODS)..ADDRESSES;
    let mut took = [Vec::with_capacity(changes), Vec::with_capacity(changes)];
    for i in 0..changes as u32 {
        let (policy, version) = (i % WAITING, 1 + i / WAITING);
        let pod = elsewhere.start + i % elsewhere.len() as u32;
        took[0].push(node.commit(false, vec![policies::changed(policy, policy, version)])?);
        decides(node, policy, newcomer, own_port(policy, version), FEW_PODS)?;
        let selector = policies::selectors(pod)[0];
        took[1].push(node.commit(false, vec![policies::changed(policy, selector, version)])?);
        decides(node, policy, pod, own_port(policy, version), FEW_PODS)?;
    }
    Ok(took)
}

fn kernel(changes: usize) -> Result<Kernel> {
    let nothing = Netns::new("bench-k")?;
    let mut kernel = Kernel {
        changes,
        nothing: runs(&nothing, changes, |_| String::new())?,
        one: [[0.0; 2]; 2],
        all: [[0.0; 2]; 2],
    };
    drop(nothing);
    for (i, ranges) in Ranges::ALL.into_iter().enumerate() {
        let netns = Netns::new("bench-k")?;
        nft(&netns, &ranges.rules())?;
        kernel.one[i] = runs(&netns, changes, |i| ranges.one(i, 1))?;
        kernel.all[i] = runs(&netns, REPLACED, |i| ranges.all(i))?;
    }
    Ok(kernel)
}

fn runs(netns: &Netns, count: usize, text: impl Fn(u32) -> String) -> Result<[f64; 2]> {
    (0..count as u32).map(|i| nft(netns, &text(i))).collect::<Result<Vec<_>>>().map(quantiles)
}

/// One run of the program on a file that is ready.
fn nft(netns: &Netns, text: &str) -> Result<Duration> {
    let mut file = tempfile::NamedTempFile::new().context("making a file for nft")?;
    file.write_all(text.as_bytes())?;
    netns.enter(|| timed(file.path()))?
}

fn timed(file: &Path) -> Result<Duration> {
    let mut nft = Command::new("nft");
    nft.arg("-f").arg(file).stdin(Stdio::null());
    let began = Instant::now();
    let out = nft.output().context("running nft")?;
    let took = began.elapsed();
    if !out.status.success() {
        bail!("nft: {}", String::from_utf8_lossy(&out.stderr).trim());
    }
    Ok(took)
}

fn quantiles(times: Vec<Duration>) -> [f64; 2] {
    let mut values: Vec<f64> = times.iter().map(|time| time.as_secs_f64() * 1e3).collect();
    values.sort_by(f64::total_cmp);
    [quantile(&values, 0.5), quantile(&values, 0.99)]
}
