//! What is in a plain refusal, and in a fallback that the operator wrote.

use crate::{Open, fragile, fragile_with, headers, json_body};
use resilience_integration_tests::*;
use resilience_test_harness::config::{self, connection_manager, virtual_host};
use resilience_test_harness::*;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_refusal_tells_what_happened_and_when_to_come_back() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let document = document(&[fragile("plain")]);
    let manager = connection_manager(&[virtual_host("all", &[plain_route()])], &[filter(&document)]);
    let manager = config::with_access_log(
        manager,
        &scratch.file("access.log"),
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESP(X-RESILIENCE)%",
    );
    let envoy = envoy(bootstrap(&[listener("edge", manager)], upstream.addr()));
    let edge = Edge::of(envoy.argument("--file-flush-interval-msec").argument("50")).await;
    let mut open = Open::trip(edge, upstream, &document).await;

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
        (lines.len() > WORKERS).then_some(lines)
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
    let refused = [("reason", "circuit_open")];
    assert_eq!(open.edge.count("resilience_fallbacks_total", &refused).await, 3 * WORKERS as u64);
    // The failures that opened the breakers: one of each policy that has anything to say.
    let failed = [("reason", "upstream_failure")];
    assert_eq!(open.edge.count("resilience_fallbacks_total", &failed).await, 3);
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
