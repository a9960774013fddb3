//! The nodes, one file each, and what they share.
//!
//! A node's file has one shape: doc (uses / sets / next), `NODE` (what it does, its drops), `process`, tests.

use podplane_packet::id::{PortId, WorkerId};

use crate::drop::DropReason;
use crate::graph::NodeId;
use crate::pass::Pass;

pub(crate) mod antispoof;
pub(crate) mod arp;
pub(crate) mod classify;
pub(crate) mod create;
pub(crate) mod decap;
pub(crate) mod deliver;
pub(crate) mod egress;
pub(crate) mod encap;
pub(crate) mod flow;
pub(crate) mod forward;
pub(crate) mod fragment;
pub(crate) mod gateway;
pub(crate) mod icmp_error;
pub(crate) mod l2_pass;
pub(crate) mod masquerade;
pub(crate) mod nd;
pub(crate) mod outside;
pub(crate) mod owner;
pub(crate) mod parse;
pub(crate) mod policy;
pub(crate) mod reassemble;
pub(crate) mod reflect;
pub(crate) mod refuse;
pub(crate) mod related;
pub(crate) mod route;
pub(crate) mod service;
pub(crate) mod translate;
pub(crate) mod underlay;

pub(crate) use crate::world::{Pkt, World};

/// What a node decided. Small enough to be returned in a register: what it is about stands in the packet's context.
#[derive(Debug)]
pub(crate) enum Next {
    /// Another node.
    To(NodeId),
    /// The packet leaves by a port.
    Transmit(PortId, Pass),
    /// The packet goes to its owner as it was received.
    HandOver(WorkerId),
    /// The packet waits for its first fragment.
    Hold,
    /// The packet waits until the MAC of `awaits` is known, then walks again from `flow`.
    Wait,
    /// Others left in the packet's place: its fragments.
    Replaced,
    /// The packet ends here.
    Drop(DropReason),
    /// The same, counted at another port than the one that it came in by.
    DropAt(PortId, DropReason),
}

const _: () = assert!(size_of::<Next>() <= 8);
