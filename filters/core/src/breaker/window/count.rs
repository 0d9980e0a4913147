//! A window over a number of calls: a ring of two bits each.

use super::{Outcome, Tally};
use crate::codec::Reader;
use crate::planted::{Bug, active};

const FAILED: u8 = 0b01;
const SLOW: u8 = 0b10;
/// The bits of [`FAILED`] in a byte of four calls; those of [`SLOW`] are one further.
const FAILED_OF_FOUR: u8 = 0b0101_0101;

/// The latest calls, up to a number.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CountWindow {
    size: u16,
    /// How many calls it holds.
    len: u16,
    /// Where the next call goes: over the oldest, once the window is full.
    next: u16,
    /// Four calls a byte, the first in the lowest bits. What holds no call is zero.
    ring: Vec<u8>,
}

impl CountWindow {
    /// `size` is at least 1.
    pub(super) fn new(size: u16) -> Self {
        Self { size, len: 0, next: 0, ring: vec![0; bytes(size)] }
    }

    pub(super) const fn size(&self) -> u16 {
        self.size
    }

    pub(super) fn record(&mut self, outcome: Outcome) {
        if outcome == Outcome::Ignored {
            return;
        }
        let failed = if outcome.is_failure() { FAILED } else { 0 };
        let forgotten = outcome.is_failure() && active(Bug::SlowFailureForgotten);
        let slow = if outcome.is_slow() && !forgotten { SLOW } else { 0 };
        self.push(failed | slow);
    }

    fn push(&mut self, call: u8) {
        let (byte, shift) = place(self.next);
        if let Some(four) = self.ring.get_mut(byte) {
            *four = (*four & !(0b11 << shift)) | (call << shift);
        }
        self.len = self.len.saturating_add(1).min(self.size);
        let next = self.next.wrapping_add(1).checked_rem(self.size).unwrap_or(0);
        // Where a full ring begins tells nothing when all calls are successes: equal windows are to be equal.
        self.next = if call == 0 && self.is_saturated() { 0 } else { next };
    }

    fn at(&self, index: u16) -> u8 {
        let (byte, shift) = place(index);
        self.ring.get(byte).map_or(0, |four| (four >> shift) & 0b11)
    }

    /// The calls, oldest first.
    fn calls(&self) -> impl Iterator<Item = u8> + '_ {
        let full = self.len == self.size;
        let oldest = if full { self.next } else { 0 };
        (oldest..self.size).chain(0..oldest).take(usize::from(self.len)).map(|index| self.at(index))
    }

    /// The latest of the calls in a window of another size.
    pub(super) fn resized(&self, size: u16) -> Self {
        let mut other = Self::new(size);
        self.calls().for_each(|call| other.push(call));
        other
    }

    pub(super) fn tally(&self) -> Tally {
        let count = |shift: u8| {
            self.ring.iter().map(|four| ((four >> shift) & FAILED_OF_FOUR).count_ones()).sum::<u32>()
        };
        Tally { calls: u32::from(self.len), failed: count(0), slow: count(1) }
    }

    /// Full of successes: one more takes the place of its like.
    pub(super) fn is_saturated(&self) -> bool {
        self.len == self.size && self.ring.iter().all(|four| *four == 0)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.size.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
        out.extend_from_slice(&self.next.to_le_bytes());
        out.extend(&self.ring);
    }

    pub(super) fn decode(input: &mut Reader<'_>) -> Option<Self> {
        let (size, len, next) = (input.u16()?, input.u16()?, input.u16()?);
        let ring = input.bytes(bytes(size))?.to_vec();
        let window = Self { size, len, next, ring };
        window.is_sound().then_some(window)
    }

    fn is_sound(&self) -> bool {
        let fits = self.next < self.size && self.len <= self.size;
        let begins_at_zero = self.len == self.size || self.next == self.len;
        let canonical = !self.is_saturated() || self.next == 0;
        let places = u16::try_from(self.ring.len().saturating_mul(4)).unwrap_or(u16::MAX);
        fits && begins_at_zero && canonical && (self.len..places).all(|index| self.at(index) == 0)
    }
}

fn bytes(size: u16) -> usize {
    usize::from(size).div_ceil(4)
}

/// The byte of a call in the ring, and by how many bits it is shifted there.
fn place(index: u16) -> (usize, u16) {
    (usize::from(index >> 2), (index & 0b11) << 1)
}
