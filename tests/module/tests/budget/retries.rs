//! A request of a policy with retries, a budget for them or timeouts: shared data is read and written as often as for a
//! bulkhead alone, because all of it is one update.

use crate::bulkhead::{ADMISSION, BULKHEAD, COMPLETION, FALLBACK, arrive_all, halves, of_state, warmed};
use crate::{Counts, FakeStream, Kind, TICKED, show};
use resilience_module_tests::shop::{CONFIG, End, ROOT, Shop, TICK, answer, arrive, enter, policy_and};
use resilience_module_tests::{Call, Map, MutationKind, headers};

const BUDGET: &str = r#""retry_budget": {}"#;
const RETRY: &str = r#""retry": {"max_retries": 2, "retry_on": ["5xx", "unavailable"]}"#;
const TIMEOUT: &str = r#""timeout": {"total": "5s", "per_try": "1s"}"#;

/// All headers at once.
const CAPPED: Counts = Counts { reads_with_bytes: ADMISSION.reads_with_bytes + 1, ..ADMISSION };
/// How often it was retried, where something is kept for it.
const SETTLED: Counts = Counts { reads_with_bytes: COMPLETION.reads_with_bytes + 1, ..COMPLETION };

/// The shop's policy with these sections and no breaker.
fn alone(sections: &str) -> String {
    let breaker = CONFIG.find("\"circuit_breaker\"").map(|at| &CONFIG[at..]).unwrap();
    CONFIG.replace(breaker, &format!("{sections}}}]}}"))
}

/// The names of the headers that a request got, and those that it lost.
fn written(stream: &FakeStream) -> Vec<String> {
    let mutations = stream.mutations().into_iter().filter(|mutation| mutation.map == Map::RequestHeaders);
    let say = |name: &[u8], value: &[u8]| {
        format!("{}: {}", String::from_utf8_lossy(name), String::from_utf8_lossy(value))
    };
    mutations
        .map(|mutation| match mutation.kind {
            MutationKind::Remove => format!("no {}", String::from_utf8_lossy(&mutation.name)),
            _ => say(&mutation.name, &mutation.value),
        })
        .collect()
}

/// How often all headers of a request, and single ones, were read while it came in.
fn header_reads(calls: &[Call]) -> (usize, usize) {
    let count = |function: &str| {
        let of_request = calls.iter().filter(|call| call.callback == "proxy_on_request_headers");
        of_request.filter(|call| call.function == function).count()
    };
    (count("proxy_get_header_map_pairs"), count("proxy_get_header_map_value"))
}

#[test]
fn a_budget_costs_two_reads_and_no_write_of_its_own() {
    for (title, sections) in [
        ("budget and breaker", BUDGET.to_owned()),
        ("budget, breaker and bulkhead", format!("{BUDGET}, {BULKHEAD}")),
        ("budget, breaker, bulkhead and fallback", format!("{BUDGET}, {BULKHEAD}, {FALLBACK}")),
        ("budget in shadow mode", format!(r#""retry_budget": {{"mode": "shadow"}}, {BULKHEAD}"#)),
    ] {
        let shop = warmed(&policy_and(&sections));
        assert_eq!(halves(&shop, title), (CAPPED, SETTLED), "{title}");
    }
    // Without a breaker there is nothing to ask the change counter.
    for (title, sections) in
        [("budget alone", BUDGET.to_owned()), ("budget and bulkhead", format!("{BUDGET}, {BULKHEAD}"))]
    {
        let shop = warmed(&alone(&sections));
        assert_eq!(halves(&shop, title), (Counts { metric_reads: 0, ..CAPPED }, SETTLED), "{title}");
    }
}

#[test]
fn a_budget_that_is_disabled_costs_nothing() {
    let shop = warmed(&policy_and(&format!(r#""retry_budget": {{"mode": "disabled"}}, {BULKHEAD}"#)));
    assert_eq!(halves(&shop, "budget that is disabled"), (ADMISSION, COMPLETION));
}

/// A class and a key of idempotency are in the same map.
#[test]
fn a_request_reads_its_headers_once() {
    let classes = r#"{"max_concurrent_calls": 10, "priority": {"header": "x-class", "default": "batch",
        "classes": [{"name": "batch", "max_share": 100}]}}"#;
    let sections = format!(r#"{BUDGET}, {RETRY}, {TIMEOUT}, "bulkhead": {classes}"#);
    let shop = warmed(&policy_and(&sections));
    let stream = arrive_all(&shop);
    enter(&stream).unwrap();
    let calls = stream.calls();
    assert_eq!(show("all patterns and a class by header, admission", &calls).reads_with_bytes, 3);
    // The one beside them is the forged header, which nobody sends.
    assert_eq!((header_reads(&calls), of_state(&calls)), ((1, 1), (1, 1)));
    let by_class = calls.iter().filter(|call| call.argument == b"x-class").count();
    assert_eq!(by_class, 0);
}

#[test]
fn no_healthy_request_under_a_cap_has_a_header_written() {
    let shop = warmed(&policy_and(&format!("{BUDGET}, {BULKHEAD}")));
    let streams: Vec<_> = (0..9).map(|_| arrive_all(&shop)).collect();
    for stream in &streams {
        enter(stream).unwrap();
        assert_eq!(written(stream), [""; 0]);
        assert!(stream.calls().iter().all(|call| call.kind() != Kind::HeaderWrite));
    }
}

#[test]
fn what_is_in_charge_writes_what_it_says_and_nothing_else() {
    let retries = ["x-envoy-retry-on: 5xx", "x-envoy-retry-grpc-on: unavailable", "x-envoy-max-retries: 2"];
    let timeouts = ["x-envoy-upstream-rq-timeout-ms: 5000", "x-envoy-upstream-rq-per-try-timeout-ms: 1000"];
    for (title, sections, expected) in [
        ("retry in charge", RETRY.to_owned(), retries.to_vec()),
        ("retry without a budget", format!(r#"{RETRY}, "retry_budget": null"#), retries.to_vec()),
        ("timeouts", TIMEOUT.to_owned(), timeouts.to_vec()),
        ("both", format!("{RETRY}, {TIMEOUT}"), [retries.to_vec(), timeouts.to_vec()].concat()),
        (
            "all in shadow mode",
            [RETRY, TIMEOUT, BUDGET]
                .join(", ")
                .replace(": {", r#": {"mode": "shadow", "#)
                .replace(", }", "}"),
            Vec::new(),
        ),
    ] {
        let shop = warmed(&policy_and(&format!("{sections}, {BULKHEAD}, {FALLBACK}")));
        let stream = arrive_all(&shop);
        enter(&stream).unwrap();
        assert_eq!(written(&stream), expected, "{title}");
        drop(stream);
        let header_writes = expected.len();
        // Retries are counted also where nothing bounds them.
        let completion = if title == "timeouts" { COMPLETION } else { SETTLED };
        let (came, went) = halves(&shop, title);
        assert_eq!((came, went), (Counts { header_writes, ..CAPPED }, completion), "{title}");
    }
}

#[test]
fn a_request_that_is_not_retried_is_not_asked_about_at_its_end() {
    let shop = warmed(&policy_and(&format!("{RETRY}, {BULKHEAD}")));
    let post = || {
        let stream = arrive_all(&shop);
        let mut request = stream.headers(Map::RequestHeaders);
        request.retain(|(name, _)| name != b":method");
        request.extend(headers(&[(":method", "POST")]));
        stream.set_request_headers(request);
        enter(&stream).unwrap();
        stream
    };
    let stream = post();
    assert_eq!(written(&stream), ["x-envoy-max-retries: 0"]);
    let admission = stream.calls();
    assert_eq!(show("not idempotent, admission", &admission), Counts { header_writes: 1, ..CAPPED });
    answer(&stream, End::Status(200)).unwrap();
    stream.finish().unwrap();
    let completion = stream.calls().split_off(admission.len());
    assert_eq!(show("not idempotent, completion", &completion), COMPLETION);
}

#[test]
fn headers_that_a_stranger_may_not_send_are_removed_where_they_are() {
    let shop = warmed(&policy_and(&format!("{BUDGET}, {BULKHEAD}")));
    let stream = arrive_all(&shop);
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(headers(&[("x-envoy-max-retries", "9"), ("x-envoy-retry-on", "5xx"), ("x-other", "1")]));
    stream.set_request_headers(request);
    enter(&stream).unwrap();
    assert_eq!(written(&stream), ["no x-envoy-max-retries", "no x-envoy-retry-on"]);
    assert_eq!(show("forged headers, admission", &stream.calls()), Counts { header_writes: 2, ..CAPPED });
}

#[test]
fn a_refusal_of_a_deadline_asks_nobody() {
    let config = policy_and(&format!(r#"{TIMEOUT}, {BUDGET}, {BULKHEAD}"#)).replacen(
        "\"namespace\"",
        "\"trust_caller_headers\": true, \"namespace\"",
        1,
    );
    let shop = warmed(&config);
    let late = || {
        let stream = arrive(shop.vm());
        let mut request = stream.headers(Map::RequestHeaders);
        request.extend(headers(&[("x-envoy-expected-rq-timeout-ms", "10")]));
        stream.set_request_headers(request);
        assert_eq!(enter(&stream).unwrap().expect("it is too late").status, 504);
        stream
    };
    late();
    let counts = show("refused for its deadline", &late().calls());
    let expected = Counts {
        reads_with_bytes: 2,
        reads_of_nothing: 1,
        metric_increments: 1,
        clock_reads: 1,
        local_replies: 1,
        ..Counts::NONE
    };
    assert_eq!(counts, expected);
}

/// A leader shows the balance, which it has read anyway.
#[test]
fn a_tick_shows_the_balance_and_reads_no_more() {
    let shop: Shop = warmed(&policy_and(&format!("{BUDGET}, {BULKHEAD}")));
    shop.pass(TICK * 2).unwrap();
    shop.host.advance(TICK);
    shop.vm().take_calls();
    shop.vm().tick(ROOT).unwrap();
    let counts = show("tick of a leader, with a budget", &shop.vm().take_calls());
    let reads_with_bytes = TICKED.reads_with_bytes + 1;
    assert_eq!(counts, Counts { reads_with_bytes, metric_records: 6, metric_reads: 2, ..TICKED });
}
