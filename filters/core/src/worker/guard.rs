//! The state of a policy, or of a key within it, as a worker sees it, and what the worker believes of its breaker.

use super::{Port, Target};
use crate::breaker::{Admission, Phase, Settings, Shape, State as BreakerState, Ticket};
use crate::members::Standing;
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::Unavailable;
use crate::time::Timestamp;
use std::time::Duration;

/// For how long a VM believes what it last read while the policy's change counter stands still. The counter says at once
/// that something changed; this bounds the harm where a VM died between its write and the counter.
const BELIEF: Duration = Duration::from_millis(100);

/// A state as a worker sees it.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) key: Vec<u8>,
    pub(super) belief: Option<Belief>,
    /// The last generation and state seen: what stands in when the store does not answer.
    pub(super) generation: u64,
    pub(super) state: BreakerState,
    /// Whether one of the next calls may well be the one that changes it, by what was seen last.
    pub(super) near_a_change: bool,
    /// As a leader: as far as it knows, nobody has written the state yet.
    pub(super) untouched: bool,
    /// As a leader: it has shown that once.
    pub(super) shown: bool,
    /// This VM has had a hand in what is in flight.
    pub(super) used: bool,
    pub(super) ramp: Ramp,
}

/// How much of a request a ramp has let in and not yet used.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Ramp(f64);

impl Ramp {
    /// Lets in every so manieth request, so that the shares of all workers make up the share of the whole.
    pub(super) fn lets_in(&mut self, settings: &Settings, since: Option<Timestamp>, now: Timestamp) -> bool {
        let share = settings.ramp_up.zip(since).and_then(|(ramp, since)| ramp.share(since, now));
        let Some(share) = share else { return true };
        self.0 += share;
        let enough = self.0 >= 1.0 || active(Bug::RampForgotten);
        if enough {
            self.0 -= 1.0;
        }
        enough
    }
}

/// What the worker last read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    changes: u64,
    until: Timestamp,
    view: View,
}

/// What decides over requests without being changed by them.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum View {
    Closed {
        ticket: Ticket,
        clean: bool,
        /// The shape of the window of calls, if one is kept.
        window: Option<Shape>,
        since: Option<Timestamp>,
        held_until: Option<Timestamp>,
    },
    Open {
        until: Timestamp,
    },
    /// Half-open with every place taken.
    Full {
        until: Timestamp,
    },
}

impl View {
    /// `None` for a state that only a write can decide over.
    pub(super) fn of(state: &State) -> Option<Self> {
        let breaker = &state.breaker;
        match breaker.phase() {
            _ if state.repaired => None,
            Phase::Closed(closed) => Some(Self::Closed {
                ticket: Ticket { generation: breaker.generation(), probe: None },
                clean: closed.evidence.is_clean(),
                window: closed.evidence.shape(),
                since: closed.since,
                held_until: closed.held_until,
            }),
            Phase::Open { until } => Some(Self::Open { until: *until }),
            Phase::HalfOpen(_) => breaker.full_until().map(|until| Self::Full { until }),
        }
    }

    /// Whether a success under `ticket` would change nothing.
    pub(super) fn absorbs_success(
        self,
        settings: &Settings,
        standing: Standing,
        ticket: Ticket,
        now: Timestamp,
    ) -> bool {
        match self {
            Self::Closed { clean, window, ticket: present, held_until, .. } => {
                let held = held_until.is_some_and(|until| now <= until);
                // Who asks for a rate begins the window, or gives it its shape: a success counts from the first one on.
                let counted = settings.rates.is_none_or(|rates| {
                    window.map_or(active(Bug::FirstSuccessLost), |shape| {
                        standing == Standing::Superseded || shape.is_like(rates.window)
                    })
                });
                (clean && counted) || held || present.generation != ticket.generation
            }
            Self::Open { .. } | Self::Full { .. } => true,
        }
    }
}

impl Guard {
    pub(super) const fn new(key: Vec<u8>) -> Self {
        Self {
            key,
            belief: None,
            generation: 0,
            state: BreakerState::Closed,
            near_a_change: false,
            untouched: true,
            shown: false,
            used: false,
            ramp: Ramp(0.0),
        }
    }

    /// What a request gets, where `view` decides without being changed.
    pub(super) fn admission(&mut self, settings: &Settings, view: View, now: Timestamp) -> Option<Admission> {
        match view {
            View::Closed { ticket, since, .. } => Some(if self.ramp.lets_in(settings, since, now) {
                Admission::Admitted(ticket)
            } else {
                Admission::Refused { wait: None }
            }),
            View::Open { until } => {
                waits(until, now).then(|| Admission::Refused { wait: Some(until.since(now)) })
            }
            View::Full { until } => (now <= until).then_some(Admission::Refused { wait: None }),
        }
    }

    /// What the worker believes, if nothing says otherwise.
    pub(super) fn believed(&self, changes: Option<u64>, now: Timestamp) -> Option<View> {
        self.belief
            .filter(|belief| Some(belief.changes) == changes)
            .filter(|belief| now <= belief.until || active(Bug::EndlessBelief))
            .map(|belief| belief.view)
    }

    /// Reads the state and believes it from now on. `changes` must have been read before: whatever is written in between
    /// then shows. `None` for a state that only a write can decide over.
    pub(super) fn read<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        settings: &Settings,
        changes: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<View>, Unavailable> {
        let found = port.get(&self.key)?;
        let state = State::read(found.as_ref(), now);
        (self.generation, self.state) = (state.breaker.generation(), state.breaker.phase().state());
        self.near_a_change = state.breaker.is_near_a_change(settings, now);
        let view = View::of(&state);
        self.believe(view, changes, now);
        Ok(view)
    }

    /// Believes what was read after `changes`.
    pub(super) fn believe(&mut self, view: Option<View>, changes: Option<u64>, now: Timestamp) {
        self.belief =
            view.zip(changes).map(|(view, changes)| Belief { changes, until: now.after(BELIEF), view });
    }

    /// What the worker believes, or else reads.
    pub(super) fn look<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        settings: &Settings,
        target: Target,
        now: Timestamp,
    ) -> Result<Option<View>, Unavailable> {
        let changes = port.changes(target);
        match self.believed(changes, now) {
            Some(view) => Ok(Some(view)),
            None => self.read(port, settings, changes, now),
        }
    }
}

/// Whether an open wait goes on: refusal ends strictly after its last moment.
fn waits(until: Timestamp, now: Timestamp) -> bool {
    now < until || (now == until && !active(Bug::InclusiveWait))
}
