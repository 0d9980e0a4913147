//! Rules of an operator's own, in a real Envoy: what they make of the upstream's answers, and what is none of their business.

use Outcome::{Failure, Ignored, Success};
use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, route, with_http2};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outcome {
    Success,
    Failure,
    Ignored,
}

/// A policy of its own, and what comes of one answer after the other. Three failures in a row trip.
struct Case {
    /// Begins with `grpc` where the calls are gRPC's.
    name: &'static str,
    outcome: Value,
    /// What the upstream does, and what that counts as.
    answers: &'static [(&'static str, Outcome)],
    trips: bool,
}

fn cases() -> Vec<Case> {
    let degraded = json!([{"name": "X-Degraded", "value": "true"}]);
    vec![
        Case {
            name: "header",
            outcome: json!({"failure": {"headers": degraded}}),
            answers: &[
                ("status=200; header=x-degraded:true", Failure),
                ("status=404; header=x-degraded:true", Failure),
                // The second line of a name is as good as the first.
                ("status=200; header=x-degraded:false; header=x-degraded:true", Failure),
            ],
            trips: true,
        },
        Case {
            name: "other-headers",
            outcome: json!({"failure": {"headers": degraded}}),
            answers: &[
                ("status=503", Failure),
                ("status=502", Failure),
                ("status=200; header=x-degraded:false", Success),
                ("status=200; header=x-degraded:true-ish", Success),
                ("status=200; header=x-degraded-too:true", Success),
                ("status=503", Failure),
                ("status=503", Failure),
            ],
            trips: false,
        },
        Case {
            name: "status",
            outcome: json!({"failure": {"status": [429, "1xx", 501]}}),
            answers: &[("status=429", Failure), ("status=501", Failure), ("status=429", Failure)],
            trips: true,
        },
        Case {
            name: "no-5xx",
            outcome: json!({"failure": {"status": [429]}}),
            answers: &[
                ("status=503", Success),
                ("status=500", Success),
                ("status=503", Success),
                ("status=504", Success),
            ],
            trips: false,
        },
        Case {
            name: "ignored",
            outcome: json!({"ignore": {"status": [404]}}),
            // It neither adds to the run of failures nor ends it.
            answers: &[
                ("status=503", Failure),
                ("status=404", Ignored),
                ("status=503", Failure),
                ("status=404", Ignored),
                ("status=404", Ignored),
                ("status=503", Failure),
            ],
            trips: true,
        },
        Case {
            name: "both",
            outcome: json!({
                "failure": {"status": ["5xx"], "headers": degraded},
                "ignore": {"status": [503], "headers": [{"name": "x-synthetic", "value": "1"}]},
            }),
            answers: &[
                ("status=503", Ignored),
                ("status=503; header=x-degraded:true", Ignored),
                ("status=500; header=x-synthetic:1", Ignored),
                ("status=200; header=x-degraded:true; header=x-synthetic:1", Ignored),
                ("status=500", Failure),
                ("status=200; header=x-synthetic:1", Ignored),
                ("status=500", Failure),
                ("status=200", Success),
            ],
            trips: false,
        },
        Case {
            name: "no-answer",
            outcome: json!({"failure": {"status": []}, "ignore": {"status": ["2xx", "5xx"]}}),
            // Envoy's own 503, and what breaks off before the rules say anything.
            answers: &[
                ("status=503", Ignored),
                ("close", Failure),
                ("status=301; close-mid-body", Failure),
                ("status=200; close-mid-body", Ignored),
                ("reset", Failure),
            ],
            trips: true,
        },
        Case {
            name: "grpc",
            outcome: json!({"failure": {"grpc_status": ["ABORTED", "RESOURCE_EXHAUSTED"]}}),
            answers: &[
                ("grpc=14", Success),
                ("grpc-trailers-only=13", Success),
                ("grpc=10", Failure),
                ("grpc-trailers-only=8", Failure),
                // The HTTP status has its own default still.
                ("status=503", Failure),
            ],
            trips: true,
        },
        Case {
            name: "grpc-none",
            outcome: json!({"failure": {"grpc_status": []}}),
            answers: &[
                ("grpc=2", Success),
                ("grpc=4", Success),
                ("grpc=13", Success),
                ("grpc-trailers-only=14", Success),
                ("grpc=15", Success),
            ],
            trips: false,
        },
        Case {
            name: "grpc-ignored",
            outcome: json!({"ignore": {"grpc_status": ["UNAVAILABLE"]}}),
            answers: &[
                ("grpc=13", Failure),
                ("grpc=14", Ignored),
                ("grpc-trailers-only=14", Ignored),
                ("grpc=13", Failure),
                ("grpc=14", Ignored),
                ("grpc-trailers-only=2", Failure),
            ],
            trips: true,
        },
    ]
}

fn add(calls: &mut Calls, outcome: Outcome) {
    match outcome {
        Success => calls.success += 1,
        Failure => calls.failure += 1,
        Ignored => calls.ignored += 1,
    }
}

fn refused(answer: &Answer) -> bool {
    answer.header("x-resilience").contains("reason=circuit_open")
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_count_as_the_rules_say() {
    let upstream = Upstream::start().await;
    let cases = cases();
    let policies: Vec<Value> = cases
        .iter()
        .map(|case| {
            let mut policy = policy(case.name, json!({"consecutive_failures": 3}));
            policy["outcome"] = case.outcome.clone();
            policy
        })
        .collect();
    let clusters = [cluster(UPSTREAM, &[upstream.addr()]), with_http2(cluster("h2", &[upstream.addr()]))];
    let routes = [route("h2", "/grpc", "h2"), plain_route()];
    let listener = routed_listener("edge", &routes, &[filter(&document(&policies))]);
    let edge = Edge::start(config::bootstrap(&[listener], &clusters)).await;
    let mut http1 = edge.clients(Protocol::Http1).await;
    let mut http2 = edge.clients(Protocol::Http2).await;
    for Case { name, answers, trips, .. } in &cases {
        let path = format!("/{name}");
        let grpc = name.starts_with("grpc");
        let clients = if grpc { &mut http2 } else { &mut http1 };
        let request = || if grpc { Request::grpc(&path) } else { Request::get(&path) };
        let mut expected = Calls::default();
        for (words, outcome) in *answers {
            let asked = clients.next_worker().send(request().header("x-behave", words)).await;
            assert!(!asked.is_ok_and(|answer| refused(&answer)), "{name}: refused before: {words}");
            add(&mut expected, *outcome);
            edge.wait_calls(name, expected).await;
            // A connection in whose middle something broke off is of no further use.
            if words.contains("mid-body") {
                *clients = edge.clients(Protocol::Http1).await;
            }
        }
        for worker in 0..WORKERS {
            let answer = clients.worker(worker).send(request()).await.unwrap();
            assert_eq!(refused(&answer), *trips, "{name}, worker {worker}: {answer:?}");
        }
        let passed = if *trips { 0 } else { WORKERS };
        assert_eq!(upstream.requests_to(&path), answers.len() + passed, "{name}");
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_probe_hands_its_place_to_the_next_request() {
    const WAIT: Duration = Duration::from_millis(500);
    let upstream = Upstream::start().await;
    let mut shop = policy(
        "shop",
        json!({
            "consecutive_failures": 1,
            "wait_duration_in_open_state": "500ms",
            "permitted_number_of_calls_in_half_open_state": 1,
            // So long that it cannot be what ends the state.
            "max_wait_duration_in_half_open_state": "10m",
        }),
    );
    shop["outcome"] =
        json!({"ignore": {"status": [503], "headers": [{"name": "x-synthetic", "value": "1"}]}});
    let edge = Edge::before(upstream.addr(), &document(&[shop])).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    assert_eq!(clients.get("/shop", "status=500").await, 500);
    pass(Instant::now(), WAIT).await;
    let mut ignored = 0;
    for words in ["status=503", "status=200; header=x-synthetic:1"].iter().cycle().take(2 * WORKERS) {
        let answer = clients.send(Request::get("/shop").header("x-behave", words)).await;
        assert!(!refused(&answer), "{words}: {answer:?}");
        ignored += 1;
        edge.wait_calls("shop", Calls { failure: 1, ignored, ..Calls::default() }).await;
        assert_eq!(edge.state("shop").await, Some(1), "{words}");
    }
    // With its headers, not with its end.
    let mut connection = Connection::open(edge.address, Protocol::Http1).await.unwrap();
    let slow = Request::get("/shop").header("x-behave", "status=503; hang-mid-body");
    let streaming = connection.start(slow).await.unwrap().headers().await.unwrap();
    ignored += 1;
    edge.wait_calls("shop", Calls { failure: 1, ignored, ..Calls::default() }).await;
    assert_eq!(clients.get("/shop", "status=200").await, 200);
    edge.wait_calls("shop", Calls { success: 1, failure: 1, ignored }).await;
    assert_eq!(edge.state("shop").await, Some(0));
    assert_eq!(edge.transitions("shop", "half_open", "wait_over").await, 1);
    assert_eq!(edge.transitions("shop", "closed", "probes").await, 1);
    upstream.release();
    assert_eq!(streaming.finish().await.status, 503);
    assert_eq!(upstream.requests() as u64, 2 + ignored);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_answer_in_the_upstreams_place_is_not_judged_by_status() {
    let upstream = Upstream::start().await;
    let mut shop = policy("shop", json!({"consecutive_failures": 1}));
    shop["outcome"] = json!({"failure": {"status": ["4xx", "5xx"]}});
    let fault = config::typed(
        "envoy.filters.http.fault",
        "extensions.filters.http.fault.v3.HTTPFault",
        json!({"abort": {"header_abort": {}, "percentage": {"numerator": 100}}}),
    );
    let edge = Edge::routed(upstream.addr(), &[plain_route()], &[filter(&document(&[shop])), fault]).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for status in ["429", "503", "404", "500"] {
        let aborted = Request::get("/shop").header("x-envoy-fault-abort-request", status);
        let answer = clients.send(aborted).await;
        assert_eq!((answer.status.to_string().as_str(), refused(&answer)), (status, false));
    }
    edge.wait_calls("shop", Calls { ignored: WORKERS as u64, ..Calls::default() }).await;
    assert_eq!(upstream.requests(), 0);
    assert_eq!(clients.get("/shop", "status=429").await, 429);
    for worker in 0..WORKERS {
        assert!(refused(&clients.worker(worker).send(Request::get("/shop")).await.unwrap()));
    }
    assert_eq!(upstream.requests(), 1);
}
