//! An input as a source of decisions.

/// Bytes not used yet. Every answer but the remaining bytes is `None` at the end, which ends the story that is being told.
#[derive(Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Input(data)
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// Big-endian, as libFuzzer's dictionary of comparisons finds numbers either way.
    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u64::from_be_bytes(*first))
    }

    /// At most `n` bytes; less at the end.
    pub(crate) fn take(&mut self, n: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(n.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// Bytes up to the next `end`, which is used up, too.
    pub(crate) fn until(&mut self, end: u8) -> &'a [u8] {
        let taken = self.take(self.0.iter().position(|&b| b == end).unwrap_or(self.0.len()));
        self.take(1);
        taken
    }

    pub(crate) fn rest(&mut self) -> &'a [u8] {
        self.take(self.0.len())
    }
}
