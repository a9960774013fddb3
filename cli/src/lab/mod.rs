//! `podplane lab`: a cluster on one machine, for demos, CI and our own tests.
//!
//! Nodes are network namespaces joined by a bridge in a third one; pods are namespaces wired by the real plugin over
//! the real CNI protocol; the dataplane and the agent are the real processes. What the lab itself plays is the control
//! plane (it writes the objects as an API server would return them, and what its controllers make of them) and the kubelet (it makes sandboxes, calls the
//! plugin, runs the containers' commands, reports the Pods' status). None of that lives in the agent.
//!
//! It uses iproute2 and nsenter, so that whatever it does can be repeated by hand.

mod apply;
mod args;
mod cluster;
mod controlplane;
mod dns;
mod net;
mod node;
mod objects;
mod pod;
mod probe;
mod process;
mod state;
mod verbs;

pub use args::LabArgs;
pub use verbs::run;
