//! What a leader shows while others change the state.

use super::Event;
use super::fake::{Fake, P, bulkhead, request, trip, worker, worker_with};
use crate::breaker::{Outcome, State as BreakerState};
use crate::testing::{ms, settings};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_leader_that_was_overtaken_looks_again() {
    let mut port = Fake::default();
    // Another worker trips the breaker after the leader has read its state and before it shows it.
    let trips = |port: &mut Fake| {
        trip(&mut worker(), port, ms(0));
    };
    port.meanwhile.push_back(("report", Box::new(trips)));
    assert!(worker().tick(&mut port, ms(0)));
    let shown = [BreakerState::Closed, BreakerState::Open].map(|state| Event::Observed { target: P, state });
    assert_eq!(port.events(), shown, "what is shown last is what is true");
}

#[test]
fn a_leader_that_looks_again_counts_nobody_twice() {
    let (mut leader, mut port) = (worker_with(bulkhead(9, 0), Some(settings())), Fake::default());
    let passes: Vec<_> = (0..3).map(|call| leader.let_in(&mut port, call, ms(0))).collect();
    assert_eq!(passes.len(), 3);
    let fails = |port: &mut Fake| request(&mut worker(), port, Outcome::Failure, ms(0));
    port.meanwhile.push_back(("report", Box::new(fails)));
    leader.tick(&mut port, ms(0));
    let crowd = Event::Crowd { policy: 0, in_flight: 3, waiting: 0, limit: Some(9) };
    let seen = Event::Observed { target: P, state: BreakerState::Closed };
    assert_eq!(port.events(), [seen, seen, crowd]);
}
