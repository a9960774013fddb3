//! Medians and spreads.

use serde::Serialize;

/// A sample in brief.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Summary {
    /// The median.
    pub median: f64,
    /// The first quartile.
    pub low: f64,
    /// The third quartile.
    pub high: f64,
    /// How many values.
    pub count: usize,
}

impl Summary {
    /// Of at least one value, all finite; `None` otherwise.
    pub fn of(values: &[f64]) -> Option<Summary> {
        let mut sorted: Vec<f64> = values.to_vec();
        if sorted.is_empty() || sorted.iter().any(|v| !v.is_finite()) {
            return None;
        }
        sorted.sort_by(f64::total_cmp);
        let quantile = |q| quantile(&sorted, q);
        Some(Summary { median: quantile(0.5), low: quantile(0.25), high: quantile(0.75), count: sorted.len() })
    }

    /// How far the median itself may be off: its standard error, of a sample that is about normal.
    pub fn error(&self) -> f64 {
        // The interquartile range is 1.349 standard deviations, and the median's error 1.253 of the mean's.
        (self.high - self.low) * 1.253 / 1.349 / (self.count as f64).sqrt()
    }

    /// The interquartile range over the median.
    pub fn spread(&self) -> f64 {
        (self.high - self.low) / self.median
    }
}

/// The value below which the part `q` (0 to 1) of `sorted` lies, interpolated between neighbours.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let at = q * (sorted.len() - 1) as f64;
    let (low, high) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    low + (high - low) * at.fract()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn quartiles_of_five() {
        let summary = Summary::of(&[5.0, 1.0, 3.0, 2.0, 4.0]).unwrap();
        assert_eq!((summary.low, summary.median, summary.high), (2.0, 3.0, 4.0));
        assert!((summary.spread() - 2.0 / 3.0).abs() < 1e-9);
        assert!((summary.error() - 0.8308).abs() < 1e-3);
    }

    #[test]
    fn nothing_and_nonsense_have_no_summary() {
        assert_eq!(Summary::of(&[]), None);
        assert_eq!(Summary::of(&[1.0, f64::NAN]), None);
    }

    proptest! {
        #[test]
        fn half_of_the_values_lie_on_each_side(values in prop::collection::vec(-1e6f64..1e6, 1..50)) {
            let median = Summary::of(&values).unwrap().median;
            let below = values.iter().filter(|v| **v < median).count();
            let above = values.iter().filter(|v| **v > median).count();
            prop_assert!(below <= values.len() / 2 && above <= values.len() / 2);
        }
    }
}
