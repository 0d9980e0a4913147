//! The breaker once more, written as simply as can be: a list of what happened since the last transition, from which
//! every question is answered by looking through the whole of it.

pub mod ask;
pub mod budget;
pub mod grant;
pub mod room;
mod verdicts;
mod window;

use crate::view;
use resilience_core::breaker::{
    Admission, Cause, Command, Numbers, Outcome, Owner, Probe, Settings, Shape, State, Tally, Ticket,
    Transition,
};
use resilience_core::members::Standing;
use resilience_core::time::Timestamp;
use window::{Window, exceeded, failed, tally};

/// A breaker that closed further ahead of whoever reads it is not believed to have just closed.
const AHEAD: u64 = 60_000_000_000;

/// What a reference breaker was told while closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Seen {
    Success,
    /// When, and how many moments the configuration that reported it asks about.
    Failure(u64, u16),
}

/// What became of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Sent(Probe),
    Answered(Probe, Outcome),
    Reclaimed(Probe),
}

#[derive(Clone, PartialEq, Debug, Default)]
struct Closed {
    seen: Vec<Seen>,
    window: Option<Window>,
    since: Option<u64>,
    held: Option<u64>,
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Closed),
    Open { until: u64 },
    HalfOpen { until: u64, permitted: u32, deciding: u32, steps: Vec<Step> },
}

/// The reference breaker.
#[derive(Clone, Debug)]
pub struct Model {
    generation: u64,
    probes: u32,
    trips: u32,
    phase: Phase,
    /// The end of a wait that was chosen at random, as somebody else reads it; whether it can be is judged here.
    pub chosen: Option<u64>,
}

/// What a worker that has read the breaker may go by for a while.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Belief {
    known: (u64, State),
    until: Option<u64>,
    closed: Option<Settled>,
}

/// What a closed breaker shows: whether it is clean, the shape of its window, since when, and held until when.
type Settled = (bool, Option<Shape>, Option<u64>, Option<u64>);

fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Model {
    /// A closed breaker that has seen nothing.
    #[must_use]
    pub fn fresh(generation: u64) -> Self {
        Self { generation, probes: 0, trips: 0, phase: Phase::Closed(Closed::default()), chosen: None }
    }

    /// The same after a module that knows nothing of rates and of recovery has moved it on to closed.
    #[must_use]
    pub fn moved_on(&self) -> Self {
        let phase = Phase::Closed(Closed::default());
        Self { generation: self.generation.wrapping_add(2), phase, ..self.clone() }
    }

    /// The same without what further sections say.
    #[must_use]
    pub fn without(&self, rates: bool, recovery: bool) -> Self {
        let mut model = self.clone();
        if recovery {
            model.trips = 0;
        }
        match &mut model.phase {
            Phase::Closed(closed) => {
                if rates {
                    closed.window = None;
                }
                if recovery {
                    (closed.since, closed.held) = (None, None);
                }
            }
            Phase::HalfOpen { deciding, permitted, steps, .. } if rates => {
                *deciding = *permitted;
                for step in steps {
                    if let Step::Answered(probe, outcome) = *step
                        && outcome != Outcome::Ignored
                    {
                        *step = Step::Answered(probe, Outcome::Success);
                    }
                }
            }
            _ => {}
        }
        model
    }

    /// The generation.
    #[must_use]
    pub const fn generation(&self) -> u64 {
        self.generation
    }

    /// The state.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.phase {
            Phase::Closed(_) => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::HalfOpen { .. } => State::HalfOpen,
        }
    }

    /// The end of the wait or of the stay.
    #[must_use]
    pub const fn until(&self) -> Option<u64> {
        match self.phase {
            Phase::Closed(_) => None,
            Phase::Open { until } | Phase::HalfOpen { until, .. } => Some(until),
        }
    }

    /// How many probes this stay in half-open permits.
    #[must_use]
    pub const fn permitted(&self) -> Option<u32> {
        match self.phase {
            Phase::HalfOpen { permitted, .. } => Some(permitted),
            _ => None,
        }
    }

    /// The share of requests that a closed breaker lets in; `None` for all of them.
    #[must_use]
    pub fn share(&self, s: &Settings, now: u64) -> Option<f64> {
        let Phase::Closed(Closed { since: Some(since), .. }) = self.phase else { return None };
        let ramp = s.ramp_up?;
        let (passed, whole) = (now.saturating_sub(since) as f64, nanos(ramp.duration) as f64);
        let first = f64::from(ramp.initial.get()) / 100.0;
        (passed < whole).then(|| first + (1.0 - first) * passed / whole)
    }

    /// What a worker may go by that has read this at `now`; two that are alike need not be told apart.
    #[must_use]
    pub fn belief(&self) -> Belief {
        let known = (self.generation, self.state());
        match &self.phase {
            Phase::Closed(closed) => {
                let window = closed.window.as_ref();
                let clean = Self::consecutive(&closed.seen) == 0 && window.is_none_or(Window::is_saturated);
                let closed = (clean, window.map(Window::shape), closed.since, closed.held);
                Belief { known, until: None, closed: Some(closed) }
            }
            Phase::Open { until } => Belief { known, until: Some(*until), closed: None },
            Phase::HalfOpen { until, permitted, .. } => {
                Belief { known, until: (self.used() >= *permitted).then_some(*until), closed: None }
            }
        }
    }

    /// The probes that are out.
    #[must_use]
    pub fn out(&self) -> Vec<Probe> {
        let Phase::HalfOpen { steps, .. } = &self.phase else { return Vec::new() };
        let mut out = Vec::new();
        for step in steps {
            match step {
                Step::Sent(probe) => out.push(*probe),
                Step::Answered(gone, _) | Step::Reclaimed(gone) => out.retain(|probe| probe != gone),
            }
        }
        out
    }

    fn answers(&self) -> Tally {
        let Phase::HalfOpen { steps, .. } = &self.phase else { return tally(std::iter::empty()) };
        tally(steps.iter().filter_map(|step| match step {
            Step::Answered(_, outcome) => Some(*outcome),
            _ => None,
        }))
    }

    fn used(&self) -> u32 {
        self.answers().calls + self.out().len() as u32
    }

    /// Whether every place of a stay in half-open is taken.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.permitted().is_some_and(|permitted| self.used() >= permitted)
    }

    /// Whether a probe was sent in this stay and its place given to others.
    #[must_use]
    pub fn was_reclaimed(&self, probe: Probe) -> bool {
        matches!(&self.phase, Phase::HalfOpen { steps, .. } if steps.contains(&Step::Reclaimed(probe)))
    }

    /// As somebody reads it at `now`.
    #[must_use]
    pub fn read(&self, now: u64) -> Self {
        // Whoever was held up for long does not believe in a moment so far ahead, and starts afresh.
        let ahead = |since: u64| since.saturating_sub(now) > AHEAD;
        let closed_ahead =
            matches!(self.phase, Phase::Closed(Closed { since: Some(since), .. }) if ahead(since));
        let mut model = if closed_ahead { self.without(false, true) } else { self.clone() };
        if let Phase::Closed(Closed { window, .. }) = &mut model.phase {
            *window = window.take().filter(|window| window.is_believed(now));
        }
        model
    }

    /// What a configuration makes of the window before it does anything else.
    pub fn adopt(&mut self, s: &Settings, standing: Standing) {
        let Phase::Closed(Closed { window, .. }) = &mut self.phase else { return };
        match (standing, s.rates) {
            (Standing::Superseded, _) | (Standing::Newest, None) => {}
            (Standing::Alone, None) => *window = None,
            (Standing::Newest | Standing::Alone, Some(rates)) => {
                if let Some(window) = window.as_mut().filter(|window| !window.has(rates.window)) {
                    window.reshape(rates.window);
                }
            }
        }
    }

    /// Decides over a request.
    pub fn admit(&mut self, s: &Settings, owner: Owner, now: u64, told: &mut Vec<Transition>) -> Admission {
        self.end_stay(s, now, told);
        if let Phase::Open { until } = self.phase {
            if now <= until {
                return Admission::Refused { wait: Some(std::time::Duration::from_nanos(until - now)) };
            }
            let until = now.saturating_add(nanos(s.max_wait_duration_in_half_open_state));
            let permitted = s.permitted_number_of_calls_in_half_open_state;
            let deciding = match s.rates {
                Some(rates) if rates.minimum_number_of_calls < permitted => rates.minimum_number_of_calls,
                _ => permitted,
            };
            let phase = Phase::HalfOpen { until, permitted, deciding, steps: Vec::new() };
            self.go(now, phase, Cause::WaitOver, Numbers::None, told);
        }
        let (used, probe) = (self.used(), Probe { owner, id: self.probes });
        match &mut self.phase {
            Phase::HalfOpen { permitted, .. } if used >= *permitted => Admission::Refused { wait: None },
            Phase::HalfOpen { steps, .. } => {
                steps.push(Step::Sent(probe));
                self.probes = self.probes.wrapping_add(1);
                Admission::Admitted(Ticket { generation: self.generation, probe: Some(probe) })
            }
            _ => Admission::Admitted(Ticket { generation: self.generation, probe: None }),
        }
    }

    /// Does what an operator says.
    pub fn force(&mut self, command: Command, now: u64, told: &mut Vec<Transition>) {
        let phase = match command {
            Command::Open(span) => Phase::Open { until: now.saturating_add(nanos(span)) },
            Command::Close(span) => {
                let held = Some(now.saturating_add(nanos(span)));
                Phase::Closed(Closed { held, ..Closed::default() })
            }
            Command::Reset => Phase::Closed(Closed::default()),
        };
        if matches!(phase, Phase::Closed(_)) {
            self.trips = 0;
        }
        self.go(now, phase, Cause::Forced, Numbers::None, told);
    }

    /// A leader's housekeeping: the end of a stay, and the probes of those that were found dead.
    pub fn maintain(&mut self, s: &Settings, now: u64, dead: &[Owner], told: &mut Vec<Transition>) {
        self.end_stay(s, now, told);
        let out = self.out();
        if let Phase::HalfOpen { steps, .. } = &mut self.phase {
            let lost = out.into_iter().filter(|probe| dead.contains(&probe.owner));
            steps.extend(lost.map(Step::Reclaimed));
        }
    }

    fn end_stay(&mut self, s: &Settings, now: u64, told: &mut Vec<Transition>) {
        if let Phase::HalfOpen { until, .. } = self.phase
            && now > until
        {
            self.open(s, until, Cause::HalfOpenTimeout, Numbers::None, told);
        }
    }

    fn go(&mut self, at: u64, phase: Phase, cause: Cause, numbers: Numbers, told: &mut Vec<Transition>) {
        let (at, from) = (Timestamp::from_nanos(at), self.state());
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        told.push(Transition { at, from, to: self.state(), cause, generation: self.generation, numbers });
    }

    /// What must stand in the store.
    #[must_use]
    pub fn shape(&self) -> view::Breaker {
        let phase = match &self.phase {
            Phase::Closed(Closed { seen, window, since, held }) => {
                let (capacity, failures) = Self::known(seen);
                let window = window.as_ref().map(Window::shown);
                let (consecutive, since, held) = (Self::consecutive(seen), *since, *held);
                view::Phase::Closed { consecutive, capacity, failures, window, since, held }
            }
            Phase::Open { until } => view::Phase::Open { until: *until },
            Phase::HalfOpen { until, permitted, deciding, .. } => {
                let mut probes: Vec<_> =
                    self.out().into_iter().map(|probe| (probe.owner.0, probe.id)).collect();
                probes.sort_unstable();
                let Tally { calls, failed, slow } = self.answers();
                let (until, permitted, deciding) = (*until, *permitted, *deciding);
                view::Phase::HalfOpen { until, permitted, deciding, answers: [calls, failed, slow], probes }
            }
        };
        view::Breaker { generation: self.generation, next_probe: self.probes, trips: self.trips, phase }
    }
}
