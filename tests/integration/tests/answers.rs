//! The answers we make, as clients, access logs and an Envoy in front of us see them.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(30);

/// A policy whose breaker one failure opens, for longer than any test here takes.
fn fragile(name: &str) -> Value {
    policy(name, json!({"consecutive_failures": 1, "wait_duration_in_open_state": "30s"}))
}

fn fragile_with(name: &str, fallback: Value) -> Value {
    let mut policy = fragile(name);
    policy["fallback"] = fallback;
    policy
}

/// An Envoy all of whose policies' breakers are open, and what its upstream counts from then on.
struct Open {
    edge: Edge,
    upstream: Upstream,
    clients: Clients,
    /// The breakers opened after the first and before the second.
    opened: (Instant, Instant),
}

impl Open {
    async fn all_of(document: Value) -> Self {
        let upstream = Upstream::start().await;
        let edge = Edge::before(upstream.addr(), &document).await;
        Self::trip(edge, upstream, &document).await
    }

    async fn trip(edge: Edge, upstream: Upstream, document: &Value) -> Self {
        let mut clients = edge.clients(Protocol::Http1).await;
        let before = Instant::now();
        for policy in document["policies"].as_array().unwrap() {
            let path = format!("/{}", policy["name"].as_str().unwrap());
            assert_eq!(clients.get(&path, "status=500").await, 500);
        }
        let opened = (before, Instant::now());
        assert_eq!(upstream.requests(), document["policies"].as_array().unwrap().len());
        upstream.reset_counts();
        Self { edge, upstream, clients, opened }
    }

    /// Asks every worker; what they say must be the same but for the seconds left, which are checked.
    async fn ask(&mut self, request: Request) -> Answer {
        let mut first: Option<Answer> = None;
        for _ in 0..WORKERS {
            let asked = Instant::now();
            let answer = self.clients.send(request.clone()).await;
            let tells = answer.headers.contains_key("retry-after");
            if tells {
                let rest = |opened: Instant, now: Instant| {
                    (opened + WAIT).saturating_duration_since(now).as_secs_f64().ceil() as u64
                };
                let bounds = rest(self.opened.0, Instant::now())..=rest(self.opened.1, asked);
                let said: u64 = answer.header("retry-after").parse().unwrap();
                assert!(bounds.contains(&said), "retry-after {said} is not in {bounds:?}");
            }
            if let Some(first) = &first {
                let summary = |answer: &Answer| (answer.status, headers(answer));
                assert_eq!(summary(first), summary(&answer), "workers disagree");
                assert_eq!(first.headers.contains_key("retry-after"), tells);
            }
            first.get_or_insert(answer);
        }
        first.unwrap()
    }
}

/// All headers in order of their names, but for those that change with time.
fn headers(answer: &Answer) -> Vec<String> {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| {
            !["date", "server", "retry-after", "x-envoy-upstream-service-time"].contains(&name.as_str())
        })
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines
}

fn json_body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {:?}", answer.text()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_refusal_tells_what_happened_and_when_to_come_back() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let document = document(&[fragile("plain")]);
    let manager =
        connection_manager(&[virtual_host("all", &[route(UPSTREAM, "/", UPSTREAM)])], &[filter(&document)]);
    let manager = config::with_access_log(
        manager,
        &scratch.file("access.log"),
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESP(X-RESILIENCE)%",
    );
    let bootstrap = config::bootstrap(&[listener("edge", manager)], &[cluster(UPSTREAM, &[upstream.addr()])]);
    let envoy = envoy(bootstrap).argument("--file-flush-interval-msec").argument("50").start().await;
    let address = envoy.addr("edge").await;
    let mut open = Open::trip(Edge { envoy, address }, upstream, &document).await;

    let answer = open.ask(Request::get("/plain")).await;
    assert_eq!(answer.status, 503);
    assert_eq!(
        headers(&answer),
        [
            format!("content-length: {}", answer.body.len()),
            "content-type: application/problem+json".to_owned(),
            "x-envoy-ratelimited: true".to_owned(),
            "x-resilience: plain;reason=circuit_open;source=none".to_owned(),
        ]
    );
    assert!(answer.headers.contains_key("retry-after"));
    let problem = json!({"title": "Service Unavailable", "status": 503, "detail": "circuit_open"});
    assert_eq!(json_body(&answer), problem);
    assert_eq!(open.upstream.requests(), 0);

    let lines = eventually("the access log", PATIENCE, async || {
        let lines = scratch.lines("access.log");
        (lines.len() >= 1 + WORKERS).then_some(lines)
    })
    .await;
    assert_eq!(lines[0], "500 via_upstream -");
    let refused = "503 resilience:plain:circuit_open plain;reason=circuit_open;source=none";
    assert_eq!(lines[1..], vec![refused; WORKERS]);

    // An order that was not read to its end is refused all the same. (Envoy then closes the connection.)
    let order = Request::post("/plain", vec![b'x'; 200_000]);
    let refused = send_once(open.edge.address, Protocol::Http2, order).await.unwrap();
    assert_eq!((refused.status, json_body(&refused)), (503, problem));
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_static_fallback_is_what_the_operator_wrote() {
    const TEXT: &str = "content-type: text/plain; charset=utf-8";
    const JSON: &str = "content-type: application/json";
    const RATELIMITED: &str = "x-envoy-ratelimited: true";
    // Name, what the operator wrote, headers beside content-length and marker, body, whether it says when to come back.
    type Case = (&'static str, Value, &'static [&'static str], &'static [u8], bool);
    let cases: [Case; 12] = [
        ("text", json!({"status": 200, "text": "Sold out"}), &[TEXT], b"Sold out", false),
        (
            "json",
            json!({"status": 200, "json": {"b": [1, null], "a": "x"}}),
            &[JSON],
            br#"{"a":"x","b":[1,null]}"#,
            false,
        ),
        (
            "base64",
            json!({"status": 200, "base64": "AP8Q"}),
            &["content-type: application/octet-stream"],
            &[0, 255, 16],
            false,
        ),
        ("bodiless", json!({"status": 200}), &[], b"", false),
        (
            "own",
            json!({
                "status": 200,
                "headers": {"Content-Type": "text/html", "X-Shop": "closed; \u{e9}", "cache-control": "no-store"},
                "text": "<p>Later</p>",
            }),
            &["cache-control: no-store", "content-type: text/html", "x-shop: closed; \u{e9}"],
            b"<p>Later</p>",
            false,
        ),
        (
            "typed",
            json!({"status": 200, "headers": {"content-type": "application/vnd.shop+json"}, "json": {}}),
            &["content-type: application/vnd.shop+json"],
            b"{}",
            false,
        ),
        ("accepted", json!({"status": 202, "text": "later"}), &[TEXT], b"later", false),
        ("gone", json!({"status": 404, "text": "gone"}), &[TEXT], b"gone", false),
        ("busy", json!({"status": 429, "text": "busy"}), &[TEXT, RATELIMITED], b"busy", true),
        ("broken", json!({"status": 500, "text": "broken"}), &[TEXT, RATELIMITED], b"broken", false),
        ("down", json!({"status": 503, "text": "down"}), &[TEXT, RATELIMITED], b"down", true),
        ("slow", json!({"status": 504, "text": "slow"}), &[TEXT, RATELIMITED], b"slow", false),
    ];
    let policies = cases.clone().map(|(name, answer, ..)| fragile_with(name, json!([{"static": answer}])));
    let mut open = Open::all_of(document(&policies)).await;
    for (name, written, expected, body, tells) in cases {
        let answer = open.ask(Request::get(&format!("/{name}/x?y"))).await;
        assert_eq!(u64::from(answer.status), written["status"].as_u64().unwrap(), "{name}");
        assert_eq!(answer.body, body, "{name}");
        assert_eq!(answer.headers.contains_key("retry-after"), tells, "{name}");
        let mut expected: Vec<String> = expected.iter().map(|&line| line.to_owned()).collect();
        expected.push(format!("x-resilience: {name};reason=circuit_open;source=static"));
        expected.push(format!("content-length: {}", body.len()));
        expected.sort();
        assert_eq!(headers(&answer), expected, "{name}");
        let counted = [("policy", name), ("reason", "circuit_open"), ("source", "static")];
        assert_eq!(open.edge.count("resilience_fallbacks_total", &counted).await, WORKERS as u64);
        let refused = [("policy", name), ("reason", "circuit_open"), ("class", "_")];
        assert_eq!(open.edge.count("resilience_rejections_total", &refused).await, WORKERS as u64);
    }
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_fallback_that_applies_answers() {
    let answer = |text: &str| json!({"status": 200, "text": text});
    let mut open = Open::all_of(document(&[
        fragile_with("first", json!([{"static": answer("a")}, {"static": answer("b")}])),
        fragile_with(
            "reason",
            json!([{"on": ["circuit_open"], "static": answer("a")}, {"static": answer("b")}]),
        ),
        fragile_with("group", json!([{"on": ["refusal"], "static": answer("a")}, {"static": answer("b")}])),
        fragile_with("none", json!([])),
    ]))
    .await;
    for name in ["first", "reason", "group"] {
        assert_eq!(open.ask(Request::get(&format!("/{name}"))).await.text(), "a", "{name}");
    }
    let plain = open.ask(Request::get("/none")).await;
    assert_eq!(plain.header("x-resilience"), "none;reason=circuit_open;source=none");
    assert_eq!(open.edge.count("resilience_fallbacks_total", &[]).await, 3 * WORKERS as u64);
    assert_eq!(open.edge.count("resilience_fallbacks_total", &[("policy", "none")]).await, 0);
    assert_eq!(open.edge.count("resilience_rejections_total", &[]).await, 4 * WORKERS as u64);
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_cannot_break_out_of_a_body() {
    let places = "%POLICY%|%REASON%|%REQUEST_ID%|100%|%OTHER%";
    let mut open = Open::all_of(document(&[
        fragile_with("plain", json!([{"static": {"status": 200, "text": places}}])),
        fragile_with(
            "json",
            json!([{"static": {"status": 503, "json": {"%POLICY%": places, "in": "%RETRY_AFTER%"}}}]),
        ),
        fragile_with(
            "html",
            json!([{"static": {"status": 200, "headers": {"content-type": "text/html"}, "text": places}}]),
        ),
    ]))
    .await;
    let hostile = b"\"></p><script>'\\\t&%POLICY% \xff";
    let shown = String::from_utf8_lossy(hostile).into_owned();
    let request = |name: &str| Request::get(&format!("/{name}")).header("x-request-id", hostile);
    let plain = open.ask(request("plain")).await;
    assert_eq!(plain.text(), format!("plain|circuit_open|{shown}|100%|%OTHER%"));
    let html = open.ask(request("html")).await;
    let escaped = "&quot;&gt;&lt;/p&gt;&lt;script&gt;&#39;\\\t&amp;%POLICY% \u{fffd}";
    assert_eq!(html.text(), format!("html|circuit_open|{escaped}|100%|%OTHER%"));
    let json = open.ask(request("json")).await;
    let expected = json!({
        "json": format!("json|circuit_open|{shown}|100%|%OTHER%"),
        "in": json.header("retry-after"),
    });
    assert_eq!(json_body(&json), expected);
    // A caller without an id leaves the place empty.
    let plain = open.ask(Request::get("/plain")).await;
    assert_eq!(plain.text(), "plain|circuit_open||100%|%OTHER%");
}

#[tokio::test(flavor = "multi_thread")]
async fn head_gets_headers_only_and_the_connection_stays_usable() {
    let fallback = json!([{"static": {"status": 200, "text": "Sold out"}}]);
    let mut open = Open::all_of(document(&[fragile("plain"), fragile_with("text", fallback)])).await;
    for (path, status) in [("/plain", 503), ("/text", 200)] {
        for worker in 0..WORKERS {
            let connection = open.clients.worker(worker);
            let local = connection.local;
            let head = connection.send(Request::new(Method::HEAD, path)).await.unwrap();
            assert_eq!((head.status, head.text()), (status, String::new()), "{path}");
            // Had a body been sent after all, it would be taken for the next answer.
            let get = connection.send(Request::get(path)).await.unwrap();
            assert_eq!((get.status, connection.local), (status, local), "{path}");
            assert!(!get.body.is_empty());
            assert_eq!(headers(&head), headers(&get), "{path}");
            assert_eq!(connection.send(Request::new(Method::HEAD, "/free")).await.unwrap().status, 200);
        }
    }
    assert_eq!(open.upstream.requests(), open.upstream.requests_to("/free"));
    assert_eq!(open.upstream.requests(), 2 * WORKERS);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_caller_gets_a_status_and_never_the_body() {
    let fallback = json!([{"static": {"status": 202, "headers": {"x-shop": "closed"}, "json": {"a": 1}}}]);
    let mut open = Open::all_of(document(&[fragile("plain"), fragile_with("json", fallback)])).await;
    open.clients = open.edge.clients(Protocol::Http2).await;
    for (name, source) in [("plain", "none"), ("json", "static")] {
        for content_type in ["application/grpc", "application/grpc+proto"] {
            let call = Request::post(&format!("/{name}/shop.Cart/Add"), &[0; 5][..]);
            let call = call.header("content-type", content_type).header("te", "trailers");
            let answer = open.ask(call).await;
            assert_eq!(answer.status, 200, "{name}");
            assert_eq!(answer.header("content-type"), "application/grpc", "{name}");
            assert_eq!(answer.header("grpc-status"), "14", "{name}");
            assert_eq!(answer.header("grpc-message"), "circuit_open", "{name}");
            assert!(answer.body.is_empty() && answer.trailers.is_empty(), "{name}: {answer:?}");
            let marker = format!("{name};reason=circuit_open;source={source}");
            assert_eq!(answer.header("x-resilience"), marker);
            assert_eq!(answer.header("x-envoy-ratelimited"), "true", "{name}");
        }
        // gRPC-Web is not gRPC: its caller understands HTTP.
        let web = Request::post(&format!("/{name}/shop.Cart/Add"), &[0; 5][..])
            .header("content-type", "application/grpc-web+proto");
        let answer = open.ask(web).await;
        assert_eq!(answer.header("grpc-status"), "", "{name}");
        assert!(!answer.body.is_empty(), "{name}");
    }
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_in_front_does_not_retry_unless_the_operator_wants_it_to() {
    let mut eager = fragile("eager");
    eager["discourage_retries"] = false.into();
    let mut eager_fallback =
        fragile_with("eager-fallback", json!([{"static": {"status": 503, "text": "down"}}]));
    eager_fallback["discourage_retries"] = false.into();
    let policies = [
        fragile("plain"),
        fragile_with("fallback", json!([{"static": {"status": 503, "text": "down"}}])),
        eager,
        eager_fallback,
    ];
    let open = Open::all_of(document(&policies)).await;
    let mut retried = route("front", "/", "inner");
    retried["route"]["retry_policy"] = json!({
        "retry_on": "5xx,unavailable",
        "num_retries": 3,
        "retry_back_off": {"base_interval": "0.001s"},
    });
    let manager = connection_manager(&[virtual_host("all", &[retried])], &[]);
    let inner = config::with_http2(cluster("inner", &[open.edge.address]));
    let front = Edge::start(config::bootstrap(&[listener("edge", manager)], &[inner])).await;
    let (mut plain, mut grpc) = (front.clients(Protocol::Http1).await, front.clients(Protocol::Http2).await);

    for (name, attempts) in [("plain", 1), ("fallback", 1), ("eager", 4), ("eager-fallback", 4)] {
        let refused = [("policy", name), ("reason", "circuit_open")];
        let answer = plain.send(Request::get(&format!("/{name}"))).await;
        assert_eq!(answer.status, 503, "{name}");
        assert_eq!(answer.headers.contains_key("x-envoy-ratelimited"), attempts == 1, "{name}");
        let count = async || open.edge.count("resilience_rejections_total", &refused).await;
        assert_eq!(count().await, attempts, "{name}");
        let answer = grpc.send(Request::grpc(&format!("/{name}/shop.Cart/Add"))).await;
        assert_eq!(answer.header("grpc-status"), "14", "{name}");
        assert_eq!(count().await, 2 * attempts, "{name} by gRPC");
    }
    assert_eq!(open.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_exposes_nothing_tells_outsiders_nothing() {
    let mut document = document(&[
        fragile("plain"),
        fragile_with("text", json!([{"static": {"status": 200, "text": "Sold out"}}])),
        fragile_with(
            "places",
            json!([{"static": {"status": 503, "text": "%POLICY%%REASON%, %RETRY_AFTER%"}}]),
        ),
    ]);
    document["expose"] = false.into();
    let mut open = Open::all_of(document).await;
    let plain = open.ask(Request::get("/plain")).await;
    assert_eq!(
        headers(&plain),
        [
            format!("content-length: {}", plain.body.len()),
            "content-type: application/problem+json".to_owned(),
            "x-envoy-ratelimited: true".to_owned(),
        ]
    );
    assert!(plain.headers.contains_key("retry-after"));
    assert_eq!(json_body(&plain), json!({"title": "Service Unavailable", "status": 503}));
    let text = open.ask(Request::get("/text")).await;
    assert_eq!(headers(&text), ["content-length: 8", "content-type: text/plain; charset=utf-8"]);

    let places = open.ask(Request::get("/places")).await;
    assert_eq!(places.text(), format!(", {}", places.header("retry-after")));

    // What upstreams of ours say is for us alone, too, whether the policy is theirs or there is none.
    for path in ["/free", "/"] {
        let answer = open
            .ask(
                Request::get(path)
                    .header("x-behave", "header=x-resilience:a;header=x-resilience:b;header=x-o:p"),
            )
            .await;
        assert_eq!((answer.status, answer.header("x-o")), (200, "p".to_owned()));
        assert!(!answer.headers.contains_key("x-resilience"), "{answer:?}");
    }
    open.clients = open.edge.clients(Protocol::Http2).await;
    for name in ["plain", "text"] {
        let answer = open.ask(Request::grpc(&format!("/{name}/shop.Cart/Add"))).await;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "14".to_owned()));
        let message = answer.header("grpc-message");
        assert!(!message.is_empty() && !message.contains("circuit") && !message.contains(name), "{message}");
        assert!(answer.body.is_empty() && !answer.headers.contains_key("x-resilience"), "{answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_healthy_exchange_is_passed_on_untouched() {
    let upstream = Upstream::start().await;
    let mut exposing = document(&[fragile("plain")]);
    exposing["exempt"] = json!([{"path": {"prefix": "/health"}}]);
    let edge = Edge::before(upstream.addr(), &exposing).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for path in ["/plain", "/free", "/health"] {
        for _ in 0..WORKERS {
            let request = Request::get(path)
                .header("x-resilience", "anything;at=all")
                .header("x-behave", "status=404;header=x-resilience:far;header=x-resilience:near");
            let answer = clients.send(request).await;
            assert_eq!((answer.status, answer.text()), (404, "upstream\n".to_owned()));
            let marks: Vec<_> = answer.headers.get_all("x-resilience").iter().collect();
            assert_eq!(marks, ["far", "near"], "{path}");
        }
    }
    assert_eq!(upstream.requests(), 3 * WORKERS);
    for request in upstream.received() {
        let marks: Vec<_> = request.headers.get_all("x-resilience").iter().collect();
        assert_eq!(marks, ["anything;at=all"]);
        let foreign = request.headers.keys().find(|name| name.as_str().contains("reroute"));
        assert_eq!(foreign, None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reroute_that_arrives_from_outside_is_refused() {
    let mut documented = document(&[
        fragile("plain"),
        fragile_with("text", json!([{"static": {"status": 200, "text": "Sold out"}}])),
    ]);
    documented["exempt"] = json!([{"path": {"prefix": "/health"}}]);
    let mut open = Open::all_of(documented).await;
    let refused = open.edge.count("resilience_rejections_total", &[]).await;
    for path in ["/plain", "/text", "/free", "/health"] {
        for value in ["elsewhere", ""] {
            // Envoy closes a connection of HTTP/1.1 after any answer of 400, so each request has one of its own.
            let forged = |_| Request::get(path).header("x-resilience-reroute", value);
            for answer in burst(open.edge.address, Protocol::Http1, 16, 16, forged).await {
                let answer = answer.unwrap();
                assert_eq!((answer.status, answer.text()), (400, String::new()), "{path} {value:?}");
                assert_eq!(headers(&answer), ["connection: close", "content-length: 0"]);
            }
        }
    }
    assert_eq!(open.upstream.requests(), 0);
    assert_eq!(open.edge.count("resilience_rejections_total", &[]).await, refused);
    open.clients = open.edge.clients(Protocol::Http2).await;
    let forged = Request::grpc("/free").header("x-resilience-reroute", "elsewhere");
    assert!(open.ask(forged).await.body.is_empty());
    assert_eq!(open.upstream.requests(), 0);
    assert_eq!(open.ask(Request::get("/free")).await.status, 200);
}
