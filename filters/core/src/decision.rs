//! What a policy makes of what its patterns say.

use crate::answer::{Reason, Refusal, retry_after};
use crate::breaker::{Admission, State, Ticket};
use crate::config::{BreakerMode, Policy};

/// What happens to a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// It goes to the upstream. What it proves is reported with the ticket, where a breaker gave one.
    Call(Option<Ticket>),
    /// It goes to the upstream, though a pattern in shadow mode would have refused it for this reason. It proves nothing to
    /// that pattern, for which it does not exist.
    Shadowed(Reason),
    /// It is answered without the upstream.
    Refuse(Refusal),
}

/// Decides over a request of `policy`; `admit` asks its breaker, and is called only where the answer matters.
pub fn decide(policy: &Policy, admit: impl FnOnce() -> Admission) -> Decision {
    let Some(breaker) = &policy.circuit_breaker else { return Decision::Call(None) };
    let (refused, shadow) = match breaker.mode {
        BreakerMode::Disabled => return Decision::Call(None),
        // Nobody can tell when it will be over.
        BreakerMode::ForcedOpen => (None, false),
        BreakerMode::ShadowForcedOpen => (None, true),
        BreakerMode::Enforce | BreakerMode::Shadow => match admit() {
            Admission::Admitted(ticket) => return Decision::Call(Some(ticket)),
            // A probe may answer at any moment.
            Admission::Refused { wait } => {
                (Some(wait.map_or(1, retry_after)), breaker.mode == BreakerMode::Shadow)
            }
        },
    };
    let reason = Reason::CircuitOpen;
    if shadow {
        Decision::Shadowed(reason)
    } else {
        Decision::Refuse(Refusal { reason, retry_after: refused })
    }
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
    const REFUSED: Admission = Admission::Refused { wait: Some(Duration::from_millis(1500)) };

    fn refuse(retry_after: Option<u64>) -> Decision {
        Decision::Refuse(Refusal { reason: Reason::CircuitOpen, retry_after })
    }

    #[test]
    fn an_enforcing_breaker_is_obeyed() {
        let policy = policy("enforce", "enforce");
        assert_eq!(decide(&policy, || Admission::Admitted(TICKET)), Decision::Call(Some(TICKET)));
        assert_eq!(decide(&policy, || REFUSED), refuse(Some(2)));
        assert_eq!(decide(&policy, || Admission::Refused { wait: None }), refuse(Some(1)));
        assert_eq!(state_by_mode(&policy), None);
    }

    #[test]
    fn a_shadow_is_asked_and_overruled() {
        for (outer, inner) in [("shadow", "enforce"), ("enforce", "shadow"), ("shadow", "shadow")] {
            let policy = policy(outer, inner);
            assert_eq!(decide(&policy, || Admission::Admitted(TICKET)), Decision::Call(Some(TICKET)));
            assert_eq!(decide(&policy, || REFUSED), Decision::Shadowed(Reason::CircuitOpen));
            assert_eq!(state_by_mode(&policy), None);
        }
    }

    #[test]
    fn a_forced_or_disabled_breaker_is_not_asked() {
        let never = || -> Admission { panic!("asked") };
        assert_eq!(decide(&policy("enforce", "forced_open"), never), refuse(None));
        assert_eq!(decide(&policy("shadow", "forced_open"), never), Decision::Shadowed(Reason::CircuitOpen));
        for (outer, inner) in [("enforce", "disabled"), ("disabled", "forced_open"), ("disabled", "enforce")]
        {
            assert_eq!(decide(&policy(outer, inner), never), Decision::Call(None));
            assert_eq!(state_by_mode(&policy(outer, inner)), Some(State::Closed), "{outer} {inner}");
        }
        assert_eq!(state_by_mode(&policy("enforce", "forced_open")), Some(State::Open));
    }
}
