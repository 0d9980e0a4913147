//! What is retried: only what can be repeated without harm.

use crate::*;

const METHODS: [(Method, bool); 8] = [
    (Method::GET, true),
    (Method::HEAD, true),
    (Method::OPTIONS, true),
    (Method::TRACE, true),
    (Method::PUT, true),
    (Method::DELETE, true),
    (Method::POST, false),
    (Method::PATCH, false),
];

/// A policy that retries once, without a budget; what it says of safety is the case.
fn cautious(name: &str, retry: &Value) -> Value {
    let mut sections = json!({"retry": retry, "retry_budget": null});
    sections["retry"]["max_retries"] = 1.into();
    guarded(name, &sections)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_method_that_is_not_idempotent_is_retried_with_a_key_only() {
    let policies = [
        cautious("with-key", &json!({})),
        cautious("own-key", &json!({"idempotency_key": "X-Request-Key"})),
        cautious("never", &json!({"non_idempotent": "never"})),
        cautious("always", &json!({"non_idempotent": "always"})),
    ];
    // For each policy, the attempts of a request that is not idempotent: without a key, with the usual one, one of the
    // operator's, and with empty ones.
    let cases = [
        ("with-key", [1, 2, 1, 1]),
        ("own-key", [1, 1, 2, 1]),
        ("never", [1, 1, 1, 1]),
        ("always", [2, 2, 2, 2]),
    ];
    let mut stage = Stage::open(&document(&policies)).await;
    for (policy, expected) in cases {
        for (method, idempotent) in METHODS {
            let plain = Request::new(method.clone(), &format!("/{policy}"));
            let requests = [
                plain.clone(),
                plain.clone().header("idempotency-key", "order-7"),
                plain.clone().header("x-request-key", "order-7"),
                plain.clone().header("idempotency-key", "").header("x-request-key", ""),
            ];
            for (request, of_others) in requests.into_iter().zip(expected) {
                let attempts = stage.attempts_of_failing(request.clone()).await;
                let expected = if idempotent { 2 } else { of_others };
                assert_eq!(attempts, expected, "{policy}: {request:?}");
            }
        }
        let labels = [("policy", policy), ("reason", "not_idempotent")];
        let refused = 2 * expected.iter().filter(|attempts| **attempts == 1).count();
        stage.edge.wait_count(DENIED, &labels, refused as u64).await;
    }
    // A body goes along with every attempt.
    let body = Request::post("/with-key", "a body").header("idempotency-key", "order-8");
    assert_eq!(stage.attempts_of_failing(body).await, 2);
    assert_eq!(stage.upstream.received().last().unwrap().headers["content-length"], "6");
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_retried_is_what_retry_on_says() {
    let on = |words: Value| json!({"retry_on": words, "non_idempotent": "always"});
    let policies = [
        cautious("default", &json!({})),
        cautious("gateway", &on(json!(["gateway-error"]))),
        cautious("conflict", &on(json!(["retriable-4xx"]))),
        cautious("reset", &on(json!(["reset", "connect-failure"]))),
        cautious("unavailable", &on(json!(["unavailable"]))),
        cautious("several", &on(json!(["unavailable", "resource-exhausted", "gateway-error"]))),
    ];
    let mut stage = Stage::open(&document(&policies)).await;
    let cases = [
        ("default", "status=500", 2),
        ("default", "status=409", 1),
        ("default", "status=200", 1),
        ("gateway", "status=500", 1),
        ("gateway", "status=502", 2),
        ("conflict", "status=409", 2),
        ("conflict", "status=503", 1),
        ("reset", "reset", 2),
        ("reset", "status=503", 1),
        ("unavailable", "status=503", 1),
        ("several", "status=503", 2),
    ];
    for (policy, behaviour, expected) in cases {
        let request = Request::get(&format!("/{policy}")).header("x-behave", behaviour);
        assert_eq!(stage.attempts(request).await.1, expected, "{policy}: {behaviour}");
    }
    let cases = [
        ("unavailable", 14, 2),
        ("unavailable", 8, 1),
        ("unavailable", 0, 1),
        ("several", 14, 2),
        ("several", 8, 2),
        ("several", 13, 1),
    ];
    for (policy, status, expected) in cases {
        let call = Request::grpc(&format!("/{policy}/shop.Cart/Add"));
        let call = call.header("x-behave", format!("grpc-trailers-only={status}"));
        let (answer, attempts) = stage.attempts(call).await;
        assert_eq!((answer.header("grpc-status"), attempts), (status.to_string(), expected), "{policy}");
    }
}

/// A gRPC call is a POST.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_no_safer_than_any_other_post() {
    let unavailable = json!({"retry_on": ["unavailable"]});
    let mut stage = Stage::open(&document(&[cautious("shop", &unavailable)])).await;
    let call = || Request::grpc("/shop/shop.Cart/Add").header("x-behave", "grpc-trailers-only=14");
    assert_eq!(stage.attempts(call()).await.1, 1);
    assert_eq!(stage.attempts(call().header("idempotency-key", "order-7")).await.1, 2);
}
