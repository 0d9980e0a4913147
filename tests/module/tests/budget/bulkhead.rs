//! A request of a policy with a bulkhead: one read and one write of shared data to come in, and one of each to end, whatever
//! else the policy has.

use crate::{Counts, FakeStream, Kind, TICKED, show};
use resilience_module_tests::shop::{CONFIG, End, ROOT, Shop, TICK, answer, arrive, enter, policy_and};
use resilience_module_tests::{Action, Call, headers};

pub(super) const BULKHEAD: &str = r#""bulkhead": {"max_concurrent_calls": 10}"#;
pub(super) const FALLBACK: &str = r#""fallback": [{"static": {"status": 200, "json": {"items": []}}}]"#;
const WAITING: &str = r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "10s"}"#;

/// Coming in, found by route.
pub(super) const ADMISSION: Counts = Counts {
    reads_with_bytes: 2,
    reads_of_nothing: 1,
    shared_writes: 1,
    metric_reads: 1,
    clock_reads: 1,
    ..Counts::NONE
};
/// Its end: the answer's headers and code details, and what it gives back.
pub(super) const COMPLETION: Counts =
    Counts { reads_with_bytes: 3, shared_writes: 1, metric_increments: 1, clock_reads: 1, ..Counts::NONE };

/// A shop after its first requests: metrics are defined, the worker is known, and a window of ten calls is full.
pub(super) fn warmed(config: &str) -> Shop {
    let shop = Shop::with(config, 1);
    for _ in 0..12 {
        let stream = arrive_all(&shop);
        enter(&stream).unwrap();
        answer(&stream, End::Status(200)).unwrap();
        stream.finish().unwrap();
    }
    shop
}

/// A request that has whatever a policy may ask for.
pub(super) fn arrive_all(shop: &Shop) -> FakeStream {
    let stream = arrive(shop.vm());
    let mut request = stream.headers(resilience_module_tests::Map::RequestHeaders);
    request.extend(headers(&[("x-class", "batch")]));
    stream.set_request_headers(request).set_property(b"xds\0cluster_name", "payments");
    stream.set_property(b"upstream\0request_attempt_count", 1_u64.to_le_bytes());
    stream
}

/// Admits a request, then answers and ends it: what either half cost.
pub(super) fn halves(shop: &Shop, title: &str) -> (Counts, Counts) {
    let stream = arrive_all(shop);
    assert_eq!(enter(&stream).unwrap(), None);
    let admission = stream.calls();
    answer(&stream, End::Status(200)).unwrap();
    stream.finish().unwrap();
    let completion = stream.calls().split_off(admission.len());
    (show(&format!("{title}, admission"), &admission), show(&format!("{title}, completion"), &completion))
}

/// How often a policy's state was read and written.
pub(super) fn of_state(calls: &[Call]) -> (usize, usize) {
    let count = |function: &str| calls.iter().filter(|call| call.function == function).count();
    (count("proxy_get_shared_data"), count("proxy_set_shared_data"))
}

#[test]
fn breaker_bulkhead_and_fallback_cost_one_read_and_one_write_at_either_end() {
    let shop = warmed(&policy_and(&format!("{BULKHEAD}, {FALLBACK}")));
    assert_eq!(halves(&shop, "breaker, bulkhead and fallback"), (ADMISSION, COMPLETION));
}

#[test]
fn so_they_do_whatever_the_breaker_counts() {
    let rates = |window: &str| {
        let triggers = format!(
            r#""consecutive_failures": 3, "failure_rate_threshold": 50, {window}, "minimum_number_of_calls": 5"#
        );
        policy_and(BULKHEAD).replacen(r#""consecutive_failures": 3"#, &triggers, 1)
    };
    // A call that a window takes looks at the route once more, as it does without a bulkhead.
    for (window, looks) in [
        (r#""sliding_window_size": 10"#, 0),
        (r#""sliding_window_size": 1000"#, 1),
        (r#""sliding_window_type": "time", "sliding_window_size": 10"#, 1),
    ] {
        let shop = warmed(&rates(window));
        let reads_with_bytes = COMPLETION.reads_with_bytes + looks;
        let completion = Counts { reads_with_bytes, ..COMPLETION };
        assert_eq!(halves(&shop, window), (ADMISSION, completion), "{window}");
    }
    let slow = r#""consecutive_failures": 3, "slow_call_duration_threshold": "1s""#;
    let shop = warmed(&policy_and(BULKHEAD).replacen(r#""consecutive_failures": 3"#, slow, 1));
    let clock_reads = COMPLETION.clock_reads + 1;
    assert_eq!(halves(&shop, "slow calls"), (ADMISSION, Counts { clock_reads, ..COMPLETION }));
}

#[test]
fn a_bulkhead_alone_has_nothing_to_ask_the_change_counter() {
    let breaker = CONFIG.find("\"circuit_breaker\"").map(|at| &CONFIG[at..]).unwrap();
    let alone = CONFIG.replace(breaker, &format!("{BULKHEAD}}}]}}"));
    let shop = warmed(&alone);
    let admission = Counts { metric_reads: 0, ..ADMISSION };
    assert_eq!(halves(&shop, "bulkhead alone"), (admission, COMPLETION));
}

#[test]
fn a_key_costs_a_read_and_so_does_a_class_that_the_request_names() {
    let classes = r#""default": "batch", "classes": [{"name": "batch", "max_share": 100}]"#;
    let bulkhead = |source: &str| {
        let priority = format!(r#"{{"max_concurrent_calls": 10, "priority": {{{source}{classes}}}}}"#);
        policy_and(&format!(r#""bulkhead": {priority}"#))
    };
    for (title, config, reads) in [
        ("by upstream cluster", policy_and(&format!(r#""key": "upstream_cluster", {BULKHEAD}"#)), (1, 0)),
        ("one class for all", bulkhead(""), (0, 0)),
        ("class by header", bulkhead(r#""header": "x-class", "#), (1, 0)),
        ("class by header that is not there", bulkhead(r#""header": "x-other", "#), (0, 1)),
    ] {
        let shop = warmed(&config);
        let expected = Counts {
            reads_with_bytes: ADMISSION.reads_with_bytes + reads.0,
            reads_of_nothing: ADMISSION.reads_of_nothing + reads.1,
            ..ADMISSION
        };
        assert_eq!(halves(&shop, title), (expected, COMPLETION), "{title}");
    }
}

#[test]
fn a_refusal_for_want_of_a_permit_writes_nothing() {
    let shop = warmed(&policy_and(r#""bulkhead": {"max_concurrent_calls": 1}"#));
    let holder = arrive(shop.vm());
    assert_eq!(enter(&holder).unwrap(), None);
    assert!(enter(&arrive(shop.vm())).unwrap().is_some());
    let stream = arrive(shop.vm());
    assert!(enter(&stream).unwrap().is_some());
    let counts = show("refused for want of a permit", &stream.calls());
    let expected = Counts {
        reads_of_nothing: ADMISSION.reads_of_nothing + 1,
        shared_writes: 0,
        metric_increments: 1,
        local_replies: 1,
        ..ADMISSION
    };
    assert_eq!(counts, expected);
}

#[test]
fn a_wait_costs_a_message_and_two_updates_more() {
    let shop = warmed(&policy_and(WAITING));
    shop.pass(TICK).unwrap();
    let wait = || {
        let holder = arrive(shop.vm());
        assert_eq!(enter(&holder).unwrap(), None);
        let waiter = arrive(shop.vm());
        assert_eq!(waiter.request_headers(true).unwrap(), Action::Pause);
        let queued = waiter.calls();
        answer(&holder, End::Status(200)).unwrap();
        shop.vm().take_calls();
        holder.finish().unwrap();
        let release = shop.vm().take_calls();
        assert_eq!(shop.vm().deliver_queues().unwrap(), 1);
        assert_eq!(waiter.continued(), [0]);
        let woken = shop.vm().take_calls();
        answer(&waiter, End::Status(200)).unwrap();
        waiter.finish().unwrap();
        [("queued", queued), ("release", release), ("woken", woken)]
    };
    wait();
    for (what, calls) in wait() {
        show(what, &calls);
        assert_eq!(of_state(&calls), (1, 1), "{what}");
        assert!(calls.iter().all(|call| call.kind() != Kind::HeaderWrite), "{what}");
    }
}

#[test]
fn a_tick_where_nobody_waits_costs_what_it_did() {
    let shop = warmed(&policy_and(WAITING));
    shop.pass(TICK * 2).unwrap();
    shop.host.advance(TICK);
    shop.vm().take_calls();
    shop.vm().tick(ROOT).unwrap();
    let counts = show("tick of a leader, nobody waits", &shop.vm().take_calls());
    // It looks at the policy's state, and shows the breaker, what is in flight, waits, and may be in flight, and which
    // configuration rules.
    let reads_with_bytes = TICKED.reads_with_bytes + 1;
    assert_eq!(counts, Counts { reads_with_bytes, metric_records: 5, metric_reads: 2, ..TICKED });
    // Long after every wait is over: the timer is the tick's, and is not set again.
    let timer = "proxy_set_tick_period_milliseconds";
    assert!(shop.vm().calls().iter().all(|call| call.function != timer));
}
