//! A policy that goes quiet while the breaker of another one is open: `when_open`.

use crate::*;
use resilience_test_harness::config::direct_response;
use std::time::{Duration, Instant};

/// A policy that needs others, with an answer for when they are down.
fn needing(name: &str, others: &[&str]) -> Value {
    let text = json!([{"on": ["dependency_open"], "static": {"status": 503, "text": "%REASON%"}}]);
    with(fragile(name, 1000, text), json!({"when_open": others}))
}

/// How long a breaker of [`recovering`] stays open.
const WAIT: Duration = Duration::from_millis(500);

fn recovering(name: &str) -> Value {
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "500ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": FOR_EVER,
    });
    policy(name, breaker)
}

fn in_mode(name: &str, mode: &str) -> Value {
    policy(name, json!({"mode": mode, "consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER}))
}

impl Scene {
    /// What every worker makes of a request for a policy, and that the upstream gets it or does not.
    async fn is_quiet(&mut self, name: &str) -> bool {
        let before = self.world.upstream.requests();
        let mut quiet = 0;
        for protocol in [Protocol::Http1, Protocol::Http2] {
            for _ in 0..WORKERS {
                let answer = self.ask(protocol, Request::get(&format!("/{name}"))).await.answer;
                if all(&answer.headers, "x-resilience") == [mark(name, "dependency_open", "static")] {
                    assert_eq!((answer.status, answer.text().as_str()), (503, "dependency_open"));
                    quiet += 1;
                } else {
                    assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()));
                }
            }
        }
        assert!(quiet == 0 || quiet == 2 * WORKERS, "the workers do not agree: {quiet}");
        assert_eq!(self.world.upstream.requests() - before, 2 * WORKERS - quiet);
        quiet > 0
    }

    async fn fails(&mut self, name: &str) {
        let answer = self.get(&format!("/{name}"), "status=500").await;
        assert_eq!((answer.status, answer.header("x-resilience")), (500, String::new()), "{name}");
    }

    /// What a policy's refusal says of the time to come back.
    async fn again(&mut self, name: &str) -> Option<u64> {
        let answer = self.ask(Protocol::Http1, Request::get(&format!("/{name}"))).await.answer;
        assert_eq!(answer.header("x-resilience"), mark(name, "dependency_open", "static"));
        answer.headers.get("retry-after").map(|value| value.to_str().expect("text").parse().expect("seconds"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_quiet_and_comes_back_with_the_others_breaker() {
    let document = document(&[recovering("inventory"), needing("page", &["inventory"])]);
    let mut scene = Scene::open(&document).await;
    assert!(!scene.is_quiet("page").await);
    let opened = Instant::now();
    scene.fails("inventory").await;
    let answer = scene.ask(Protocol::Http1, Request::get("/page")).await.answer;
    // On a machine that stood still the wait may be over.
    let is_quiet = answer.header("x-resilience") == mark("page", "dependency_open", "static");
    assert!(is_quiet || opened.elapsed() > WAIT, "{answer:?}");
    // Time alone ends it: nobody asks for the inventory.
    pass(Instant::now(), WAIT).await;
    assert!(!scene.is_quiet("page").await);
    assert_eq!(scene.edge.state("inventory").await, Some(2), "its breaker is open until somebody asks");
    // Half-open is not open.
    let probe = scene.hold("/inventory").await;
    assert!(!scene.is_quiet("page").await);
    scene.world.upstream.release();
    assert_eq!(probe.headers().await.expect("an answer").finish().await.status, 200);
    eventually("a closed breaker", PATIENCE, async || {
        (scene.edge.state("inventory").await == Some(0)).then_some(())
    })
    .await;
    assert!(!scene.is_quiet("page").await);
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_it_refuses_is_counted_and_says_when_to_come_back() {
    let policies = [
        in_mode("inventory", "enforce"),
        in_mode("prices", "enforce"),
        in_mode("forced", "forced_open"),
        needing("one", &["inventory"]),
        needing("two", &["inventory", "prices"]),
        needing("either", &["prices", "inventory"]),
        needing("switched", &["forced"]),
        needing("some", &["inventory", "forced"]),
        needing("none", &["prices"]),
    ];
    let mut scene = Scene::open(&document(&policies)).await;
    assert!(scene.is_quiet("switched").await && scene.is_quiet("some").await);
    for name in ["one", "two", "either", "none"] {
        assert!(!scene.is_quiet(name).await, "{name}");
    }
    scene.fails("inventory").await;
    for name in ["one", "two", "either", "switched", "some"] {
        assert!(scene.is_quiet(name).await, "{name}");
    }
    assert!(!scene.is_quiet("none").await);
    for name in ["one", "two", "either"] {
        let seconds = scene.again(name).await.expect("a time");
        assert!((300..=600).contains(&seconds), "{name}: {seconds}");
    }
    // Nobody knows when that is over.
    for name in ["switched", "some"] {
        assert_eq!(scene.again(name).await, None, "{name}");
    }
    let refused = 2 * WORKERS as u64 + 1;
    assert_eq!(scene.refused("one", "dependency_open").await, refused);
    assert_eq!(scene.fallbacks("one", "dependency_open", "static").await, refused);
    assert_eq!(scene.refused("none", "dependency_open").await, 0);
    // It is no evidence of anything: its own breaker is as it was.
    assert_eq!(scene.opened("one").await, 0);
    assert_eq!(scene.edge.calls("one").await, calls(2 * WORKERS as u64, 0, 0));
    scene.sound();
}

/// A breaker that would refuse, and a policy that would be refused, refuse nobody on paper.
#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_mode_it_is_only_counted() {
    let policies = [
        in_mode("watched", "shadow"),
        in_mode("off", "disabled"),
        in_mode("inventory", "enforce"),
        with(in_mode("trial", "enforce"), json!({"mode": "shadow"})),
        needing("of-watched", &["watched"]),
        needing("of-off", &["off"]),
        needing("of-trial", &["trial"]),
        with(needing("shadowed", &["inventory"]), json!({"mode": "shadow"})),
        needing("both", &["watched", "inventory"]),
    ];
    let mut scene = Scene::open(&document(&policies)).await;
    for name in ["watched", "off", "inventory", "trial"] {
        scene.fails(name).await;
    }
    for name in ["of-watched", "of-off", "of-trial", "shadowed"] {
        assert!(!scene.is_quiet(name).await, "{name}");
    }
    assert!(scene.is_quiet("both").await);
    for (name, times) in [("of-watched", 1), ("of-off", 0), ("of-trial", 1), ("shadowed", 1), ("both", 0)] {
        let labels = [("policy", name), ("reason", "dependency_open")];
        assert_eq!(scene.edge.count(SHADOW, &labels).await, times * 2 * WORKERS as u64, "{name}");
    }
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_after_the_deadline_and_before_its_own_breaker() {
    let hurried = json!({"timeout": {"deadline_header": "x-deadline-ms"}});
    let policies = [
        in_mode("inventory", "forced_open"),
        with(needing("page", &["inventory"]), hurried),
        with(
            needing("forced", &["inventory"]),
            json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}}),
        ),
        // Not what the others need in turn: their breakers are not open.
        needing("far", &["page"]),
    ];
    let mut document = document(&policies);
    document["trust_caller_headers"] = true.into();
    let mut scene = Scene::open(&document).await;
    let late = Request::get("/page").header("x-deadline-ms", "0");
    let answer = scene.ask(Protocol::Http1, late).await.answer;
    assert_eq!(answer.header("x-resilience"), mark("page", "deadline_exceeded", "none"));
    let answer = scene.ask(Protocol::Http1, Request::get("/forced")).await.answer;
    assert_eq!(answer.header("x-resilience"), mark("forced", "circuit_open", "none"));
    assert!(scene.is_quiet("page").await);
    assert!(!scene.is_quiet("far").await);
    scene.sound();
}

/// It is asked again by then, and what the wait had won goes back.
#[tokio::test(flavor = "multi_thread")]
async fn it_is_asked_again_at_the_end_of_a_wait() {
    let bulkhead =
        json!({"bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": FOR_EVER, "max_queue": 20}});
    let elsewhere = json!([{"reroute": {"cluster": SPARE, "policy": "guard"}}]);
    let policies = [
        in_mode("inventory", "enforce"),
        with(needing("page", &["inventory"]), bulkhead.clone()),
        with(with(needing("moving", &["inventory"]), bulkhead), json!({"fallback": elsewhere})),
        fragile("guard", 1, json!([])),
    ];
    let mut scene = Scene::open(&document(&policies)).await;
    let held = [scene.hold("/page").await, scene.hold("/moving").await];
    let mut waiting = Vec::new();
    for (name, source) in [("page", "static"), ("moving", "reroute")] {
        for number in 1..=WORKERS as u64 {
            let pending = scene.http2.next_worker().start(Request::get(&format!("/{name}"))).await;
            waiting.push((name, source, pending.expect("a connection")));
            eventually("one more that waits", PATIENCE, async || {
                (scene.edge.gauge("resilience_bulkhead_waiting", name).await == Some(number)).then_some(())
            })
            .await;
        }
    }
    scene.fails("inventory").await;
    scene.world.upstream.release();
    for pending in held {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 200);
    }
    for (name, source, pending) in waiting {
        let answer = pending.headers().await.expect("an answer").finish().await;
        assert_eq!(answer.header("x-resilience"), mark(name, "dependency_open", source));
    }
    assert_eq!((scene.world.upstream.requests(), scene.spare.requests()), (3, WORKERS));
    scene.empty("page").await;
    scene.empty("moving").await;
    scene.sound();
}

/// Whoever operates the other one switches this one with it.
#[tokio::test(flavor = "multi_thread")]
async fn an_order_to_the_others_breaker_is_one_to_it() {
    let documented = document(&[in_mode("inventory", "enforce"), needing("page", &["inventory"])]);
    let mut ordering = documented.clone();
    ordering["control"] = true.into();
    let mut control = filter(&ordering);
    control["typed_config"]["config"]["vm_config"]["configuration"] =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "control"});
    let scratch = Scratch::new();
    let listeners = [
        listener("edge", managing(&[filter(&documented)], &[], &scratch)),
        routed_listener("control", &[direct_response("lost", "/", 404, "")], &[control]),
    ];
    let mut scene = Scene::listening(&listeners, scratch).await;
    let address = scene.edge.envoy.addr("control").await;
    for _ in 0..2 {
        assert!(!scene.is_quiet("page").await);
        let order = Request::post("/breakers/inventory/open?for=1h", "");
        assert_eq!(send_once(address, Protocol::Http1, order).await.unwrap().status, 200);
        assert!(scene.is_quiet("page").await);
        let seconds = scene.again("page").await.expect("a time");
        assert!((3000..=3600).contains(&seconds), "{seconds}");
        let order = Request::post("/breakers/inventory/reset", "");
        assert_eq!(send_once(address, Protocol::Http1, order).await.unwrap().status, 200);
    }
    assert!(!scene.is_quiet("page").await);
    scene.sound();
}
