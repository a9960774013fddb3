//! How many flows each local port may have, so that one pod cannot fill a worker's table.

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

    /// Charges one flow to a port.
    ///
    /// # Errors
    /// [`QuotaExceeded`]; always for a port beyond [`PortId::MAX`].
    #[inline]
    pub fn charge(&mut self, port: PortId) -> Result<(), QuotaExceeded> {
        match self.ports.get_mut(port.index()) {
            Some(account) if account.used < account.limit => {
                account.used += 1;
                Ok(())
            }
            account => Err(QuotaExceeded { port, limit: account.map_or(self.default_limit, |a| a.limit) }),
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
        quota.charge(a).unwrap();
        quota.charge(a).unwrap();
        assert_eq!(quota.charge(a), Err(QuotaExceeded { port: a, limit: 2 }));
        quota.charge(b).unwrap();
        quota.release(a);
        quota.charge(a).unwrap();
        quota.set_limit(a, 1);
        assert_eq!(quota.used(a), 2, "flows beyond a lowered limit stay");
        quota.release(a);
        assert!(quota.charge(a).is_err());
        assert!(quota.charge(PortId(u16::MAX)).is_err());
    }
}
