//! What a leader shows while others change the state.

use super::fake::{Fake, P, trip, worker};
use super::{Event, Port, Target, Worker};
use crate::breaker::State as BreakerState;
use crate::store::{Expected, PutError, Store, Unavailable, Versioned};
use crate::testing::ms;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// A port on which another worker trips the breaker after the leader has read its state and before it shows it.
struct Overtaken {
    port: Fake,
    other: Option<Worker>,
}

impl Store for Overtaken {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        self.port.get(key)
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError> {
        self.port.put(key, bytes, expected)
    }
}

impl Port for Overtaken {
    fn changes(&mut self, target: Target) -> Option<u64> {
        self.port.changes(target)
    }

    fn changed(&mut self, target: Target) {
        self.port.changed(target);
    }

    fn introduce(&mut self, target: Target, key: &[u8]) {
        self.port.introduce(target, key);
    }

    fn report(&mut self, event: Event) {
        if let Some(mut other) = self.other.take() {
            trip(&mut other, &mut self.port, ms(0));
        }
        self.port.report(event);
    }
}

#[test]
fn a_leader_that_was_overtaken_looks_again() {
    let mut port = Overtaken { port: Fake::default(), other: Some(worker()) };
    assert!(worker().tick(&mut port, ms(0)));
    let shown = [BreakerState::Closed, BreakerState::Open].map(|state| Event::Observed { target: P, state });
    assert_eq!(port.port.events(), shown, "what is shown last is what is true");
}
