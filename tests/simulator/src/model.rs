//! The breaker once more, written as simply as can be: a list of what happened since the last transition, from which
//! every question is answered by looking through the whole of it.

use crate::view;
use resilience_core::breaker::{
    Admission, Cause, Outcome, Owner, Probe, Recorded, Settings, State, Ticket, Transition,
};

/// What a reference breaker was told while closed.
#[derive(Clone, Copy, Debug)]
enum Seen {
    Success,
    /// When, and how many moments the configuration that reported it asks about.
    Failure(u64, u16),
}

/// What became of a probe.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Step {
    Sent(Probe),
    Succeeded(Probe),
    HandedBack(Probe),
    Reclaimed(Probe),
}

#[derive(Clone, Debug)]
enum Phase {
    Closed(Vec<Seen>),
    Open { until: u64 },
    HalfOpen { until: u64, permitted: u32, steps: Vec<Step> },
}

/// The reference breaker.
#[derive(Clone, Debug)]
pub struct Model {
    generation: u64,
    probes: u32,
    phase: Phase,
}

fn nanos(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)
}

impl Model {
    /// A closed breaker that has seen nothing.
    #[must_use]
    pub const fn fresh(generation: u64) -> Self {
        Self { generation, probes: 0, phase: Phase::Closed(Vec::new()) }
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

    /// The probes that are out.
    #[must_use]
    pub fn out(&self) -> Vec<Probe> {
        let Phase::HalfOpen { steps, .. } = &self.phase else { return Vec::new() };
        let sent = steps.iter().filter_map(|step| match step {
            Step::Sent(probe) => Some(*probe),
            _ => None,
        });
        sent.filter(|probe| {
            let ends = [Step::Succeeded(*probe), Step::HandedBack(*probe), Step::Reclaimed(*probe)];
            !steps.iter().any(|step| ends.contains(step))
        })
        .collect()
    }

    fn succeeded(&self) -> u32 {
        let Phase::HalfOpen { steps, .. } = &self.phase else { return 0 };
        steps.iter().filter(|step| matches!(step, Step::Succeeded(_))).count() as u32
    }

    /// Whether a probe was sent in this stay and its place given to others.
    #[must_use]
    pub fn was_reclaimed(&self, probe: Probe) -> bool {
        matches!(&self.phase, Phase::HalfOpen { steps, .. } if steps.contains(&Step::Reclaimed(probe)))
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
            let phase = Phase::HalfOpen { until, permitted, steps: Vec::new() };
            self.go(phase, Cause::WaitOver, 0, told);
        }
        let (used, probe) = (self.succeeded() + self.out().len() as u32, Probe { owner, id: self.probes });
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

    /// Counts an outcome.
    pub fn record(
        &mut self,
        s: &Settings,
        ticket: &Ticket,
        outcome: Outcome,
        now: u64,
        told: &mut Vec<Transition>,
    ) -> Recorded {
        self.end_stay(s, now, told);
        if ticket.generation != self.generation {
            return Recorded::Stale;
        }
        let out = self.out();
        match &mut self.phase {
            Phase::Open { .. } => Recorded::Stale,
            Phase::Closed(seen) => {
                match outcome {
                    Outcome::Success => seen.push(Seen::Success),
                    Outcome::Failure => {
                        let asked = s.failures_in_window.map_or(0, |window| window.failures);
                        seen.push(Seen::Failure(now, asked));
                    }
                    Outcome::Ignored => {}
                }
                if outcome == Outcome::Failure
                    && let Some((cause, count)) = self.trips(s, now)
                {
                    self.open(s, now, cause, count, told);
                }
                Recorded::Counted
            }
            Phase::HalfOpen { steps, permitted, .. } => {
                let Some(probe) = ticket.probe.filter(|probe| out.contains(probe)) else {
                    return Recorded::Reclaimed;
                };
                let permitted = *permitted;
                match outcome {
                    Outcome::Ignored => steps.push(Step::HandedBack(probe)),
                    Outcome::Failure => self.open(s, now, Cause::Probes, 1, told),
                    Outcome::Success => {
                        steps.push(Step::Succeeded(probe));
                        let count = self.succeeded();
                        if count >= permitted {
                            self.go(Phase::Closed(Vec::new()), Cause::Probes, count, told);
                        }
                    }
                }
                Recorded::Counted
            }
        }
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
            self.open(s, until, Cause::HalfOpenTimeout, 0, told);
        }
    }

    fn consecutive(seen: &[Seen]) -> u32 {
        seen.iter().rev().take_while(|seen| matches!(seen, Seen::Failure(..))).count() as u32
    }

    /// The failures that can still be known: of each moment in the past, the latest that anybody had asked about.
    fn known(seen: &[Seen]) -> (u16, Vec<u64>) {
        let (mut most, mut known) = (0, Vec::new());
        for seen in seen {
            let Seen::Failure(at, asked) = seen else { continue };
            most = most.max(*asked);
            known.push(*at);
            known.sort_unstable();
            while known.len() > usize::from(most) {
                known.remove(0);
            }
        }
        (most, known)
    }

    fn trips(&self, s: &Settings, now: u64) -> Option<(Cause, u32)> {
        let Phase::Closed(seen) = &self.phase else { return None };
        let run = Self::consecutive(seen);
        if s.consecutive_failures.is_some_and(|limit| run >= limit) {
            return Some((Cause::ConsecutiveFailures, run));
        }
        let trigger = s.failures_in_window?;
        let known = Self::known(seen).1;
        // A worker that was held up reports a moment that others have overtaken.
        let latest = known.iter().copied().fold(now, u64::max);
        let recent = known.iter().filter(|at| latest - **at <= nanos(trigger.window)).count();
        (recent >= usize::from(trigger.failures))
            .then(|| (Cause::FailuresInWindow, u32::from(trigger.failures)))
    }

    fn open(&mut self, s: &Settings, at: u64, cause: Cause, count: u32, told: &mut Vec<Transition>) {
        let until = at.saturating_add(nanos(s.wait_duration_in_open_state));
        self.go(Phase::Open { until }, cause, count, told);
    }

    fn go(&mut self, phase: Phase, cause: Cause, count: u32, told: &mut Vec<Transition>) {
        let from = self.state();
        self.phase = phase;
        self.generation = self.generation.wrapping_add(1);
        told.push(Transition { from, to: self.state(), cause, generation: self.generation, count });
    }

    /// What must stand in the store.
    #[must_use]
    pub fn shape(&self) -> view::Breaker {
        let phase = match &self.phase {
            Phase::Closed(seen) => {
                let (capacity, failures) = Self::known(seen);
                view::Phase::Closed { consecutive: Self::consecutive(seen), capacity, failures }
            }
            Phase::Open { until } => view::Phase::Open { until: *until },
            Phase::HalfOpen { until, permitted, .. } => {
                let mut probes: Vec<_> =
                    self.out().into_iter().map(|probe| (probe.owner.0, probe.id)).collect();
                probes.sort_unstable();
                let (until, permitted, succeeded) = (*until, *permitted, self.succeeded());
                view::Phase::HalfOpen { until, permitted, succeeded, probes }
            }
        };
        view::Breaker { generation: self.generation, next_probe: self.probes, phase }
    }
}
