//! Reads what stands in the store by the layout as it is documented, with none of the core's code: what the core writes
//! and reads wrongly in the same way would look right to itself.

/// The breaker as its bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// The generation.
    pub generation: u64,
    /// The next probe's number.
    pub next_probe: u32,
    /// The state.
    pub phase: Phase,
}

/// The breaker's state as its bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Closed, with the evidence.
    Closed {
        /// Failures in a row.
        consecutive: u32,
        /// How many moments are kept.
        capacity: u16,
        /// The moments.
        failures: Vec<u64>,
    },
    /// Open.
    Open {
        /// Until when.
        until: u64,
    },
    /// Half-open.
    HalfOpen {
        /// Until when.
        until: u64,
        /// Probes in total.
        permitted: u32,
        /// Good answers.
        succeeded: u32,
        /// Owner and number of each probe that is out, sorted.
        probes: Vec<(u64, u32)>,
    },
}

/// A section that is not the breaker's.
pub type Foreign = (u8, u8, Vec<u8>);

/// A policy's value.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Value {
    /// The breaker, where one can be read.
    pub breaker: Option<Breaker>,
    /// Everything else.
    pub foreign: Vec<Foreign>,
}

/// The breaker's section and the version of its layout.
pub const BREAKER: (u8, u8) = (1, 1);

struct Bytes<'a>(&'a [u8]);

impl Bytes<'_> {
    fn take(&mut self, len: usize) -> Option<&[u8]> {
        let (head, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(head)
    }

    fn number(&mut self, width: usize) -> Option<u64> {
        Some(self.take(width)?.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte)))
    }

    fn short(&mut self) -> Option<u16> {
        self.number(2)?.try_into().ok()
    }

    fn word(&mut self) -> Option<u32> {
        self.number(4)?.try_into().ok()
    }
}

/// Reads a policy's value.
#[must_use]
pub fn value(bytes: &[u8]) -> Value {
    sections(bytes).map_or_else(Value::default, |sections| {
        let mut value = Value::default();
        for (id, version, bytes) in sections {
            if (id, version) == BREAKER {
                value.breaker = breaker(&bytes);
            } else {
                value.foreign.push((id, version, bytes));
            }
        }
        value
    })
}

/// Writes a value that somebody else's module might have left.
#[must_use]
pub fn write(sections: &[Foreign]) -> Vec<u8> {
    let mut out = b"RS".to_vec();
    for (id, version, bytes) in sections {
        out.extend([*id, *version]);
        out.extend((bytes.len() as u16).to_le_bytes());
        out.extend(bytes);
    }
    out
}

/// A value's sections, as they stand there.
#[must_use]
pub fn sections(bytes: &[u8]) -> Option<Vec<Foreign>> {
    let mut input = Bytes(bytes.strip_prefix(b"RS")?);
    let mut sections = Vec::new();
    while !input.0.is_empty() {
        let (id, version) = (input.number(1)? as u8, input.number(1)? as u8);
        let len = usize::from(input.short()?);
        sections.push((id, version, input.take(len)?.to_vec()));
    }
    Some(sections)
}

fn breaker(bytes: &[u8]) -> Option<Breaker> {
    let mut input = Bytes(bytes);
    let (generation, next_probe) = (input.number(8)?, input.word()?);
    let phase = match input.number(1)? {
        0 => {
            let (consecutive, capacity) = (input.word()?, input.short()?);
            let failures: Vec<_> = (0..input.short()?).map(|_| input.number(8)).collect::<Option<_>>()?;
            if failures.len() > usize::from(capacity) || !failures.is_sorted() {
                return None;
            }
            Phase::Closed { consecutive, capacity, failures }
        }
        1 => {
            let (until, permitted, succeeded) = (input.number(8)?, input.word()?, input.word()?);
            let probes = (0..input.short()?).map(|_| Some((input.number(8)?, input.word()?)));
            let mut probes: Vec<_> = probes.collect::<Option<_>>()?;
            probes.sort_unstable();
            Phase::HalfOpen { until, permitted, succeeded, probes }
        }
        2 => Phase::Open { until: input.number(8)? },
        _ => return None,
    };
    input.0.is_empty().then_some(Breaker { generation, next_probe, phase })
}

/// One line of the table of members.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Who.
    pub owner: u64,
    /// With which configuration.
    pub configuration: u64,
    /// Its last beat.
    pub beat: u64,
}

/// Reads the table of members: the next identity, and the lines.
#[must_use]
pub fn members(bytes: &[u8]) -> Option<(u64, Vec<Line>)> {
    let mut input = Bytes(bytes.strip_prefix(b"RM")?);
    let next = input.number(8)?;
    let lines = (0..input.short()?)
        .map(|_| {
            let len = usize::from(input.short()?);
            let mut line = Bytes(input.take(len)?);
            Some(Line { owner: line.number(8)?, configuration: line.number(8)?, beat: line.number(8)? })
        })
        .collect::<Option<_>>()?;
    Some((next, lines))
}
