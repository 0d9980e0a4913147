//! What a line says.

use super::Due;
use crate::answer::Reason;
use crate::breaker::{Phase, State as BreakerState};
use crate::config::Policy;
use crate::decision::state_by_mode;
use crate::state::State;
use crate::time::Timestamp;
use crate::worker::{Port, Target, Worker};
use std::fmt::{self, Write as _};

/// A request's identity is not longer in a line.
const LONGEST_ID: usize = 64;

/// One line.
#[derive(Clone, Copy, Debug)]
pub struct Line<'a> {
    /// What is said.
    pub due: Due,
    /// The policy, and the key where there is one.
    pub name: &'a str,
    /// What [`numbers`] has found.
    pub numbers: &'a Numbers,
    /// Which request it was; `None` for what was held back.
    pub request_id: Option<&'a str>,
}

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { due: Due { reason, held_back, .. }, name, numbers, request_id } = self;
        write!(f, "{name}: refused reason={reason}{} held_back={held_back}", numbers.0)?;
        request_id.map_or(Ok(()), |id| write!(f, " request_id={id}"))
    }
}

/// What stood in the shared state when a line was written, each behind a space.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Numbers(String);

/// What there is to say of a refusal: the state is read once more, a moment later, because a line is rare and refusals are not.
#[must_use]
pub fn numbers<P: Port + ?Sized>(
    port: &mut P,
    worker: &mut Worker,
    policies: &[Policy],
    target: Target,
    reason: Reason,
    now: Timestamp,
) -> Numbers {
    let mut text = String::new();
    let Some(policy) = policies.get(target.policy) else { return Numbers(text) };
    // Writing to a string does not fail.
    let _ = match reason {
        Reason::CircuitOpen => breaker(&mut text, policy, worker.peek(port, target, now), now),
        Reason::BulkheadFull => bulkhead(&mut text, policy, worker.peek(port, target, now)),
        Reason::DependencyOpen => {
            let open = open_dependency(port, worker, policies, policy, now);
            write!(text, " dependency={}", open.map_or("_", |needed| &needed.name))
        }
        Reason::DeadlineExceeded => deadline(&mut text, policy),
        Reason::UpstreamFailure | Reason::ConnectFailure | Reason::Reset | Reason::Timeout => Ok(()),
    };
    Numbers(text)
}

/// The first policy that this one needs whose breaker is open.
fn open_dependency<'p, P: Port + ?Sized>(
    port: &mut P,
    worker: &mut Worker,
    policies: &'p [Policy],
    policy: &Policy,
    now: Timestamp,
) -> Option<&'p Policy> {
    let mut is_open = |index, needed| match state_by_mode(needed) {
        Some(state) => state == BreakerState::Open,
        None => worker.open_for(port, Target::whole(index), now).is_some(),
    };
    let needed = policy.when_open.iter().filter_map(|index| Some((*index, policies.get(*index)?)));
    needed.into_iter().find(|(index, needed)| is_open(*index, *needed)).map(|(_, needed)| needed)
}

fn breaker(text: &mut String, policy: &Policy, state: Option<State>, now: Timestamp) -> fmt::Result {
    if let Some(state) = state_by_mode(policy) {
        return write!(text, " breaker={state} cause=mode");
    }
    let Some(State { breaker, history, .. }) = state else { return Ok(()) };
    let state = breaker.phase().state();
    write!(text, " breaker={state}")?;
    match breaker.phase() {
        Phase::Open { until } => write!(text, " wait_ms={}", until.since(now).as_millis())?,
        Phase::HalfOpen(probing) => {
            write!(text, " probes={} permitted={}", probing.taken(), probing.permitted)?
        }
        Phase::Closed(_) => {}
    }
    // What has led out of closed says why; failed probes since only say that it is not over.
    let transitions = history.transitions();
    let opened = || transitions.iter().rev().filter(|change| change.to == BreakerState::Open);
    let tripped = opened().find(|change| change.from == BreakerState::Closed);
    let Some(last) = tripped.or_else(|| opened().next()) else { return Ok(()) };
    write!(text, " cause={}{}", last.cause, last.numbers)
}

fn bulkhead(text: &mut String, policy: &Policy, state: Option<State>) -> fmt::Result {
    let Some(settings) = policy.bulkhead.as_ref().map(|bulkhead| &bulkhead.settings) else { return Ok(()) };
    if let Some(state) = state {
        let (in_flight, waiting) = (state.bulkhead.in_flight(), state.bulkhead.waiting());
        write!(text, " in_flight={in_flight} waiting={waiting}")?;
    }
    write!(text, " limit={}", settings.max_concurrent_calls)?;
    settings.queue.map_or(Ok(()), |queue| write!(text, " max_queue={}", queue.max_queue))
}

fn deadline(text: &mut String, policy: &Policy) -> fmt::Result {
    let Some(settings) = policy.timeout.as_ref().map(|timeout| &timeout.settings) else { return Ok(()) };
    if let Some(total) = settings.total {
        write!(text, " total_ms={}", total.as_millis())?;
    }
    write!(text, " margin_ms={}", settings.margin.as_millis())
}

/// A request's identity as a line may hold it: a client may have made it up.
#[must_use]
pub fn request_id(bytes: &[u8]) -> String {
    let plain = |byte: &u8| {
        let byte = char::from(*byte);
        if byte.is_ascii_alphanumeric() || "-_.:".contains(byte) { byte } else { '_' }
    };
    bytes.iter().take(LONGEST_ID).map(plain).collect()
}
