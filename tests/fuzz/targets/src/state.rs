//! Any bytes as a policy's value in shared data, and what the workers of any configuration then do to it.

use crate::input::Input;
use resilience_core::breaker::{Admission, LONGEST, Outcome, Owner, Phase, Settings, Ticket};
use resilience_core::config::Document;
use resilience_core::state::State;
use resilience_core::time::Timestamp;
use std::sync::LazyLock;
use std::time::Duration;

/// Breakers of every kind; a new key of the configuration belongs here.
const CONFIGURATIONS: &[u8] = include_bytes!("../../breakers.json");

/// No value of a policy is longer, in bytes: the sections of this version, and those of others with their heads.
pub(crate) const LONGEST_VALUE: usize = 2 + 5 * (4 + 65_535) + 64 * 1024;
/// More steps than this reach nothing new.
const STEPS: usize = 32;
/// Later than this, waits no longer fit the clock.
const LATE: Timestamp = Timestamp::from_nanos(u64::MAX / 2);
/// More good answers than any configuration asks for.
const PATIENCE: usize = 4000;

static SETTINGS: LazyLock<Vec<Settings>> = LazyLock::new(|| {
    let document = Document::parse(CONFIGURATIONS).expect("breakers.json is a configuration");
    document.policies.iter().filter_map(|policy| Some(policy.shared(0)?.patterns.breaker?.settings)).collect()
});

/// Reads the value that the bytes begin with, takes the steps that the rest describes, and looks at what came of it.
///
/// # Panics
/// If the value does not survive its own bytes, outgrows its limit, or leaves the breaker stuck.
pub fn check(bytes: &[u8]) {
    let mut input = Input::new(bytes);
    let now = input.timestamp();
    let value = input.value();
    let given = (!value.is_empty()).then_some(value.as_slice());
    let mut play = Play { state: State::decode(given, now), now, latest: now, tickets: Vec::new() };
    play.check();
    for _ in 0..STEPS {
        if input.is_empty() {
            break;
        }
        play.step(&mut input);
        play.check();
    }
    if play.latest < LATE {
        play.close(&SETTINGS[usize::from(input.u8()) % SETTINGS.len()]);
    }
}

struct Play {
    state: State,
    now: Timestamp,
    /// The latest moment that anything was decided at.
    latest: Timestamp,
    tickets: Vec<Ticket>,
}

impl Play {
    fn step(&mut self, input: &mut Input<'_>) {
        self.now = input.moved(self.now);
        self.latest = self.latest.max(self.now);
        let now = self.now;
        let settings = &SETTINGS[usize::from(input.u8()) % SETTINGS.len()];
        let breaker = &mut self.state.breaker;
        let mut told = Vec::new();
        match input.u8() % 8 {
            0..=2 => self.admit(settings, Owner(u64::from(input.u8() % 4)), 1),
            // Many at once, as far as limits lie.
            3 => self.admit(settings, Owner(input.u64()), usize::from(input.u8()) * 32),
            4 => {
                let outcome = input.choice(&[Outcome::Success, Outcome::Failure, Outcome::Ignored]);
                self.record(settings, outcome, 1 + usize::from(input.u8()));
            }
            5 => {
                let dead = Owner(u64::from(input.u8() % 4));
                breaker.reclaim(|owner| owner == dead);
            }
            6 => breaker.settle(settings, now, &mut told),
            // Another worker, or another version of the module, has written in between.
            _ => self.state = State::decode(Some(&input.value()), now),
        }
    }

    fn admit(&mut self, settings: &Settings, owner: Owner, times: usize) {
        for _ in 0..times {
            let admission = self.state.breaker.admit(settings, owner, self.now, &mut Vec::new());
            if let Admission::Admitted(ticket) = admission {
                self.tickets.push(ticket);
            }
        }
    }

    /// Reports the latest tickets, and the last of them once more.
    fn record(&mut self, settings: &Settings, outcome: Outcome, times: usize) {
        for _ in 0..times {
            let Some(ticket) = self.tickets.pop() else { return };
            for _ in 0..2 {
                self.state.breaker.record(settings, &ticket, outcome, self.now, &mut Vec::new());
            }
        }
    }

    /// What is written is what the next worker reads.
    fn check(&self) {
        let bytes = self.state.encode();
        assert!(bytes.len() <= LONGEST_VALUE, "{} bytes", bytes.len());
        let again = State::decode(Some(&bytes), self.latest);
        assert!(!again.repaired, "what was written cannot be read: {:?}", self.state);
        assert_eq!(again.breaker, self.state.breaker);
        assert_eq!(again.bulkhead, self.state.bulkhead);
        assert_eq!(again.budget, self.state.budget);
        assert_eq!(again.encode(), bytes);
    }

    /// Time and good answers close the breaker, whatever it was.
    fn close(mut self, settings: &Settings) {
        let breaker = &mut self.state.breaker;
        let mut now = self.latest;
        for _ in 0..PATIENCE {
            if matches!(breaker.phase(), Phase::Closed(_)) {
                return;
            }
            match breaker.admit(settings, Owner(9), now, &mut Vec::new()) {
                Admission::Admitted(ticket) => {
                    breaker.record(settings, &ticket, Outcome::Success, now, &mut Vec::new());
                }
                Admission::Refused { wait } => {
                    now = now.after(wait.unwrap_or(LONGEST)).after(Duration::from_nanos(1));
                }
            }
        }
        panic!("stuck: {breaker:?}");
    }
}
