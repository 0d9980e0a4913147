//! Envoy's shared data: one map, with its ways of comparing and swapping.

use resilience_core::store::{Expected, Versioned};
use std::collections::BTreeMap;

/// The number that overwrites whatever is there.
const ANY: u32 = 0;
/// The number that a value never has, save once in four billion writes: with it a put creates and never overwrites.
const ONLY_IF_ABSENT: u32 = u32::MAX;

/// The numbers do not match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Mismatch;

/// What a successful put did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Put {
    /// As asked.
    Done,
    /// The writer expected nothing there, and the value there happened to have the number that stands for "nothing": the
    /// host cannot tell the two apart.
    Ambiguous,
}

/// The map and its one counter.
#[derive(Clone, Debug)]
pub struct SharedData {
    values: BTreeMap<Vec<u8>, (Vec<u8>, u32)>,
    next: u32,
}

impl SharedData {
    /// An empty map whose first value gets the number `next`.
    #[must_use]
    pub fn new(next: u32) -> Self {
        Self { values: BTreeMap::new(), next: next.max(1) }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &[u8]) -> Option<Versioned> {
        self.values.get(key).map(|(bytes, version)| Versioned { bytes: bytes.clone(), version: *version })
    }

    /// Writes as the host does: any number creates a key that is missing.
    ///
    /// # Errors
    /// [`Mismatch`] where the key has a value of another number.
    pub fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<Put, Mismatch> {
        let cas = match expected {
            Expected::Absent => ONLY_IF_ABSENT,
            Expected::Version(version) => version,
        };
        let found = self.values.get(key).map(|(_, version)| *version);
        if found.is_some_and(|version| cas != ANY && cas != version) {
            return Err(Mismatch);
        }
        self.overwrite(key, bytes);
        let ambiguous = found.is_some() && expected == Expected::Absent;
        Ok(if ambiguous { Put::Ambiguous } else { Put::Done })
    }

    /// Writes whatever is there; with no bytes this is how the host removes.
    pub fn overwrite(&mut self, key: &[u8], bytes: &[u8]) {
        let version = self.next;
        self.next = self.next.wrapping_add(1).max(1);
        self.values.insert(key.to_vec(), (bytes.to_vec(), version));
    }

    /// Every key.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.values.keys().map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_number_creates_and_only_the_right_one_replaces() {
        let mut store = SharedData::new(7);
        assert_eq!(store.put(b"k", b"1", Expected::Version(99)), Ok(Put::Done));
        assert_eq!(store.put(b"k", b"2", Expected::Version(99)), Err(Mismatch));
        assert_eq!(store.put(b"k", b"2", Expected::Absent), Err(Mismatch));
        assert_eq!(store.put(b"k", b"2", Expected::Version(7)), Ok(Put::Done));
        assert_eq!(store.get(b"k"), Some(Versioned { bytes: b"2".to_vec(), version: 8 }));
    }

    #[test]
    fn zero_overwrites() {
        let mut store = SharedData::new(7);
        store.overwrite(b"k", b"1");
        assert_eq!(store.put(b"k", b"2", Expected::Version(0)), Ok(Put::Done));
    }

    #[test]
    fn the_counter_is_everybodys_and_skips_zero_when_it_wraps() {
        let mut store = SharedData::new(u32::MAX);
        store.overwrite(b"a", b"");
        store.overwrite(b"b", b"");
        let versions = [b"a", b"b"].map(|key| store.get(key).map(|found| found.version));
        assert_eq!(versions, [Some(u32::MAX), Some(1)]);
        assert_eq!(store.put(b"a", b"x", Expected::Absent), Ok(Put::Ambiguous));
    }
}
