//! A ring whose peer writes anything anywhere, between any two steps of ours.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use podplane_shm_ring::ring::{Consumer, HEADER_WORDS, Producer, PushError, Words, max_record};

use crate::input::Input;

/// Data words: few, so that records wrap often.
const DATA: u64 = 64;
/// Where the protocol has the producer's cursor, and the consumer's.
const PRODUCER: usize = 0;
const CONSUMER: usize = 16;

#[derive(Clone)]
struct Memory(Rc<[AtomicU64]>);

impl Words for Memory {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

impl Memory {
    fn cursor(&self, which: usize) -> u64 {
        self.0[which].load(Relaxed)
    }

    fn data(&self, at: u64) -> &AtomicU64 {
        &self.0[HEADER_WORDS + (at % DATA) as usize]
    }

    /// What the peer does: moves its cursor by a little or to anywhere, or writes a word of data. `false`: the input ends.
    fn peer(&self, step: u8, cursor: usize, input: &mut Input<'_>) -> bool {
        match step {
            0..32 => self.0[cursor].store(self.cursor(cursor).wrapping_add(step.into()), Relaxed),
            32 => {
                let Some(value) = input.u64() else { return false };
                self.0[cursor].store(value, Relaxed);
            }
            _ => {
                let Some(value) = input.u8() else { return false };
                // Small numbers are lengths that can be; the rest is reached by the sign.
                let value = if value < 0xf0 { value.into() } else { u64::MAX << (value & 15) };
                self.data(step.into()).store(value, Relaxed);
            }
        }
        true
    }
}

thread_local! {
    static MEMORY: Memory = Memory((0..HEADER_WORDS + DATA as usize).map(|_| AtomicU64::new(0)).collect());
    static RECORD: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// First byte: whether we read or write. Then steps: below 128 one of the peer's, otherwise one of ours.
///
/// # Panics
/// If the reader answers something else than what is in the memory, or the writer writes something else than the record
/// or where the peer has not said that it has read.
pub fn ring(data: &[u8]) {
    let mut input = Input::new(data);
    let Some(role) = input.u8() else { return };
    MEMORY.with(|memory| {
        memory.0.iter().for_each(|word| word.store(0, Relaxed));
        match role & 1 {
            0 => RECORD.with_borrow_mut(|record| read(memory, &mut input, record)),
            _ => write(memory, &mut input),
        }
    });
}

/// The length of the record at `tail`, and its words with the first; `None` if there can be no such record.
fn length(memory: &Memory, tail: u64, published: u64) -> Option<(usize, u64)> {
    let len = memory.data(tail).load(Relaxed);
    if len > max_record(DATA as usize) as u64 {
        return None;
    }
    let words = 1 + len.div_ceil(8);
    (words <= published - tail).then_some((len as usize, words))
}

fn read(memory: &Memory, input: &mut Input<'_>, record: &mut Vec<u8>) {
    let mut consumer = Consumer::new(memory.clone());
    // How far we have read, and how far we know that the peer has written.
    let (mut tail, mut seen) = (0, 0);
    while let Some(step) = input.u8() {
        if step < 128 {
            if !memory.peer(step, PRODUCER, input) {
                return;
            }
            continue;
        }
        if seen == tail {
            let published = memory.cursor(PRODUCER);
            if published < seen || published - tail > DATA {
                assert!(consumer.pop(record).is_err(), "a cursor of {published} behind {tail} was believed");
                return;
            }
            seen = published;
        }
        if seen == tail {
            assert_eq!(consumer.pop(record), Ok(false));
            continue;
        }
        let Some((len, words)) = length(memory, tail, seen) else {
            assert!(consumer.pop(record).is_err(), "an impossible record at {tail} was believed");
            return;
        };
        assert_eq!(consumer.pop(record), Ok(true));
        assert_eq!(record.len(), len);
        for (chunk, at) in record.chunks(8).zip(tail + 1..) {
            assert_eq!(chunk, &memory.data(at).load(Relaxed).to_le_bytes()[..chunk.len()]);
        }
        tail += words;
        assert_eq!(memory.cursor(CONSUMER), tail);
    }
}

fn write(memory: &Memory, input: &mut Input<'_>) {
    let mut producer = Producer::new(memory.clone());
    // How far we have written, and how far we know that the peer has read.
    let (mut head, mut read) = (0u64, 0u64);
    while let Some(step) = input.u8() {
        if step < 128 {
            if !memory.peer(step, CONSUMER, input) {
                return;
            }
            continue;
        }
        let record = [step; 128];
        let record = &record[..usize::from(step & 127)];
        let need = 1 + record.len().div_ceil(8) as u64;
        let max = max_record(DATA as usize);
        let want = if record.len() > max {
            Err(PushError::TooLong { len: record.len(), max })
        } else if head - read + need <= DATA {
            Ok(())
        } else {
            let claimed = memory.cursor(CONSUMER);
            if claimed < read || claimed > head {
                Err(PushError::Corrupt)
            } else {
                read = claimed;
                if head - read + need <= DATA { Ok(()) } else { Err(PushError::Full) }
            }
        };
        assert_eq!(producer.push(record), want);
        match want {
            Ok(()) => {
                assert_eq!(memory.data(head).load(Relaxed), record.len() as u64);
                for (chunk, at) in record.chunks(8).zip(head + 1..) {
                    assert_eq!(chunk, &memory.data(at).load(Relaxed).to_le_bytes()[..chunk.len()]);
                }
                head += need;
                assert_eq!(memory.cursor(PRODUCER), head);
            }
            Err(PushError::Corrupt) => return,
            Err(_) => {}
        }
    }
}
