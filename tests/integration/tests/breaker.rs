//! The circuit breaker in a real Envoy: one for all workers. The upstream counts what reached it.

use resilience_integration_tests::{
    Calls, Clients, Edge, UPSTREAM, WORKERS, document, filter, pass, plain_listener, policy,
};
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const SECOND: Duration = Duration::from_secs(1);

/// An upstream, an edge with the policy `shop` before it, and a client on every worker.
struct Shop {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
}

impl Shop {
    async fn open(circuit_breaker: Value) -> Self {
        Self::with(&[policy("shop", circuit_breaker)]).await
    }

    async fn with(policies: &[Value]) -> Self {
        let upstream = Upstream::start().await;
        let edge = Edge::before(upstream.addr(), &document(policies)).await;
        let clients = edge.clients(Protocol::Http1).await;
        Self { upstream, edge, clients }
    }

    async fn ask(&mut self) -> Answer {
        self.clients.send(Request::get("/shop")).await
    }

    /// The answers that the upstream gives, one worker after the other.
    async fn answered(&mut self, statuses: &[u16]) {
        for status in statuses {
            let before = self.upstream.requests();
            assert_eq!(self.clients.get("/shop", &format!("status={status}")).await, *status);
            assert_eq!(self.upstream.requests(), before + 1, "a {status} was to come from the upstream");
        }
    }

    /// Every worker refuses, and nothing reaches the upstream.
    async fn refused_by_all(&mut self) {
        let before = self.upstream.requests();
        for worker in 0..WORKERS {
            let answer = self.clients.worker(worker).send(Request::get("/shop")).await.unwrap();
            assert_refused(&answer, "shop");
        }
        assert_eq!(self.upstream.requests(), before);
    }

    /// One failure, which opens a breaker of `consecutive_failures: 1`. Returns when the answer was there.
    async fn trip(&mut self) -> Instant {
        self.answered(&[503]).await;
        Instant::now()
    }

    /// A request of its own connection that the upstream has in hand.
    async fn held(&self, behaviour: &str) -> (Connection, Pending) {
        let in_flight = self.upstream.in_flight();
        let mut connection = Connection::open(self.edge.address, Protocol::Http1).await.unwrap();
        let request = Request::get("/shop").header("x-behave", behaviour);
        let pending = connection.start(request).await.unwrap();
        self.upstream.wait_in_flight(in_flight + 1).await;
        (connection, pending)
    }

    async fn transitions(&self, to: &str, cause: &str) -> u64 {
        self.edge.transitions("shop", to, cause).await
    }
}

fn assert_refused(answer: &Answer, policy: &str) {
    let marker = format!("{policy};reason=circuit_open;source=none");
    assert_eq!((answer.status, answer.header("x-resilience")), (503, marker), "{answer:?}");
}

fn calls(success: u64, failure: u64, ignored: u64) -> Calls {
    Calls { success, failure, ignored }
}

// ------------------------------------------------------------------------------------------------------- tripping

#[tokio::test(flavor = "multi_thread")]
async fn five_failures_in_the_window_trip_and_the_next_request_does_not_reach_the_upstream() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 5, "window": "10s"}})).await;
    // A success between them changes nothing here.
    shop.answered(&[503, 500, 200, 502, 504]).await;
    assert_ne!(shop.edge.state("shop").await, Some(2));
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.upstream.requests(), 6);
    assert_eq!(shop.edge.state("shop").await, Some(2));
    assert_eq!(shop.transitions("open", "failures_in_window").await, 1);
    assert_eq!(shop.edge.calls("shop").await, calls(1, 5, 0));
    let refused = [("policy", "shop"), ("reason", "circuit_open"), ("class", "_")];
    assert_eq!(shop.edge.count("resilience_rejections_total", &refused).await, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fifth_failure_after_the_window_of_the_first_does_not_trip() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 5, "window": "10s"}})).await;
    let first = shop.trip().await;
    pass(first, 9 * SECOND).await;
    shop.answered(&[503, 503, 503]).await;
    pass(first, 11 * SECOND).await;
    shop.answered(&[503]).await;
    for _ in 0..WORKERS {
        shop.answered(&[200]).await;
    }
    // Now there are five within ten seconds: the first is all that the window has lost.
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_on_any_worker_ends_the_run_of_failures() {
    let mut shop = Shop::open(json!({"consecutive_failures": 3})).await;
    shop.answered(&[503, 503, 200]).await;
    // A success counts when its stream is over, which the client does not see.
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[503, 503]).await;
    // Nothing proved is no success.
    let (_connection, pending) = shop.held("hang").await;
    pending.abandon();
    shop.edge.wait_calls("shop", calls(1, 4, 1)).await;
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_that_come_at_once_on_all_workers_are_all_counted() {
    let mut shop = Shop::open(json!({"failures_in_window": {"failures": 64, "window": "60s"}})).await;
    let failing = |_| Request::get("/shop").header("x-behave", "hang; status=503");
    let address = shop.edge.address;
    let burst = tokio::spawn(async move { burst(address, Protocol::Http1, 63, 63, failing).await });
    shop.upstream.wait_in_flight(63).await;
    shop.upstream.release();
    assert!(burst.await.unwrap().into_iter().all(|answer| answer.unwrap().text() == "upstream\n"));
    shop.edge.wait_calls("shop", calls(0, 63, 0)).await;
    assert_eq!(shop.transitions("open", "failures_in_window").await, 0);
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_with_its_retries_counts_once() {
    let upstream = Upstream::start().await;
    let mut retried = route(UPSTREAM, "/", UPSTREAM);
    retried["route"]["retry_policy"] = json!({
        "retry_on": "5xx",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.001s"},
    });
    let filter = filter(&document(&[policy("shop", json!({"consecutive_failures": 5}))]));
    let manager = connection_manager(&[virtual_host("all", &[retried])], &[filter]);
    let listener = resilience_integration_tests::listener("edge", manager);
    let edge = Edge::start(config::bootstrap(&[listener], &[cluster(UPSTREAM, &[upstream.addr()])])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for request in 1..=5 {
        assert_eq!(
            clients.send(Request::get("/shop").header("x-behave", "status=503")).await.text(),
            "upstream\n"
        );
        assert_eq!(upstream.requests(), 4 * request);
    }
    for _ in 0..WORKERS {
        assert_refused(&clients.send(Request::get("/shop")).await, "shop");
    }
    assert_eq!(upstream.requests(), 20);
    assert_eq!(edge.calls("shop").await, calls(0, 5, 0));
}

// -------------------------------------------------------------------------------------------------- open: the wait

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_the_rest_of_the_wait_rounded_up() {
    const WAIT: Duration = Duration::from_secs(3);
    let mut shop = Shop::open(json!({"consecutive_failures": 1, "wait_duration_in_open_state": "3s"})).await;
    let before = Instant::now();
    let opened = before..shop.trip().await;
    let mut seen = Vec::new();
    // Asked in the middle of each second, so that all three values show.
    for half_seconds in [0, 1, 3, 5] {
        tokio::time::sleep_until((opened.end + half_seconds * SECOND / 2).into()).await;
        let asked = Instant::now();
        let answer = shop.ask().await;
        assert_refused(&answer, "shop");
        let seconds = answer.header("retry-after").parse::<u64>().expect("a number of seconds");
        // What the breaker saw of the clock lies somewhere between what we saw before and after.
        let least = WAIT.saturating_sub(opened.start.elapsed());
        let most = WAIT.saturating_sub(asked - opened.end);
        let allowed = rounded_up(least)..=rounded_up(most);
        assert!(allowed.contains(&seconds), "Retry-After {seconds}, allowed {allowed:?}");
        seen.push(seconds);
    }
    assert!(seen.is_sorted_by(|earlier, later| earlier >= later), "{seen:?}");
    assert_eq!((seen.first(), seen.last()), (Some(&3), Some(&1)), "{seen:?}");
    assert_eq!(shop.upstream.requests(), 1);
    pass(opened.end, WAIT).await;
    shop.answered(&[200]).await;
}

fn rounded_up(wait: Duration) -> u64 {
    wait.as_millis().div_ceil(1000).max(1).try_into().unwrap()
}

// ------------------------------------------------------------------------------------------------------- half-open

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_one_probe() {
    exactly_the_permitted_reach_the_upstream(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_requests_at_once_are_seven_probes() {
    exactly_the_permitted_reach_the_upstream(7).await;
}

async fn exactly_the_permitted_reach_the_upstream(permitted: u64) {
    const CROWD: u64 = 200;
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": permitted,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let address = shop.edge.address;
    let crowd = tokio::spawn(async move {
        let request = |_| Request::get("/shop/crowd").header("x-behave", "hang");
        burst(address, Protocol::Http1, CROWD as usize, CROWD as usize, request).await
    });
    // The probes hang at the upstream until everybody else has been turned away: none of them makes room.
    let refused = [("policy", "shop"), ("reason", "circuit_open")];
    shop.edge.wait_count("resilience_rejections_total", &refused, CROWD - permitted).await;
    shop.upstream.wait_in_flight(permitted as usize).await;
    assert_eq!(shop.upstream.requests_to("/shop/crowd") as u64, permitted);
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.upstream.release();
    let answers = crowd.await.unwrap();
    let (let_in, turned_away): (Vec<_>, Vec<_>) =
        answers.into_iter().map(Result::unwrap).partition(|answer| answer.status == 200);
    assert_eq!(let_in.len() as u64, permitted);
    for answer in turned_away {
        assert_refused(&answer, "shop");
        assert_eq!(answer.header("retry-after"), "1");
    }
    assert_eq!(shop.upstream.requests_to("/shop/crowd") as u64, permitted);
    shop.edge.wait_calls("shop", calls(permitted, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("half_open", "wait_over").await, 1);
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.answered(&[200; 2 * WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_last_permitted_success_closes() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 3,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    for successes in 1..=2 {
        // 4xx is an answer like any other.
        shop.answered(&[404]).await;
        shop.edge.wait_calls("shop", calls(successes, 1, 0)).await;
        assert_eq!(shop.edge.state("shop").await, Some(1));
    }
    // The third and last place is taken: were the breaker closed, the others would pass.
    let (_connection, pending) = shop.held("hang").await;
    shop.refused_by_all().await;
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 200);
    shop.edge.wait_calls("shop", calls(3, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("closed", "probes").await, 1);
    shop.answered(&[200; WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_failed_probe_reopens_for_a_wait_of_its_own() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "2s",
        "permitted_number_of_calls_in_half_open_state": 3,
    }))
    .await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, 2 * SECOND).await;
    shop.answered(&[200]).await;
    // The probe takes its time, so that a wait counted from the half-open state's beginning would be noticed.
    pass(opened, 3 * SECOND).await;
    let reopened = shop.trip().await;
    shop.refused_by_all().await;
    pass(opened, 4 * SECOND).await;
    // On a machine that was busy meanwhile the new wait may be near its end as well.
    if reopened.elapsed() < 3 * SECOND / 2 {
        shop.refused_by_all().await;
    }
    assert_eq!(shop.transitions("open", "probes").await, 1);
    pass(reopened, 2 * SECOND).await;
    shop.answered(&[200, 200, 200]).await;
    shop.edge.wait_count("resilience_circuit_breaker_transitions_total", &[("to", "closed")], 1).await;
    assert_eq!(shop.transitions("half_open", "wait_over").await, 2);
    shop.answered(&[200; WORKERS]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_whose_client_left_makes_room_for_another() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        // So long that it cannot be what ends the state.
        "max_wait_duration_in_half_open_state": "10m",
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let (_connection, pending) = shop.held("hang").await;
    shop.refused_by_all().await;
    pending.abandon();
    shop.edge.wait_calls("shop", calls(0, 1, 1)).await;
    // Over HTTP/2 the connection stays and only the stream is reset.
    let mut clients = shop.edge.clients(Protocol::Http2).await;
    for left in 2..=1 + WORKERS {
        let hanging = Request::get("/shop").header("x-behave", "hang");
        let pending = clients.worker(left - 2).start(hanging).await.unwrap();
        shop.upstream.wait_requests(left + 1).await;
        shop.refused_by_all().await;
        pending.abandon();
        shop.edge.wait_calls("shop", calls(0, 1, left as u64)).await;
    }
    assert_eq!(shop.edge.state("shop").await, Some(1));
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, 1 + WORKERS as u64)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.transitions("half_open", "wait_over").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_proved_nothing_makes_room_for_another() {
    let upstream = Upstream::start().await;
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "10m",
    });
    let fault = config::typed(
        "envoy.filters.http.fault",
        "extensions.filters.http.fault.v3.HTTPFault",
        json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}}),
    );
    let host = virtual_host("all", &[route(UPSTREAM, "/", UPSTREAM)]);
    let manager = connection_manager(&[host], &[filter(&document(&[policy("shop", breaker)])), fault]);
    let listener = resilience_integration_tests::listener("edge", manager);
    let edge = Edge::start(config::bootstrap(&[listener], &[cluster(UPSTREAM, &[upstream.addr()])])).await;
    let clients = edge.clients(Protocol::Http1).await;
    let mut shop = Shop { upstream, edge, clients };
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    for ignored in 1..=WORKERS as u64 {
        let aborted = Request::get("/shop").header("x-envoy-fault-abort-request", "503");
        let answer = shop.clients.send(aborted).await;
        assert_eq!((answer.status, answer.text().as_str()), (503, "fault filter abort"));
        shop.edge.wait_calls("shop", calls(0, 1, ignored)).await;
    }
    assert_eq!((shop.upstream.requests(), shop.edge.state("shop").await), (1, Some(1)));
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, WORKERS as u64)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probes_verdict_falls_with_its_headers() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let mut connection = Connection::open(shop.edge.address, Protocol::Http1).await.unwrap();
    let slow = Request::get("/shop").header("x-behave", "hang-mid-body");
    let streaming = connection.start(slow).await.unwrap().headers().await.unwrap();
    // Its body is still on the way, and everybody may come in again.
    shop.edge.wait_calls("shop", calls(1, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    shop.answered(&[200; WORKERS]).await;
    shop.upstream.release();
    assert_eq!(streaming.finish().await.text(), "upstream\n");
    // Judged once.
    shop.edge.wait_calls("shop", calls(1 + WORKERS as u64, 1, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_never_answers_does_not_keep_the_breaker_half_open() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "1s",
    }))
    .await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    let (_connection, pending) = shop.held("hang; status=503").await;
    // Nobody asks: housekeeping finds it out.
    let cause = [("policy", "shop"), ("to", "open"), ("cause", "half_open_timeout")];
    shop.edge.wait_count("resilience_circuit_breaker_transitions_total", &cause, 1).await;
    let reopened = Instant::now();
    pass(reopened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 1, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    // It does answer at last, badly: that is about a state that is gone.
    assert!(!pending.is_over());
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 503);
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[200; WORKERS]).await;
    assert_eq!(shop.transitions("open", "half_open_timeout").await, 1);
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 1);
}

// ----------------------------------------------------------------------------------------------------- generations

#[tokio::test(flavor = "multi_thread")]
async fn what_was_admitted_before_a_transition_is_no_evidence_after_it() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let mut good = Vec::new();
    for _ in 0..WORKERS {
        good.push(shop.held("hang").await);
    }
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    // While it is open: no success from before closes it.
    shop.upstream.release();
    for (_connection, pending) in good {
        assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    }
    shop.edge.wait_calls("shop", calls(4, 2, 0)).await;
    if opened.elapsed() < SECOND / 2 {
        shop.refused_by_all().await;
    }
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(5, 2, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));

    // While it is half-open, and after it closed: no failure from before counts.
    let mut bad = Vec::new();
    for _ in 0..WORKERS {
        bad.push(shop.held("hang; status=503").await);
    }
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(6, 4, 0)).await;
    shop.answered(&[503]).await;
    shop.upstream.release();
    for (_connection, pending) in bad {
        assert_eq!(pending.headers().await.unwrap().status, 503);
    }
    shop.edge.wait_calls("shop", calls(6, 9, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    assert_eq!(shop.transitions("open", "consecutive_failures").await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_from_before_does_not_end_a_run_of_failures_after() {
    let mut shop = Shop::open(json!({
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    let (_connection, pending) = shop.held("hang").await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    pass(opened, SECOND).await;
    shop.answered(&[200]).await;
    shop.edge.wait_calls("shop", calls(1, 2, 0)).await;
    shop.answered(&[503]).await;
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    shop.edge.wait_calls("shop", calls(2, 3, 0)).await;
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
}

// ----------------------------------------------------------------------------------------------------------- modes

#[tokio::test(flavor = "multi_thread")]
async fn a_mode_says_what_a_breaker_does_about_its_state() {
    /// Requests sent to each policy after it has seen two failures.
    const MORE: u64 = 8;
    struct Case {
        name: &'static str,
        policy: Option<&'static str>,
        breaker: Option<&'static str>,
        /// Whether the requests reach the upstream, whether they would not have, and what the gauge shows.
        reach: bool,
        shadowed: bool,
        state: Option<u64>,
        /// Whether the policy counts what it lets pass.
        observes: bool,
    }
    let case = |name, policy, breaker| {
        let (reach, shadowed, state, observes) = match name {
            "enforced" | "plain" | "forced" => (false, false, Some(2), true),
            "shadow" | "policy-shadow" | "both-shadow" | "forced-in-shadow" => (true, true, Some(2), true),
            "disabled" | "disabled-in-shadow" => (true, false, None, true),
            "policy-disabled" | "forced-in-disabled" => (true, false, None, false),
            _ => unreachable!("{name}"),
        };
        Case { name, policy, breaker, reach, shadowed, state, observes }
    };
    let cases = [
        case("plain", None, None),
        case("enforced", Some("enforce"), Some("enforce")),
        case("shadow", None, Some("shadow")),
        case("disabled", Some("enforce"), Some("disabled")),
        case("forced", Some("enforce"), Some("forced_open")),
        case("policy-shadow", Some("shadow"), None),
        case("both-shadow", Some("shadow"), Some("shadow")),
        case("forced-in-shadow", Some("shadow"), Some("forced_open")),
        case("disabled-in-shadow", Some("shadow"), Some("disabled")),
        case("policy-disabled", Some("disabled"), Some("enforce")),
        case("forced-in-disabled", Some("disabled"), Some("forced_open")),
    ];
    let policies: Vec<Value> = cases
        .iter()
        .map(|case| {
            let mut breaker = json!({"consecutive_failures": 2});
            if let Some(mode) = case.breaker {
                breaker["mode"] = mode.into();
            }
            let mut policy = policy(case.name, breaker);
            if let Some(mode) = case.policy {
                policy["mode"] = mode.into();
            }
            policy
        })
        .collect();
    let mut shop = Shop::with(&policies).await;
    for Case { name, reach, shadowed, state, observes, .. } in cases {
        let path = format!("/{name}");
        let forced = name.starts_with("forced");
        for _ in 0..2 {
            shop.clients.get(&path, "status=503").await;
        }
        let failed = if reach || !forced { 2 } else { 0 };
        assert_eq!(shop.upstream.requests_to(&path), failed, "{name}");
        for _ in 0..MORE {
            let answer = shop.clients.send(Request::get(&path)).await;
            if reach {
                assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{name}");
            } else {
                assert_refused(&answer, name);
                assert_eq!(answer.header("retry-after").is_empty(), forced, "{name}: {answer:?}");
            }
        }
        let reached = failed + if reach { MORE as usize } else { 0 };
        assert_eq!(shop.upstream.requests_to(&path), reached, "{name}");
        let counted = |requests: usize| if observes { requests as u64 } else { 0 };
        shop.edge.wait_calls(name, calls(counted(reached - failed), counted(failed), 0)).await;
        let decisions = match (shadowed, forced) {
            (true, true) => MORE + 2,
            (true, false) => MORE,
            (false, _) => 0,
        };
        let reason = [("policy", name), ("reason", "circuit_open")];
        assert_eq!(shop.edge.count("resilience_shadow_decisions_total", &reason).await, decisions, "{name}");
        let refused = if reach { 0 } else { MORE + if forced { 2 } else { 0 } };
        assert_eq!(shop.edge.count("resilience_rejections_total", &reason).await, refused, "{name}");
        // A breaker that is forced open has no transition to show it by: a tick does.
        let what = format!("the gauge of {name} at {state:?}");
        eventually(&what, PATIENCE, async || (shop.edge.state(name).await == state).then_some(())).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breaker_in_shadow_goes_through_all_its_states() {
    let mut shop = Shop::open(json!({
        "mode": "shadow",
        "consecutive_failures": 2,
        "wait_duration_in_open_state": "1s",
        "permitted_number_of_calls_in_half_open_state": 1,
    }))
    .await;
    shop.answered(&[503]).await;
    let opened = shop.trip().await;
    assert_eq!(shop.edge.state("shop").await, Some(2));
    pass(opened, SECOND).await;
    // The probe is held, so that all others would be refused.
    let (_connection, pending) = shop.held("hang").await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    // What passes only because of the mode is no probe: its failures prove nothing to the breaker.
    shop.answered(&[503; WORKERS]).await;
    assert_eq!(shop.edge.state("shop").await, Some(1));
    let labels = [("policy", "shop"), ("reason", "circuit_open")];
    assert_eq!(shop.edge.count("resilience_shadow_decisions_total", &labels).await, WORKERS as u64);
    shop.upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 200);
    shop.edge.wait_calls("shop", calls(1, 2 + WORKERS as u64, 0)).await;
    assert_eq!(shop.edge.state("shop").await, Some(0));
    assert_eq!(shop.edge.count("resilience_rejections_total", &[]).await, 0);
}

// --------------------------------------------------------------------------------------------- whose state it is

#[tokio::test(flavor = "multi_thread")]
async fn two_policies_share_nothing() {
    let breaker = || json!({"consecutive_failures": 2});
    let mut shop = Shop::with(&[policy("shop", breaker()), policy("search", breaker())]).await;
    // One failure each, twice: a shared count would be at four.
    assert_eq!(shop.clients.get("/shop", "status=503").await, 503);
    assert_eq!(shop.clients.get("/search", "status=503").await, 503);
    assert_eq!(shop.upstream.requests(), 2);
    shop.answered(&[503]).await;
    shop.refused_by_all().await;
    for _ in 0..WORKERS {
        assert_eq!(shop.clients.get("/search", "status=200").await, 200);
        // No policy's at all.
        assert_eq!(shop.clients.get("/shopping", "status=503").await, 503);
    }
    assert_eq!((shop.upstream.requests_to("/search"), shop.upstream.requests_to("/shopping")), (5, 4));
    assert_ne!(shop.edge.state("search").await, Some(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn listeners_share_what_has_the_same_namespace_and_vm() {
    let upstream = Upstream::start().await;
    let shop = || policy("shop", json!({"consecutive_failures": 2}));
    let here = document(&[shop()]);
    let named = json!({"namespace": "default", "policies": [shop(), policy("more", json!({"consecutive_failures": 9}))]});
    let elsewhere = json!({"namespace": "elsewhere", "policies": [shop()]});
    let other_vm =
        config::resilience_filter(&resilience_integration_tests::module(), "other", &here.to_string());
    let listeners = [
        plain_listener("edge", filter(&here)),
        plain_listener("twin", filter(&here)),
        plain_listener("sibling", filter(&named)),
        plain_listener("stranger", filter(&elsewhere)),
        plain_listener("apart", other_vm),
    ];
    let edge = Edge::start(config::bootstrap(&listeners, &[cluster(UPSTREAM, &[upstream.addr()])])).await;
    let mut edges = edge.clients(Protocol::Http1).await;
    let mut twins = edge.clients_of("twin", Protocol::Http1).await;
    let mut siblings = edge.clients_of("sibling", Protocol::Http1).await;
    let mut strangers = edge.clients_of("stranger", Protocol::Http1).await;
    let mut aparts = edge.clients_of("apart", Protocol::Http1).await;
    // One failure on each of two listeners trips the breaker of both, and of the third that shares it.
    assert_eq!(edges.get("/shop", "status=503").await, 503);
    assert_eq!(strangers.get("/shop", "status=503").await, 503);
    assert_eq!(aparts.get("/shop", "status=503").await, 503);
    assert_eq!(siblings.get("/shop", "status=503").await, 503);
    assert_eq!(upstream.requests(), 4);
    for clients in [&mut edges, &mut twins, &mut siblings] {
        for _ in 0..WORKERS {
            assert_refused(&clients.send(Request::get("/shop")).await, "shop");
        }
    }
    assert_eq!(upstream.requests(), 4);
    for clients in [&mut strangers, &mut aparts] {
        for _ in 0..WORKERS {
            assert_eq!(clients.get("/shop", "status=200").await, 200);
        }
    }
    assert_eq!(upstream.requests(), 4 + 2 * WORKERS);
}
