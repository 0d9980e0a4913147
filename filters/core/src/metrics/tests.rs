//! The names that the interface promises, letter by letter.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

#[test]
fn names_are_those_of_the_interface() {
    for (name, expected) in [
        (calls("p", Outcome::Success), "resilience_calls_total;policy=p;outcome=success;slow=false"),
        (calls("p", Outcome::Failure), "resilience_calls_total;policy=p;outcome=failure;slow=false"),
        (calls("p", Outcome::Ignored), "resilience_calls_total;policy=p;outcome=ignored;slow=false"),
        (
            rejections("p", Reason::CircuitOpen, None),
            "resilience_rejections_total;policy=p;reason=circuit_open;class=_",
        ),
        (breaker_state("p", ""), "resilience_circuit_breaker_state;policy=p;key=_"),
        (
            fallbacks("p", Reason::CircuitOpen, Source::Static),
            "resilience_fallbacks_total;policy=p;reason=circuit_open;source=static",
        ),
        (
            shadow_decisions("p", Reason::CircuitOpen),
            "resilience_shadow_decisions_total;policy=p;reason=circuit_open",
        ),
        (
            rejections("p", Reason::DeadlineExceeded, None),
            "resilience_rejections_total;policy=p;reason=deadline_exceeded;class=_",
        ),
        (balance("p"), "resilience_retry_budget_balance;policy=p"),
        (retries_granted("p"), "resilience_retries_total;policy=p;decision=granted"),
        (retries_denied("p"), "resilience_retries_total;policy=p;decision=denied"),
        (shadow_denials("p"), "resilience_shadow_decisions_total;policy=p;reason=retry_denied"),
        (open_milliseconds("p"), "resilience_circuit_breaker_open_milliseconds_total;policy=p"),
        (recovery("p"), "resilience_circuit_breaker_recovery_milliseconds;policy=p"),
        (
            probes("p", Outcome::SlowFailure),
            "resilience_circuit_breaker_probes_total;policy=p;outcome=failure",
        ),
        (leases_reclaimed("p", Lease::Probe), "resilience_leases_reclaimed_total;policy=p;kind=probe"),
        (leases_reclaimed("p", Lease::Permit), "resilience_leases_reclaimed_total;policy=p;kind=permit"),
        (leases_reclaimed("p", Lease::Retry), "resilience_leases_reclaimed_total;policy=p;kind=retry"),
        (configuration_generation("n"), "resilience_configuration_generation;namespace=n"),
        (vm_deaths("n"), "resilience_vm_deaths_total;namespace=n"),
        (vm_deaths("a;policy=b\n"), "resilience_vm_deaths_total;namespace=a_policy_b_"),
        (conflicts(Operation::Admit), "resilience_store_conflicts_total;operation=admit"),
        (give_ups(Operation::HandBack), "resilience_store_give_ups_total;operation=hand_back"),
    ] {
        assert_eq!(name, expected);
    }
}

#[test]
fn transitions_name_where_to_and_why() {
    for (to, cause, expected) in [
        (State::Open, Cause::ConsecutiveFailures, "to=open;cause=consecutive_failures"),
        (State::Open, Cause::FailuresInWindow, "to=open;cause=failures_in_window"),
        (State::HalfOpen, Cause::WaitOver, "to=half_open;cause=wait_over"),
        (State::Closed, Cause::Probes, "to=closed;cause=probes"),
        (State::Open, Cause::HalfOpenTimeout, "to=open;cause=half_open_timeout"),
    ] {
        let prefix = "resilience_circuit_breaker_transitions_total;policy=p;";
        assert_eq!(transitions("p", to, cause), format!("{prefix}{expected}"));
    }
}

#[test]
fn denials_name_why() {
    let names = Denied::ALL.map(|denied| denials("p", denied));
    let reasons = ["budget", "not_idempotent", "caller_retry", "breaker", "deadline"];
    assert_eq!(names, reasons.map(|why| format!("resilience_retries_denied_total;policy=p;reason={why}")));
}

#[test]
fn the_gauge_has_the_numbers_of_the_interface() {
    assert_eq!((State::Closed as u8, State::HalfOpen as u8, State::Open as u8), (0, 1, 2));
}

#[test]
fn operations_are_numbered_in_their_order_and_named_apart() {
    let names = Operation::ALL.map(Operation::name);
    assert_eq!(
        names,
        ["admit", "record", "hand_back", "release", "heartbeat", "maintain", "force", "keys", "lease", "log"]
    );
    assert_eq!(Operation::ALL.map(|operation| operation as usize), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]);
}
