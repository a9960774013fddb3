//! Two sides that take turns.

use anyhow::{Context, Result};
use serde::Serialize;

use crate::stats::Summary;

/// One side of a comparison, started; dropping it stops it.
pub trait Side {
    /// Measures once. Larger may be better or worse, but the same for both sides.
    fn measure(&mut self) -> Result<f64>;
}

/// How often to measure.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Fresh starts of both sides.
    pub starts: usize,
    /// Rounds of A B B A in each start.
    pub rounds: usize,
}

/// What came out.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// What was compared, in a few words.
    pub name: String,
    /// The unit of both sides' values.
    pub unit: String,
    /// Our values.
    pub ours: Summary,
    /// The peer's values.
    pub peer: Summary,
    /// Ours over the peer's: per start, the ratio of the medians; then the summary of those.
    pub ratio: Summary,
}

impl Comparison {
    /// Whether the ratio can be believed: an interquartile range of at most 10 %.
    pub fn believable(&self) -> bool {
        self.ratio.spread() <= 0.10
    }
}

/// Compares two sides, starting both afresh as often as the plan says.
pub fn compare<A: Side, B: Side>(
    name: &str,
    unit: &str,
    plan: Plan,
    mut start_ours: impl FnMut() -> Result<A>,
    mut start_peer: impl FnMut() -> Result<B>,
) -> Result<Comparison> {
    let (mut ours, mut peer, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..plan.starts {
        let mut a = start_ours().context("starting our side")?;
        let mut b = start_peer().context("starting the peer")?;
        let (mut of_a, mut of_b) = (Vec::new(), Vec::new());
        for _ in 0..plan.rounds {
            of_a.push(a.measure().context("measuring our side")?);
            of_b.push(b.measure().context("measuring the peer")?);
            of_b.push(b.measure().context("measuring the peer")?);
            of_a.push(a.measure().context("measuring our side")?);
        }
        let median = |values: &[f64]| Summary::of(values).map(|s| s.median).context("no finite values");
        ratios.push(median(&of_a)? / median(&of_b)?);
        ours.extend(of_a);
        peer.extend(of_b);
    }
    Ok(Comparison {
        name: name.to_owned(),
        unit: unit.to_owned(),
        ours: Summary::of(&ours).context("no values of ours")?,
        peer: Summary::of(&peer).context("no values of the peer")?,
        ratio: Summary::of(&ratios).context("no ratio")?,
    })
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use super::*;

    struct Fixed(char, f64, Rc<RefCell<String>>);

    impl Side for Fixed {
        fn measure(&mut self) -> Result<f64> {
            self.2.borrow_mut().push(self.0);
            Ok(self.1)
        }
    }

    #[test]
    fn sides_take_turns_and_the_ratio_is_ours_over_the_peers() {
        let order = Rc::new(RefCell::new(String::new()));
        let plan = Plan { starts: 2, rounds: 2 };
        let a = || Ok(Fixed('a', 3.0, order.clone()));
        let b = || Ok(Fixed('b', 2.0, order.clone()));
        let comparison = compare("test", "x", plan, a, b).unwrap();
        assert_eq!(*order.borrow(), "abbaabba".repeat(2));
        assert_eq!(comparison.ratio.median, 1.5);
        assert!(comparison.believable());
    }
}
