//! What the tests of several modules need.

use crate::breaker::{Admission, FailuresInWindow, Outcome, Owner, Recorded, Settings, Ticket, Transition};
use crate::breaker::{Breaker, Phase, State};
use crate::bulkhead::{Address, Bulkhead, Claim, Permit, Turn, Wake};
use crate::time::Timestamp;
use std::time::Duration;

pub(crate) const ME: Owner = Owner(1);

/// A moment by its milliseconds.
pub(crate) fn ms(millis: u64) -> Timestamp {
    Timestamp::from_nanos(0).after(Duration::from_millis(millis))
}

/// The moment one nanosecond later.
pub(crate) fn just_after(moment: Timestamp) -> Timestamp {
    moment.after(Duration::from_nanos(1))
}

/// Trips at the third failure in a row, waits 30 s, permits 2 probes for 15 s.
pub(crate) fn settings() -> Settings {
    Settings {
        consecutive_failures: Some(3),
        failures_in_window: None,
        rates: None,
        slow_call_duration_threshold: None,
        wait_duration_growth: None,
        ramp_up: None,
        wait_duration_in_open_state: Duration::from_secs(30),
        permitted_number_of_calls_in_half_open_state: 2,
        max_wait_duration_in_half_open_state: Duration::from_secs(15),
    }
}

/// As [`settings`], with another trigger.
pub(crate) fn windowed(failures: u16, window: Duration) -> Settings {
    Settings {
        consecutive_failures: None,
        failures_in_window: Some(FailuresInWindow { failures, window }),
        ..settings()
    }
}

/// A breaker, its settings, and all that happened to it.
pub(crate) struct Rig {
    pub(crate) breaker: Breaker,
    pub(crate) settings: Settings,
    pub(crate) log: Vec<Transition>,
}

impl Rig {
    pub(crate) fn new(settings: Settings) -> Self {
        Self { breaker: Breaker::closed(0), settings, log: Vec::new() }
    }

    pub(crate) fn admit(&mut self, now: Timestamp) -> Admission {
        self.breaker.admit(&self.settings, ME, now, &mut self.log)
    }

    /// The ticket of a request that must be let in.
    pub(crate) fn enter(&mut self, now: Timestamp) -> Ticket {
        let admission = self.admit(now);
        let Admission::Admitted(ticket) = admission else { panic!("refused at {now:?}: {admission:?}") };
        ticket
    }

    pub(crate) fn record(&mut self, ticket: &Ticket, outcome: Outcome, now: Timestamp) -> Recorded {
        self.breaker.record(&self.settings, ticket, outcome, now, &mut self.log)
    }

    /// One request from admission to its outcome, all at one moment.
    pub(crate) fn request(&mut self, outcome: Outcome, now: Timestamp) {
        let ticket = self.enter(now);
        assert_eq!(self.record(&ticket, outcome, now), Recorded::Counted);
    }

    pub(crate) fn fail(&mut self, now: Timestamp) {
        self.request(Outcome::Failure, now);
    }

    pub(crate) fn state(&self) -> State {
        self.breaker.phase().state()
    }

    /// Trips the breaker of [`settings`] at `now`.
    pub(crate) fn trip(&mut self, now: Timestamp) {
        while self.state() == State::Closed {
            self.fail(now);
        }
        assert_eq!(self.state(), State::Open);
    }
}

impl Breaker {
    /// Whether another success would change nothing.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self.phase(), Phase::Closed(closed) if closed.evidence.is_clean())
    }
}

/// The breaker as others read it: all its sections.
pub(crate) fn round_trip(breaker: &Breaker, now: Timestamp) -> Option<Breaker> {
    let mut bytes = [const { Vec::new() }; 3];
    let [state, rates, recovery] = &mut bytes;
    breaker.encode(state);
    breaker.encode_rates(rates);
    breaker.encode_recovery(recovery);
    let mut read = Breaker::decode(state)?;
    if !rates.is_empty() {
        read.decode_rates(rates, now)?;
    }
    if !recovery.is_empty() {
        read.decode_recovery(recovery, now)?;
    }
    Some(read)
}

/// A VM with a shared queue of its own, by its number.
pub(crate) fn vm(number: u32) -> Address {
    Address { owner: Owner(u64::from(number)), queue: number.saturating_mul(10) }
}

pub(crate) const fn claim(rank: u8, limit: u32) -> Claim {
    Claim { rank, limit }
}

/// A bulkhead and the messages that nobody has read yet.
#[derive(Default)]
pub(crate) struct Line {
    pub(crate) bulkhead: Bulkhead,
    pub(crate) wakes: Vec<Wake>,
}

impl Line {
    /// The permit of a request that must be let in.
    pub(crate) fn enter(&mut self, number: u32, claim: Claim) -> Permit {
        self.bulkhead.enter(vm(number), claim).expect("a permit")
    }

    pub(crate) fn wait(&mut self, number: u32, id: u32, claim: Claim, max_queue: u16) -> bool {
        self.bulkhead.enqueue(vm(number), id, claim, max_queue, &mut self.wakes)
    }

    /// The permit of a waiter that must have one.
    pub(crate) fn take_up(&mut self, number: u32, id: u32) -> Permit {
        match self.bulkhead.take_up(vm(number), id) {
            Turn::Granted(permit) => permit,
            turn => panic!("{turn:?}"),
        }
    }

    /// Whether there was such a permit, and who is told.
    pub(crate) fn release(&mut self, permit: Permit) -> (bool, Vec<Wake>) {
        self.wakes.clear();
        (self.bulkhead.release(permit, &mut self.wakes), self.wakes())
    }

    /// The messages since the last time anybody asked.
    pub(crate) fn wakes(&mut self) -> Vec<Wake> {
        std::mem::take(&mut self.wakes)
    }
}
