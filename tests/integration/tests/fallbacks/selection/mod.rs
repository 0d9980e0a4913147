//! Which entry answers: the first whose conditions all hold.

mod accept;
mod places;

use crate::*;

/// An entry that answers with its name.
fn entry(name: &str, conditions: Value) -> Value {
    with(conditions, json!({"static": {"status": 200, "text": name}}))
}

/// A policy whose breaker never lets anybody in, and one that lets everybody in.
fn pair(name: &str, fallback: &[Value]) -> [Value; 2] {
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    [
        with(fragile(&format!("shut-{name}"), 1, fallback.into()), forced),
        json!({"name": name, "match": [{"path": {"prefix": format!("/{name}")}}], "fallback": fallback}),
    ]
}

/// What `Played` says of who answered: the body of an entry, or nothing.
fn chosen(answer: &Answer) -> Option<String> {
    answer.header("x-resilience").ends_with("source=static").then(|| answer.text())
}

async fn assert_chosen(
    scene: &mut Scene,
    protocol: Protocol,
    request: &Request,
    expected: Option<&str>,
    what: &str,
) {
    let Played { answer, .. } = scene.ask(protocol, request.clone()).await;
    assert_eq!(chosen(&answer).as_deref(), expected, "{what} over {protocol:?}: {answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_entry_whose_conditions_hold_answers() {
    let policies = [
        pair("order", &[entry("a", json!({})), entry("b", json!({}))]),
        pair("groups", &[entry("a", json!({"on": ["refusal"]})), entry("b", json!({"on": ["failure"]}))]),
        pair("mixed", &[entry("a", json!({"on": ["bulkhead_full", "reset", "connect_failure"]})), entry("b", json!({"on": ["timeout", "upstream_failure", "circuit_open"]}))]),
        pair("others", &[entry("a", json!({"on": ["bulkhead_full", "dependency_open", "deadline_exceeded", "connect_failure", "reset", "timeout"]}))]),
        pair("status", &[entry("a", json!({"status": [502, 503]})), entry("b", json!({"status": ["5xx"]})), entry("c", json!({}))]),
        pair("class", &[entry("a", json!({"status": ["5xx"], "on": ["reset"]})), entry("b", json!({"status": [500]}))]),
    ]
    .concat();
    let routes = ["order", "groups", "mixed", "others", "status", "class"].map(|name| {
        let path = format!("/{name}/refused");
        route_of("refused", &path).expect("a route")
    });
    let mut scene = Scene::routed(&document(&policies), &routes).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, words, expected) in [
            ("/shut-order", "", Some("a")),
            ("/order", "status=500", Some("a")),
            ("/shut-groups", "", Some("a")),
            ("/groups", "status=500", Some("b")),
            ("/groups", "close", Some("b")),
            ("/groups/refused", "", Some("b")),
            ("/shut-mixed", "", Some("b")),
            ("/mixed", "status=500", Some("b")),
            ("/mixed", "close", Some("a")),
            ("/mixed/refused", "", Some("a")),
            ("/shut-others", "", None),
            ("/others", "status=500", None),
            ("/others", "close", Some("a")),
            ("/others/refused", "", Some("a")),
            // Of a refused request there is no answer with a status.
            ("/shut-status", "", Some("c")),
            ("/status", "status=500", Some("b")),
            ("/status", "status=502", Some("a")),
            ("/status", "status=503", Some("a")),
            ("/status", "status=599", Some("b")),
            // Envoy's own are 503.
            ("/status", "close", Some("a")),
            ("/status/refused", "", Some("a")),
            ("/shut-class", "", None),
            ("/class", "status=500", Some("b")),
            ("/class", "status=501", None),
            ("/class", "close", Some("a")),
            ("/class/refused", "", None),
            // What is no failure is nobody's business.
            ("/order", "status=200", None),
            ("/order", "status=404", None),
            ("/order", "status=429", None),
            ("/status", "status=404", None),
        ] {
            let what = format!("{path} {words}");
            assert_chosen(&mut scene, protocol, &told(Request::get(path), words), expected, &what).await;
        }
    }
    scene.sound();
}

/// Which failures they are is what `outcome` says.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_a_failure_is_told_by_the_outcome() {
    let outcome = |failure: Value, ignore: Value| json!({"outcome": {"failure": failure, "ignore": ignore}});
    let named =
        |name: &str, outcome: Value| with(fragile(name, 1000, json!([entry("a", json!({}))])), outcome);
    let degraded = json!([{"name": "x-degraded", "value": "true"}]);
    let policies = [
        named("missing", outcome(json!({"status": [404]}), json!({}))),
        named("tired", outcome(json!({}), json!({"status": [503]}))),
        named("degraded", outcome(json!({"headers": degraded}), json!({}))),
    ];
    let mut scene = Scene::open(&document(&policies)).await;
    for (path, words, expected) in [
        ("/missing", "status=404", Some("a")),
        ("/missing", "status=500", None),
        ("/missing", "close", Some("a")),
        ("/tired", "status=503", None),
        ("/tired", "status=500", Some("a")),
        ("/degraded", "status=200; header=x-degraded:true", Some("a")),
        ("/degraded", "status=200; header=x-degraded:false", None),
    ] {
        let request = told(Request::get(path), words);
        assert_chosen(&mut scene, Protocol::Http1, &request, expected, &format!("{path} {words}")).await;
    }
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_is_a_condition_too() {
    let fail = |name: u16, conditions: Value| {
        with(conditions, json!({"fail": {"status": name, "retry_after": format!("{name}s")}}))
    };
    let fallback = [
        fail(501, json!({"grpc_status": ["INTERNAL", "DATA_LOSS"]})),
        fail(502, json!({"grpc_status": ["UNAVAILABLE"], "status": [500]})),
        fail(503, json!({"on": ["upstream_failure"]})),
    ];
    let route = route_of("grpc", "/shop/h2").expect("a route");
    let refused = route_of("refused", "/shop/refused").expect("a route");
    let policies = pair("shop", &fallback);
    let mut scene = Scene::routed(&document(&policies), &[route, refused]).await;
    // gRPC's own answers hide the entry's status: when to come back tells them apart.
    for (path, words, expected) in [
        ("/shop", "grpc-trailers-only=13", "501"),
        ("/shop/h2", "grpc-trailers-only=15", "501"),
        ("/shop", "grpc-trailers-only=14", "502"),
        ("/shop/h2", "grpc-trailers-only=2", "503"),
        ("/shop", "status=500", "502"),
        ("/shop", "status=501", "503"),
        // Envoy's own answer is UNAVAILABLE.
        ("/shop/refused", "", "502"),
    ] {
        let answer = scene.ask(Protocol::Http2, told(Request::grpc(path), words)).await.answer;
        assert_eq!(
            (answer.status, answer.header("retry-after").as_str()),
            (200, expected),
            "{path} {words}: {answer:?}"
        );
        assert_eq!((answer.header("grpc-status"), answer.body.len()), ("14".to_owned(), 0), "{path} {words}");
    }
    // A status that an HTTP caller sees is none of these.
    for (words, expected) in [("status=500", 502), ("status=501", 503)] {
        let answer = scene.ask(Protocol::Http1, told(Request::get("/shop"), words)).await.answer;
        assert_eq!(answer.status, expected, "{words}");
    }
    let answer =
        scene.ask(Protocol::Http2, told(Request::grpc("/shop"), "grpc-trailers-only=5")).await.answer;
    assert_eq!((answer.header("grpc-status"), answer.header("x-resilience")), ("5".into(), String::new()));
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn methods_and_headers_of_the_request_are_conditions() {
    let names = |list: &[&str]| json!({"when": {"methods": list}});
    let header = |list: &[(&str, &str)]| {
        let list: Vec<Value> =
            list.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
        json!({"when": {"headers": list}})
    };
    let both = json!({"when": {"methods": ["PUT"], "headers": [{"name": "x-tier", "value": "gold"}]}});
    let fallback = [
        entry("both", both),
        entry("write", names(&["POST", "PATCH"])),
        entry("tier", header(&[("X-Tier", "gold"), ("x-beta", "1")])),
        entry("read", names(&["GET"])),
    ];
    let policies = pair("shop", &fallback);
    let mut scene = Scene::open(&document(&policies)).await;
    let of = |name: &str, path: &str, headers: &[(&str, &str)]| {
        let request = Request::new(name.parse().expect("a method"), path);
        headers.iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    for (name, headers, expected) in [
        ("GET", &[][..], Some("read")),
        ("POST", &[], Some("write")),
        ("PATCH", &[("x-tier", "gold")], Some("write")),
        ("PUT", &[], None),
        ("PUT", &[("x-tier", "gold")], Some("both")),
        ("PUT", &[("x-beta", "1")], Some("tier")),
        ("DELETE", &[("x-tier", "gold")], Some("tier")),
        ("GET", &[("x-tier", "silver"), ("x-tier", "gold")], Some("tier")),
        ("DELETE", &[("x-tier", "silver")], None),
        // A whole value, and in its own letters.
        ("DELETE", &[("x-tier", "Gold")], None),
        ("DELETE", &[("x-tier", "golden")], None),
        ("DELETE", &[("x-tier", "silver, gold")], None),
        ("OPTIONS", &[], None),
    ] {
        for path in ["/shop", "/shut-shop"] {
            for protocol in [Protocol::Http1, Protocol::Http2] {
                let request = told(of(name, path, headers), "status=500");
                assert_chosen(
                    &mut scene,
                    protocol,
                    &request,
                    expected,
                    &format!("{name} {path} {headers:?}"),
                )
                .await;
            }
        }
    }
    scene.sound();
}
