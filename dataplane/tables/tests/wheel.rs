//! The timer wheel against a map of deadlines.

use std::collections::HashMap;

use podplane_tables::wheel::{Look, Wheel};
use podplane_tables::{Millis, reached};
use proptest::collection::vec;
use proptest::prelude::*;

const SLOTS: u32 = 50;
/// 64 buckets of 4 ms: a horizon of a quarter of a second.
const BITS: u32 = 6;
const SHIFT: u32 = 2;
/// What surely lies within it.
const HORIZON: u32 = ((1 << BITS) - 2) << SHIFT;

#[derive(Clone, Copy, Debug)]
enum Op {
    Arm(u32, u32),
    Disarm(u32),
    Pass(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => (0..SLOTS, 0u32..2000).prop_map(|(slot, ms)| Op::Arm(slot, ms)),
        1 => (0..SLOTS).prop_map(Op::Disarm),
        3 => prop_oneof![0u32..20, 0u32..1000].prop_map(Op::Pass),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// Deadlines are kept outside, as flow entries keep their last-seen: a look before the deadline re-arms. So each
    /// slot ends at the first run at or after its deadline plus one tick, and never before its deadline.
    #[test]
    fn everything_ends_in_its_tick(start: u32, ops in vec(op(), 0..200)) {
        let mut now: Millis = start;
        let mut wheel = Wheel::new(SLOTS as usize, BITS, SHIFT, now);
        // Deadline, and when the slot was put on the wheel last (if the wheel was up to date then).
        let mut deadlines: HashMap<u32, (Millis, Option<Millis>)> = HashMap::new();
        for op in ops {
            // A wheel that was not run for long looks at things early, which costs time and nothing else.
            let step = if let Op::Pass(ms) = op { ms } else { 0 };
            match op {
                Op::Arm(slot, ms) => {
                    wheel.arm(slot, now.wrapping_add(ms));
                    deadlines.insert(slot, (now.wrapping_add(ms), Some(now)));
                }
                Op::Disarm(slot) => {
                    wheel.disarm(slot);
                    deadlines.remove(&slot);
                }
                Op::Pass(ms) => now = now.wrapping_add(ms),
            }
            let mut early = None;
            let looked = wheel.run(now, 1000, |slot| {
                let (deadline, armed) = deadlines[&slot];
                if reached(now, deadline) {
                    deadlines.remove(&slot);
                    return Look::Done;
                }
                if armed.is_some_and(|armed| deadline.wrapping_sub(armed).max(step) < HORIZON / 2) {
                    early = Some((slot, deadline));
                }
                deadlines.insert(slot, (deadline, (step < HORIZON / 2).then_some(now)));
                Look::Again(deadline)
            });
            prop_assert!(looked < 1000, "a run ends");
            prop_assert_eq!(early, None, "looked at before its tick although it is within the horizon");
            prop_assert_eq!(wheel.armed(), deadlines.len());
            for (slot, (deadline, _)) in &deadlines {
                let late = now.wrapping_sub(*deadline) as i32;
                prop_assert!(late <= 1 << SHIFT, "slot {} is {} ms late", slot, late);
            }
            let next = wheel.next_deadline();
            prop_assert_eq!(next.is_some(), !deadlines.is_empty());
            if let Some(next) = next {
                let soonest = deadlines.values().map(|d| d.0.wrapping_sub(now) as i32).min().unwrap_or(0);
                let ahead = next.wrapping_sub(now) as i32;
                prop_assert!(ahead <= soonest.max(0) + (1 << SHIFT), "{} ms ahead, soonest is {}", ahead, soonest);
            }
        }
    }
}

#[test]
fn work_is_bounded_and_the_rest_waits() {
    let mut wheel = Wheel::new(1000, 10, 7, 0);
    for slot in 0..1000 {
        wheel.arm(slot, 500);
    }
    assert_eq!(wheel.run(400, 100, |_| Look::Done), 0);
    assert_eq!(wheel.run(1000, 300, |_| Look::Done), 300);
    assert_eq!(wheel.armed(), 700);
    assert_eq!(wheel.run(1000, 1000, |_| Look::Again(1000)), 700, "what is put back is not due at once");
    assert_eq!(wheel.run(1000, 1000, |_| Look::Done), 0);
    assert_eq!(wheel.run(1300, 1000, |_| Look::Done), 700);
    assert_eq!(wheel.next_deadline(), None);
}

#[test]
fn a_long_sleep_costs_one_step() {
    let mut wheel = Wheel::new(4, 10, 7, 0);
    assert_eq!(wheel.run(1 << 30, 10, |_| Look::Done), 0);
    wheel.arm(1, (1 << 30) + 5000);
    assert_eq!(wheel.run((1 << 30) + 4000, 10, |_| Look::Done), 0);
    assert_eq!(wheel.run((1 << 30) + 5200, 10, |_| Look::Done), 1);
}
