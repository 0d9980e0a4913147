//! What a leader shows while others change the state.

use super::Event;
use super::fake::{Fake, P, trip, worker};
use crate::breaker::State as BreakerState;
use crate::testing::ms;
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
