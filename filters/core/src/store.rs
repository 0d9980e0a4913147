//! The port to state that all workers share, and the one way to change it.

#[cfg(test)]
mod tests;

use crate::planted::{Bug, active};

/// How many times [`update`] tries before it gives up. Two workers collide for about a microsecond, so a second attempt
/// is rare and a sixteenth means that something else is wrong.
pub const ATTEMPTS: u32 = 16;

/// What a write expects to find.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expected {
    /// No value yet.
    Absent,
    /// The value that was read with this number.
    Version(u32),
}

/// Why a write did not happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PutError {
    /// Somebody else wrote first.
    Conflict,
    /// The store does not answer.
    Unavailable,
}

/// The store does not answer a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Unavailable;

/// A value with the number a later write must present.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned {
    /// The value.
    pub bytes: Vec<u8>,
    /// Its number.
    pub version: u32,
}

impl Versioned {
    /// The value.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

/// Values under keys, shared by all workers of the process, with compare-and-swap.
pub trait Store {
    /// The value of a key.
    ///
    /// # Errors
    /// [`Unavailable`] where the store does not answer.
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable>;

    /// Writes if what is there is still what is `expected`.
    ///
    /// # Errors
    /// [`PutError`] where nothing was written.
    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError>;
}

/// What the closure of an [`update`] wants done.
#[derive(Debug)]
pub enum Change<T> {
    /// Nothing to write; this is the answer.
    Keep(T),
    /// Write these bytes; this is the answer once they are there.
    Write(Vec<u8>, T),
}

/// How an [`update`] ended.
#[derive(Debug)]
pub struct Updated<T> {
    /// The closure's answer, of the run whose write won; `None` where the update gave up and nothing was written.
    pub answer: Option<T>,
    /// Whether bytes were written.
    pub wrote: bool,
    /// How many writes of others got in between.
    pub conflicts: u32,
}

/// Re-runs a pure `change` on the present value until its write wins, at most [`ATTEMPTS`] times.
pub fn update<S: Store + ?Sized, T>(
    store: &mut S,
    key: &[u8],
    mut change: impl FnMut(Option<&Versioned>) -> Change<T>,
) -> Updated<T> {
    let mut conflicts: u32 = 0;
    while conflicts < ATTEMPTS {
        let Ok(found) = store.get(key) else { break };
        let (bytes, answer) = match change(found.as_ref()) {
            Change::Keep(answer) => return Updated { answer: Some(answer), wrote: false, conflicts },
            Change::Write(bytes, answer) => (bytes, answer),
        };
        let expected = match found {
            // The host takes 0 for "whatever is there".
            _ if active(Bug::LostUpdate) => Expected::Version(0),
            Some(value) => Expected::Version(value.version),
            None => Expected::Absent,
        };
        match store.put(key, &bytes, expected) {
            Ok(()) => return Updated { answer: Some(answer), wrote: true, conflicts },
            Err(PutError::Conflict) => conflicts = conflicts.saturating_add(1),
            Err(PutError::Unavailable) => break,
        }
    }
    Updated { answer: None, wrote: false, conflicts }
}
