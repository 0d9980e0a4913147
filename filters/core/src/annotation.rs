//! What access logs and traces are told of a request.

use crate::answer::Reason;
use crate::breaker::State;

/// What became of a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decided {
    /// It was let in.
    Admitted,
    /// It was refused, and nothing answered in its place.
    Refused,
    /// A fallback answered, in the place of a refusal or of a failed answer.
    Fallback,
    /// It was refused, and sent elsewhere.
    Rerouted,
    /// It was let in, and ended when its time was over.
    TimedOut,
}

impl Decided {
    /// Whether the breaker's state is told with it. What a failed answer did to it since is not what was decided by.
    #[must_use]
    pub const fn tells_breaker(self) -> bool {
        matches!(self, Self::Admitted | Self::Refused)
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Refused => "refused",
            Self::Fallback => "fallback",
            Self::Rerouted => "rerouted",
            Self::TimedOut => "timed_out",
        }
    }
}

/// What there is to say. What is `None` stays as it was said before, if it was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Annotation<'a> {
    /// The policy's name.
    pub policy: &'a str,
    /// What became of it.
    pub decided: Decided,
    /// Why, where it did not simply go on.
    pub reason: Option<Reason>,
    /// What state the policy's breaker was in when it decided.
    pub breaker: Option<State>,
}

impl<'a> Annotation<'a> {
    /// The properties to set, by their names.
    pub fn properties(&self) -> impl Iterator<Item = (&'static str, &'a str)> {
        let Self { policy, decided, reason, breaker } = *self;
        let always = [("resilience.policy", policy), ("resilience.decision", decided.name())];
        let reason = reason.map(|reason| ("resilience.reason", reason.name()));
        let breaker = breaker.map(|state| ("resilience.breaker", state.name()));
        always.into_iter().chain(reason).chain(breaker)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn the_breaker_is_told_as_it_was_when_it_was_asked() {
        let all =
            [Decided::Admitted, Decided::Refused, Decided::Fallback, Decided::Rerouted, Decided::TimedOut];
        assert_eq!(all.map(Decided::tells_breaker), [true, true, false, false, false]);
    }

    #[test]
    fn only_what_is_known_is_said() {
        let admitted = Annotation { policy: "p", decided: Decided::Admitted, reason: None, breaker: None };
        let expected = [("resilience.policy", "p"), ("resilience.decision", "admitted")];
        assert_eq!(admitted.properties().collect::<Vec<_>>(), expected);
        let (reason, breaker) = (Some(Reason::CircuitOpen), Some(State::HalfOpen));
        let words = [Decided::Refused, Decided::Fallback, Decided::Rerouted, Decided::TimedOut]
            .map(|decided| Annotation { policy: "q", decided, reason, breaker })
            .map(|annotation| annotation.properties().map(|(_, value)| value).collect::<Vec<_>>().join(" "));
        let expected = ["refused", "fallback", "rerouted", "timed_out"];
        assert_eq!(words, expected.map(|word| format!("q {word} circuit_open half_open")));
    }
}
