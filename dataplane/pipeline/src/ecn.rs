//! Traffic class over the tunnel: ECN by RFC 6040 (normal mode), DSCP by RFC 2983.
//!
//! Encapsulation copies the whole field outwards (uniform model: the underlay sees the pod's class). Decapsulation
//! takes only congestion marks back and leaves the inner DSCP as the pod wrote it (pipe model: what the underlay
//! re-marked is not the pods' business).

/// The two ECN bits of a traffic class (RFC 3168).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    NotEct,
    Ect1,
    Ect0,
    Ce,
}

impl Ecn {
    /// Those of a TOS or traffic class byte.
    pub(crate) const fn of(tos: u8) -> Ecn {
        match tos & 3 {
            0 => Ecn::NotEct,
            1 => Ecn::Ect1,
            2 => Ecn::Ect0,
            _ => Ecn::Ce,
        }
    }

    const fn bits(self) -> u8 {
        match self {
            Ecn::NotEct => 0,
            Ecn::Ect1 => 1,
            Ecn::Ect0 => 2,
            Ecn::Ce => 3,
        }
    }
}

/// The outer traffic class for an inner one.
#[inline]
pub(crate) const fn encapsulate(inner: u8) -> u8 {
    inner
}

/// The inner traffic class after decapsulation (RFC 6040 figure 4). `None`: the packet must be dropped, for it carries
/// a mark that its transport would not understand.
#[inline]
pub(crate) const fn decapsulate(inner: u8, outer: u8) -> Option<u8> {
    let ecn = match (Ecn::of(inner), Ecn::of(outer)) {
        (Ecn::NotEct, Ecn::Ce) => return None,
        (Ecn::NotEct, _) => Ecn::NotEct,
        (Ecn::Ce, _) | (_, Ecn::Ce) => Ecn::Ce,
        (Ecn::Ect0, Ecn::Ect1) => Ecn::Ect1,
        (inner, _) => inner,
    };
    Some(inner & !3 | ecn.bits())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 6040 figure 4, row by row: inner Not-ECT, ECT(0), ECT(1), CE; column by column: outer the same.
    #[test]
    fn figure_4() {
        const N: u8 = 0;
        const E0: u8 = 2;
        const E1: u8 = 1;
        const CE: u8 = 3;
        let columns = [N, E0, E1, CE];
        let rows = [
            (N, [Some(N), Some(N), Some(N), None]),
            (E0, [Some(E0), Some(E0), Some(E1), Some(CE)]),
            (E1, [Some(E1), Some(E1), Some(E1), Some(CE)]),
            (CE, [Some(CE), Some(CE), Some(CE), Some(CE)]),
        ];
        for (inner, want) in rows {
            for (outer, want) in columns.into_iter().zip(want) {
                assert_eq!(decapsulate(inner | 0xb8, outer | 0x20), want.map(|e| e | 0xb8), "{inner} {outer}");
            }
        }
    }
}
