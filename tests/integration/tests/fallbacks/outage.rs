//! An outage under load: every caller gets the fallback, the upstream counts what reached it, and the numbers add up.

use crate::*;

const REQUESTS: usize = 2000;
const CONNECTIONS: usize = 100;
const LATER: &str = "Later.";

/// How an upstream is down, by the number of the request.
const FORMS: [&str; 6] =
    ["status=503", "status=500; chunked", "status=502; body=", "close", "reset", "status=500; size=20000"];

fn later() -> Value {
    json!({"static": {"status": 200, "text": LATER}})
}

/// Answers by what their marks say, in order of the marks. Each must be ours and whole.
async fn play(scene: &Scene, protocol: Protocol, request: impl Fn(usize) -> Request) -> Vec<(String, u64)> {
    let answers = burst(scene.edge.address, protocol, REQUESTS, CONNECTIONS, request).await;
    let mut marks = std::collections::BTreeMap::new();
    for answer in answers {
        let answer = answer.expect("an answer");
        assert!(answer.broken.is_none() && answer.status == 200, "{answer:?}");
        let [mark] = &all(&answer.headers, "x-resilience")[..] else { panic!("not one mark: {answer:?}") };
        if mark.ends_with("source=static") {
            assert_eq!(answer.text(), LATER, "{mark}");
        }
        *marks.entry(mark.clone()).or_insert(0) += 1;
    }
    marks.into_iter().collect()
}

/// `resilience_fallbacks_total` of a policy, as marks.
async fn counted(scene: &Scene, policy: &str) -> Vec<(String, u64)> {
    let metrics = scene.edge.envoy.prometheus().await;
    let of = metrics.of(FALLBACKS).filter(|(labels, _)| labels["policy"] == policy);
    let mut counted: Vec<(String, u64)> = of
        .map(|(labels, value)| (mark(policy, &labels["reason"], &labels["source"]), value as u64))
        .collect();
    counted.sort();
    counted
}

fn sum(counted: &[(String, u64)], reason: Option<&str>) -> u64 {
    let of = counted.iter().filter(|(mark, _)| reason.is_none_or(|reason| mark.contains(reason)));
    of.map(|(_, times)| times).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_caller_gets_the_fallback_and_each_is_counted_once() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let breaker = json!({"circuit_breaker": {"failures_in_window": {"failures": 500, "window": "60s"}, "wait_duration_in_open_state": FOR_EVER}});
        let policy = with(fragile("shop", 1, json!([later()])), breaker);
        let scene = Scene::open(&document(&[policy])).await;
        scene.world.upstream.only_count();
        let seen =
            play(&scene, protocol, |number| told(Request::get("/shop"), FORMS[number % FORMS.len()])).await;
        println!("{protocol:?}: {seen:?}");
        assert_eq!(sum(&seen, None), REQUESTS as u64);
        assert_eq!(counted(&scene, "shop").await, seen);
        let refused = sum(&seen, Some("circuit_open"));
        let failed = REQUESTS as u64 - refused;
        // What was on its way when it opened is all that comes on top.
        assert!((500..=500 + CONNECTIONS as u64).contains(&failed), "{failed} reached the upstream");
        assert_eq!(scene.world.upstream.requests() as u64, failed);
        assert_eq!(scene.refused("shop", "circuit_open").await, refused);
        assert_eq!(scene.edge.count(REJECTIONS, &[]).await, refused);
        let Calls { success, failure, ignored } = scene.edge.calls("shop").await;
        assert_eq!((success, failure + ignored), (0, failed), "what came after it opened is counted as well");
        assert_eq!(scene.opened("shop").await, 1);
        scene.sound();
    }
}

/// A breaker that comes and goes, a bulkhead that is full now and then, and a spare upstream that fails at times.
#[tokio::test(flavor = "multi_thread")]
async fn it_adds_up_whatever_takes_part() {
    let sections = json!({
        "circuit_breaker": {
            "consecutive_failures": 50,
            "wait_duration_in_open_state": "100ms",
            "permitted_number_of_calls_in_half_open_state": 3,
        },
        "bulkhead": {"max_concurrent_calls": 20, "max_wait_duration": "10ms", "max_queue": 10},
    });
    let elsewhere = json!({"on": ["circuit_open"], "reroute": {"cluster": SPARE, "policy": "guard"}});
    let bulkhead = json!({"bulkhead": {"max_concurrent_calls": 10}});
    let policies = [
        with(fragile("shop", 1, json!([elsewhere, later()])), sections),
        with(fragile("guard", 1_000_000, json!([later()])), bulkhead),
    ];
    let scene = Scene::open(&document(&policies)).await;
    scene.world.upstream.only_count();
    scene.spare.only_count();
    let forms = ["status=503; delay=2ms", "status=500; chunked", "close", "status=500; body="];
    let seen =
        play(&scene, Protocol::Http1, |number| told(Request::get("/shop"), forms[number % forms.len()]))
            .await;
    println!("{seen:?}");
    let shop = counted(&scene, "shop").await;
    let guard = counted(&scene, "guard").await;
    let rerouted = sum(&shop, Some("source=reroute"));
    // Who was sent elsewhere failed there too, and got the guard's.
    let own: Vec<(String, u64)> =
        shop.iter().filter(|(mark, _)| !mark.contains("reroute")).cloned().collect();
    let answered: Vec<(String, u64)> =
        seen.iter().filter(|(mark, _)| !mark.contains("reroute")).cloned().collect();
    assert_eq!(own, answered);
    assert_eq!(sum(&seen, Some("source=reroute")), rerouted);
    let by_guard: Vec<(String, u64)> = seen
        .iter()
        .filter_map(|(marks, times)| {
            Some((
                marks.strip_prefix(&mark("shop", "circuit_open", "reroute"))?.strip_prefix(", ")?.to_owned(),
                *times,
            ))
        })
        .collect();
    assert_eq!(guard, by_guard);
    assert_eq!((sum(&own, None) + rerouted, sum(&guard, None)), (REQUESTS as u64, rerouted));
    assert_eq!(scene.spare.requests() as u64, rerouted);
    let failures = ["upstream_failure", "reset"].map(|reason| sum(&own, Some(reason))).iter().sum::<u64>();
    assert_eq!(scene.world.upstream.requests() as u64, failures);
    let refused = scene.edge.count(REJECTIONS, &[("policy", "shop")]).await;
    assert_eq!(refused, REQUESTS as u64 - failures);
    assert!(
        rerouted > 50 && sum(&own, Some("bulkhead_full")) + sum(&own, Some("circuit_open")) > 50,
        "no real test"
    );
    scene.edge.wait_calls("guard", calls(0, rerouted, 0)).await;
    scene.empty("shop").await;
    scene.empty("guard").await;
    scene.sound();
}
