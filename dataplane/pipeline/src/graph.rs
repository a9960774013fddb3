//! THE pipeline: every node and every edge. `docs/graph.md` is rendered from this file, and a test keeps it so.

use std::fmt::Write as _;

use crate::drop::DropReason;
use crate::env::Env;
use crate::nodes::{self, Next, Pkt, World};

/// What the graph needs of a node's file, beside `process`.
pub(crate) struct Node {
    pub(crate) does: &'static str,
    pub(crate) drops: &'static [DropReason],
    /// It parses headers, and drops for every parse error too.
    pub(crate) parses: bool,
}

/// Declares the graph once: identity, module, stage, edges.
macro_rules! graph {
    ($($id:ident $module:ident $stage:ident [$($next:ident)*];)*) => {
        /// A node of the graph.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum NodeId {
            $(#[doc = concat!("`nodes/", stringify!($module), ".rs`")] $id,)*
        }

        impl NodeId {
            /// All nodes, in the order in which a packet meets them.
            pub const ALL: &'static [NodeId] = &[$(NodeId::$id,)*];

            /// The name of the node's file.
            pub const fn name(self) -> &'static str {
                match self { $(NodeId::$id => stringify!($module),)* }
            }

            /// Where packets go from here, besides being dropped.
            pub const fn next(self) -> &'static [NodeId] {
                match self { $(NodeId::$id => &[$(NodeId::$next,)*],)* }
            }

            /// The stage of a burst that runs the node.
            pub const fn stage(self) -> Stage {
                match self { $(NodeId::$id => Stage::$stage,)* }
            }

            /// One sentence about the node.
            pub const fn does(self) -> &'static str {
                match self { $(NodeId::$id => nodes::$module::NODE.does,)* }
            }

            /// Whether it parses headers, and so drops for every parse error.
            pub const fn parses(self) -> bool {
                match self { $(NodeId::$id => nodes::$module::NODE.parses,)* }
            }

            /// The reasons for which it drops, besides parse errors.
            pub const fn drops(self) -> &'static [DropReason] {
                match self { $(NodeId::$id => nodes::$module::NODE.drops,)* }
            }
        }

        /// Runs one node.
        #[inline]
        pub(crate) fn process<E: Env>(id: NodeId, w: &mut World<'_, E>, p: &mut Pkt<E::Buf>) -> Next {
            let next = match id { $(NodeId::$id => nodes::$module::process(w, p),)* };
            debug_assert!(declared(id, &next), "{id:?} -> {next:?} is no edge of the graph");
            next
        }
    };
}

/// The stages of a burst: a packet is examined together with all others of its burst, then acted upon in its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Runs for the whole burst before the flow lookup: reads headers, sends nothing.
    Examine,
    /// Runs packet by packet, in order of arrival.
    Act,
}

graph! {
    Classify   classify   Examine [L2Pass Arp Underlay Egress Parse];
    Underlay   underlay   Examine [L2Pass Decap Owner];
    Egress     egress     Examine [L2Pass Owner];
    Decap      decap      Examine [Owner];
    Parse      parse      Examine [Antispoof Nd Owner L2Pass];
    Antispoof  antispoof  Examine [Nd Owner];
    Owner      owner      Examine [Gateway Reassemble Related Flow];
    L2Pass     l2_pass    Act     [];
    Arp        arp        Act     [L2Pass];
    Nd         nd         Act     [];
    Gateway    gateway    Act     [Encap];
    Reassemble reassemble Act     [Flow L2Pass];
    Related    related    Act     [Forward L2Pass];
    Flow       flow       Act     [Forward Service L2Pass];
    Service    service    Act     [Route Policy];
    Route      route      Act     [Policy Reflect];
    Reflect    reflect    Act     [];
    Policy     policy     Act     [Masquerade Refuse IcmpError];
    Refuse     refuse     Act     [];
    Masquerade masquerade Act     [Create];
    Create     create     Act     [Forward];
    Forward    forward    Act     [Translate Deliver Encap Outside Fragment IcmpError];
    Translate  translate  Act     [Deliver Encap Outside Fragment];
    Fragment   fragment   Act     [];
    Deliver    deliver    Act     [];
    Encap      encap      Act     [];
    Outside    outside    Act     [];
    IcmpError  icmp_error Act     [];
}

/// Who lets packets go: every constructor of [`Pass`](crate::pass::Pass), the files that call it, and why they may. A test
/// keeps the list complete.
const PASSES: &[(&str, &[&str], &str)] = &[
    (
        "by_policy",
        &["policy"],
        "The first packet of a flow. Only `judge::judge` makes the proof that it asks for, and only where both ends' rules \
         accept.",
    ),
    (
        "by_cached_verdict",
        &["flow"],
        "A packet of a flow that was accepted: its half-entry was found by the packet's own key (of an ICMP error: by that of \
         the packet that it quotes, reversed) and holds under this snapshot, judged again if anything that it depends on \
         changed. Halves that say drop never get here.",
    ),
    ("for_fragment", &["fragment"], "Another piece of a packet that has a token itself."),
    (
        "gateway_reply",
        &["arp", "nd", "gateway", "icmp_error"],
        "What the gateway itself says, built by us, to whoever caused it and back the way that came: ARP and neighbour \
         advertisements, echo replies, ICMP errors, and (by `icmp_error`) the resets of `refuse`. No byte of it reaches \
         anybody else.",
    ),
    (
        "reflected",
        &["reflect"],
        "What the node's own stack sends to itself: in by the host port, out by the host port.",
    ),
    (
        "l2_pass_through",
        &["l2_pass"],
        "Frames between the uplink and the node's own stack: no pod's port is at either end. What the node's kernel would \
         forward to a pod comes back by the host port and is judged then.",
    ),
];

/// Whether the graph allows what a node returned.
fn declared(id: NodeId, next: &Next) -> bool {
    match next {
        Next::To(to) => id.next().contains(to),
        Next::Drop(reason) | Next::DropAt(_, reason) => {
            id.drops().contains(reason) || id.parses() && reason.is_parse_error()
        }
        Next::Transmit(..) | Next::HandOver(_) | Next::Hold | Next::Wait | Next::Replaced => true,
    }
}

/// The graph as a Markdown page: a Mermaid picture and a table of nodes with their drops.
pub fn render() -> String {
    let mut s = String::from(
        "# The pipeline\n\nRendered from `dataplane/pipeline/src/graph.rs`; a test keeps it equal \
         (`UPDATE_GRAPH=1 cargo test -p podplane-pipeline graph` writes it anew).\n\n```mermaid\nflowchart TD\n",
    );
    for stage in [Stage::Examine, Stage::Act] {
        let title = match stage {
            Stage::Examine => "examine: the whole burst",
            Stage::Act => "act: each packet in order of arrival",
        };
        let _ = writeln!(s, "  subgraph {stage:?} [\"{title}\"]");
        for id in NodeId::ALL.iter().filter(|id| id.stage() == stage) {
            let _ = writeln!(s, "    {}", id.name());
        }
        s.push_str("  end\n");
    }
    for id in NodeId::ALL {
        for next in id.next() {
            let _ = writeln!(s, "  {} --> {}", id.name(), next.name());
        }
    }
    s.push_str("```\n\n| node | does | next | drops |\n|---|---|---|---|\n");
    for id in NodeId::ALL {
        let next: Vec<_> = id.next().iter().map(|n| n.name()).collect();
        let errors = id.parses().then_some("every parse error");
        let drops: Vec<_> = errors.into_iter().chain(id.drops().iter().map(|d| d.name())).collect();
        let _ = writeln!(s, "| `{}` | {} | {} | {} |", id.name(), id.does(), next.join(", "), drops.join(", "));
    }
    s.push_str("\n## Who lets packets go\n\nNothing leaves without a token (`pass::Pass`).\n\n| token | minted by | why |\n|---|---|---|\n");
    for (constructor, files, why) in PASSES {
        let files: Vec<_> = files.iter().map(|f| format!("`{f}`")).collect();
        let _ = writeln!(s, "| `{constructor}` | {} | {why} |", files.join(", "));
    }
    s.push_str("\n## Drop reasons\n\n| name | meaning |\n|---|---|\n");
    for r in DropReason::ALL {
        let _ = writeln!(s, "| `{}` | {} |", r.name(), r.explain());
    }
    s
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet, HashSet};

    use super::*;

    #[test]
    fn docs_graph_md_is_this_graph() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/graph.md");
        let want = render();
        if std::env::var_os("UPDATE_GRAPH").is_some() {
            std::fs::write(path, &want).expect("write docs/graph.md");
        }
        let have = std::fs::read_to_string(path).unwrap_or_default();
        assert!(have == want, "docs/graph.md is stale: run UPDATE_GRAPH=1 cargo test -p podplane-pipeline graph");
    }

    /// Every use of a constructor of tokens in the files of a folder, by constructor.
    fn mints(dir: &std::path::Path, all: &mut BTreeMap<String, BTreeSet<String>>) {
        for entry in std::fs::read_dir(dir).expect("the sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                mints(&path, all);
                continue;
            }
            let name = path.file_stem().and_then(|s| s.to_str()).unwrap_or_default().to_owned();
            if matches!(name.as_str(), "pass" | "graph") {
                continue;
            }
            let text = std::fs::read_to_string(&path).expect("a source file");
            let direct = text.split("Pass::").skip(1);
            let derived = text.split(".for_").skip(1).filter(|rest| rest.starts_with("fragment("));
            let words = direct.map(str::to_owned).chain(derived.map(|rest| format!("for_{rest}")));
            for rest in words {
                let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
                all.entry(rest[..end].to_owned()).or_default().insert(name.clone());
            }
        }
    }

    #[test]
    fn everybody_who_lets_packets_go_is_listed() {
        let mut found = BTreeMap::new();
        mints(std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/src")), &mut found);
        let listed: BTreeMap<String, BTreeSet<String>> = PASSES
            .iter()
            .map(|(name, files, _)| ((*name).to_owned(), files.iter().map(|f| (*f).to_owned()).collect()))
            .collect();
        assert_eq!(found, listed, "tokens are minted where the list does not say why");
    }

    #[test]
    fn every_node_is_reached_from_classify() {
        let mut seen = HashSet::new();
        let mut todo = vec![NodeId::Classify];
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                todo.extend(id.next());
            }
        }
        assert_eq!(seen.len(), NodeId::ALL.len());
    }

    #[test]
    fn acting_never_leads_back_to_examining() {
        for id in NodeId::ALL.iter().filter(|id| id.stage() == Stage::Act) {
            assert!(id.next().iter().all(|n| n.stage() == Stage::Act), "{id:?}");
        }
    }
}
