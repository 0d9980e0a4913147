//! A policy as a worker sees it, and what the worker believes of its state.

use super::Port;
use crate::breaker::{Admission, Phase, Settings, State as BreakerState, Ticket};
use crate::planted::{Bug, active};
use crate::state::State;
use crate::store::Unavailable;
use crate::time::Timestamp;
use std::time::Duration;

/// For how long a VM believes what it last read while the policy's change counter stands still. The counter says at once
/// that something changed; this bounds the harm where a VM died between its write and the counter.
const BELIEF: Duration = Duration::from_millis(100);

/// A policy as a worker sees it.
#[derive(Debug)]
pub(super) struct Guard {
    pub(super) key: Vec<u8>,
    pub(super) settings: Settings,
    pub(super) belief: Option<Belief>,
    /// The last generation and state seen: what stands in when the store does not answer.
    pub(super) generation: u64,
    pub(super) state: BreakerState,
    /// As a leader: as far as it knows, nobody has written the state yet.
    pub(super) untouched: bool,
    /// As a leader: it has shown that once.
    pub(super) shown: bool,
}

/// What the worker last read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Belief {
    changes: u64,
    until: Timestamp,
    view: View,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum View {
    Closed {
        ticket: Ticket,
        clean: bool,
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
    /// What a request gets, where this state decides without being changed.
    pub(super) fn admission(self, now: Timestamp) -> Option<Admission> {
        match self {
            Self::Closed { ticket, .. } => Some(Admission::Admitted(ticket)),
            Self::Open { until } => {
                waits(until, now).then(|| Admission::Refused { wait: Some(until.since(now)) })
            }
            Self::Full { until } => (now <= until).then_some(Admission::Refused { wait: None }),
        }
    }
}

impl Guard {
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
        changes: Option<u64>,
        now: Timestamp,
    ) -> Result<Option<View>, Unavailable> {
        let found = port.get(&self.key)?;
        let state = State::decode(found.as_ref().map(|found| found.bytes.as_slice()), now);
        let breaker = &state.breaker;
        (self.generation, self.state) = (breaker.generation(), breaker.phase().state());
        let view = match breaker.phase() {
            _ if state.repaired => None,
            Phase::Closed(_) => Some(View::Closed {
                ticket: Ticket { generation: breaker.generation(), probe: None },
                clean: breaker.is_clean(),
            }),
            Phase::Open { until } => Some(View::Open { until: *until }),
            Phase::HalfOpen { .. } => breaker.full_until().map(|until| View::Full { until }),
        };
        self.belief =
            view.zip(changes).map(|(view, changes)| Belief { changes, until: now.after(BELIEF), view });
        Ok(view)
    }
}

/// Whether an open wait goes on: refusal ends strictly after its last moment.
fn waits(until: Timestamp, now: Timestamp) -> bool {
    now < until || (now == until && !active(Bug::InclusiveWait))
}
