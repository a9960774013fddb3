//! The proof that somebody entitled let a packet go.

use crate::judge::Accepted;

/// The token without which nothing is transmitted. It can be made only inside this crate, by a few named
/// constructors; it is neither `Clone` nor `Copy`, so each packet needs its own.
#[derive(Debug)]
#[must_use = "a pass that is not spent means a packet that was judged and then lost"]
pub struct Pass(());

impl Pass {
    /// For the first packet of a flow, by what judging it gave.
    pub(crate) fn by_policy(accepted: Accepted) -> Pass {
        let _ = accepted;
        Pass(())
    }

    /// For a packet whose flow was accepted before, under a snapshot that still holds for it: its entry, found by the
    /// packet's own key, is valid and says where it goes.
    #[inline]
    pub(crate) const fn by_cached_verdict() -> Pass {
        Pass(())
    }

    /// For another piece of the packet that this one lets go.
    pub(crate) const fn for_fragment(&self) -> Pass {
        Pass(())
    }

    /// For what the gateway itself says (ARP, ND, echo replies, ICMP errors), to whoever caused it.
    pub(crate) const fn gateway_reply() -> Pass {
        Pass(())
    }

    /// For what the node's own stack sends to itself by way of the host port.
    pub(crate) const fn reflected() -> Pass {
        Pass(())
    }

    /// For frames between the uplink and the node's own network stack, which are not ours to judge.
    pub(crate) const fn l2_pass_through() -> Pass {
        Pass(())
    }
}
