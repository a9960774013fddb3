//! The ring's protocol.
//!
//! Memory is a slice of words: one line for the producer's cursor, one for the consumer's, then a power of two of data
//! words. Cursors count words since the beginning and never wrap in practice (2^64 words). A record is one word with
//! its length in bytes, then its bytes padded with zeros to whole words; it may wrap around the end of the data.

use crate::sync::{AtomicU64, Ordering};

/// Words before the data: a cache line pair for each cursor, so that the two sides do not share lines (adjacent-line
/// prefetch moves pairs).
pub const HEADER_WORDS: usize = 32;
const PRODUCER: usize = 0;
const CONSUMER: usize = 16;
const WORD: usize = 8;

/// Memory that both sides see.
pub trait Words {
    /// All words: [`HEADER_WORDS`], then a power of two of data words.
    fn words(&self) -> &[AtomicU64];

    /// The words that hold records.
    fn data(&self) -> &[AtomicU64] {
        &self.words()[HEADER_WORDS..]
    }
}

/// Why a record was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The consumer has not made room yet; the same record may fit later.
    #[error("the ring is full")]
    Full,
    /// The record can never fit.
    #[error("a record of {len} bytes is longer than the ring's limit of {max}")]
    TooLong {
        /// Its length in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },
    /// The consumer published a cursor that cannot be.
    #[error("the consumer's cursor is impossible: the peer is broken or hostile; connect again")]
    Corrupt,
}

/// The producer published something that cannot be; the ring must be given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the ring's content is impossible ({0}): the peer is broken or hostile; connect again")]
pub struct Corrupt(pub &'static str);

/// The only writer of records.
#[derive(Debug)]
pub struct Producer<M> {
    memory: M,
    /// Words written since the beginning. Private: the shared copy is for the consumer alone.
    head: u64,
    /// The consumer's cursor when last looked at.
    tail: u64,
}

/// The only reader of records.
#[derive(Debug)]
pub struct Consumer<M> {
    memory: M,
    /// The producer's cursor when last looked at.
    head: u64,
    /// Words read since the beginning. Private, as above.
    tail: u64,
}

fn words_of(bytes: usize) -> u64 {
    (1 + bytes.div_ceil(WORD)) as u64
}

/// The longest record that a ring of `data_words` takes: a quarter of it, so that a reader which is one record behind
/// never stops the writer for good.
pub const fn max_record(data_words: usize) -> usize {
    (data_words / 4 - 1) * WORD
}

impl<M: Words> Producer<M> {
    /// Starts at the beginning of a ring that nobody has used.
    pub fn new(memory: M) -> Self {
        debug_assert!(memory.data().len().is_power_of_two());
        Producer { memory, head: 0, tail: 0 }
    }

    /// Writes one record. All of it becomes visible at once.
    pub fn push(&mut self, record: &[u8]) -> Result<(), PushError> {
        let data = self.memory.data();
        let max = max_record(data.len());
        if record.len() > max {
            return Err(PushError::TooLong { len: record.len(), max });
        }
        let need = words_of(record.len());
        if self.head - self.tail + need > data.len() as u64 {
            // Acquire: the consumer's reads of the words that we are going to overwrite happened before.
            let tail = self.memory.words()[CONSUMER].load(Ordering::Acquire);
            if tail < self.tail || tail > self.head {
                return Err(PushError::Corrupt);
            }
            self.tail = tail;
            if self.head - tail + need > data.len() as u64 {
                return Err(PushError::Full);
            }
        }
        let mask = data.len() as u64 - 1;
        let at = |i: u64| &data[((self.head + i) & mask) as usize];
        at(0).store(record.len() as u64, Ordering::Relaxed);
        for (i, chunk) in record.chunks(WORD).enumerate() {
            let mut word = [0; WORD];
            word[..chunk.len()].copy_from_slice(chunk);
            at(i as u64 + 1).store(u64::from_le_bytes(word), Ordering::Relaxed);
        }
        self.head += need;
        // Release: the record's words are visible before the cursor.
        self.memory.words()[PRODUCER].store(self.head, Ordering::Release);
        Ok(())
    }
}

impl<M: Words> Consumer<M> {
    /// Starts at the beginning of a ring that nobody has used.
    pub fn new(memory: M) -> Self {
        debug_assert!(memory.data().len().is_power_of_two());
        Consumer { memory, head: 0, tail: 0 }
    }

    /// Copies the next record into `into` (replacing what it held); `false` when there is none.
    pub fn pop(&mut self, into: &mut Vec<u8>) -> Result<bool, Corrupt> {
        let data = self.memory.data();
        if self.head == self.tail {
            // Acquire: pairs with the producer's release, the words up to `head` are visible.
            let head = self.memory.words()[PRODUCER].load(Ordering::Acquire);
            if head < self.head || head - self.tail > data.len() as u64 {
                return Err(Corrupt("producer's cursor"));
            }
            self.head = head;
            if head == self.tail {
                return Ok(false);
            }
        }
        let mask = data.len() as u64 - 1;
        let at = |i: u64| data[((self.tail + i) & mask) as usize].load(Ordering::Relaxed);
        let len = at(0);
        if len > max_record(data.len()) as u64 {
            return Err(Corrupt("record longer than the limit"));
        }
        let len = len as usize;
        let used = words_of(len);
        if used > self.head - self.tail {
            return Err(Corrupt("record longer than what was published"));
        }
        into.clear();
        into.reserve(len + WORD);
        for i in 1..used {
            into.extend_from_slice(&at(i).to_le_bytes());
        }
        into.truncate(len);
        self.tail += used;
        // Release: our reads happened before the producer may overwrite the words.
        self.memory.words()[CONSUMER].store(self.tail, Ordering::Release);
        Ok(true)
    }
}

#[cfg(test)]
mod tests;
