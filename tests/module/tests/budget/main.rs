//! What a request costs in host calls. A number that changes here is a number of the documentation.

mod annotations;
mod bulkhead;
mod elsewhere;
mod fallback;
mod metrics;
mod retries;

use resilience_module_tests::shop::{
    CONFIG, End, KEY, ROOT, Shop, TICK, WAIT, arrive, config_and, policy_and, request, run,
};
use resilience_module_tests::{Call, Counts, FakeStream, Kind};
use std::time::Duration;

/// Runs a request and shows what it cost.
fn cost(title: &str, stream: &FakeStream, end: End) -> Counts {
    run(stream, end).unwrap();
    show(title, &stream.calls())
}

fn show(title: &str, calls: &[Call]) -> Counts {
    let counts = Counts::of(calls);
    println!("{title}\n{counts}");
    for call in calls {
        println!("        {call}");
    }
    counts
}

/// One of each metric that a request uses is defined at its first use.
fn warmed(config: &str) -> Shop {
    let shop = Shop::with(config, 1);
    run(&arrive(shop.vm()), End::Status(200)).unwrap();
    shop
}

/// Has the policy fail and recover; the next request looks at the state that this leaves.
fn leave_state_to_read(shop: &Shop) {
    run(&arrive(shop.vm()), End::Status(500)).unwrap();
    run(&arrive(shop.vm()), End::Status(200)).unwrap();
    shop.host.advance(Duration::from_millis(101));
}

/// A healthy request by route, with nothing else in the configuration.
const HEALTHY: Counts = Counts {
    reads_with_bytes: 3,
    reads_of_nothing: 1,
    metric_reads: 2,
    metric_increments: 1,
    clock_reads: 2,
    ..Counts::NONE
};
const EXEMPT: &str = r#""exempt": [{"path": {"prefix": "/health"}}]"#;

#[test]
fn a_healthy_request() {
    let shop = warmed(CONFIG);
    let believed = cost("healthy, nothing changed", &arrive(shop.vm()), End::Status(200));
    assert_eq!(believed, HEALTHY);

    // Every so often it looks at the shared state: a policy that never failed has none, so nothing is handed over.
    shop.host.advance(Duration::from_millis(101));
    let looked = cost("healthy, looking at the shared state", &arrive(shop.vm()), End::Status(200));
    assert_eq!(looked, Counts { reads_of_nothing: 2, ..HEALTHY });

    // One that failed and recovered has state to read: the most that a healthy request costs.
    leave_state_to_read(&shop);
    let worst = cost("healthy, reading the shared state", &arrive(shop.vm()), End::Status(200));
    assert_eq!(worst, Counts { reads_with_bytes: 4, ..HEALTHY });
    assert!(worst.reads_with_bytes <= 4 && worst.shared_writes <= 1, "the promise of the documentation");
}

#[test]
fn exemptions_cost_what_they_have_to_look_at() {
    let shop = warmed(&config_and(EXEMPT));
    let counts = cost("healthy, with an exemption by path", &arrive(shop.vm()), End::Status(200));
    assert_eq!(counts, Counts { reads_with_bytes: 4, ..HEALTHY });
    // Once a policy has state, a look at it makes five: one more than the budget has for a request without exemptions.
    leave_state_to_read(&shop);
    let worst = cost("the same, reading the shared state", &arrive(shop.vm()), End::Status(200));
    assert_eq!(worst, Counts { reads_with_bytes: 5, ..HEALTHY });
}

/// A rule by header, beside rules by status.
const RULES: &str = r#""outcome": {"failure": {"status": [429, "5xx"], "headers": [{"name": "x-degraded", "value": "true"}]},
    "ignore": {"status": [404], "headers": [{"name": "x-test", "value": "1"}, {"name": "x-test", "value": "2"}]}}"#;

#[test]
fn rules_by_status_cost_nothing() {
    let rules = r#""outcome": {"failure": {"status": [429]}, "ignore": {"status": [404], "grpc_status": ["ABORTED"]}}"#;
    let shop = warmed(&policy_and(rules));
    let counts = cost("healthy, with rules by status", &arrive(shop.vm()), End::Status(200));
    assert_eq!(counts, HEALTHY);
}

#[test]
fn rules_by_header_cost_nothing_either() {
    let shop = warmed(&policy_and(RULES));
    let stream = arrive(shop.vm());
    let counts = cost("healthy, with rules by header", &stream, End::Status(200));
    assert_eq!(counts, HEALTHY);
    let whole = |call: &&Call| call.function == "proxy_get_header_map_pairs";
    assert_eq!(stream.calls().iter().filter(whole).count(), 1);
    // What is ignored says so at once, and tells a breaker that is closed nothing.
    run(&arrive(shop.vm()), End::Status(404)).unwrap();
    let ignored = cost("an ignored answer", &arrive(shop.vm()), End::Status(404));
    assert_eq!(ignored, Counts { metric_reads: 1, ..HEALTHY });
}

/// A breaker that trips on rates, over a window as given.
fn by_rate(window: &str) -> Shop {
    let breaker = format!(
        r#""failure_rate_threshold": 50, "minimum_number_of_calls": 4, {window}, "wait_duration_in_open_state": "10s""#
    );
    let shop = warmed(&CONFIG.replacen(r#""consecutive_failures": 3"#, &breaker, 1).replacen(
        r#""wait_duration_in_open_state": "10s","#,
        "",
        1,
    ));
    // Once it has shown a sign of life, and the first call has made the window.
    (0..3).for_each(|_| run(&arrive(shop.vm()), End::Status(200)).unwrap());
    shop
}

#[test]
fn a_full_window_of_successes_costs_nothing() {
    let shop = by_rate(r#""sliding_window_size": 5"#);
    let filling =
        cost("healthy, rates by count, the window not yet full", &arrive(shop.vm()), End::Status(200));
    assert_eq!(filling, Counts { reads_with_bytes: 5, shared_writes: 1, metric_increments: 2, ..HEALTHY });
    let full = cost("healthy, rates by count", &arrive(shop.vm()), End::Status(200));
    assert_eq!(full, Counts { reads_with_bytes: 4, ..HEALTHY }, "it learns that the window is full");
    let full = cost("healthy, rates by count", &arrive(shop.vm()), End::Status(200));
    assert_eq!(full, HEALTHY);
}

/// Whose answer may trip the breaker has its identity read, because it cannot be any more when the answer comes. A failure
/// now and then is no reason to.
#[test]
fn only_where_a_trip_is_near_the_requests_identity_is_read() {
    let shop = by_rate(r#""sliding_window_size": 20"#);
    let asked =
        |stream: &FakeStream| stream.calls().iter().filter(|call| call.argument == b"x-request-id").count();
    let serve = |end| {
        let stream = arrive(shop.vm());
        run(&stream, end).unwrap();
        asked(&stream)
    };
    (0..6).for_each(|_| assert_eq!(serve(End::Status(200)), 0));
    // The one behind a failure, for it might be the next of many.
    assert_eq!([End::Status(500), End::Status(200), End::Status(200)].map(serve), [0, 1, 0]);
    // And all from when a quarter fail of what trips at one half.
    let alternating: Vec<_> = (0..6).map(|_| [End::Status(500), End::Status(200)].map(serve)).collect();
    assert_eq!(alternating.first(), Some(&[0, 1]));
    assert_eq!(alternating.last(), Some(&[1, 1]));
}

#[test]
fn a_window_over_time_takes_every_call() {
    let shop = by_rate(r#""sliding_window_type": "time", "sliding_window_size": 10"#);
    let counts = cost("healthy, rates by time", &arrive(shop.vm()), End::Status(200));
    assert_eq!(counts, Counts { reads_with_bytes: 5, shared_writes: 1, ..HEALTHY });
}

#[test]
fn a_threshold_for_slow_calls_costs_a_look_at_the_clock() {
    let threshold = r#""consecutive_failures": 3, "slow_call_duration_threshold": "1s""#;
    let shop = warmed(&CONFIG.replacen(r#""consecutive_failures": 3"#, threshold, 1));
    let counts = cost("healthy, with a threshold for slow calls", &arrive(shop.vm()), End::Status(200));
    assert_eq!(counts, Counts { clock_reads: 3, ..HEALTHY });
}

#[test]
fn a_key_costs_a_read() {
    let shop = warmed(&policy_and(r#""key": "upstream_cluster""#));
    let stream = arrive(shop.vm());
    stream.set_property(b"xds\0cluster_name", b"payments");
    run(&stream, End::Status(200)).unwrap();
    let stream = arrive(shop.vm());
    stream.set_property(b"xds\0cluster_name", b"payments");
    let counts = cost("healthy, by upstream cluster", &stream, End::Status(200));
    assert_eq!(counts, Counts { reads_with_bytes: 4, ..HEALTHY });
}

#[test]
fn the_first_request_defines_its_metrics() {
    let shop = Shop::open(1);
    let first = cost("healthy, the first of its policy", &arrive(shop.vm()), End::Status(200));
    let names: Vec<_> = shop.host.metrics().into_keys().collect();
    assert_eq!(first.others, names.len(), "one definition for each of {names:?}");
    assert_eq!(first.shared_writes, 0);
}

#[test]
fn a_failure_and_the_success_after_it() {
    let shop = warmed(CONFIG);
    run(&arrive(shop.vm()), End::Status(500)).unwrap();
    shop.host.advance(Duration::from_millis(101));
    let failure = cost("a failure", &arrive(shop.vm()), End::Status(500));
    assert_eq!(failure.shared_writes, 1);
    let success = cost("a success that clears a failure", &arrive(shop.vm()), End::Status(200));
    assert_eq!(success.shared_writes, 1);
}

/// How often a request's route was asked for.
fn looks_at_the_route(stream: &FakeStream) -> usize {
    stream.calls().iter().filter(|call| call.argument == b"xds\0route_name").count()
}

#[test]
fn what_can_change_a_state_looks_at_the_route_once_more() {
    let shop = warmed(CONFIG);
    for (end, looks) in [(End::Status(200), 1), (End::Status(500), 2), (End::Status(200), 2)] {
        let stream = arrive(shop.vm());
        cost(&format!("{end:?}"), &stream, end);
        assert_eq!(looks_at_the_route(&stream), looks, "{end:?}");
    }
    // The success that ended the run of failures paid, too. Of those since, one in so many pays.
    let mut paid = Vec::new();
    for number in 1..=300 {
        let stream = arrive(shop.vm());
        run(&stream, End::Status(200)).unwrap();
        if looks_at_the_route(&stream) > 1 {
            paid.push(number);
        }
    }
    assert_eq!(paid, [128, 256]);

    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    let probe = arrive(shop.vm());
    cost("a probe", &probe, End::Status(200));
    assert_eq!(looks_at_the_route(&probe), 2);
}

#[test]
fn a_refused_request() {
    for (title, fallback) in [
        ("refused plainly", ""),
        ("refused with a static answer", r#"{"static": {"status": 200, "json": {"items": []}}}"#),
    ] {
        let shop = Shop::with(&policy_and(&format!(r#""fallback": [{fallback}]"#)), 1);
        shop.trip();
        // The first refusal of a policy defines its metrics.
        run(&arrive(shop.vm()), End::Status(200)).unwrap();
        let stream = arrive(shop.vm());
        let counts = cost(title, &stream, End::Status(200));
        let static_answer = usize::from(!fallback.is_empty());
        let expected = Counts {
            reads_with_bytes: 1,
            reads_of_nothing: 2,
            metric_reads: 1,
            metric_increments: 1 + static_answer,
            clock_reads: 1,
            local_replies: 1,
            ..Counts::NONE
        };
        assert_eq!(counts, expected);
        assert_eq!(stream.local_response().unwrap().status, if fallback.is_empty() { 503 } else { 200 });
        shop.host.advance(Duration::from_millis(101));
        let looked = cost("the same, reading the shared state", &arrive(shop.vm()), End::Status(200));
        assert_eq!(looked, Counts { reads_with_bytes: 2, ..expected });
    }
}

#[test]
fn a_request_that_is_not_ours() {
    let shop = warmed(&config_and(EXEMPT));
    let unmatched = shop.vm().stream(ROOT);
    unmatched.set_request_headers(request("/other")).set_property(b"xds\0route_name", "other");
    let counts = cost("of another route", &unmatched, End::Status(500));
    assert_eq!(counts, Counts { reads_with_bytes: 1, reads_of_nothing: 1, ..Counts::NONE });

    let exempt = shop.vm().stream(ROOT);
    exempt.set_request_headers(request("/health/live")).set_property(b"xds\0route_name", "checkout");
    let counts = cost("exempt", &exempt, End::Status(500));
    assert_eq!(counts, Counts { reads_with_bytes: 2, reads_of_nothing: 1, ..Counts::NONE });
    assert_eq!(shop.host.data(KEY), None, "neither is evidence");
}

#[test]
fn a_request_by_host_path_and_method_reads_each_once() {
    let by_path = CONFIG.replace(
        r#"[{"route": "checkout"}]"#,
        r#"[{"host": "*.example", "path": {"prefix": "/checkout"}, "methods": ["GET"]}, {"path": {"exact": "/c"}}]"#,
    );
    let shop = warmed(&by_path);
    let counts = cost("matched by host, path and method", &arrive(shop.vm()), End::Status(200));
    assert_eq!((counts.reads_with_bytes, counts.shared_writes), (5, 0));
}

#[test]
fn no_healthy_request_writes_a_header() {
    let shop = warmed(CONFIG);
    let stream = arrive(shop.vm());
    run(&stream, End::Status(200)).unwrap();
    // It would make Envoy choose the route again.
    assert_eq!(stream.mutations(), []);
    assert!(stream.calls().iter().all(|call| call.kind() != Kind::HeaderWrite));
}

/// What a tick costs that finds nothing to do: the worker's own sign of life, and a look at those of the others.
const TICKED: Counts = Counts { reads_with_bytes: 2, shared_writes: 1, clock_reads: 1, ..Counts::NONE };

#[test]
fn a_tick_writes_its_sign_of_life_and_nothing_else() {
    let shop = Shop::open(2);
    shop.pass(Duration::from_secs(2)).unwrap();
    shop.host.advance(TICK);
    for (index, vm) in shop.vms.iter().enumerate() {
        vm.take_calls();
        vm.tick(ROOT).unwrap();
        let counts = show(&format!("tick of worker {index}"), &vm.calls());
        // The one that leads looks at the policy, too, and shows which configuration rules.
        let leads = Counts { reads_of_nothing: 1, metric_records: 1, ..TICKED };
        let expected = if index == 0 { leads } else { TICKED };
        assert_eq!(counts, expected);
    }
}

/// What was decided is left for access logs only where that is wanted.
#[test]
fn annotations_cost_a_write_each() {
    let shop = warmed(&config_and(r#""annotate": true"#));
    let stream = arrive(shop.vm());
    let counts = cost("healthy, annotated", &stream, End::Status(200));
    assert_eq!(counts, Counts { property_writes: 3, ..HEALTHY });
    let written = stream.calls().into_iter().filter(|call| call.kind() == Kind::PropertyWrite);
    let names: Vec<_> = written.map(|call| String::from_utf8(call.argument).unwrap()).collect();
    assert_eq!(names, ["resilience.policy", "resilience.decision", "resilience.breaker"]);
    for config in [CONFIG.to_owned(), config_and(r#""annotate": false"#)] {
        let shop = warmed(&config);
        assert_eq!(cost("healthy, not annotated", &arrive(shop.vm()), End::Status(200)), HEALTHY);
        shop.trip();
        let refused = cost("refused, not annotated", &arrive(shop.vm()), End::Status(200));
        assert_eq!((refused.local_replies, refused.property_writes), (1, 0));
    }
}
