//! Reads what stands in the store by the layout as it is documented, with none of the core's code: what the core writes
//! and reads wrongly in the same way would look right to itself.

pub mod budget;
mod room;

pub use room::{Holder, Room, Waiter};

/// The breaker as its bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breaker {
    /// The generation.
    pub generation: u64,
    /// The next probe's number.
    pub next_probe: u32,
    /// Trips in succession.
    pub trips: u32,
    /// The state.
    pub phase: Phase,
}

/// The latest calls as their bytes say.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Window {
    /// By number.
    Count {
        /// How many at most.
        size: u16,
        /// Whether each failed and was slow, oldest first.
        calls: Vec<(bool, bool)>,
    },
    /// By time.
    Time {
        /// How many seconds.
        seconds: u16,
        /// Where seconds begin.
        offset: u32,
        /// The last second.
        latest: u64,
        /// Seconds with calls: how many, how many failed, how many were slow.
        buckets: Vec<(u64, [u32; 3])>,
    },
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
        /// The latest calls.
        window: Option<Window>,
        /// When the probes closed it.
        since: Option<u64>,
        /// Until when an operator holds it.
        held: Option<u64>,
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
        /// Answers that make a verdict.
        deciding: u32,
        /// Answers, those that failed, those that were slow.
        answers: [u32; 3],
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
    /// Whether all that belongs to it can be read, too.
    pub sound: bool,
    /// The bulkhead: empty where there is none, and `None` where it cannot be read.
    pub room: Option<Room>,
    /// The retry budget, where there is one, and `None` where it cannot be read.
    pub budget: Option<Option<budget::Budget>>,
    /// Everything else.
    pub foreign: Vec<Foreign>,
}

/// The breaker's section and the version of its layout.
pub const BREAKER: (u8, u8) = (1, 1);
/// What rates need.
pub const RATES: (u8, u8) = (2, 1);
/// How it recovers.
pub const RECOVERY: (u8, u8) = (3, 1);
/// The bulkhead.
pub const BULKHEAD: (u8, u8) = (4, 1);
/// The retry budget.
pub const BUDGET: (u8, u8) = (5, 1);
/// What has happened to the breaker.
pub const HISTORY: (u8, u8) = (6, 1);

pub(crate) struct Bytes<'a>(&'a [u8]);

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
        let (mut rates, mut recovery) = (None, None);
        let mut value = Value { room: Some(Room::default()), budget: Some(None), ..Value::default() };
        for (id, version, bytes) in sections {
            match (id, version) {
                BREAKER => value.breaker = breaker(&bytes),
                RATES => rates = Some(bytes),
                RECOVERY => recovery = Some(bytes),
                BULKHEAD => value.room = room::read(&bytes),
                BUDGET => value.budget = budget::read(&bytes).map(Some),
                HISTORY => {}
                _ => value.foreign.push((id, version, bytes)),
            }
        }
        if let Some(found) = &mut value.breaker {
            let mut add = |bytes: Option<Vec<u8>>, add: fn(&mut Breaker, &[u8]) -> Option<()>| {
                let mut with = found.clone();
                let Some(bytes) = bytes else { return true };
                let sound = add(&mut with, &bytes).is_some();
                if sound {
                    *found = with;
                }
                sound
            };
            value.sound = add(rates, add_rates) & add(recovery, add_recovery);
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

/// The bytes of a closed breaker that remembers nothing.
#[must_use]
pub fn closed(generation: u64, next_probe: u32) -> Vec<u8> {
    let mut out = generation.to_le_bytes().to_vec();
    out.extend(next_probe.to_le_bytes());
    out.extend([0; 9]);
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
            let (window, since, held) = (None, None, None);
            Phase::Closed { consecutive, capacity, failures, window, since, held }
        }
        1 => {
            let (until, permitted, answered) = (input.number(8)?, input.word()?, input.word()?);
            let probes = (0..input.short()?).map(|_| Some((input.number(8)?, input.word()?)));
            let mut probes: Vec<_> = probes.collect::<Option<_>>()?;
            probes.sort_unstable();
            let answers = [answered, 0, 0];
            Phase::HalfOpen { until, permitted, deciding: permitted, answers, probes }
        }
        2 => Phase::Open { until: input.number(8)? },
        _ => return None,
    };
    input.0.is_empty().then_some(Breaker { generation, next_probe, trips: 0, phase })
}

/// Section 2, which must be of the breaker's generation.
fn add_rates(breaker: &mut Breaker, bytes: &[u8]) -> Option<()> {
    let mut input = Bytes(bytes);
    if input.number(8)? != breaker.generation {
        return None;
    }
    match &mut breaker.phase {
        Phase::Closed { window, .. } => {
            *window = Some(match input.number(1)? {
                1 => count_window(&mut input)?,
                2 => time_window(&mut input)?,
                _ => return None,
            });
        }
        Phase::Open { .. } => return None,
        Phase::HalfOpen { deciding, answers, .. } => {
            *deciding = input.word()?;
            let all = input.word()?;
            if all != answers[0] {
                return None;
            }
            *answers = [all, input.word()?, input.word()?];
        }
    }
    input.0.is_empty().then_some(())
}

fn count_window(input: &mut Bytes<'_>) -> Option<Window> {
    let (size, len, next) = (input.short()?, input.short()?, input.short()?);
    let ring = input.take(usize::from(size).div_ceil(4))?;
    let at = |index: u16| {
        let call = ring[usize::from(index / 4)] >> (2 * (index % 4));
        (call & 1 == 1, call & 2 == 2)
    };
    // A full ring begins where the next call goes.
    let first = if len == size { next } else { 0 };
    let calls = (0..len).map(|nth| at((first + nth) % size)).collect();
    (len == size || next == len).then_some(Window::Count { size, calls })
}

fn time_window(input: &mut Bytes<'_>) -> Option<Window> {
    let (seconds, offset, latest) = (input.short()?, input.word()?, input.number(8)?);
    let count = input.short()?;
    let mut buckets = Vec::new();
    for nth in 0..count {
        let second = latest + 1 + u64::from(nth) - u64::from(count);
        buckets.push((second, [input.word()?, input.word()?, input.word()?]));
    }
    buckets.retain(|(_, [all, ..])| *all > 0);
    (count <= seconds).then_some(Window::Time { seconds, offset, latest, buckets })
}

/// Section 3, which must be of the breaker's generation.
fn add_recovery(breaker: &mut Breaker, bytes: &[u8]) -> Option<()> {
    let mut input = Bytes(bytes);
    if input.number(8)? != breaker.generation {
        return None;
    }
    breaker.trips = input.word()?;
    let flags = input.number(1)?;
    let moments = [
        if flags & 1 == 1 { Some(input.number(8)?) } else { None },
        if flags & 2 == 2 { Some(input.number(8)?) } else { None },
    ];
    match &mut breaker.phase {
        Phase::Closed { since, held, .. } => (*since, *held) = (moments[0], moments[1]),
        _ if moments != [None, None] => return None,
        _ => {}
    }
    input.0.is_empty().then_some(())
}

/// Reads a policy's table of keys.
#[must_use]
pub fn keys(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut input = Bytes(bytes.strip_prefix(b"RK")?);
    let mut names = Vec::new();
    for _ in 0..input.short()? {
        let len = usize::from(input.short()?);
        names.push(input.take(len)?.to_vec());
    }
    input.0.is_empty().then_some(names)
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
    /// Where it can be woken.
    pub slot: Option<u16>,
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
            let (owner, configuration, beat) = (line.number(8)?, line.number(8)?, line.number(8)?);
            Some(Line { owner, configuration, beat, slot: line.short() })
        })
        .collect::<Option<_>>()?;
    Some((next, lines))
}
