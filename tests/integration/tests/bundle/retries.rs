//! The bundle's retries: what is repeated where, and that no client has a say in it.

use super::{NOWHERE, PORTS, bundle, edited_bundle, moved, rendered};
use resilience_integration_tests::*;
use resilience_test_harness::*;

/// What a client would write to have its request repeated more often, later or not at all.
const FORGED: [(&str, &str); 14] = [
    ("x-envoy-max-retries", "9"),
    ("x-envoy-retry-on", "5xx"),
    ("x-envoy-retry-grpc-on", "unavailable"),
    ("x-envoy-retriable-status-codes", "503"),
    ("x-envoy-retriable-header-names", "content-type"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-upstream-rq-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "1"),
    ("x-envoy-upstream-rq-per-try-idle-timeout-ms", "1"),
    ("x-envoy-upstream-stream-duration-ms", "1"),
    ("x-envoy-upstream-rq-timeout-alt-response", "true"),
    ("x-envoy-expected-rq-timeout-ms", "1"),
    ("x-envoy-attempt-count", "7"),
    ("grpc-previous-rpc-attempts", "7"),
];

/// A service, a request to it, and how many attempts it takes where it fails.
type Case = (&'static str, fn() -> Request, u64);

/// How many attempts a failing request takes, by what the edge says and by what the upstream has counted.
async fn attempts(edge: &Edge, service: &str, request: Request) -> u64 {
    let name = format!("http.demo_upstream.rbac.policy.{service}.allowed");
    let before = edge.envoy.stat(&name).await.unwrap_or(0);
    let failing = request.header("x-envoy-fault-abort-request", "503");
    let answer = send_once(edge.address, Protocol::Http1, failing).await.expect("an answer");
    // Where it is replaced it still says how often it was tried.
    let marker = format!("{service};reason=upstream_failure;");
    assert!(answer.status == 503 || answer.header("x-resilience").starts_with(&marker), "{answer:?}");
    let counted = edge.envoy.stat(&name).await.unwrap_or(0) - before;
    assert_eq!(answer.header("x-envoy-attempt-count"), counted.to_string(), "{service}");
    counted
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_repeated_is_and_clients_change_nothing() {
    let (edge, _) = bundle(&PORTS).await;
    let forged =
        |request: Request| FORGED.iter().fold(request, |all, (name, value)| all.header(name, *value));
    let cases: [Case; 7] = [
        ("checkout", || Request::post("/checkout", ""), 1),
        ("checkout", || Request::post("/checkout", "").header("idempotency-key", "order-4711"), 3),
        ("catalogue", || Request::get("/catalogue"), 3),
        ("catalogue", || Request::post("/catalogue", ""), 1),
        ("email", || Request::post("/email/welcome", "").authority("shop.example"), 1),
        ("pricing", || Request::get("/pricing"), 4),
        ("admin", || Request::get("/admin/report"), 1),
    ];
    for (service, request, expected) in cases {
        assert_eq!(attempts(&edge, service, request()).await, expected, "{service}");
        assert_eq!(attempts(&edge, service, forged(request())).await, expected, "{service}, forged");
    }
    for (policy, expected) in [("checkout", 4), ("catalogue", 4), ("email", 0), ("pricing", 6)] {
        let labels = [("policy", policy), ("decision", "granted")];
        edge.wait_count("resilience_retries_total", &labels, expected).await;
    }
    // The back office's reports have no budget. Each of the others has its own: no mail was retried.
    let balance = "resilience_retry_budget_balance";
    edge.wait_count(balance, &[("policy", "email")], 100).await;
    assert_eq!(edge.envoy.prometheus().await.get(balance, &[("policy", "admin")]), None);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// What never reached the mailer is tried once more, though no mail has a key.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_that_never_left_is_sent_again() {
    let (edge, _) = edited_bundle(&PORTS, |yaml| moved(&yaml, "email", NOWHERE)).await;
    let mail = Request::post("/email/welcome", "").authority("shop.example");
    let answer = send_once(edge.address, Protocol::Http1, mail).await.expect("an answer");
    assert_eq!((answer.status, answer.header("x-envoy-attempt-count").as_str()), (503, "2"));
}

/// Before the route is chosen; what is a caller's own stays.
#[test]
fn all_that_steers_is_stripped() {
    let edge = rendered(&[]);
    for (name, _) in FORGED {
        assert!(edge.contains(&format!("              - remove: {name}\n")), "{name}");
    }
    for name in ["grpc-timeout", "idempotency-key"] {
        assert!(!edge.contains(&format!("remove: {name}")), "{name}");
    }
}
