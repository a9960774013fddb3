//! Exact addresses in an open-addressed table, at most half full.

use super::{Bits, Code, FibError};

/// Address -> next hop. The keys are the operator's, so their order in the table needs no secret.
#[derive(Debug)]
pub(super) struct Hosts<B> {
    /// A power of two of them; a place whose code is NONE is empty.
    places: Box<[(B, Code)]>,
}

impl<B: Bits> Default for Hosts<B> {
    fn default() -> Self {
        Hosts { places: vec![(B::default(), Code::NONE); 2].into() }
    }
}

impl<B: Bits> Hosts<B> {
    pub(super) fn build(hosts: &[(B, Code)]) -> Result<Self, FibError> {
        let size = (2 * hosts.len() + 1).next_power_of_two();
        let mut table = Hosts { places: vec![(B::default(), Code::NONE); size].into() };
        for &(addr, code) in hosts {
            let at = table.place(addr);
            let place = &mut table.places[at];
            match (place.1.hop(), code.hop()) {
                (Some(old), Some(new)) if old != new => {
                    return Err(FibError::Twice(addr.ip(), B::WIDTH as u8, old, new));
                }
                _ => *place = (addr, code),
            }
        }
        Ok(table)
    }

    /// The place of an address, or the empty one where it would be. Ends, for at least half of them are empty.
    #[inline(always)]
    fn place(&self, addr: B) -> usize {
        let mask = self.places.len() - 1;
        let mut at = (addr.fold().wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as usize & mask;
        while self.places[at].1 != Code::NONE && self.places[at].0 != addr {
            at = (at + 1) & mask;
        }
        at
    }

    #[inline(always)]
    pub(super) fn get(&self, addr: B) -> Option<Code> {
        let (_, code) = self.places[self.place(addr)];
        (code != Code::NONE).then_some(code)
    }

    pub(super) fn memory(&self) -> usize {
        size_of_val(&*self.places)
    }
}
