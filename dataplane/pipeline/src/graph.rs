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
    Service    service    Act     [Route Refuse];
    Refuse     refuse     Act     [];
    Route      route      Act     [Policy Reflect IcmpError];
    Reflect    reflect    Act     [];
    Policy     policy     Act     [Masquerade];
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

/// Whether the graph allows what a node returned.
fn declared(id: NodeId, next: &Next) -> bool {
    match next {
        Next::To(to) => id.next().contains(to),
        Next::Drop(reason) => id.drops().contains(reason) || id.parses() && reason.is_parse_error(),
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
    s.push_str("\n## Drop reasons\n\n| name | meaning |\n|---|---|\n");
    for r in DropReason::ALL {
        let _ = writeln!(s, "| `{}` | {} |", r.name(), r.explain());
    }
    s
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

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
