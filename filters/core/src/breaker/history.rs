//! The latest changes of a breaker: what an operator asks for first, and what the time in a state is counted by.

use super::settings::Exceeded;
use super::{Cause, Numbers, Percentage, State, Tally, Transition};
use crate::codec::{Reader, put_list};
use crate::time::Timestamp;
use std::time::Duration;

/// How many changes are remembered. They are carried in every write of a breaker that has ever tripped.
pub const REMEMBERED: usize = 5;
/// No history is longer in bytes: more is damage.
const LONGEST: usize = 512;

/// The latest changes, as they stand in shared data: `flags u8`, by flag `departed u64`, then a list of changes, oldest first,
/// each `at u64, generation u64, from u8, to u8, cause u8, kind u8`, and by the kind of its numbers `count u32, limit u32`,
/// or `[threshold f32,] calls u32, failed u32, slow u32`. They are read only when something changes, or somebody asks.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct History(Vec<u8>);

/// How long what a change has ended had lasted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Lasted {
    /// The time in the state that was left; `None` where its beginning is not remembered.
    pub state: Option<Duration>,
    /// With the probes' verdict that closes: the time since the breaker had tripped.
    pub outage: Option<Duration>,
}

impl Lasted {
    /// For how long the breaker was open that `transition` has led out of there.
    #[must_use]
    pub fn open(&self, transition: &Transition) -> Option<Duration> {
        self.state.filter(|_| transition.from == State::Open)
    }
}

#[derive(Default)]
struct Remembered {
    /// When a trigger opened it, and it has not been closed since.
    departed: Option<Timestamp>,
    /// Oldest first.
    changes: Vec<Transition>,
}

impl History {
    /// The version of the layout.
    pub const VERSION: u8 = if cfg!(feature = "test-other-version") { u8::MAX } else { 1 };

    /// The latest changes, oldest first; those of another version of the module are missing.
    #[must_use]
    pub fn transitions(&self) -> Vec<Transition> {
        self.read().changes
    }

    /// Takes note of a change, and tells how long what it has ended had lasted.
    pub fn note(&mut self, transition: Transition) -> Lasted {
        let Remembered { mut departed, mut changes } = self.read();
        let last = changes.last().filter(|last| last.generation.wrapping_add(1) == transition.generation);
        let state = last.map(|last| transition.at.since(last.at));
        // Where another version has moved it on in between, nobody knows how often it was closed.
        departed = departed.filter(|_| last.is_some());
        let forced = transition.cause == Cause::Forced;
        let outage = match (transition.from, transition.to) {
            (_, State::Closed) => departed.take().filter(|_| !forced).map(|since| transition.at.since(since)),
            (State::Closed, _) => {
                departed = (!forced).then_some(transition.at);
                None
            }
            _ => None,
        };
        changes.push(transition);
        changes.drain(..changes.len().saturating_sub(REMEMBERED));
        self.0 = Remembered { departed, changes }.encode();
        Lasted { state, outage }
    }

    /// Takes over what stands in shared data. What cannot be read is nothing remembered.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        if bytes.len() > LONGEST { Self::default() } else { Self(bytes.to_vec()) }
    }

    /// The bytes; none where nothing has ever changed.
    #[must_use]
    pub fn encode(&self) -> &[u8] {
        &self.0
    }

    fn read(&self) -> Remembered {
        Remembered::decode(&self.0).unwrap_or_default()
    }
}

impl Remembered {
    fn encode(&self) -> Vec<u8> {
        let mut out = vec![u8::from(self.departed.is_some())];
        if let Some(departed) = self.departed {
            out.extend(departed.as_nanos().to_le_bytes());
        }
        put_list(&mut out, &self.changes, encode_transition);
        out
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes);
        let departed = match input.u8()? {
            0 => None,
            1 => Some(input.timestamp()?),
            _ => return None,
        };
        let changes = input.list(decode_transition)?;
        (input.is_empty() && changes.len() <= REMEMBERED).then_some(Self { departed, changes })
    }
}

/// What kind of numbers follows.
const NONE: u8 = 0;
const COUNT: u8 = 1;
const PROBES: u8 = 2;
const FAILURES: u8 = 3;
const SLOW_CALLS: u8 = 4;

fn encode_transition(out: &mut Vec<u8>, transition: &Transition) {
    let Transition { at, from, to, cause, generation, numbers } = transition;
    out.extend(at.as_nanos().to_le_bytes());
    out.extend(generation.to_le_bytes());
    out.extend([*from as u8, *to as u8, *cause as u8]);
    match numbers {
        Numbers::None => out.push(NONE),
        Numbers::Count { count, limit } => {
            out.push(COUNT);
            [count, limit].into_iter().for_each(|number| out.extend(number.to_le_bytes()));
        }
        Numbers::Probes(tally) => {
            out.push(PROBES);
            tally.encode(out);
        }
        Numbers::Rate { exceeded, tally } => {
            let (kind, threshold) = match exceeded {
                Exceeded::Failures(threshold) => (FAILURES, threshold),
                Exceeded::SlowCalls(threshold) => (SLOW_CALLS, threshold),
            };
            out.push(kind);
            out.extend(threshold.get().to_le_bytes());
            tally.encode(out);
        }
    }
}

fn decode_transition(input: &mut Reader<'_>) -> Option<Transition> {
    let (at, generation) = (input.timestamp()?, input.u64()?);
    let mut state = || State::ALL.get(usize::from(input.u8()?)).copied();
    let (from, to) = (state()?, state()?);
    let cause = Cause::ALL.get(usize::from(input.u8()?)).copied()?;
    let kind = input.u8()?;
    let numbers = match kind {
        NONE => Numbers::None,
        COUNT => Numbers::Count { count: input.u32()?, limit: input.u32()? },
        PROBES => Numbers::Probes(Tally::decode(input)?),
        FAILURES | SLOW_CALLS => {
            let threshold = Percentage::new(f32::from_bits(input.u32()?))?;
            let of = if kind == FAILURES { Exceeded::Failures } else { Exceeded::SlowCalls };
            Numbers::Rate { exceeded: of(threshold), tally: Tally::decode(input)? }
        }
        _ => return None,
    };
    Some(Transition { at, from, to, cause, generation, numbers })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{just_after, ms};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn change(at: u64, generation: u64, from: State, to: State, cause: Cause) -> Transition {
        Transition { at: ms(at), from, to, cause, generation, numbers: Numbers::None }
    }

    fn trip(at: u64, generation: u64) -> Transition {
        change(at, generation, State::Closed, State::Open, Cause::ConsecutiveFailures)
    }

    fn probing(at: u64, generation: u64) -> Transition {
        change(at, generation, State::Open, State::HalfOpen, Cause::WaitOver)
    }

    fn verdict(at: u64, generation: u64, to: State) -> Transition {
        change(at, generation, State::HalfOpen, to, Cause::Probes)
    }

    fn lasted(state: Option<u64>, outage: Option<u64>) -> Lasted {
        Lasted { state: state.map(Duration::from_millis), outage: outage.map(Duration::from_millis) }
    }

    /// Notes all of these, through the bytes each time.
    fn note(history: &mut History, changes: &[Transition]) -> Vec<Lasted> {
        let mut note = |change: &Transition| {
            *history = History::decode(history.encode());
            history.note(*change)
        };
        changes.iter().map(&mut note).collect()
    }

    #[test]
    fn an_outage_lasts_from_the_trip_until_the_probes_close() {
        let changes = [
            trip(1000, 1),
            probing(4000, 2),
            verdict(4500, 3, State::Open),
            probing(9000, 4),
            verdict(9250, 5, State::Closed),
            trip(20_000, 6),
        ];
        let expected = [
            lasted(None, None),
            lasted(Some(3000), None),
            lasted(Some(500), None),
            lasted(Some(4500), None),
            lasted(Some(250), Some(8250)),
            lasted(Some(10_750), None),
        ];
        let mut history = History::default();
        assert_eq!(note(&mut history, &changes), expected);
        assert_eq!(history.transitions(), changes[1..]);
    }

    #[test]
    fn what_an_operator_forces_is_no_outage() {
        let forced = |at, generation, from, to| change(at, generation, from, to, Cause::Forced);
        let changes = [
            forced(0, 1, State::Closed, State::Open),
            probing(10, 2),
            verdict(20, 3, State::Closed),
            trip(30, 4),
            forced(40, 5, State::Open, State::Closed),
            trip(50, 6),
            forced(60, 7, State::Open, State::Open),
            probing(70, 8),
            verdict(80, 9, State::Closed),
        ];
        let outages: Vec<_> =
            note(&mut History::default(), &changes).iter().map(|lasted| lasted.outage).collect();
        let mut expected = vec![None; 9];
        expected[8] = Some(Duration::from_millis(30));
        assert_eq!(outages, expected);
    }

    #[test]
    fn nothing_is_told_of_what_another_version_did_in_between() {
        let mut history = History::default();
        let noted = note(&mut history, &[trip(0, 1), probing(100, 4), verdict(110, 5, State::Closed)]);
        assert_eq!(noted, [lasted(None, None), lasted(None, None), lasted(Some(10), None)]);
    }

    #[test]
    fn every_kind_of_numbers_is_remembered() {
        let tally = Tally { calls: 10, failed: 5, slow: 2 };
        let threshold = Percentage::new(33.3).unwrap();
        let kinds = [
            Numbers::None,
            Numbers::Count { count: 7, limit: 5 },
            Numbers::Probes(tally),
            Numbers::Rate { exceeded: Exceeded::Failures(threshold), tally },
            Numbers::Rate { exceeded: Exceeded::SlowCalls(threshold), tally },
        ];
        let mut history = History::default();
        let changes: Vec<_> = (1..)
            .zip(kinds)
            .map(|(generation, numbers)| Transition { numbers, ..trip(9, generation) })
            .collect();
        note(&mut history, &changes);
        assert_eq!(history.transitions(), changes);
        assert!(history.encode().len() <= LONGEST);
        for cause in Cause::ALL {
            for (from, to) in State::ALL.into_iter().flat_map(|from| State::ALL.map(|to| (from, to))) {
                let mut history = History::default();
                note(&mut history, &[change(3, 1, from, to, cause)]);
                assert_eq!(history.transitions(), [change(3, 1, from, to, cause)]);
            }
        }
    }

    #[test]
    fn clocks_that_disagree_make_no_time() {
        let mut history = History::default();
        let early = Transition { at: just_after(ms(1)), ..probing(0, 2) };
        assert_eq!(note(&mut history, &[trip(5, 1), early])[1], lasted(Some(0), None));
    }

    #[test]
    fn bytes_that_nobody_wrote_are_nothing_remembered() {
        let mut history = History::default();
        note(&mut history, &[trip(0, 1), probing(100, 2)]);
        let good = history.encode().to_vec();
        for len in 0..good.len() {
            assert_eq!(History::decode(&good[..len]).transitions(), []);
        }
        for (place, byte) in [(0, 2), (9, 6), (27, 3), (28, 3), (29, 8), (30, 5)] {
            let mut bad = good.clone();
            bad[place] = byte;
            let mut history = History::decode(&bad);
            assert_eq!(history.transitions(), [], "{place}");
            assert_eq!(note(&mut history, &[verdict(110, 3, State::Closed)]), [lasted(None, None)]);
        }
        assert_eq!(History::decode(&[0; LONGEST + 1]), History::default());
    }
}
