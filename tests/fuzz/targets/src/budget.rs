//! Any bytes as a policy's value in shared data, and what workers of any configurations then do to the retry budget in it.

use crate::input::Input;
use crate::state::LONGEST_VALUE;
use resilience_core::breaker::Owner;
use resilience_core::budget::{Budget, Grant, Reserve, Settings, Spent};
use resilience_core::retry::{Denied, Wanted, Wish};
use resilience_core::state::State;
use resilience_core::time::Timestamp;
use std::time::Duration;

/// More steps than this reach nothing new.
const STEPS: usize = 64;
/// How many VMs take part. Others may stand in the value.
const VMS: u8 = 4;
/// In millionths of a percent.
const PERCENT: [u32; 6] = [0, 1, 20_000_000, 33_333_333, 50_000_000, 100_000_000];
const FLOORS: [u32; 4] = [0, 1, 10, 10_000];
/// In milliseconds.
const TTLS: [u64; 4] = [1_000, 1_500, 10_000, 60_000];
const CAPS: [Option<u32>; 5] = [None, Some(1), Some(5), Some(100), Some(1_000_000)];
/// How often routers really retry.
const MADE: [u32; 8] = [0, 0, 1, 2, 3, 255, 100_000, u32::MAX];
/// Longer than anything is remembered: the longest window, with its slices as late as they can be.
const LONG: Duration = Duration::from_secs(130);
/// Later than this, windows no longer fit the clock.
const LATE: Timestamp = Timestamp::from_nanos(u64::MAX / 2);

/// Reads the value that the bytes begin with, takes the steps that the rest describes, and looks at what came of it.
///
/// # Panics
/// If the value does not survive its own bytes or outgrows its limit, more is granted than there is, what is kept is not what was
/// granted, a cap is exceeded, or retries never come back.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = input.timestamp();
    let value = input.value();
    let given = (!value.is_empty()).then_some(value.as_slice());
    let known = given.is_none();
    let mut play = Play { state: State::decode(given, now), now, latest: now, kept: Vec::new(), known };
    let (settings, cap) = draw(&mut input);
    play.check(&settings, cap);
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
    }
    if play.latest < LATE {
        let (settings, cap) = draw(&mut input);
        play.end(&settings, cap);
    }
}

/// A configuration, and how many retries it allows at once.
fn draw(input: &mut Input<'_>) -> (Settings, Option<u32>) {
    let (percent, floor) = (input.choice(&PERCENT), input.choice(&FLOORS));
    let ttl = Duration::from_millis(input.choice(&TTLS));
    let cap = input.choice(&CAPS);
    (Settings::new(percent, floor, ttl, cap), cap)
}

struct Play {
    state: State,
    now: Timestamp,
    /// The latest moment that anything was decided at.
    latest: Timestamp,
    /// What is kept for requests in flight.
    kept: Vec<Reserve>,
    /// Whether nothing else can stand in the value.
    known: bool,
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        self.now = input.moved(self.now);
        self.latest = self.latest.max(self.now);
        let (settings, cap) = draw(input);
        let owner = Owner(u64::from(input.u8() % VMS));
        match input.u8() % 8 {
            0..=2 => self.enter(input, &settings, owner),
            3 => self.settle(input),
            4 => self.reclaim(owner),
            5 => self.withdraw(&settings),
            6 => self.budget().adopt(&settings),
            // Another worker, or another version of the module, has written in between: nothing is known any more.
            _ => {
                self.state = State::decode(Some(&input.value()), self.now);
                self.kept.clear();
                self.known = false;
            }
        }
        self.check(&settings, cap);
    }

    const fn budget(&mut self) -> &mut Budget {
        &mut self.state.budget
    }

    fn enter(&mut self, input: &mut Input<'_>, settings: &Settings, owner: Owner) {
        let wish = match input.u8() % 4 {
            0 => Wish::Spent,
            1 => Wish::Route,
            _ => Wish::Retries(input.u8()),
        };
        let now = self.now;
        let reserved = self.budget().reserved();
        let mut paid = self.state.budget.clone();
        paid.deposit(settings, now);
        let available = paid.available(settings, now);
        let grant = self.budget().enter(settings, owner, Wanted { wish, denied: None }, now);
        let Grant { retries, uncapped, denied, reserve, on_paper } = grant;
        let kept = reserve.map_or(0, |reserve| reserve.retries());
        assert!(i64::from(kept) <= available.max(0), "{kept} of {available}: {grant:?}");
        assert_eq!((retries, on_paper), (kept, false), "{grant:?}");
        let more = self.budget().reserved() - reserved;
        // What VMs did not make may say of one that it is at its limit.
        assert!(more == i64::from(kept) || !self.known && (0..i64::from(kept)).contains(&more), "{grant:?}");
        match wish {
            Wish::Retries(most) => {
                assert!(retries <= most && !uncapped, "{grant:?}");
                assert_eq!(denied, (retries < most).then_some(Denied::Budget), "{grant:?}");
            }
            // One that is told a number is told one at most, and misses only what it was seen to make.
            Wish::Route => assert!(if uncapped { denied.is_none() } else { retries <= 1 }, "{grant:?}"),
            Wish::Spent => assert_eq!((retries, uncapped), (0, false), "{grant:?}"),
        }
        self.kept.extend(reserve);
    }

    fn settle(&mut self, input: &mut Input<'_>) {
        if self.kept.is_empty() {
            return;
        }
        let reserve = self.kept.swap_remove(usize::from(input.u8()) % self.kept.len());
        let spent = Spent { reserve, retries: input.choice(&MADE) };
        let now = self.now;
        let (before, unchanged) = (self.budget().reserved(), self.state.budget.clone());
        let taken = self.budget().settle(spent, now);
        if taken {
            assert!(self.budget().reserved() <= before, "more is kept than before");
        } else {
            assert_eq!(*self.budget(), unchanged);
        }
        assert!(taken || !self.known, "{spent:?} was forgotten");
    }

    fn reclaim(&mut self, dead: Owner) {
        let now = self.now;
        let before = self.budget().reserved();
        let lost = self.budget().reclaim(|owner| owner == dead, now);
        assert!(self.budget().owners().all(|owner| owner != dead));
        let reserved = self.budget().reserved();
        let (late, kept) =
            std::mem::take(&mut self.kept).into_iter().partition(|it: &Reserve| it.owner() == dead);
        self.kept = kept;
        if self.known {
            assert_eq!(reserved, before - i64::from(lost));
            for reserve in late {
                assert!(!self.budget().settle(Spent { reserve, retries: 1 }, now), "settled twice");
            }
        }
    }

    fn withdraw(&mut self, settings: &Settings) {
        let now = self.now;
        let available = self.budget().available(settings, now);
        let taken = self.budget().withdraw(settings, now);
        assert_eq!(taken, available > 0, "of {available}");
        let left = self.budget().available(settings, now);
        let exact = left == available - i64::from(taken);
        assert!(left <= available && (exact || !self.known), "{left} of {available}");
    }

    /// What is written is what the next worker reads, and nobody sees more than a cap allows.
    fn check(&self, settings: &Settings, cap: Option<u32>) {
        let bytes = self.state.encode();
        assert!(bytes.len() <= LONGEST_VALUE, "{} bytes", bytes.len());
        let again = State::decode(Some(&bytes), self.latest);
        assert_eq!(again.budget, self.state.budget);
        assert_eq!(again.encode(), bytes);
        if self.known {
            let kept: i64 = self.kept.iter().map(|reserve| i64::from(reserve.retries())).sum();
            assert_eq!(self.state.budget.reserved(), kept);
        }
        let mut seen = again.budget;
        let balance = seen.balance(settings, self.now);
        assert!(balance <= cap.map_or(i64::MAX, i64::from), "{balance} by {settings:?}");
    }

    /// Everything ends: after a while there are as many retries as there were at first.
    fn end(mut self, settings: &Settings, cap: Option<u32>) {
        let owners: Vec<_> = self.state.budget.owners().collect();
        owners.into_iter().for_each(|owner| self.reclaim(owner));
        assert_eq!(self.budget().reserved(), 0);
        // By this configuration, in two steps: the present slice lasts as long as anybody looks.
        self.budget().adopt(settings);
        let mut now = self.latest;
        for _ in 0..2 {
            now = now.after(LONG);
            self.budget().balance(settings, now);
        }
        assert_eq!(self.budget().available(settings, now), settings.at_birth());
        (self.now, self.latest) = (now, now);
        self.check(settings, cap);
    }
}
