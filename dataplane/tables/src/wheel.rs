//! A hashed timer wheel over the slots of a pool.
//!
//! A slot lies in the bucket of the tick in which somebody should look at it. Packets do not move it: whoever looks
//! finds out from the entry's last-seen whether the time has really come, and puts it back otherwise. A deadline
//! beyond the horizon is looked at once a round.

use crate::{Millis, reached};

const NONE: u32 = u32::MAX;

/// What to do with a slot that was looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Look {
    /// Nothing more: it is off the wheel.
    Done,
    /// Look again then.
    Again(Millis),
}

/// Timers of a pool of slots. Memory: 8 bytes a slot.
#[derive(Debug)]
pub struct Wheel {
    /// First slot of each bucket; a power of two of them.
    heads: Box<[u32]>,
    /// Buckets that hold something, a bit each.
    occupied: Box<[u64]>,
    links: Box<[Link]>,
    tick_shift: u32,
    /// The tick (not reduced) whose bucket is looked at next.
    cursor: u32,
    armed: usize,
}

/// `next`: the following slot of the bucket, or NONE. `prev`: the preceding slot, `BUCKET | b` for the first one of
/// bucket b, or NONE for a slot that is not on the wheel.
#[derive(Clone, Copy, Debug)]
struct Link {
    next: u32,
    prev: u32,
}

const BUCKET: u32 = 1 << 31;

impl Wheel {
    /// A wheel for slots `0 .. slots`, with `2^bucket_bits` buckets of `2^tick_shift` milliseconds each. Good values
    /// are 10 (1,024 buckets) and 7 (128 ms): a horizon of 131 s.
    ///
    /// # Panics
    /// If `slots` is over 2^30, `bucket_bits` is not 6 to 16, or the horizon is 2^31 ms or more.
    pub fn new(slots: usize, bucket_bits: u32, tick_shift: u32, now: Millis) -> Self {
        assert!(slots <= 1 << 30 && (6..=16).contains(&bucket_bits) && bucket_bits + tick_shift < 31);
        Wheel {
            heads: vec![NONE; 1 << bucket_bits].into(),
            occupied: vec![0; 1 << (bucket_bits - 6)].into(),
            links: vec![Link { next: NONE, prev: NONE }; slots].into(),
            tick_shift,
            cursor: now >> tick_shift,
            armed: 0,
        }
    }

    /// How many slots are on the wheel.
    pub fn armed(&self) -> usize {
        self.armed
    }

    /// The clock in ticks wraps earlier than the clock itself.
    fn ticks_mask(&self) -> u32 {
        u32::MAX >> self.tick_shift
    }

    /// Ticks from the cursor to the tick in which `when` has certainly come.
    fn ahead(&self, when: Millis) -> u32 {
        let start = self.cursor << self.tick_shift;
        if reached(start, when) {
            return 0;
        }
        // Rounded up, so that nothing is looked at before its time.
        let ticks = when.wrapping_sub(start).div_ceil(1 << self.tick_shift);
        ticks.min(self.heads.len() as u32 - 1)
    }

    /// Puts a slot on the wheel, to be looked at when `deadline` has come (at most a tick later, or once a round); it
    /// is taken from where it was.
    ///
    /// # Panics
    /// If the slot is beyond those the wheel was made for.
    pub fn arm(&mut self, slot: u32, deadline: Millis) {
        self.disarm(slot);
        let bucket = (self.cursor.wrapping_add(self.ahead(deadline)) as usize) & (self.heads.len() - 1);
        let next = self.heads[bucket];
        self.links[slot as usize] = Link { next, prev: BUCKET | bucket as u32 };
        if next != NONE {
            self.links[next as usize].prev = slot;
        }
        self.heads[bucket] = slot;
        self.occupied[bucket / 64] |= 1 << (bucket % 64);
        self.armed += 1;
    }

    /// Takes a slot off the wheel; nothing if it is not on it.
    pub fn disarm(&mut self, slot: u32) {
        let Some(&Link { next, prev }) = self.links.get(slot as usize) else { return };
        if prev == NONE {
            return;
        }
        if next != NONE {
            self.links[next as usize].prev = prev;
        }
        if prev & BUCKET == 0 {
            self.links[prev as usize].next = next;
        } else {
            let bucket = (prev & !BUCKET) as usize;
            self.heads[bucket] = next;
            if next == NONE {
                self.occupied[bucket / 64] &= !(1 << (bucket % 64));
            }
        }
        self.links[slot as usize] = Link { next: NONE, prev: NONE };
        self.armed -= 1;
    }

    /// The next slot whose time to be looked at has come, taken off the wheel. `None`: nothing is due at `now`.
    /// Steps over any number of empty buckets at once.
    pub fn pop_due(&mut self, now: Millis) -> Option<u32> {
        let today = now >> self.tick_shift;
        loop {
            let behind = today.wrapping_sub(self.cursor) & self.ticks_mask();
            if behind > self.ticks_mask() / 2 {
                return None; // The cursor is a tick ahead of the clock: that tick is done.
            }
            let slot = self.heads[self.cursor as usize & (self.heads.len() - 1)];
            if slot != NONE {
                self.disarm(slot);
                return Some(slot);
            }
            if behind == 0 {
                return None;
            }
            let step = self.to_next_occupied().unwrap_or(behind).min(behind);
            self.cursor = self.cursor.wrapping_add(step.max(1)) & self.ticks_mask();
        }
    }

    /// Looks at up to `budget` due slots, calling `look` for each. Returns how many were looked at.
    pub fn run(&mut self, now: Millis, budget: usize, mut look: impl FnMut(u32) -> Look) -> usize {
        for done in 0..budget {
            let Some(slot) = self.pop_due(now) else { return done };
            if let Look::Again(deadline) = look(slot) {
                // In the bucket in hand it would come up again at once and eat the budget.
                let soonest = now.wrapping_add(1 << self.tick_shift);
                self.arm(slot, if reached(now, deadline) { soonest } else { deadline });
            }
        }
        budget
    }

    /// Buckets from the cursor's (exclusive) to the next occupied one, a round at most; `None`: all are empty.
    fn to_next_occupied(&self) -> Option<u32> {
        let mask = self.heads.len() - 1;
        let start = (self.cursor as usize + 1) & mask;
        let words = self.occupied.len();
        for i in 0..=words {
            let word = (start / 64 + i) % words;
            let mut bits = self.occupied[word];
            if i == 0 {
                bits &= u64::MAX << (start % 64);
            }
            if bits != 0 {
                let bucket = word * 64 + bits.trailing_zeros() as usize;
                return Some(((bucket.wrapping_sub(start)) & mask) as u32 + 1);
            }
        }
        None
    }

    /// When [`Wheel::run`] has something to look at; `None`: the wheel is empty. May lie in the past.
    pub fn next_deadline(&self) -> Option<Millis> {
        if self.armed == 0 {
            return None;
        }
        let here = self.heads[self.cursor as usize & (self.heads.len() - 1)] != NONE;
        let ticks = if here { 0 } else { self.to_next_occupied()? };
        Some(self.cursor.wrapping_add(ticks) << self.tick_shift)
    }
}
