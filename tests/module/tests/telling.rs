//! What operators are told: lines in the log, counts of VMs, and what access logs and traces find.

use resilience_module_tests::shop::{
    CONFIG, End, FAILURES, ROOT, Shop, TICK, WAIT, answer, arrive, arrive_on, config_and, enter, policies,
    policy_and, serve, worker,
};
use resilience_module_tests::{FakeStream, FakeVm, headers};
use std::time::Duration;

/// A request with an identity of its own is let in.
fn named(vm: &FakeVm, id: &str) -> FakeStream {
    let stream = arrive(vm);
    stream.set_request_headers(headers(&[(":method", "GET"), (":path", "/pay"), ("x-request-id", id)]));
    assert_eq!(enter(&stream).unwrap(), None, "{id}");
    stream
}

fn lines(shop: &Shop, of: &str) -> Vec<String> {
    let all = shop.vms.iter().flat_map(FakeVm::logs).map(|line| line.message);
    all.filter(|line| line.starts_with(of)).collect()
}

const TRANSITION: &str = "policy checkout: circuit breaker";
const REFUSED: &str = "policy checkout: refused";

/// One after the other these fail.
fn fail(shop: &Shop, ids: &[&str]) {
    for id in ids {
        let stream = named(shop.vm(), id);
        answer(&stream, End::Status(500)).unwrap();
        stream.finish().unwrap();
    }
}

#[test]
fn a_transition_names_the_request_that_led_to_it() {
    let shop = Shop::open(1);
    fail(&shop, &["a-1", "b-2", "c-3"]);
    shop.pass(WAIT + TICK).unwrap();
    let probe = named(shop.vm(), "d-4");
    answer(&probe, End::Status(200)).unwrap();
    probe.finish().unwrap();
    let expected = [
        "closed -> open cause=consecutive_failures count=3 limit=3 generation=1 request_id=c-3",
        "open -> half_open cause=wait_over generation=2 request_id=d-4",
        "half_open -> closed cause=probes calls=1 failed=0 slow=0 generation=3 request_id=d-4",
    ];
    assert_eq!(lines(&shop, TRANSITION), expected.map(|line| format!("{TRANSITION} {line}")));
}

#[test]
fn a_single_failure_that_trips_is_named_and_a_stay_that_nobody_ended_is_not() {
    let once = CONFIG.replace("\"consecutive_failures\": 3", "\"consecutive_failures\": 1");
    let shop = Shop::with(&once, 1);
    fail(&shop, &["only"]);
    shop.pass(WAIT + TICK).unwrap();
    let _probe = named(shop.vm(), "probe");
    shop.pass(Duration::from_secs(6)).unwrap();
    let told = lines(&shop, TRANSITION);
    assert_eq!(told.len(), 3, "{told:?}");
    assert!(told[0].ends_with("count=1 limit=1 generation=1 request_id=only"), "{told:?}");
    assert!(told[2].ends_with("half_open -> open cause=half_open_timeout generation=3"), "{told:?}");
}

/// Nobody could foresee that it would be one of those that are with the upstream already.
#[test]
fn of_several_that_fail_at_once_where_nothing_was_wrong_none_is_named() {
    let shop = Shop::open(1);
    let streams = ["a", "b", "c"].map(|id| named(shop.vm(), id));
    for stream in &streams {
        answer(stream, End::Status(500)).unwrap();
    }
    let told = lines(&shop, TRANSITION);
    assert!(told.len() == 1 && told[0].ends_with(" generation=1"), "{told:?}");
}

#[test]
fn a_clients_identity_cannot_write_a_line() {
    let shop = Shop::open(1);
    fail(&shop, &["a", "b", "x\" level=error\r\npolicy \u{e9}"]);
    let told = lines(&shop, TRANSITION);
    assert!(told[0].ends_with(" request_id=x__level_error__policy___"), "{told:?}");
}

#[test]
fn the_first_refusal_of_a_burst_has_a_line_and_then_one_in_ten_seconds() {
    let shop = Shop::open(2);
    shop.trip();
    for _ in 0..7 {
        assert!(serve(&shop.vms[1], End::Status(200)).unwrap().is_some());
    }
    let numbers = "breaker=open wait_ms=10000 cause=consecutive_failures count=3 limit=3";
    let id = "8f14e45f-ceea-467f-9575-e2a1d6e3a1b2";
    let first = format!("{REFUSED} reason=circuit_open {numbers} held_back=0 request_id={id}");
    assert_eq!(lines(&shop, REFUSED), [first.as_str()]);
    shop.pass(Duration::from_secs(9)).unwrap();
    assert_eq!(lines(&shop, REFUSED).len(), 1);
    shop.pass(TICK * 2).unwrap();
    let held_back = numbers.replace("10000", "0");
    let second = format!("{REFUSED} reason=circuit_open {held_back} held_back=7");
    assert_eq!(lines(&shop, REFUSED), [first, second]);
    shop.pass(Duration::from_secs(30)).unwrap();
    assert_eq!(lines(&shop, REFUSED).len(), 2, "nothing more was held back");
}

#[test]
fn a_vm_that_leaves_tells_what_it_held_back() {
    let shop = Shop::open(2);
    shop.trip();
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some());
    shop.vm().delete_root(ROOT).unwrap();
    let heir = shop.only(1);
    heir.pass(Duration::from_secs(9)).unwrap();
    assert!(serve(heir.vm(), End::Status(200)).unwrap().is_some());
    heir.pass(TICK * 4).unwrap();
    let told = lines(&shop, REFUSED);
    assert!(told.len() == 2 && told[1].ends_with(" held_back=2"), "{told:?}");
}

#[test]
fn healthy_requests_have_no_lines() {
    let shop = Shop::open(1);
    for _ in 0..100 {
        assert!(serve(shop.vm(), End::Status(200)).unwrap().is_none());
    }
    assert_eq!(shop.vm().logs(), []);
}

#[test]
fn vms_are_counted_when_they_begin_and_when_they_are_found_dead() {
    let shop = Shop::open(3);
    let deaths = "resilience_vm_deaths_total;namespace=shop";
    assert_eq!(shop.metric("resilience_vm_starts_total"), 0, "none serves that has not ticked");
    shop.pass(TICK * 4).unwrap();
    assert_eq!(shop.metric("resilience_vm_starts_total"), 3);
    assert_eq!(shop.host.metric(deaths), Some(0), "it is there before the first");
    assert_eq!(shop.metric("resilience_configuration_generation;namespace=shop"), 1);
    // Two go: one in order.
    shop.vms[1].delete_root(ROOT).unwrap();
    shop.only(0).pass(Duration::from_secs(25)).unwrap();
    assert_eq!((shop.metric(deaths), shop.metric("resilience_vm_starts_total")), (1, 3));
}

#[test]
fn what_a_dead_vm_held_is_counted_and_so_is_what_became_of_probes() {
    let shop = Shop::open(2);
    shop.trip();
    shop.pass(WAIT + TICK).unwrap();
    let _lost = named(&shop.vms[1], "lost");
    let alive = shop.only(0);
    // The stay is over before the lease is.
    let probes = |outcome: &str| {
        shop.metric(&format!("resilience_circuit_breaker_probes_total;policy=checkout;outcome={outcome}"))
    };
    alive.pass(Duration::from_secs(7)).unwrap();
    alive.pass(WAIT).unwrap();
    let probe = named(alive.vm(), "probe");
    answer(&probe, End::Status(200)).unwrap();
    probe.finish().unwrap();
    assert_eq!(["success", "failure", "ignored"].map(probes), [1, 0, 0]);
    let open = shop.metric("resilience_circuit_breaker_open_milliseconds_total;policy=checkout");
    assert!((20_000..30_000).contains(&open), "{open}");
    let outages = shop.host.histogram("resilience_circuit_breaker_recovery_milliseconds;policy=checkout");
    assert!(outages.len() == 1 && outages[0] > open, "{outages:?} of which {open}");
}

#[test]
fn beyond_max_metrics_requests_are_served_and_what_is_not_written_is_counted() {
    let names: Vec<String> = (0..120).map(|index| format!("p{index}")).collect();
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
    let shop = Shop::with(&policies(&all).replacen('{', "{\"max_metrics\": 100, ", 1), 1);
    for name in &names {
        let stream = arrive_on(shop.vm(), name);
        assert_eq!(enter(&stream).unwrap(), None);
        answer(&stream, End::Status(200)).unwrap();
        stream.finish().unwrap();
    }
    let counted = shop
        .host
        .metrics()
        .into_iter()
        .filter(|(name, (_, value))| name.contains("calls_total") && *value == 1);
    // And that the VM has started.
    assert_eq!(counted.count(), 99);
    assert_eq!(shop.metric("resilience_metrics_dropped_total"), 21);
    let told = lines(&shop, "this worker has defined 100 metrics");
    assert_eq!(told.len(), 1, "once: {:?}", shop.vm().logs());
}

/// What is left of a stream in filter state.
fn annotated(stream: &FakeStream) -> [Option<String>; 4] {
    ["policy", "decision", "reason", "breaker"].map(|what| stream.property_set(format!("resilience.{what}")))
}

fn said(policy: &str, decision: &str, reason: Option<&str>, breaker: &str) -> [Option<String>; 4] {
    [Some(policy), Some(decision), reason, Some(breaker)].map(|value| value.map(str::to_owned))
}

#[test]
fn what_was_decided_is_left_where_access_logs_find_it() {
    let fallback = r#""fallback": [{"on": ["failure"], "static": {"status": 200, "text": "later"}}]"#;
    for (document, replaced) in [
        (config_and("\"annotate\": true"), false),
        (policy_and(fallback).replacen('{', "{\"annotate\": true, ", 1), true),
    ] {
        let shop = Shop::with(&document, 1);
        let good = named(shop.vm(), "good");
        assert_eq!(annotated(&good), said("checkout", "admitted", None, "closed"));
        answer(&good, End::Status(200)).unwrap();
        good.finish().unwrap();
        assert_eq!(annotated(&good), said("checkout", "admitted", None, "closed"));
        for _ in 0..FAILURES {
            let failed = named(shop.vm(), "failed");
            answer(&failed, End::Status(500)).unwrap();
            let (decision, reason) =
                if replaced { ("fallback", Some("upstream_failure")) } else { ("admitted", None) };
            assert_eq!(annotated(&failed)[1..3], said("", decision, reason, "")[1..3]);
            failed.finish().unwrap();
        }
        let refused = arrive(shop.vm());
        assert!(enter(&refused).unwrap().is_some());
        assert_eq!(annotated(&refused), said("checkout", "refused", Some("circuit_open"), "open"));
        shop.pass(WAIT + TICK).unwrap();
        let probe = named(shop.vm(), "probe");
        assert_eq!(annotated(&probe), said("checkout", "admitted", None, "half_open"));
    }
}

#[test]
fn unasked_nothing_is_left_there() {
    let shop = Shop::open(1);
    let stream = named(shop.vm(), "good");
    answer(&stream, End::Status(500)).unwrap();
    stream.finish().unwrap();
    assert_eq!(stream.properties_set(), []);
}

#[test]
fn while_configurations_overlap_the_newest_ones_modes_are_shown() {
    let state = "resilience_circuit_breaker_state;policy=checkout;key=_";
    let enforced = Shop::open(1);
    enforced.pass(TICK * 2).unwrap();
    assert_eq!(enforced.host.metric(state), Some(0));
    let forced = worker(
        &enforced.host,
        &CONFIG.replace("\"consecutive_failures\"", "\"mode\": \"forced_open\", \"consecutive_failures\""),
    );
    let both = Shop { host: enforced.host.clone(), vms: vec![forced, enforced.vm().clone()] };
    // Whoever ticks last.
    for _ in 0..6 {
        both.pass(TICK).unwrap();
        assert_eq!(both.host.metric(state), Some(2));
    }
    both.vms[0].delete_root(ROOT).unwrap();
    enforced.pass(TICK * 2).unwrap();
    assert_eq!(enforced.host.metric(state), Some(0), "it rules again");
}

#[test]
fn gauges_of_what_is_used_are_set_however_many_metrics_there_are() {
    let names: Vec<String> = (0..150).map(|index| format!("p{index}")).collect();
    let all: Vec<_> =
        names.iter().map(|name| (name.as_str(), "\"bulkhead\": {\"max_concurrent_calls\": 9}")).collect();
    let shop = Shop::with(&policies(&all).replacen('{', "{\"max_metrics\": 100, ", 1), 2);
    shop.pass(TICK * 2).unwrap();
    let streams: Vec<_> = names.iter().map(|name| arrive_on(&shop.vms[1], name)).collect();
    streams.iter().for_each(|stream| assert_eq!(enter(stream).unwrap(), None));
    // The first worker leads until it dies; the other one has more metrics than it may already.
    let in_flight = || {
        let of = |name| shop.metric(&format!("resilience_bulkhead_in_flight;policy={name}"));
        names.iter().map(of).sum::<u64>()
    };
    shop.pass(TICK).unwrap();
    assert_eq!(in_flight(), 150);
    for stream in &streams {
        answer(stream, End::Status(200)).unwrap();
        stream.finish().unwrap();
    }
    shop.only(1).pass(Duration::from_secs(7)).unwrap();
    assert_eq!(in_flight(), 0, "what the heir shows");
}

#[test]
fn a_breaker_per_cluster_is_annotated_as_the_one_that_decided() {
    let keyed = policy_and("\"key\": \"upstream_cluster\"").replacen('{', "{\"annotate\": true, ", 1);
    let shop = Shop::with(&keyed, 1);
    let of = |cluster: &str| {
        let stream = arrive(shop.vm());
        stream.set_property(b"xds\0cluster_name", cluster);
        stream
    };
    for _ in 0..FAILURES {
        let stream = of("cart");
        assert_eq!(enter(&stream).unwrap(), None);
        answer(&stream, End::Status(500)).unwrap();
        stream.finish().unwrap();
    }
    let [refused, other] = ["cart", "mail"].map(of);
    assert!(enter(&refused).unwrap().is_some() && enter(&other).unwrap().is_none());
    assert_eq!(annotated(&refused), said("checkout", "refused", Some("circuit_open"), "open"));
    assert_eq!(annotated(&other), said("checkout", "admitted", None, "closed"));
}

#[test]
fn breakers_whose_mode_says_their_state_are_all_shown_and_go_on_to_be() {
    let names: Vec<String> = (0..130).map(|index| format!("p{index}")).collect();
    let forced = "\"circuit_breaker\": {\"consecutive_failures\": 1, \"mode\": \"forced_open\"}";
    let all: Vec<_> = names.iter().map(|name| (name.as_str(), forced)).collect();
    let shop = Shop::with(&policies(&all), 1);
    let shown = || shop.host.metrics().into_iter().filter(|(name, _)| name.contains("breaker_state")).count();
    let after_each_tick: Vec<_> = (0..3)
        .map(|_| {
            shop.pass(TICK).unwrap();
            shown()
        })
        .collect();
    assert_eq!(after_each_tick, [64, 128, 130], "to define a metric takes the host long");
    // Round and round.
    for _ in 0..3 {
        shop.vm().take_calls();
        shop.pass(TICK * 3).unwrap();
        let calls = shop.vm().take_calls();
        let set = calls.iter().filter(|call| call.function == "proxy_record_metric").count();
        // And which configuration rules, with each tick.
        assert_eq!(set, 130 + 3);
    }
}
