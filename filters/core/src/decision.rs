//! What a policy makes of what its patterns say.

#[cfg(test)]
mod dependency_tests;
#[cfg(test)]
mod plan_tests;

use crate::answer::{Reason, Refusal, retry_after};
use crate::breaker::State;
use crate::config::{BreakerMode, PatternMode, Policy};
use crate::retry::{Denied, Wanted, Wish};
use crate::steering::Said;
use crate::time::Timestamp;
use crate::timeout::Allowance;
use crate::worker::{Pass, Refused, Verdict};
use std::time::Duration;

/// What happens to a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to the upstream. What patterns in shadow mode would have refused proves nothing to them.
    Call(Pass),
    /// It is held until it is its turn, or its wait is over.
    Wait,
    /// It is answered without the upstream.
    Refuse(Refusal),
}

/// What a request asks for, before anybody else is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Plan {
    /// What time it has.
    pub time: Allowance,
    /// How often it would be retried; `None` where that is not ours to say.
    pub wanted: Option<Wanted>,
    /// Whether its deadline cannot be met, in whose eyes that matters.
    pub late: Option<Late>,
}

/// What becomes of a request whose deadline cannot be met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Late {
    /// It is refused.
    Refused,
    /// It goes on: `timeout` is in shadow mode.
    Shadowed,
}

/// What a request takes along of its time to where its own policy, which refused it, has it go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sent {
    /// When it came, or, where its time was over, when that was found.
    pub came: Timestamp,
    /// When it must be answered.
    pub deadline: Option<Timestamp>,
}

impl Sent {
    /// For a request that came at `came`, asked for what is in `plan`, and is refused now.
    #[must_use]
    pub fn for_refusal(reason: Reason, plan: &Plan, came: Timestamp, now: Timestamp) -> Self {
        match reason {
            // It has no time left that it could take along.
            Reason::DeadlineExceeded => Self { came: now, deadline: None },
            _ => Self { came, deadline: plan.time.deadline },
        }
    }
}

impl Plan {
    /// What a request of `policy` asks for that comes at `now`. `said` is `None` where its headers cannot be read: then
    /// nothing shows that it may be repeated.
    #[must_use]
    pub fn new(policy: &Policy, said: Option<&Said>, now: Timestamp) -> Self {
        let bounds = policy.timeout.as_ref().filter(|timeout| timeout.mode != PatternMode::Disabled);
        let Some(timeout) = bounds else {
            return Self { wanted: wanted(policy, said), ..Self::default() };
        };
        let mut time = timeout.settings.allow(said.and_then(|said| said.patience), now);
        let total = said.and_then(|said| said.timeout).map(|total| now.after(total));
        time.deadline = time.deadline.into_iter().chain(total).min();
        time.per_try = time.per_try.into_iter().chain(said.and_then(|said| said.per_try)).min();
        let is_over = time.is_over(now);
        let (time, late) = match timeout.mode {
            PatternMode::Enforce => (time, Late::Refused),
            PatternMode::Shadow | PatternMode::Disabled => (Allowance::default(), Late::Shadowed),
        };
        Self { time, wanted: wanted(policy, said), late: is_over.then_some(late) }
    }

    /// The same for a request that has a `deadline` already, and keeps it wherever it goes.
    #[must_use]
    pub fn within(mut self, deadline: Option<Timestamp>, now: Timestamp) -> Self {
        self.time.deadline = self.time.deadline.into_iter().chain(deadline).min();
        if self.time.is_over(now) {
            self.late = Some(Late::Refused);
        }
        self
    }
}

/// How often a request would be retried; `None` where the policy has no say in that.
fn wanted(policy: &Policy, said: Option<&Said>) -> Option<Wanted> {
    let retry = policy.enforced_retry();
    let budget = policy.retry_budget.as_ref().filter(|budget| budget.mode != PatternMode::Disabled);
    if retry.is_none() && budget.is_none() {
        return None;
    }
    // A budget that only looks on leaves all of it to the route.
    let is_routes = retry.is_none() && budget.is_some_and(|budget| budget.mode == PatternMode::Shadow);
    let wish = if is_routes { Wish::Route } else { Wish::Retries(0) };
    let none = |denied| Some(Wanted { wish, denied: Some(denied) });
    let Some(said) = said else { return none(Denied::NotIdempotent) };
    if said.is_retry && is_routes {
        return none(Denied::CallersRetry);
    }
    if said.is_retry {
        return Some(Wanted { wish: Wish::Spent, denied: Some(Denied::CallersRetry) });
    }
    if !policy.safety().allows(said.is_idempotent, said.has_key) {
        return none(Denied::NotIdempotent);
    }
    let most = retry.map(|retry| retry.settings.max_retries).into_iter().chain(said.max_retries).min();
    Some(Wanted { wish: most.map_or(Wish::Route, Wish::Retries), denied: None })
}

/// A breaker is open of a policy that another one needs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Dependency {
    /// Its requests are refused; the rest of the wait, where time alone ends it.
    Open(Option<Duration>),
    /// They go on: one of the two is in shadow mode.
    Shadowed,
}

/// Whether a policy's request is refused because of one of the policies that it needs. `open` asks for the rest of the wait of
/// the breaker of one of `policies`; `None` where it is not open. Of several that are open the last to come back counts.
pub fn dependency(
    policies: &[Policy],
    policy: &Policy,
    mut open: impl FnMut(usize) -> Option<Duration>,
) -> Option<Dependency> {
    let mut found = None;
    for needed in &*policy.when_open {
        let breaker = policies.get(*needed).and_then(|needed| needed.circuit_breaker.as_ref());
        let wait = match breaker.map(|breaker| breaker.mode) {
            None | Some(BreakerMode::Disabled) => continue,
            Some(BreakerMode::ForcedOpen | BreakerMode::ShadowForcedOpen) => None,
            Some(BreakerMode::Enforce | BreakerMode::Shadow) => match open(*needed) {
                Some(wait) => Some(wait),
                None => continue,
            },
        };
        let is_shadow = breaker.is_some_and(|breaker| breaker.mode.is_shadow()) || policy.shadow;
        found = Some(match (found, is_shadow) {
            (None, true) => Dependency::Shadowed,
            (Some(known), true) => known,
            (Some(Dependency::Open(known)), false) => {
                Dependency::Open(known.zip(wait).map(|(known, wait)| known.max(wait)))
            }
            (None | Some(Dependency::Shadowed), false) => Dependency::Open(wait),
        });
    }
    found
}

/// Decides over a request of `policy`; `admit` asks what its patterns keep, and is called only where the answer matters.
pub fn decide(
    policy: &Policy,
    late: Option<Late>,
    dependency: Option<Dependency>,
    admit: impl FnOnce() -> Verdict,
) -> Decision {
    if late == Some(Late::Refused) {
        return Decision::Refuse(Refusal { reason: Reason::DeadlineExceeded, retry_after: None });
    }
    let mode = policy.circuit_breaker.as_ref().map(|breaker| breaker.mode);
    if mode == Some(BreakerMode::ForcedOpen) {
        // Nobody can tell when it will be over.
        return Decision::Refuse(Refusal { reason: Reason::CircuitOpen, retry_after: None });
    }
    if let Some(Dependency::Open(wait)) = dependency {
        return Decision::Refuse(needs_another(wait));
    }
    settle(policy, late, dependency, admit())
}

/// The refusal of a request because of another policy's breaker, which is open for the rest of a `wait`, if that has an end.
#[must_use]
pub fn needs_another(wait: Option<Duration>) -> Refusal {
    Refusal { reason: Reason::DependencyOpen, retry_after: wait.map(retry_after) }
}

/// What a verdict means for a request of `policy`, also at the end of a wait. `late` is what its [`Plan`] said.
#[must_use]
pub fn settle(
    policy: &Policy,
    late: Option<Late>,
    dependency: Option<Dependency>,
    verdict: Verdict,
) -> Decision {
    match verdict {
        Verdict::Admitted(mut pass) => {
            if dependency == Some(Dependency::Shadowed) {
                pass.shadowed.push(Reason::DependencyOpen);
            }
            let mode = policy.circuit_breaker.as_ref().map(|breaker| breaker.mode);
            if mode == Some(BreakerMode::ShadowForcedOpen) {
                pass.shadowed.push(Reason::CircuitOpen);
            }
            if late == Some(Late::Shadowed) {
                pass.shadowed.push(Reason::DeadlineExceeded);
            }
            Decision::Call(pass)
        }
        Verdict::Waits => Decision::Wait,
        Verdict::Refused(refused) => Decision::Refuse(refusal(refused)),
    }
}

/// A refusal, and when to come back: where time does not end it, a probe may answer or a permit come free at any moment.
fn refusal(refused: Refused) -> Refusal {
    let Refused { reason, wait } = refused;
    // A deadline that has passed does not come back.
    let comes_back = reason != Reason::DeadlineExceeded;
    Refusal { reason, retry_after: comes_back.then(|| wait.map_or(1, retry_after)) }
}

/// How many breakers whose mode says their state are shown at a time: to define a metric takes the host long.
const MODES: usize = 64;

/// The next breakers to show whose mode says their state, by their policies' indices; `next` is where this goes on.
pub fn modes_to_show(policies: &[Policy], next: &mut usize) -> Vec<(usize, State)> {
    let by_mode = |(index, policy)| Some((index, state_by_mode(policy)?));
    let shown: Vec<_> = policies.iter().enumerate().filter_map(by_mode).skip(*next).take(MODES).collect();
    *next = if shown.len() < MODES { 0 } else { next.saturating_add(MODES) };
    shown
}

/// The state to show of a breaker that keeps none of its own, because of its mode.
#[must_use]
pub fn state_by_mode(policy: &Policy) -> Option<State> {
    match policy.circuit_breaker.as_ref()?.mode {
        BreakerMode::ForcedOpen | BreakerMode::ShadowForcedOpen => Some(State::Open),
        BreakerMode::Disabled => Some(State::Closed),
        BreakerMode::Enforce | BreakerMode::Shadow => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::breaker::Ticket;
    use crate::config::Document;
    use std::time::Duration;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn policy(policy_mode: &str, breaker_mode: &str) -> Policy {
        let document = format!(
            r#"{{"policies": [{{"name": "p", "match": [{{"any": true}}], "mode": "{policy_mode}",
                "circuit_breaker": {{"mode": "{breaker_mode}", "consecutive_failures": 1}}}}]}}"#
        );
        Document::parse(document.as_bytes()).unwrap().policies.remove(0)
    }

    const TICKET: Ticket = Ticket { generation: 3, probe: None };

    fn admitted() -> Verdict {
        Verdict::Admitted(Pass { ticket: Some(TICKET), ..Pass::default() })
    }

    fn refused(reason: Reason, wait: Option<Duration>) -> Verdict {
        Verdict::Refused(Refused { reason, wait })
    }

    fn refusal(reason: Reason, retry_after: Option<u64>) -> Decision {
        Decision::Refuse(Refusal { reason, retry_after })
    }

    #[test]
    fn what_the_patterns_say_is_obeyed() {
        let policy = policy("enforce", "enforce");
        let pass = Pass { ticket: Some(TICKET), ..Pass::default() };
        assert_eq!(decide(&policy, None, None, admitted), Decision::Call(pass));
        assert_eq!(decide(&policy, None, None, || Verdict::Waits), Decision::Wait);
        let (open, full) = (Reason::CircuitOpen, Reason::BulkheadFull);
        let wait = Some(Duration::from_millis(1500));
        assert_eq!(decide(&policy, None, None, || refused(open, wait)), refusal(open, Some(2)));
        assert_eq!(decide(&policy, None, None, || refused(open, None)), refusal(open, Some(1)));
        assert_eq!(decide(&policy, None, None, || refused(full, None)), refusal(full, Some(1)));
        assert_eq!(state_by_mode(&policy), None);
    }

    #[test]
    fn a_breaker_that_is_forced_open_is_not_asked() {
        let never = || -> Verdict { panic!("asked") };
        let policy = policy("enforce", "forced_open");
        assert_eq!(decide(&policy, None, None, never), refusal(Reason::CircuitOpen, None));
        assert_eq!(state_by_mode(&policy), Some(State::Open));
    }

    #[test]
    fn a_shadow_of_one_that_is_forced_open_leaves_the_others_their_say() {
        let policy = policy("shadow", "forced_open");
        let pass = Pass { shadowed: vec![Reason::CircuitOpen], ..Pass::default() };
        assert_eq!(decide(&policy, None, None, || Verdict::Admitted(Pass::default())), Decision::Call(pass));
        let full = refused(Reason::BulkheadFull, None);
        assert_eq!(decide(&policy, None, None, || full), refusal(Reason::BulkheadFull, Some(1)));
        assert_eq!(state_by_mode(&policy), Some(State::Open));
    }

    #[test]
    fn a_disabled_breaker_is_shown_closed() {
        for (outer, inner) in [("enforce", "disabled"), ("disabled", "forced_open"), ("disabled", "enforce")]
        {
            assert_eq!(state_by_mode(&policy(outer, inner)), Some(State::Closed), "{outer} {inner}");
        }
        assert_eq!(state_by_mode(&policy("shadow", "enforce")), None);
    }
}
