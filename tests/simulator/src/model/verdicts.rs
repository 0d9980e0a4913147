//! What outcomes lead to.

use super::{Closed, Model, Phase, Seen, Step, Window, exceeded, failed, nanos};
use resilience_core::breaker::{
    Cause, Exceeded, Numbers, Outcome, Recorded, Settings, Shape, Ticket, Transition,
};

/// What numbers with a fraction may differ by, in nanoseconds.
const ROUNDING: f64 = 1000.0;

impl Model {
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
            Phase::Closed(closed) => {
                if outcome == Outcome::Ignored || closed.held.is_some_and(|held| now <= held) {
                    return Recorded::Counted;
                }
                if failed(outcome) {
                    let asked = s.failures_in_window.map_or(0, |window| window.failures);
                    closed.seen.push(Seen::Failure(now, asked));
                } else if closed.seen.last() != Some(&Seen::Success) {
                    // What repeats itself tells nothing more.
                    closed.seen.push(Seen::Success);
                }
                if let Some(rates) = s.rates
                    && closed.window.is_none()
                {
                    closed.window = Some(Window::new(rates.window));
                }
                if let Some(window) = &mut closed.window {
                    window.record(outcome, now);
                }
                if let Some((cause, numbers)) = Self::trips_over(closed, s, outcome, now) {
                    self.open(s, now, cause, numbers, told);
                }
                Recorded::Counted
            }
            Phase::HalfOpen { steps, .. } => {
                let Some(probe) = ticket.probe.filter(|probe| out.contains(probe)) else {
                    return Recorded::Reclaimed;
                };
                if outcome == Outcome::Ignored {
                    // It might as well never have been sent.
                    steps.retain(|step| *step != Step::Sent(probe));
                } else {
                    steps.push(Step::Answered(probe, outcome));
                    self.judge(s, outcome, now, told);
                }
                Recorded::Counted
            }
        }
    }

    fn judge(&mut self, s: &Settings, outcome: Outcome, now: u64, told: &mut Vec<Transition>) {
        let Phase::HalfOpen { deciding, .. } = self.phase else { return };
        let answers = self.answers();
        let by_rate = s.rates.is_some_and(|rates| rates.failure_rate_threshold.is_some());
        let by_count = s.consecutive_failures.is_some() || s.failures_in_window.is_some();
        if failed(outcome) && by_count && !by_rate {
            return self.open(s, now, Cause::Probes, Numbers::Probes(answers), told);
        }
        if answers.calls < deciding {
            return;
        }
        let past = match s.rates {
            Some(rates) => {
                exceeded(&rates, answers, 1).map(|exceeded| Numbers::Rate { exceeded, tally: answers })
            }
            None => (answers.failed > 0).then_some(Numbers::Probes(answers)),
        };
        if let Some(numbers) = past {
            return self.open(s, now, Cause::Probes, numbers, told);
        }
        let since = (s.ramp_up.is_some() || s.wait_duration_growth.is_some()).then_some(now);
        let phase = Phase::Closed(Closed { since, ..Closed::default() });
        self.go(now, phase, Cause::Probes, Numbers::Probes(answers), told);
    }

    pub(super) fn consecutive(seen: &[Seen]) -> u32 {
        seen.iter().rev().take_while(|seen| matches!(seen, Seen::Failure(..))).count() as u32
    }

    /// The failures that can still be known: of each moment in the past, the latest that anybody had asked about.
    pub(super) fn known(seen: &[Seen]) -> (u16, Vec<u64>) {
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

    fn trips_over(closed: &Closed, s: &Settings, outcome: Outcome, now: u64) -> Option<(Cause, Numbers)> {
        if failed(outcome) {
            let count = Self::consecutive(&closed.seen);
            if let Some(limit) = s.consecutive_failures.filter(|limit| count >= *limit) {
                return Some((Cause::ConsecutiveFailures, Numbers::Count { count, limit }));
            }
            if let Some(trigger) = s.failures_in_window {
                let known = Self::known(&closed.seen).1;
                // A worker that was held up reports a moment that others have overtaken.
                let latest = known.iter().copied().fold(now, u64::max);
                let recent = known.iter().filter(|at| latest - **at <= nanos(trigger.window)).count();
                if recent >= usize::from(trigger.failures) {
                    let limit = u32::from(trigger.failures);
                    return Some((Cause::FailuresInWindow, Numbers::Count { count: limit, limit }));
                }
            }
        }
        let rates = s.rates?;
        let minimum = match rates.window {
            Shape::Count(size) => rates.minimum_number_of_calls.min(u32::from(size)),
            Shape::Time { .. } => rates.minimum_number_of_calls,
        };
        let tally = closed.window.as_ref()?.tally(now);
        let exceeded = exceeded(&rates, tally, minimum)?;
        let cause = match exceeded {
            Exceeded::Failures(_) => Cause::FailureRate,
            Exceeded::SlowCalls(_) => Cause::SlowCallRate,
        };
        Some((cause, Numbers::Rate { exceeded, tally }))
    }

    pub(super) fn open(
        &mut self,
        s: &Settings,
        at: u64,
        cause: Cause,
        numbers: Numbers,
        told: &mut Vec<Transition>,
    ) {
        let starts_over = |reset_after| match &self.phase {
            Phase::Closed(Closed { since, .. }) => {
                since.is_none_or(|since| at.saturating_sub(since) >= nanos(reset_after))
            }
            _ => false,
        };
        self.trips = match s.wait_duration_growth {
            None => 0,
            Some(growth) if starts_over(growth.reset_after) => 1,
            Some(_) => self.trips.saturating_add(1),
        };
        let until = at.saturating_add(self.wait(s, at));
        self.go(at, Phase::Open { until }, cause, numbers, told);
    }

    /// The wait. Where chance has its part it is the one that was chosen, if it can be, or else the shortest: then it was
    /// over already when it was written down.
    fn wait(&self, s: &Settings, at: u64) -> u64 {
        let base = nanos(s.wait_duration_in_open_state);
        let Some(growth) = s.wait_duration_growth else { return base };
        let most = nanos(growth.max) as f64;
        let mut grown = base as f64;
        for _ in 1..self.trips {
            grown = (grown * f64::from(growth.multiplier_thousandths) / 1000.0).min(most);
        }
        let grown = grown.min(most);
        let jitter = f64::from(growth.jitter.get()) / 100.0;
        let (least, most) = (grown * (1.0 - jitter), (grown * (1.0 + jitter)).min(most));
        let chosen = self.chosen.and_then(|until| until.checked_sub(at));
        let possible = |wait: &u64| (least - ROUNDING..=most.max(1e6) + ROUNDING).contains(&(*wait as f64));
        chosen.filter(possible).unwrap_or_else(|| least.max(1e6) as u64)
    }
}
