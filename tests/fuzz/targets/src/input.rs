//! Decisions drawn from a fuzzer's bytes.

use resilience_core::time::Timestamp;
use std::time::Duration;

/// A value longer than this is not built: it would cost time and reach nothing that a shorter one does not.
const LONGEST_VALUE: usize = 256 * 1024;

/// Takes numbers off the front of the bytes; once they have run out, every number is 0.
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn take(&mut self, len: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// So many bytes, or as many as there are.
    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        self.take(len).to_vec()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let head = self.take(N);
        array[..head.len()].copy_from_slice(head);
        array
    }

    pub(crate) fn u8(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// One of a few things.
    pub(crate) fn choice<T: Copy>(&mut self, from: &[T]) -> T {
        from[usize::from(self.u8()) % from.len()]
    }

    pub(crate) fn timestamp(&mut self) -> Timestamp {
        Timestamp::from_nanos(self.u64())
    }

    /// Bytes of shared data: `len u16, bytes`, then `len u8, doublings u8, bytes`, which stand at the end 2 to the power
    /// of `doublings` (modulo 14) times. What a value's limits are made for is longer than a fuzzer's input.
    pub(crate) fn value(&mut self) -> Vec<u8> {
        let len = usize::from(self.u16());
        let mut value = self.take(len).to_vec();
        let (len, doublings) = (usize::from(self.u8()), self.u8() % 14);
        let unit = self.take(len);
        let most = LONGEST_VALUE / unit.len().max(1);
        value.extend(unit.repeat(most.min(1 << doublings)));
        value
    }

    /// The time of the next step: mostly a little later, now and then much later, earlier, or anything at all.
    pub(crate) fn moved(&mut self, now: Timestamp) -> Timestamp {
        let (kind, amount) = (self.u8() % 8, u64::from(self.u8()));
        let nanos = now.as_nanos();
        match kind {
            0..=2 => now.after(Duration::from_millis(amount)),
            3 => now.after(Duration::from_secs(amount)),
            4 => now.after(Duration::from_secs(amount * 3600)),
            5 => now.after(Duration::from_nanos(amount)),
            6 => Timestamp::from_nanos(nanos.saturating_sub(amount * 1_000_000)),
            _ => self.timestamp(),
        }
    }
}
