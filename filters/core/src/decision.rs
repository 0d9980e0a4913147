//! What a policy makes of what its patterns say.

use crate::answer::{Reason, Refusal, retry_after};
use crate::breaker::State;
use crate::config::{BreakerMode, Policy};
use crate::worker::{Pass, Refused, Verdict};

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

/// Decides over a request of `policy`; `admit` asks what its patterns keep, and is called only where the answer matters.
pub fn decide(policy: &Policy, admit: impl FnOnce() -> Verdict) -> Decision {
    let reason = Reason::CircuitOpen;
    let mode = policy.circuit_breaker.as_ref().map(|breaker| breaker.mode);
    if mode == Some(BreakerMode::ForcedOpen) {
        // Nobody can tell when it will be over.
        return Decision::Refuse(Refusal { reason, retry_after: None });
    }
    settle(policy, admit())
}

/// What a verdict means for a request of `policy`.
#[must_use]
pub fn settle(policy: &Policy, verdict: Verdict) -> Decision {
    match verdict {
        Verdict::Admitted(mut pass) => {
            let mode = policy.circuit_breaker.as_ref().map(|breaker| breaker.mode);
            if mode == Some(BreakerMode::ShadowForcedOpen) {
                pass.shadowed.push(Reason::CircuitOpen);
            }
            Decision::Call(pass)
        }
        Verdict::Waits => Decision::Wait,
        Verdict::Refused(refused) => Decision::Refuse(refusal(refused)),
    }
}

/// A refusal, and when to come back: where time does not end it, a probe may answer or a permit come free at any moment.
fn refusal(refused: Refused) -> Refusal {
    Refusal { reason: refused.reason, retry_after: Some(refused.wait.map_or(1, retry_after)) }
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
        assert_eq!(decide(&policy, admitted), Decision::Call(pass));
        assert_eq!(decide(&policy, || Verdict::Waits), Decision::Wait);
        let (open, full) = (Reason::CircuitOpen, Reason::BulkheadFull);
        let wait = Some(Duration::from_millis(1500));
        assert_eq!(decide(&policy, || refused(open, wait)), refusal(open, Some(2)));
        assert_eq!(decide(&policy, || refused(open, None)), refusal(open, Some(1)));
        assert_eq!(decide(&policy, || refused(full, None)), refusal(full, Some(1)));
        assert_eq!(state_by_mode(&policy), None);
    }

    #[test]
    fn a_breaker_that_is_forced_open_is_not_asked() {
        let never = || -> Verdict { panic!("asked") };
        let policy = policy("enforce", "forced_open");
        assert_eq!(decide(&policy, never), refusal(Reason::CircuitOpen, None));
        assert_eq!(state_by_mode(&policy), Some(State::Open));
    }

    #[test]
    fn a_shadow_of_one_that_is_forced_open_leaves_the_others_their_say() {
        let policy = policy("shadow", "forced_open");
        let pass = Pass { shadowed: vec![Reason::CircuitOpen], ..Pass::default() };
        assert_eq!(decide(&policy, || Verdict::Admitted(Pass::default())), Decision::Call(pass));
        let full = refused(Reason::BulkheadFull, None);
        assert_eq!(decide(&policy, || full), refusal(Reason::BulkheadFull, Some(1)));
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
