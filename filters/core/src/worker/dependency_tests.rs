//! What a worker knows of a breaker that another policy asks for.

use super::fake::{Fake, P, POLICY, TROUBLES, enter, trip, worker};
use super::*;
use crate::testing::ms;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn a_breaker_is_open_for_the_rest_of_its_wait() {
    let (mut one, mut other, mut port) = (worker(), worker(), Fake::default());
    assert_eq!(other.open_for(&mut port, P, ms(0)), None);
    trip(&mut one, &mut port, ms(0));
    for worker in [&mut one, &mut other] {
        assert_eq!(worker.open_for(&mut port, P, ms(0)), Some(Duration::from_secs(30)));
        assert_eq!(worker.open_for(&mut port, P, ms(29_999)), Some(Duration::from_millis(1)));
        assert_eq!(worker.open_for(&mut port, P, ms(30_000)), None);
    }
    // Whoever only asks takes no probe, and writes nothing.
    let writes = port.calls().iter().filter(|call| **call == "put").count();
    assert!(enter(&mut other, &mut port, ms(30_001)).is_probe());
    assert_eq!(one.open_for(&mut port, P, ms(30_001)), None, "half-open");
    assert!(writes <= 2, "those of the trip: {writes}");
}

#[test]
fn while_it_is_believed_it_costs_one_counter() {
    let (mut worker, mut port) = (worker(), Fake::default());
    worker.open_for(&mut port, P, ms(0));
    assert_eq!(port.calls(), ["changes", "get"]);
    worker.open_for(&mut port, P, ms(100));
    assert_eq!(port.calls(), ["changes"]);
}

#[test]
fn where_the_store_does_not_answer_nothing_is_refused() {
    for trouble in TROUBLES {
        let (mut one, mut other, mut port) = (worker(), worker(), Fake::default());
        trip(&mut one, &mut port, ms(0));
        port.trouble.insert(POLICY, trouble);
        let open = other.open_for(&mut port, P, ms(0));
        let readable = trouble != super::fake::Trouble::Unreadable;
        assert_eq!(open.is_some(), readable, "{trouble:?}");
    }
    assert_eq!(worker().open_for(&mut Fake::default(), Target::whole(7), ms(0)), None);
}
