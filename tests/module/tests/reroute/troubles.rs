//! The host fails while a request is on its way elsewhere.

use crate::*;
use resilience_core::breaker::Phase;

/// Everything that a guard may have given to the request comes back.
#[test]
fn one_that_cannot_be_told_where_to_go_leaves_nothing_with_the_guard() {
    let guard = format!(
        r#"{BREAKER}, {FULL}, "retry_budget": {{"percent_can_retry": 0, "min_retries_per_second": 1}}"#
    );
    for status in status::FAULTS {
        let shop = shop(&format!("{REROUTE}, {STATIC}"), &[("backup", &guard)]);
        trip(&shop, "backup");
        shop.host.advance(WAIT + WAIT);
        shop.vm().fail_kind("proxy_replace_header_map_value", status);
        for _ in 0..3 {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            assert_eq!(refused(&stream).body, b"ours", "{status}");
            let left = state(&shop, "backup");
            assert_eq!((left.bulkhead.in_flight(), left.budget.reserved()), (0, 0), "{status}");
            assert!(matches!(left.breaker.phase(), Phase::HalfOpen(_)), "{:?}", left.breaker);
        }
        assert_eq!(
            (fallbacks(&shop, "circuit_open", "reroute"), fallbacks(&shop, "circuit_open", "static")),
            (0, 3)
        );
        shop.vm().clear_faults();
        // The only probe is free.
        assert_eq!(leave(&goes(shop.vm()), End::Status(200)).as_deref(), Some(MARK), "{status}");
        assert!(matches!(state(&shop, "backup").breaker.phase(), Phase::Closed(_)));
        assert_eq!(shop.metric("resilience_store_give_ups_total;operation=lease"), 0);
    }
}

/// The end of a wait is heard of in a callback that is nobody's: what fails there is nobody else's either.
#[test]
fn one_that_cannot_be_told_after_its_wait_is_answered_by_the_next_entry() {
    let shop = shop(&format!("{REROUTE}, {STATIC}"), &[("backup", PATIENT)]);
    let holder = hold(&shop, "backup");
    let waiter = arrive(shop.vm());
    assert_eq!(waiter.request_headers(true).unwrap(), Action::Pause);
    leave(&holder, End::Status(200));
    shop.vm().fail_kind("proxy_replace_header_map_value", status::INTERNAL_FAILURE);
    deliver(&shop);
    shop.vm().clear_faults();
    let reply = refused(&waiter);
    assert_eq!((reply.body.as_slice(), reply.callback.as_str()), (&b"ours"[..], "proxy_on_queue_ready"));
    assert_eq!((waiter.continued(), crowd(&shop, "backup")), (vec![], (0, 0)));
}

/// A guard whose bulkhead is in shadow mode lets a request on that waits in name only: if that cannot be told, the next guard is
/// not to find a place that is another's.
#[test]
fn a_wait_in_name_ends_with_the_way_that_was_not_taken() {
    let queue = |limit: u32| {
        format!(
            r#""bulkhead": {{"mode": "shadow", "max_concurrent_calls": {limit}, "max_wait_duration": "10s", "max_queue": 5}}"#
        )
    };
    for entries in [format!("{REROUTE}, {SECOND}, {STATIC}"), format!("{REROUTE}, {STATIC}")] {
        let shop = shop(&entries, &[("backup", &queue(1)), ("spare", &queue(1))]);
        let holders = [hold(&shop, "backup"), hold(&shop, "spare")];
        shop.vm().fail_nth(fallible_before_the_first_write(&entries), status::INTERNAL_FAILURE);
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        let went = sent_to(&stream);
        assert_eq!(went.as_deref(), entries.contains("spare").then_some("spare"));
        assert_eq!(crowd(&shop, "backup"), (1, 0), "nobody waits there");
        assert_eq!(crowd(&shop, "spare"), (1, u32::from(went.is_some())));
        leave(&holders[0], End::Status(200));
        leave(&holders[1], End::Status(200));
        deliver(&shop);
        match went {
            Some(_) => drop(leave(arrives(&stream), End::Status(200))),
            None => drop(refused(&stream)),
        }
        deliver(&shop);
        assert_eq!((crowd(&shop, "backup"), crowd(&shop, "spare")), ((0, 0), (0, 0)), "{entries}");
    }
}

/// Which call of a request writes the header for the first time, counted among those that can fail.
fn fallible_before_the_first_write(entries: &str) -> usize {
    let queue = r#""bulkhead": {"mode": "shadow", "max_concurrent_calls": 1, "max_wait_duration": "10s", "max_queue": 5}"#;
    let shop = shop(entries, &[("backup", queue), ("spare", queue)]);
    let _holders = [hold(&shop, "backup"), hold(&shop, "spare")];
    let stream = arrive(shop.vm());
    enter(&stream).unwrap();
    let calls = stream.calls();
    let writes = |call: &resilience_module_tests::Call| {
        call.argument == b"x-resilience-reroute" && call.function.contains("replace")
    };
    let place = calls.iter().position(writes).expect("it goes elsewhere");
    calls[..place].iter().filter(|call| FakeVm::can_fail(&call.function)).count()
}

#[test]
fn a_stream_that_is_gone_when_its_turn_comes_gives_back_what_it_got() {
    let shop = shop(REROUTE, &[("backup", PATIENT)]);
    let holder = hold(&shop, "backup");
    let waiter = arrive(shop.vm());
    assert_eq!(waiter.request_headers(true).unwrap(), Action::Pause);
    leave(&holder, End::Status(200));
    shop.vm().fail_kind("proxy_set_effective_context", status::BAD_ARGUMENT);
    deliver(&shop);
    shop.vm().clear_faults();
    assert_eq!((waiter.continued(), sent_to(&waiter), crowd(&shop, "backup")), (vec![], None, (0, 0)));
    waiter.finish().unwrap();
    assert_eq!(crowd(&shop, "backup"), (0, 0));
}

/// What the host does not tell of where a request went is taken for another place: no mark, and no evidence.
#[test]
fn where_the_host_does_not_say_where_it_went_nothing_is_said_or_proved() {
    let shop = shop(REROUTE, &[("backup", BREAKER)]);
    let stream = goes(shop.vm());
    shop.vm().fail_kind("proxy_get_property", status::INTERNAL_FAILURE);
    assert_eq!(leave(&stream, End::Status(500)), None);
    shop.vm().clear_faults();
    assert_eq!(calls(&shop, "backup"), [0, 0, 1]);
}
