//! Policies that need others (`when_open`): while the breaker of one is open they refuse, and their fallback answers.

use resilience_core::state::State;
use resilience_core::time::Timestamp;
use resilience_module_tests::shop::{
    BREAKER, End, ROOT, Shop, TICK, WAIT, answer, arrive, arrive_on, enter, policies, run,
};
use resilience_module_tests::{Action, FakeStream, FakeVm, LocalResponse, Map, headers, status};
use std::time::Duration;

const NEEDS: &str = r#""when_open": ["inventory"]"#;
const STATIC: &str =
    r#""fallback": [{"on": ["dependency_open"], "static": {"status": 200, "text": "quiet"}}]"#;
const FORCED: &str = r#""circuit_breaker": {"mode": "forced_open", "consecutive_failures": 3}"#;
const PATIENT: &str =
    r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "10s", "max_queue": 100}"#;
const MARK: &str = "checkout;reason=dependency_open;source=none";

/// A policy with these sections that needs another one.
fn shop(own: &str, needed: &str) -> Shop {
    Shop::with(&policies(&[("checkout", own), ("inventory", needed)]), 2)
}

/// Opens the breaker of a policy by requests on its own route.
fn trip(shop: &Shop, policy: &str) {
    shop.trip_by(|| run(&arrive_on(shop.vm(), policy), End::Status(500)).unwrap());
}

/// A request on the route of a policy, from its beginning to its end.
#[track_caller]
fn asks(vm: &FakeVm, policy: &str) -> Option<LocalResponse> {
    let stream = arrive_on(vm, policy);
    run(&stream, End::Status(200)).unwrap();
    stream.local_response()
}

fn marked(reply: Option<LocalResponse>) -> Option<String> {
    reply.map(|reply| reply.header("x-resilience").expect("a mark"))
}

fn counted(shop: &Shop, metric: &str) -> u64 {
    let class = if metric == "rejections" { ";class=_" } else { "" };
    shop.metric(&format!("resilience_{metric}_total;policy=checkout;reason=dependency_open{class}"))
}

fn in_flight(shop: &Shop) -> (u32, u32) {
    let bytes = shop.host.data("resilience/shop/checkout").map(|(bytes, _)| bytes);
    let bulkhead = State::decode(bytes.as_deref(), Timestamp::from_nanos(shop.host.now())).bulkhead;
    (bulkhead.in_flight(), bulkhead.waiting())
}

#[test]
fn it_refuses_on_every_worker_from_the_failure_on_that_opens_the_other_to_the_end_of_that_wait() {
    let shop = shop(&format!("{BREAKER}, {NEEDS}"), BREAKER);
    assert_eq!(shop.vms.iter().filter_map(|vm| asks(vm, "checkout")).count(), 0);
    trip(&shop, "inventory");
    shop.host.advance(Duration::from_millis(1500));
    for vm in &shop.vms {
        let reply = asks(vm, "checkout").expect("what it needs is open");
        assert_eq!(
            (reply.status, reply.header("retry-after").as_deref()),
            (503, Some("9")),
            "of 8.5 s that are left"
        );
        assert_eq!(reply.details, b"resilience:checkout:dependency_open");
        assert_eq!(marked(Some(reply)).as_deref(), Some(MARK));
    }
    assert_eq!((counted(&shop, "rejections"), counted(&shop, "shadow_decisions")), (2, 0));
    // Over without anybody who asked the other policy: one that nobody calls must not keep this one quiet.
    shop.host.advance(WAIT);
    assert_eq!(shop.vms.iter().filter_map(|vm| asks(vm, "checkout")).count(), 0);
    // Half-open, with its only probe out.
    let probe = arrive_on(shop.vm(), "inventory");
    assert_eq!(enter(&probe).unwrap(), None);
    assert!(asks(shop.vm(), "inventory").is_some());
    assert_eq!(shop.vms.iter().filter_map(|vm| asks(vm, "checkout")).count(), 0);
    answer(&probe, End::Status(500)).unwrap();
    probe.finish().unwrap();
    assert_eq!(shop.vms.iter().filter_map(|vm| marked(asks(vm, "checkout"))).collect::<Vec<_>>(), [MARK; 2]);
    shop.host.advance(WAIT + WAIT);
    assert_eq!(asks(shop.vm(), "inventory"), None, "a probe that closes it");
    assert_eq!(shop.vms.iter().filter_map(|vm| asks(vm, "checkout")).count(), 0);
    // A refusal proves nothing of its own upstream.
    let of_own = |outcome: &str| {
        shop.metric(&format!("resilience_calls_total;policy=checkout;outcome={outcome};slow=false"))
    };
    assert_eq!((of_own("failure"), of_own("ignored")), (0, 0));
}

#[test]
fn its_fallback_keeps_the_feature_quiet() {
    let shop = shop(&format!("{NEEDS}, {STATIC}"), BREAKER);
    trip(&shop, "inventory");
    let reply = asks(shop.vm(), "checkout").expect("quiet");
    assert_eq!((reply.status, reply.body.as_slice()), (200, &b"quiet"[..]));
    assert_eq!(marked(Some(reply)), Some(MARK.replace("none", "static")));
    let fallbacks = "resilience_fallbacks_total;policy=checkout;reason=dependency_open;source=static";
    assert_eq!((shop.metric(fallbacks), counted(&shop, "rejections")), (1, 1));
}

#[test]
fn the_mode_of_the_other_decides_what_it_is_worth() {
    let forced = FORCED.replace("3}", "3, \"wait_duration_in_open_state\": \"1s\"}");
    let with = |mode: &str, breaker: &str| {
        breaker.replacen(
            "\"circuit_breaker\": {",
            &format!("\"circuit_breaker\": {{\"mode\": \"{mode}\","),
            1,
        )
    };
    for (needed, trips, refused, shadowed) in [
        (BREAKER.to_owned(), true, true, 0),
        // For good, and nobody knows until when.
        (forced.clone(), false, true, 0),
        (with("shadow", BREAKER), true, false, 1),
        (format!(r#""mode": "shadow", {BREAKER}"#), true, false, 1),
        (format!(r#""mode": "shadow", {forced}"#), false, false, 1),
        (with("disabled", BREAKER), true, false, 0),
        (format!(r#""mode": "disabled", {forced}"#), false, false, 0),
    ] {
        let shop = shop(NEEDS, &needed);
        if trips {
            trip(&shop, "inventory");
        }
        for _ in 0..2 {
            shop.host.advance(Duration::from_secs(2));
            let reply = asks(shop.vm(), "checkout");
            assert_eq!(reply.is_some(), refused, "{needed}");
            let wait = reply.and_then(|reply| reply.header("retry-after"));
            assert_eq!(wait.is_some(), refused && trips, "{needed}");
        }
        let counts = (counted(&shop, "rejections"), counted(&shop, "shadow_decisions"));
        assert_eq!(counts, (2 * u64::from(refused), 2 * shadowed), "{needed}");
    }
}

#[test]
fn a_policy_in_shadow_mode_counts_what_it_would_have_refused() {
    let shop = shop(&format!(r#""mode": "shadow", {BREAKER}, {NEEDS}, {STATIC}"#), BREAKER);
    trip(&shop, "inventory");
    assert_eq!((asks(shop.vm(), "checkout"), asks(shop.vm(), "checkout")), (None, None));
    assert_eq!((counted(&shop, "rejections"), counted(&shop, "shadow_decisions")), (0, 2));
}

#[test]
fn of_several_the_one_that_comes_back_last_says_when() {
    let brief = BREAKER.replace("\"10s\"", "\"3s\"");
    let own = r#""when_open": ["brief", "long", "never"]"#;
    let shop = Shop::with(
        &policies(&[("checkout", own), ("long", BREAKER), ("brief", &brief), ("never", BREAKER)]),
        1,
    );
    let wait = || asks(shop.vm(), "checkout").and_then(|reply| reply.header("retry-after"));
    assert_eq!(wait(), None);
    trip(&shop, "brief");
    assert_eq!(wait().as_deref(), Some("3"));
    trip(&shop, "long");
    assert_eq!(wait().as_deref(), Some("10"));
    shop.host.advance(Duration::from_secs(4));
    assert_eq!(wait().as_deref(), Some("6"), "of the other nobody waits any more");
    shop.host.advance(Duration::from_secs(7));
    assert_eq!(wait(), None);
}

#[test]
fn it_comes_after_a_deadline_and_being_forced_open_and_before_its_own_breaker() {
    let late = r#""timeout": {"total": "1s", "deadline_header": "x-patience"}"#;
    for (own, reason) in [
        (format!("{FORCED}, {NEEDS}, {late}"), "deadline_exceeded"),
        (format!("{FORCED}, {NEEDS}"), "circuit_open"),
        (format!("{BREAKER}, {NEEDS}, {PATIENT}"), "dependency_open"),
    ] {
        let config = policies(&[("checkout", &own), ("inventory", BREAKER)]);
        let config = config.replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1);
        let shop = Shop::with(&config, 1);
        if reason == "dependency_open" {
            trip(&shop, "checkout");
        }
        trip(&shop, "inventory");
        let stream = arrive(shop.vm());
        let mut request = stream.headers(Map::RequestHeaders);
        request.extend(headers(&[("x-patience", "1")]));
        stream.set_request_headers(request);
        let reply = enter(&stream).unwrap();
        assert_eq!(marked(reply), Some(MARK.replace("dependency_open", reason)));
        assert_eq!(in_flight(&shop), (0, 0));
    }
}

/// A request that is held back.
#[track_caller]
fn wait(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(stream.request_headers(true).unwrap(), Action::Pause);
    assert_eq!(stream.local_response(), None);
    stream
}

/// Much may have happened since it came.
#[test]
fn one_that_waited_is_not_let_in_if_what_it_needs_has_opened_meanwhile() {
    for (fallback, source) in [(String::new(), "none"), (format!(", {STATIC}"), "static")] {
        let shop = shop(&format!("{BREAKER}, {PATIENT}, {NEEDS}{fallback}"), BREAKER);
        let holder = arrive(shop.vm());
        assert_eq!(enter(&holder).unwrap(), None);
        let [waiter, next] = [wait(&shop.vms[1]), wait(shop.vm())];
        trip(&shop, "inventory");
        answer(&holder, End::Status(200)).unwrap();
        holder.finish().unwrap();
        while shop.vms.iter().map(|vm| vm.deliver_queues().unwrap()).sum::<usize>() > 0 {}
        for stream in [&waiter, &next] {
            let reply = stream.local_response();
            assert_eq!(marked(reply), Some(MARK.replace("none", source)), "its permit went to the next");
            assert_eq!(stream.continued(), [0; 0]);
            stream.deliver_local_response().unwrap();
            stream.finish().unwrap();
        }
        assert_eq!((in_flight(&shop), counted(&shop, "rejections")), ((0, 0), 2));
        // Whoever waited in vain has its own reason.
        let shop = self::shop(&format!("{BREAKER}, {PATIENT}, {NEEDS}"), BREAKER);
        let holder = arrive(shop.vm());
        enter(&holder).unwrap();
        let waiter = wait(shop.vm());
        trip(&shop, "inventory");
        shop.host.advance(WAIT);
        trip(&shop, "inventory");
        shop.vm().tick(ROOT).unwrap();
        assert_eq!(marked(waiter.local_response()), Some(MARK.replace("dependency_open", "bulkhead_full")));
    }
}

/// A probe that is let in by its own breaker, and a retry that is kept for it, are not either.
#[test]
fn nothing_stays_behind_of_one_that_waited_for_nothing() {
    let budget = r#""retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1}"#;
    let shop = shop(&format!("{BREAKER}, {PATIENT}, {budget}, {NEEDS}"), BREAKER);
    for _ in 0..3 {
        let holder = arrive(shop.vm());
        assert_eq!(enter(&holder).unwrap(), None);
        let waiter = wait(shop.vm());
        trip(&shop, "inventory");
        answer(&holder, End::Status(200)).unwrap();
        holder.finish().unwrap();
        shop.vm().deliver_queues().unwrap();
        assert!(waiter.local_response().is_some());
        let (bytes, _) = shop.host.data("resilience/shop/checkout").unwrap();
        let left = State::decode(Some(&bytes), Timestamp::from_nanos(shop.host.now()));
        assert_eq!((left.bulkhead.in_flight(), left.budget.reserved()), (0, 0));
        waiter.finish().unwrap();
        shop.pass(WAIT + TICK).unwrap();
        assert_eq!(asks(shop.vm(), "inventory"), None);
    }
}

/// The other's upstream is not this one's: what cannot be found out keeps nobody out.
#[test]
fn a_store_that_gives_no_answer_keeps_nobody_out() {
    for status in status::FAULTS {
        let shop = shop(NEEDS, BREAKER);
        trip(&shop, "inventory");
        shop.host.advance(Duration::from_millis(200));
        shop.vm().fail_kind("proxy_get_shared_data", status);
        assert_eq!(asks(shop.vm(), "checkout"), None, "{status}");
        shop.vm().clear_faults();
        // What is not found was never written, and that is believed for a moment.
        shop.host.advance(Duration::from_millis(200));
        assert_eq!(marked(asks(shop.vm(), "checkout")).as_deref(), Some(MARK), "{status}");
        // Without the counter it looks every time.
        shop.vm().fail_kind("proxy_get_metric", status);
        assert_eq!(marked(asks(shop.vm(), "checkout")).as_deref(), Some(MARK), "{status}");
    }
}

/// The other policy may keep more than a breaker, and may need this one in turn.
#[test]
fn two_may_need_each_other() {
    let own =
        |other: &str| format!(r#"{BREAKER}, {PATIENT}, "retry_budget": {{}}, "when_open": ["{other}"]"#);
    let shop = Shop::with(&policies(&[("checkout", &own("inventory")), ("inventory", &own("checkout"))]), 1);
    assert_eq!((asks(shop.vm(), "checkout"), asks(shop.vm(), "inventory")), (None, None));
    trip(&shop, "inventory");
    assert_eq!(marked(asks(shop.vm(), "checkout")).as_deref(), Some(MARK));
    // Its own breaker is asked only where that of the other is not open: the wait of both has an end.
    assert_eq!(
        marked(asks(shop.vm(), "inventory")).as_deref(),
        Some("inventory;reason=circuit_open;source=none")
    );
    shop.pass(WAIT + TICK).unwrap();
    assert_eq!((asks(shop.vm(), "checkout"), asks(shop.vm(), "inventory")), (None, None));
}
