//! How many flows each local port may have, so that neither one pod nor some together can fill a worker's table.
//!
//! - A port has at most its limit, whatever is free: one flood leaves the others the rest.
//! - Where a table is [scarce](crate::flow::FlowTable::is_scarce), a port gets another flow only while it has fewer than
//!   its sure share: several floods together leave this reserve to those that have little. Flows that exist are never
//!   taken away.

use podplane_packet::id::PortId;
use thiserror::Error;

/// The port has as many flows as it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("port {port:?} has its {limit} flows")]
pub struct QuotaExceeded {
    /// Which port.
    pub port: PortId,
    /// How many it may have.
    pub limit: u32,
}

/// The sure share is one over this of a port's limit.
const SURE_PART: u32 = 64;
/// The least sure share: enough for name lookups, probes and some connections.
const SURE_LEAST: u32 = 32;

/// Live flows by local port, of both families of one worker.
#[derive(Debug)]
pub struct Quota {
    ports: Box<[Account]>,
    default_limit: u32,
}

#[derive(Clone, Copy, Debug)]
struct Account {
    used: u32,
    limit: u32,
}

impl Account {
    /// How many flows the port may have now.
    #[inline]
    fn now(&self, scarce: bool) -> u32 {
        if scarce { (self.limit / SURE_PART).max(SURE_LEAST).min(self.limit) } else { self.limit }
    }
}

impl Quota {
    /// No flows; every port may have `limit`.
    pub fn new(limit: u32) -> Self {
        Quota { ports: vec![Account { used: 0, limit }; PortId::MAX].into(), default_limit: limit }
    }

    /// Gives one port another limit. Flows beyond it stay. A port beyond [`PortId::MAX`] is ignored.
    pub fn set_limit(&mut self, port: PortId, limit: u32) {
        if let Some(account) = self.ports.get_mut(port.index()) {
            account.limit = limit;
        }
    }

    /// How many flows a port has.
    pub fn used(&self, port: PortId) -> u32 {
        self.ports.get(port.index()).map_or(0, |a| a.used)
    }

    /// Whether a port has half of the flows that it may, or more.
    #[inline]
    pub fn is_half_used(&self, port: PortId) -> bool {
        self.ports.get(port.index()).is_none_or(|a| a.used >= a.limit.div_ceil(2))
    }

    /// Charges one flow to a port; `scarce`: there are few places left in its table.
    ///
    /// # Errors
    /// [`QuotaExceeded`]; always for a port beyond [`PortId::MAX`].
    #[inline]
    pub fn charge(&mut self, port: PortId, scarce: bool) -> Result<(), QuotaExceeded> {
        let limit = self.ports.get(port.index()).map_or(self.default_limit, |account| account.now(scarce));
        match self.ports.get_mut(port.index()) {
            Some(account) if account.used < limit => {
                account.used += 1;
                Ok(())
            }
            _ => Err(QuotaExceeded { port, limit }),
        }
    }

    /// Takes one flow off a port's account.
    #[inline]
    pub fn release(&mut self, port: PortId) {
        if let Some(account) = self.ports.get_mut(port.index()) {
            account.used = account.used.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_port_has_its_own_limit() {
        let (a, b) = (PortId(2), PortId(3));
        let mut quota = Quota::new(2);
        quota.charge(a, false).unwrap();
        quota.charge(a, false).unwrap();
        assert_eq!(quota.charge(a, false), Err(QuotaExceeded { port: a, limit: 2 }));
        quota.charge(b, false).unwrap();
        quota.release(a);
        quota.charge(a, false).unwrap();
        quota.set_limit(a, 1);
        assert_eq!(quota.used(a), 2, "flows beyond a lowered limit stay");
        quota.release(a);
        assert!(quota.charge(a, false).is_err());
        assert!(quota.charge(PortId(u16::MAX), false).is_err());
    }

    #[test]
    fn where_places_are_few_everybody_has_a_sure_share() {
        let (much, little) = (PortId(2), PortId(3));
        let mut quota = Quota::new(6400);
        (0..200).for_each(|_| quota.charge(much, false).unwrap());
        assert_eq!(quota.charge(much, true), Err(QuotaExceeded { port: much, limit: 100 }));
        (0..100).for_each(|_| quota.charge(little, true).unwrap());
        assert!(quota.charge(little, true).is_err());
        quota.charge(little, false).unwrap();
        let mut quota = Quota::new(10);
        (0..10).for_each(|_| quota.charge(little, true).unwrap());
        assert!(quota.charge(little, true).is_err(), "a sure share is not more than the limit");
    }
}
