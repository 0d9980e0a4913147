//! Headers that steer Envoy's router are ours to write, not a client's.

use crate::*;

/// Each with a value that would show, and that nobody but its sender writes.
const FORGED: [(&str, &str); 14] = [
    ("x-envoy-max-retries", "7"),
    ("x-envoy-retry-on", "5xx,retriable-4xx,retriable-status-codes"),
    ("x-envoy-retry-grpc-on", "cancelled,deadline-exceeded,internal,resource-exhausted,unavailable"),
    ("x-envoy-retriable-status-codes", "418,200"),
    ("x-envoy-retriable-header-names", "content-length,date"),
    ("x-envoy-hedge-on-per-try-timeout", "true"),
    ("x-envoy-upstream-rq-timeout-ms", "31"),
    ("x-envoy-upstream-rq-per-try-timeout-ms", "17"),
    ("x-envoy-upstream-rq-per-try-idle-timeout-ms", "19"),
    ("x-envoy-upstream-stream-duration-ms", "23"),
    ("x-envoy-upstream-rq-timeout-alt-response", "1"),
    ("x-envoy-expected-rq-timeout-ms", "29"),
    ("x-envoy-attempt-count", "37"),
    ("grpc-previous-rpc-attempts", "41"),
];

/// Each with a name, its route, its sections, and the attempts of a request that fails.
fn policies() -> [(&'static str, Value, Value, usize); 4] {
    let slow = json!({"total": "60s", "per_try": "10s"});
    [
        ("retrying", patient_route(), json!({"retry": {"max_retries": 1}, "retry_budget": null}), 2),
        ("capped", retrying_route(2), json!({"retry_budget": {}}), 3),
        ("timed", patient_route(), json!({"timeout": slow}), 1),
        (
            "all",
            patient_route(),
            json!({"timeout": slow, "retry": {"max_retries": 2}, "retry_budget": null}),
            3,
        ),
    ]
}

async fn stage() -> Stage {
    let mut routes = Vec::new();
    let mut guards = Vec::new();
    for (name, mut route, sections, _) in policies() {
        route["match"]["prefix"] = format!("/{name}").into();
        routes.push(route);
        guards.push(guarded(name, &sections));
    }
    routes.push(patient_route());
    Stage::believing(&routes, &document(&guards)).await
}

/// What the client sees of a request, and how often the upstream got it.
async fn told(stage: &mut Stage, name: &str, forged: &[(&str, &str)], behaviour: &str) -> (u16, usize) {
    let request = Request::get(&format!("/{name}")).header("x-behave", behaviour);
    let request = forged.iter().fold(request, |it, (name, value)| it.header(name, value));
    let (answer, attempts) = stage.attempts(request).await;
    (answer.status, attempts)
}

#[tokio::test(flavor = "multi_thread")]
async fn forged_headers_change_nothing() {
    let mut stage = stage().await;
    let mut forgeries: Vec<Vec<(&str, &str)>> = FORGED.iter().map(|header| vec![*header]).collect();
    forgeries.push(FORGED.to_vec());
    for (name, _, _, attempts) in policies() {
        for forged in &forgeries {
            for (behaviour, expected) in [
                ("status=503", (503, attempts)),
                ("status=200", (200, 1)),
                ("status=409", (409, 1)),
                ("status=418", (418, 1)),
                // Longer than any of the times forged above.
                ("delay=150ms; status=200", (200, 1)),
            ] {
                let seen = told(&mut stage, name, forged, behaviour).await;
                assert_eq!(seen, expected, "{name}, {behaviour}, forged: {forged:?}");
            }
        }
    }
    for received in stage.upstream.received() {
        for (name, value) in FORGED {
            let arrived = received.headers.get(name);
            assert!(arrived.is_none_or(|it| it != value), "{name}: {arrived:?} at the upstream");
        }
    }
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

/// Envoy would believe each of them: what the test above sees is our doing.
#[tokio::test(flavor = "multi_thread")]
async fn envoy_believes_them_where_no_policy_is() {
    let mut stage = stage().await;
    let retry = [FORGED[0], FORGED[1]];
    assert_eq!(told(&mut stage, "nobodys", &retry, "status=503").await, (503, 8));
    assert_eq!(told(&mut stage, "nobodys", &[FORGED[6]], "hang").await, (504, 1));
    let told = told(&mut stage, "nobodys", &[FORGED[12], FORGED[13]], "status=200").await;
    assert_eq!(told, (200, 1));
    let received = stage.upstream.received();
    let last = received.last().expect("the last");
    assert_eq!(last.headers["grpc-previous-rpc-attempts"], "41");
}

#[tokio::test(flavor = "multi_thread")]
async fn several_of_one_name_are_no_way_around() {
    let mut stage = stage().await;
    for (name, _, _, attempts) in policies() {
        let request = Request::get(&format!("/{name}")).header("x-behave", "status=503");
        let request = FORGED.iter().fold(request, |it, (name, value)| {
            it.header(name, value).header(name, value).header(&name.to_uppercase(), b"\xff")
        });
        assert_eq!(stage.attempts(request).await.1, attempts, "{name}");
    }
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}
