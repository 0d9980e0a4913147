//! A scenario in which everything happens that is counted: each series of the interface is what the client and the upstreams
//! counted, and there is no other.

use crate::play::{Play, SPARE, told};
use crate::*;

/// What the interface and the documentation promise: names and types.
const PROMISED: [(&str, &str); 26] = [
    ("resilience_bulkhead_in_flight", "gauge"),
    ("resilience_bulkhead_limit", "gauge"),
    ("resilience_bulkhead_wait_milliseconds", "histogram"),
    ("resilience_bulkhead_waiting", "gauge"),
    ("resilience_calls_total", "counter"),
    ("resilience_circuit_breaker_open_milliseconds_total", "counter"),
    ("resilience_circuit_breaker_probes_total", "counter"),
    ("resilience_circuit_breaker_recovery_milliseconds", "histogram"),
    ("resilience_circuit_breaker_state", "gauge"),
    ("resilience_circuit_breaker_transitions_total", "counter"),
    ("resilience_configuration_generation", "gauge"),
    ("resilience_fallbacks_total", "counter"),
    ("resilience_keys_exhausted_total", "counter"),
    ("resilience_leases_reclaimed_total", "counter"),
    ("resilience_metrics_dropped_total", "counter"),
    ("resilience_rejections_total", "counter"),
    ("resilience_retries_denied_total", "counter"),
    ("resilience_retries_total", "counter"),
    ("resilience_retry_budget_balance", "gauge"),
    ("resilience_shadow_decisions_total", "counter"),
    ("resilience_stale_routes_total", "counter"),
    ("resilience_store_changes_total", "counter"),
    ("resilience_store_conflicts_total", "counter"),
    ("resilience_store_give_ups_total", "counter"),
    ("resilience_vm_deaths_total", "counter"),
    ("resilience_vm_starts_total", "counter"),
];
/// Those that need a death, a narrow cap, a store that refuses, or chance.
const ELSEWHERE: [&str; 4] = [
    "resilience_leases_reclaimed_total",
    "resilience_metrics_dropped_total",
    "resilience_store_conflicts_total",
    "resilience_store_give_ups_total",
];

#[tokio::test(flavor = "multi_thread")]
async fn every_series_is_what_the_client_and_the_upstreams_counted() {
    let mut play = Play::open().await;
    play.edge.wait_series(&play.expected).await;
    breakers(&mut play).await;
    rates(&mut play).await;
    keys(&mut play).await;
    bulkheads(&mut play).await;
    retries(&mut play).await;
    deadlines_and_failures(&mut play).await;
    elsewhere(&mut play).await;
    by_others(&mut play).await;
    load(&mut play).await;
    play.edge.wait_series(&play.expected).await;
    assert_eq!(traps(&play.edge.envoy), Vec::<String>::new());

    let text = play.edge.envoy.get("/stats/prometheus").await.body;
    let types: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' '))
        .filter(|(name, _)| name.contains("resilience_") && !name.starts_with("envoy_wasm_"))
        .collect();
    let promised: BTreeMap<_, _> = PROMISED.into_iter().collect();
    for (name, kind) in &types {
        assert_eq!(promised.get(name), Some(kind), "{name}");
    }
    for name in promised.keys().filter(|name| !ELSEWHERE.contains(name)) {
        assert!(types.contains_key(name), "{name} did not happen");
    }
    let operations =
        ["admit", "record", "hand_back", "release", "heartbeat", "maintain", "force", "keys", "lease", "log"];
    for (labels, _) in play.edge.envoy.prometheus().await.of("resilience_store_conflicts_total") {
        let operation: Vec<_> = labels.iter().collect();
        assert!(
            matches!(&operation[..], [(label, value)] if *label == "operation" && operations.contains(&value.as_str())),
            "{labels:?}"
        );
    }
}

/// A breaker that trips, fails a probe, leaves one unanswered too long, closes, and trips again; and what it is to others.
async fn breakers(play: &mut Play) {
    const WAIT: Duration = Duration::from_millis(300);
    const STAY: Duration = Duration::from_secs(2);
    let p = "trips";
    play.call(p, 500, "failure").await;
    let (mut opened, ()) = Moment::of(play.call(p, 500, "failure")).await;
    let outage = opened;
    play.turned(p, "open", "consecutive_failures");
    play.refused(p, "circuit_open", 3).await;

    pass_since(opened, WAIT).await;
    let (probed, ()) = Moment::of(play.probe(p, 500, "failure")).await;
    play.turned(p, "half_open", "wait_over");
    play.was_open(p, opened, probed);
    opened = probed;
    play.turned(p, "open", "probes");

    pass_since(opened, WAIT).await;
    let (probed, late) = Moment::of(play.hold("/trips")).await;
    play.turned(p, "half_open", "wait_over");
    play.was_open(p, opened, probed);
    play.edge.wait_count(TRANSITIONS, &[("policy", p), ("cause", "half_open_timeout")], 1).await;
    play.turned(p, "open", "half_open_timeout");
    opened = probed.after(STAY);
    play.upstream.release();
    assert_eq!(late.headers().await.unwrap().finish().await.status, 200);
    // Too late for a verdict, and it has proved something all the same.
    play.called(p, "success", false);
    play.probed(p, "success");

    pass_since(opened, WAIT).await;
    let (closed, ()) = Moment::of(play.probe(p, 200, "success")).await;
    play.turned(p, "half_open", "wait_over");
    play.turned(p, "closed", "probes");
    play.was_open(p, opened, closed);
    play.expected.observe(RECOVERY, &[("policy", p)], &outage.until(closed));
    for _ in 0..WORKERS {
        play.call(p, 200, "success").await;
        play.call(p, 404, "success").await;
    }
    play.state(p, "_", 0);

    // Envoy itself answers this probe, which proves nothing.
    let p = "unproved";
    let (opened, ()) = Moment::of(play.call(p, 500, "failure")).await;
    play.turned(p, "open", "consecutive_failures");
    pass_since(opened, WAIT).await;
    let (probed, answer) = Moment::of(play.get("/unproved/own", "")).await;
    assert_eq!((answer.status, answer.text().as_str()), (200, "Envoy's own"));
    play.called(p, "ignored", false);
    play.probed(p, "ignored");
    play.turned(p, "half_open", "wait_over");
    play.was_open(p, opened, probed);
    let (closed, ()) = Moment::of(play.probe(p, 200, "success")).await;
    play.turned(p, "closed", "probes");
    play.expected.observe(RECOVERY, &[("policy", p)], &opened.until(closed));

    // One that is still open has no time in open yet, and no recovery.
    for (p, failures) in [("window", 2), ("shut", 1)] {
        for _ in 0..failures {
            play.call(p, 500, "failure").await;
        }
        play.state(p, "_", 2);
    }
    play.turned("window", "open", "failures_in_window");
    play.turned("shut", "open", "consecutive_failures");
    play.refused("shut", "circuit_open", WORKERS as u64).await;
    play.refused("needy", "dependency_open", 3).await;

    // In shadow mode all pass.
    play.call("shadow", 500, "failure").await;
    play.turned("shadow", "open", "consecutive_failures");
    play.state("shadow", "_", 2);
    for _ in 0..2 {
        play.call("shadow", 200, "success").await;
        play.expected.add(SHADOW, &[("policy", "shadow"), ("reason", "circuit_open")], 1);
    }
    play.refused("forced", "circuit_open", 2).await;
    play.call("shadow-forced", 200, "success").await;
    play.expected.add(SHADOW, &[("policy", "shadow-forced"), ("reason", "circuit_open")], 1);
}

async fn rates(play: &mut Play) {
    for status in [200, 500, 200, 500] {
        play.call("rate", status, if status == 200 { "success" } else { "failure" }).await;
    }
    play.turned("rate", "open", "failure_rate_threshold");
    play.state("rate", "_", 2);
    play.refused("rate", "circuit_open", 1).await;

    // Two of four are slow: the fast ones first, so that the last ones trip.
    play.call("slow", 200, "success").await;
    play.call("slow", 500, "failure").await;
    let mut slow = Vec::new();
    for status in [200, 500] {
        let behaviour = format!("status={status};delay=2100ms");
        slow.push(play.clients.next_worker().start(told("/slow", &behaviour)).await.unwrap());
    }
    for (pending, (status, outcome)) in slow.into_iter().zip([(200, "success"), (500, "failure")]) {
        assert_eq!(pending.headers().await.unwrap().finish().await.status, status);
        play.called("slow", outcome, true);
    }
    play.turned("slow", "open", "slow_call_rate_threshold");
    play.state("slow", "_", 2);
}

/// A breaker for each of two upstream clusters, whatever they are called, and one for all others.
async fn keys(play: &mut Play) {
    let get = async |play: &mut Play, path: &str, status: u16, outcome: &str| {
        assert_eq!(play.get(path, &format!("status={status}")).await.status, status, "{path}");
        play.called("keyed", outcome, false);
    };
    get(play, "/keyed/a", 500, "failure").await;
    get(play, "/keyed/b", 200, "success").await;
    play.turned("keyed", "open", "consecutive_failures");
    for _ in 0..2 {
        get(play, "/keyed/c", 200, "success").await;
        play.expected.add("keys_exhausted_total", &[("policy", "keyed")], 1);
    }
    assert_eq!(play.get("/keyed/a", "").await.status, 503);
    play.rejected("keyed", "circuit_open", "_", 1);
    for (key, state) in [(KEYS[0].1, 2), (KEYS[1].1, 0), ("_", 0)] {
        play.state("keyed", key, state);
    }
}

async fn bulkheads(play: &mut Play) {
    let of = |class: &str, behaviour: &str| told("/hold", behaviour).header("x-class", class);
    let gauges = |play: &mut Play, policy: &str, in_flight: u64, waiting: u64, limit: u64| {
        for (name, value) in [("in_flight", in_flight), ("waiting", waiting), ("limit", limit)] {
            play.expected.set(&format!("bulkhead_{name}"), &[("policy", policy)], value);
        }
    };
    // Two in flight and two that wait; then there is room for those only who are worth more.
    let held = [play.hold_request(of("gold", "hang")).await, play.hold_request(of("gold", "hang")).await];
    let (mut sent, mut waiting) = (Vec::new(), Vec::new());
    for (number, class) in ["gold", "bulk"].into_iter().enumerate() {
        let (at, pending) = Moment::of(async {
            let pending = play.clients.next_worker().start(of(class, "status=200")).await.unwrap();
            play.edge
                .wait_count("resilience_bulkhead_waiting", &[("policy", "hold")], number as u64 + 1)
                .await;
            pending
        })
        .await;
        sent.push(at);
        waiting.push(pending);
    }
    assert_eq!(play.clients.send(of("bulk", "status=200")).await.status, 503);
    play.rejected("hold", "bulkhead_full", "bulk", 1);
    // Evicts the one that waits and is worth less.
    let (evicted, newcomer) = Moment::of(async {
        let newcomer = play.clients.next_worker().start(of("gold", "status=200")).await.unwrap();
        let refused = waiting.pop().unwrap().headers().await.unwrap().finish().await;
        assert_eq!(refused.status, 503);
        newcomer
    })
    .await;
    play.rejected("hold", "bulkhead_full", "bulk", 1);
    play.expected.observe(WAITED, &[("policy", "hold")], &sent[1].until(evicted));
    waiting.push(newcomer);
    // What there is in the midst of it shows, too.
    gauges(play, "hold", 2, 2, 2);
    play.edge.wait_series(&play.expected).await;
    let (released, ()) = Moment::of(async {
        play.upstream.release();
        for pending in held.into_iter().chain(waiting) {
            assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
        }
    })
    .await;
    for _ in 0..4 {
        play.called("hold", "success", false);
    }
    for at in [sent[0], evicted] {
        play.expected.observe(WAITED, &[("policy", "hold")], &at.until(released));
    }
    gauges(play, "hold", 0, 0, 2);

    // Nobody gives up a permit while this one waits.
    let held = play.hold("/brief").await;
    let sent = Instant::now();
    assert_eq!(play.get("/brief", "").await.status, 503);
    play.rejected("brief", "bulkhead_full", "_", 1);
    let most = sent.elapsed().as_millis() as u64 + 1;
    play.expected.observe(WAITED, &[("policy", "brief")], &(200..=most));
    play.upstream.release();
    assert_eq!(held.headers().await.unwrap().finish().await.status, 200);
    play.called("brief", "success", false);
    gauges(play, "brief", 0, 0, 1);

    // In shadow mode it would have been refused.
    let held = play.hold("/shadow-bulkhead").await;
    play.call("shadow-bulkhead", 200, "success").await;
    play.expected.add(SHADOW, &[("policy", "shadow-bulkhead"), ("reason", "bulkhead_full")], 1);
    play.upstream.release();
    assert_eq!(held.headers().await.unwrap().finish().await.status, 200);
    play.called("shadow-bulkhead", "success", false);
    gauges(play, "shadow-bulkhead", 0, 0, 1);
}

/// Envoy makes the retries, and the upstream counts them.
async fn retries(play: &mut Play) {
    let denied = |play: &mut Play, policy: &str, reason: &str| {
        play.expected.add(RETRIES, &[("policy", policy), ("decision", "denied")], 1);
        play.expected.add("retries_denied_total", &[("policy", policy), ("reason", reason)], 1);
    };
    let mut made = 0;
    for number in 0..5 {
        let attempts =
            play.attempts("retried", Request::get("/retried").header("x-id", format!("r{number}")));
        let attempts = attempts.await;
        assert_eq!(attempts, 3);
        made += attempts - 1;
    }
    assert_eq!(play.attempts("retried", Request::post("/retried", "")).await, 1);
    denied(play, "retried", "not_idempotent");
    let callers = Request::get("/retried").header("grpc-previous-rpc-attempts", "1");
    assert_eq!(play.attempts("retried", callers).await, 1);
    denied(play, "retried", "caller_retry");
    // One that succeeds with its second attempt has had one.
    let answer = play.clients.send(told("/retried", "status=503|status=200").header("x-id", "twice")).await;
    assert_eq!((answer.status, play.upstream.attempts("twice")), (200, 2));
    play.called("retried", "success", false);
    play.expected.add(RETRIES, &[("policy", "retried"), ("decision", "granted")], 1);
    // The caller's own retry costs one too.
    play.expected.set(BALANCE, &[("policy", "retried")], 600 - made - 1 - 1);

    // What there is goes; who gets less than it would have is denied.
    let mut left = 3;
    for _ in 0..6 {
        let attempts = play.attempts("poor", Request::get("/poor")).await;
        left -= attempts - 1;
        if attempts < 3 {
            denied(play, "poor", "budget");
        }
    }
    play.expected.set(BALANCE, &[("policy", "poor")], left);

    // Of ten seconds for all, and four for each, there is time for two.
    let hurried = play.attempts("hurried", Request::get("/hurried")).await;
    assert_eq!(hurried, 2);
    denied(play, "hurried", "deadline");
    play.expected.set(BALANCE, &[("policy", "hurried")], 600 - 1);

    // A probe is not retried.
    let (opened, attempts) = Moment::of(play.attempts("probed", Request::get("/probed"))).await;
    assert_eq!(attempts, 3);
    play.turned("probed", "open", "consecutive_failures");
    pass_since(opened, Duration::from_millis(300)).await;
    let (probed, attempts) = Moment::of(play.attempts("probed", Request::get("/probed"))).await;
    assert_eq!(attempts, 1);
    denied(play, "probed", "breaker");
    play.probed("probed", "failure");
    play.turned("probed", "half_open", "wait_over");
    play.turned("probed", "open", "probes");
    play.was_open("probed", opened, probed);
    play.state("probed", "_", 2);
    play.expected.set(BALANCE, &[("policy", "probed")], 600 - 2);

    // In shadow mode the route's own retries are made. What a budget would have denied is said, and cost it nothing.
    assert_eq!(play.attempts("shadow-budget", Request::post("/shadow-budget", "")).await, 3);
    play.expected.add(SHADOW, &[("policy", "shadow-budget"), ("reason", "retry_denied")], 1);
    assert_eq!(play.attempts("shadow-budget", Request::get("/shadow-budget")).await, 3);
    play.expected.set(BALANCE, &[("policy", "shadow-budget")], 600 - 2);
}

/// What is too late, and what takes the place of each kind of failure.
async fn deadlines_and_failures(play: &mut Play) {
    for _ in 0..2 {
        let late = Request::get("/kinds").header("x-deadline-ms", "0");
        assert_eq!(play.clients.send(late).await.status, 504);
    }
    play.rejected("kinds", "deadline_exceeded", "_", 2);
    for (policy, path, behaviour, reason) in [
        ("kinds", "/kinds", "status=500", "upstream_failure"),
        ("kinds", "/kinds", "reset", "reset"),
        ("late", "/late", "hang", "timeout"),
        ("kinds", "/kinds/refused", "", "connect_failure"),
    ] {
        let answer = play.get(path, behaviour).await;
        assert_eq!((answer.status, answer.text()), (202, reason.to_owned()), "{path} {behaviour}");
        play.called(policy, "failure", false);
        play.fell(policy, reason, "static", 1);
    }
    play.upstream.release();
    // A failed answer that no entry replaces is no fallback.
    play.call("fails", 500, "failure").await;
    play.turned("fails", "open", "consecutive_failures");
    play.state("fails", "_", 2);
    for _ in 0..2 {
        assert_eq!(play.get("/fails", "").await.status, 429);
    }
    play.rejected("fails", "circuit_open", "_", 2);
    play.fell("fails", "circuit_open", "fail", 2);
}

/// What goes to another cluster, and what does not get there.
async fn elsewhere(play: &mut Play) {
    play.call("email", 500, "failure").await;
    play.turned("email", "open", "consecutive_failures");
    play.state("email", "_", 2);
    for _ in 0..3 {
        assert_eq!(play.get("/email", "status=200").await.status, 200);
        play.called(SPARE, "success", false);
        play.fell("email", "circuit_open", "reroute", 1);
    }
    assert_eq!(play.spare.requests_to("/email"), 3);
    // The guard's own failure opens it, and then the next entry has its turn.
    assert_eq!(play.get("/email", "status=500").await.status, 500);
    play.called(SPARE, "failure", false);
    play.fell("email", "circuit_open", "reroute", 1);
    play.turned(SPARE, "open", "consecutive_failures");
    play.state(SPARE, "_", 2);
    assert_eq!(play.get("/email", "").await.text(), "later");
    play.fell("email", "circuit_open", "static", 1);
    play.rejected("email", "circuit_open", "_", 5);
    play.rejected(SPARE, "circuit_open", "_", 1);

    // There is no route for this one's header: it goes where it would have gone, and proves nothing.
    play.call("lost", 500, "failure").await;
    play.turned("lost", "open", "consecutive_failures");
    play.state("lost", "_", 2);
    assert_eq!(play.get("/lost", "status=200").await.status, 200);
    play.rejected("lost", "circuit_open", "_", 1);
    play.called("lost-guard", "ignored", false);
    play.expected.add("stale_routes_total", &[("policy", "lost-guard")], 1);
    play.state("lost-guard", "_", 0);
}

/// An operator's orders, and a policy that is off.
async fn by_others(play: &mut Play) {
    let order = async |play: &Play, path: &str| {
        let address = play.edge.envoy.addr("control").await;
        let answer = send_once(address, Protocol::Http1, Request::post(path, "")).await.unwrap();
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
    };
    let (opened, ()) = Moment::of(order(play, "/breakers/steered/open?for=1h")).await;
    play.turned("steered", "open", "forced");
    play.refused("steered", "circuit_open", 1).await;
    let (closed, ()) = Moment::of(order(play, "/breakers/steered/reset")).await;
    play.turned("steered", "closed", "forced");
    // Nothing has recovered there.
    play.was_open("steered", opened, closed);
    play.call("steered", 200, "success").await;
    play.state("steered", "_", 0);

    for _ in 0..WORKERS {
        assert_eq!(play.get("/off", "status=500").await.status, 500);
        assert_eq!(play.get("/nobodys", "status=500").await.status, 500);
    }
}

/// Many at once, of many policies, by all workers.
async fn load(play: &mut Play) {
    const REQUESTS: usize = 1200;
    let before = play.upstream.requests();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let ask = |number: usize| match number % 6 {
            0 => told("/watched", "status=200"),
            1 => told("/watched", "status=503"),
            2 => told("/watched", "status=404"),
            3 => told("/watched/own", ""),
            4 => told("/forced", ""),
            _ => told("/fails", ""),
        };
        let answers = burst(play.edge.address, protocol, REQUESTS, 32, ask).await;
        let mut seen: BTreeMap<(u16, bool), u64> = BTreeMap::new();
        for answer in answers {
            let answer = answer.unwrap();
            *seen.entry((answer.status, answer.text() == "upstream\n")).or_default() += 1;
        }
        let of = |status: u16, by_upstream| seen.get(&(status, by_upstream)).copied().unwrap_or(0);
        assert_eq!(seen.values().sum::<u64>(), REQUESTS as u64);
        for (outcome, times) in [
            ("success", of(200, true) + of(404, true)),
            ("failure", of(503, true)),
            ("ignored", of(200, false)),
        ] {
            play.expected.add(CALLS, &calls_of("watched", outcome, false), times);
        }
        play.rejected("forced", "circuit_open", "_", of(503, false));
        play.rejected("fails", "circuit_open", "_", of(429, false));
        play.fell("fails", "circuit_open", "fail", of(429, false));
    }
    assert_eq!(play.upstream.requests() - before, REQUESTS);
}
