//! The ring against a queue, against a peer that writes anything, and (cfg loom) against every interleaving.

use super::*;

#[cfg(not(loom))]
use std::{sync::Arc, thread};

#[cfg(loom)]
use loom::{sync::Arc, thread};

#[derive(Clone)]
struct Heap(Arc<Vec<AtomicU64>>);

impl Heap {
    fn new(data_words: usize) -> Self {
        Heap(Arc::new((0..HEADER_WORDS + data_words).map(|_| AtomicU64::new(0)).collect()))
    }
}

impl Words for Heap {
    fn words(&self) -> &[AtomicU64] {
        &self.0
    }
}

#[cfg(loom)]
#[test]
fn every_interleaving_delivers_in_order() {
    loom::model(|| {
        let memory = Heap::new(8);
        let mut producer = Producer::new(memory.clone());
        let writer = thread::spawn(move || {
            for byte in 1..=3u8 {
                while producer.push(&[byte; 8]) == Err(PushError::Full) {
                    thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::new(memory);
        let (mut record, mut next) = (Vec::new(), 1);
        while next <= 3 {
            if consumer.pop(&mut record).unwrap() {
                assert_eq!(record, [next; 8]);
                next += 1;
            } else {
                thread::yield_now();
            }
        }
        writer.join().unwrap();
    });
}

#[cfg(not(loom))]
mod model {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Push(Vec<u8>),
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![prop::collection::vec(any::<u8>(), 0..140).prop_map(Step::Push), Just(Step::Pop)]
    }

    proptest! {
        #[test]
        fn behaves_as_a_queue(steps in prop::collection::vec(step(), 0..400)) {
            let memory = Heap::new(64);
            let (mut producer, mut consumer) = (Producer::new(memory.clone()), Consumer::new(memory));
            let (mut queue, mut words, mut record) = (VecDeque::new(), 0, Vec::new());
            for step in steps {
                match step {
                    Step::Push(bytes) => match producer.push(&bytes) {
                        Ok(()) => { words += words_of(bytes.len()); queue.push_back(bytes); }
                        Err(PushError::Full) => prop_assert!(words + words_of(bytes.len()) > 64),
                        Err(PushError::TooLong { max, .. }) => prop_assert!(bytes.len() > max),
                        Err(PushError::Corrupt) => prop_assert!(false, "nobody corrupted it"),
                    },
                    Step::Pop => {
                        prop_assert_eq!(consumer.pop(&mut record), Ok(!queue.is_empty()));
                        if let Some(expected) = queue.pop_front() {
                            words -= words_of(expected.len());
                            prop_assert_eq!(&record, &expected);
                        }
                    }
                }
            }
        }

        #[test]
        fn survives_any_memory(garbage in prop::collection::vec(any::<u64>(), HEADER_WORDS + 64), small in any::<bool>()) {
            let memory = Heap::new(64);
            for (word, value) in memory.words().iter().zip(&garbage) {
                // Small values get past the first check more often.
                word.store(if small { value % 80 } else { *value }, Ordering::Relaxed);
            }
            let mut consumer = Consumer::new(memory.clone());
            let mut record = Vec::new();
            for _ in 0..100 {
                match consumer.pop(&mut record) {
                    Ok(true) => prop_assert!(record.len() <= max_record(64)),
                    Ok(false) | Err(_) => break,
                }
            }
            let mut producer = Producer::new(memory);
            for _ in 0..100 {
                if producer.push(&[7; 40]).is_err() { break }
            }
        }
    }

    #[test]
    fn two_threads_deliver_everything_in_order() {
        const RECORDS: u64 = 50_000;
        let memory = Heap::new(1024);
        let mut producer = Producer::new(memory.clone());
        let writer = thread::spawn(move || {
            for i in 0..RECORDS {
                let bytes = vec![i as u8; (i % 100) as usize];
                while producer.push(&bytes) == Err(PushError::Full) {
                    thread::yield_now();
                }
            }
        });
        let mut consumer = Consumer::new(memory);
        let (mut record, mut i) = (Vec::new(), 0);
        while i < RECORDS {
            if consumer.pop(&mut record).unwrap() {
                assert_eq!(record, vec![i as u8; (i % 100) as usize]);
                i += 1;
            } else {
                thread::yield_now();
            }
        }
        writer.join().unwrap();
    }
}
