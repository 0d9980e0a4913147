//! A policy's value in shared data: a sequence of sections, each of which says what it is.
//!
//! `"RS"`, then per section `id u8, version u8, length u16, bytes`. A section of an id or a version that this module does
//! not know belongs to another version of the module that serves beside it: it is carried along untouched. A section
//! that should be readable and is not starts afresh.

#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod bulkhead_tests;
#[cfg(test)]
mod tests;

use crate::breaker::{Breaker, History};
use crate::budget::Budget;
use crate::bulkhead::Bulkhead;
use crate::codec::Reader;
use crate::planted::{Bug, active};
use crate::store::Versioned;
use crate::time::Timestamp;

const MAGIC: &[u8] = b"RS";
const BREAKER: u8 = 1;
const RATES: u8 = 2;
const RECOVERY: u8 = 3;
const BULKHEAD: u8 = 4;
const BUDGET: u8 = 5;
const HISTORY: u8 = 6;
/// How many of them there are.
const OWN: usize = 6;
/// A section's id, version and length.
const HEAD: usize = 4;
/// Room for most values, in bytes: they are written at every request.
const USUAL: usize = 512;
/// What is lost begins so many numbers ahead for each write before it: no write uses up as many.
const STEPS: u64 = 4;
/// Sections of others are carried up to this many bytes in all, heads included: more is damage, not another version.
const MAX_FOREIGN: usize = 64 * 1024;

/// What a policy's requests decide together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct State {
    /// The circuit breaker.
    pub breaker: Breaker,
    /// The bulkhead.
    pub bulkhead: Bulkhead,
    /// The retry budget.
    pub budget: Budget,
    /// What has happened to the breaker. Says nothing of what it is now: who moves it on takes note here.
    pub history: History,
    /// Whether the value that was read was damaged: what stands here must be written before a ticket refers to it.
    pub repaired: bool,
    foreign: Vec<Foreign>,
}

/// A section of another version of the module.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Foreign {
    id: u8,
    version: u8,
    bytes: Vec<u8>,
}

/// A section as it stands in the value.
#[derive(Clone, Copy)]
struct Section<'a> {
    id: u8,
    version: u8,
    bytes: &'a [u8],
}

impl State {
    /// Reads a value as it is at `now`; a key that was never written is a closed breaker of generation 0.
    ///
    /// Where a breaker is expected and cannot be read, the fresh one takes its generation from the clock: a ticket of the
    /// lost state must not fit it.
    #[must_use]
    pub fn decode(bytes: Option<&[u8]>, now: Timestamp) -> Self {
        Self::decode_from(bytes, now, now.as_nanos())
    }

    /// As [`Self::decode`], for a state that is to be written over what was found.
    ///
    /// A VM that is held up in the middle of something goes by the time at which it began, and may find the value damaged
    /// more than once. So the numbers of what is lost also go by that of the value: each write has a higher one.
    #[must_use]
    pub fn read(found: Option<&Versioned>, now: Timestamp) -> Self {
        let ahead = found.map_or(0, |found| u64::from(found.version)).saturating_mul(STEPS);
        let first = now.as_nanos().saturating_add(ahead);
        Self::decode_from(found.map(|found| found.bytes.as_slice()), now, first)
    }

    /// What cannot be read begins with the number `first`.
    fn decode_from(bytes: Option<&[u8]>, now: Timestamp, first: u64) -> Self {
        let Some(bytes) = bytes else { return Self::fresh(Breaker::closed(0)) };
        let Some(sections) = decode_sections(bytes) else {
            return Self {
                repaired: true,
                bulkhead: Bulkhead::new(first),
                budget: Budget::in_place_of_lost(now, first),
                ..Self::fresh(Breaker::closed(first))
            };
        };
        let of = |id| {
            let mine = |section: &&Section<'_>| section.is_readable() && section.id == id;
            sections.iter().rev().find(mine).map(|section| section.bytes)
        };
        let breaker = of(BREAKER).and_then(Breaker::decode).map(|mut breaker| {
            // What cannot be read of these starts afresh, by itself.
            of(RATES).and_then(|bytes| breaker.decode_rates(bytes, now));
            of(RECOVERY).and_then(|bytes| breaker.decode_recovery(bytes, now));
            breaker
        });
        let breaker = breaker.filter(|breaker| breaker.is_plausible(now));
        let repaired = breaker.is_none();
        let breaker = breaker.unwrap_or_else(|| Breaker::closed(first));
        let bulkhead = of(BULKHEAD).map_or_else(Bulkhead::default, |bytes| {
            Bulkhead::decode(bytes).unwrap_or_else(|| Bulkhead::new(first))
        });
        let budget = of(BUDGET).map_or_else(Budget::default, |bytes| {
            Budget::decode(bytes)
                .map_or_else(|| Budget::in_place_of_lost(now, first), |budget| budget.believed(now))
        });
        let history =
            of(HISTORY).filter(|_| !active(Bug::HistoryLost)).map(History::decode).unwrap_or_default();
        Self { bulkhead, budget, history, repaired, foreign: foreign(&sections), ..Self::fresh(breaker) }
    }

    fn fresh(breaker: Breaker) -> Self {
        Self {
            breaker,
            bulkhead: Bulkhead::default(),
            budget: Budget::default(),
            history: History::default(),
            repaired: false,
            foreign: Vec::new(),
        }
    }

    /// The value's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL);
        out.extend_from_slice(MAGIC);
        put_own(&mut out, BREAKER, Breaker::VERSION, |out| self.breaker.encode(out));
        put_own(&mut out, RATES, Breaker::RATES_VERSION, |out| self.breaker.encode_rates(out));
        put_own(&mut out, RECOVERY, Breaker::RECOVERY_VERSION, |out| self.breaker.encode_recovery(out));
        put_own(&mut out, BULKHEAD, Bulkhead::VERSION, |out| self.bulkhead.encode(out));
        put_own(&mut out, BUDGET, Budget::VERSION, |out| self.budget.encode(out));
        put_own(&mut out, HISTORY, History::VERSION, |out| out.extend_from_slice(self.history.encode()));
        for section in self.foreign.iter().filter(|_| !active(Bug::ForeignDropped)) {
            put_section(&mut out, section.id, section.version, &section.bytes);
        }
        out
    }
}

impl Section<'_> {
    fn is_readable(&self) -> bool {
        matches!(
            (self.id, self.version),
            (BREAKER, Breaker::VERSION)
                | (RATES, Breaker::RATES_VERSION)
                | (RECOVERY, Breaker::RECOVERY_VERSION)
                | (BULKHEAD, Bulkhead::VERSION)
                | (BUDGET, Budget::VERSION)
                | (HISTORY, History::VERSION)
        )
    }
}

/// What is carried along: all that another version wrote, or nothing.
fn foreign(sections: &[Section<'_>]) -> Vec<Foreign> {
    let foreign = || sections.iter().filter(|section| !section.is_readable());
    if foreign().map(|section| section.bytes.len().saturating_add(HEAD)).sum::<usize>() > MAX_FOREIGN {
        return Vec::new();
    }
    let own = |it: &Section<'_>| Foreign { id: it.id, version: it.version, bytes: it.bytes.to_vec() };
    foreign().map(own).collect()
}

/// Appends one of our sections. An empty one says nothing, and is left out.
fn put_own(out: &mut Vec<u8>, id: u8, version: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    write_section(out, id, version, write);
    if out.len() <= start.saturating_add(HEAD) {
        out.truncate(start);
    }
}

fn put_section(out: &mut Vec<u8>, id: u8, version: u8, bytes: &[u8]) {
    write_section(out, id, version, |out| out.extend_from_slice(bytes));
}

/// Appends a section: its bytes are written in place, then its length before them.
fn write_section(out: &mut Vec<u8>, id: u8, version: u8, write: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[id, version, 0, 0]);
    write(out);
    let len = u16::try_from(out.len().saturating_sub(start).saturating_sub(HEAD));
    let place = start.saturating_add(2)..start.saturating_add(HEAD);
    match (len, out.get_mut(place)) {
        (Ok(len), Some(place)) => place.copy_from_slice(&len.to_le_bytes()),
        // A section cannot outgrow its length field: the configuration's limits are far below it.
        _ => out.truncate(start),
    }
}

fn decode_sections(bytes: &[u8]) -> Option<Vec<Section<'_>>> {
    let mut input = Reader::new(bytes.strip_prefix(MAGIC)?);
    let mut sections = Vec::with_capacity(OWN);
    while !input.is_empty() {
        let (id, version, len) = (input.u8()?, input.u8()?, input.u16()?);
        sections.push(Section { id, version, bytes: input.bytes(usize::from(len))? });
    }
    Some(sections)
}
