//! Fixed-width little-endian fields, the alphabet of everything kept in shared data.

use crate::time::Timestamp;

/// Takes fields off the front of a slice; every method is `None` once the bytes have run out.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(crate) fn timestamp(&mut self) -> Option<Timestamp> {
        self.u64().map(Timestamp::from_nanos)
    }

    /// A list behind its u16 length.
    pub(crate) fn list<T>(&mut self, mut item: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let len = self.u16()?;
        // A length that lies takes no more room than the value did: a module's memory never shrinks.
        let most = self.0.len().checked_div(size_of::<T>()).unwrap_or(0);
        let mut items = Vec::with_capacity(usize::from(len).min(most));
        for _ in 0..len {
            items.push(item(self)?);
        }
        Some(items)
    }

    /// All that is left.
    pub(crate) const fn rest(self) -> &'a [u8] {
        self.0
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Appends a list behind its u16 length. What does not fit in the length is left out; the limits of the configuration
/// keep every list far below it.
pub(crate) fn put_list<T>(out: &mut Vec<u8>, items: &[T], mut item: impl FnMut(&mut Vec<u8>, &T)) {
    let len = u16::try_from(items.len()).unwrap_or(u16::MAX);
    out.extend_from_slice(&len.to_le_bytes());
    for entry in items.iter().take(usize::from(len)) {
        item(out, entry);
    }
}
