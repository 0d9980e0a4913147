//! What of the request is put into a body, and what outsiders are not told.

use crate::*;

const PLACES: &str = "%POLICY%|%REASON%|%RETRY_AFTER%|%REQUEST_ID%|100%|%OTHER%|%%REASON%";

fn of_type(content_type: &str) -> Value {
    json!([{"static": {"status": 503, "headers": {"content-type": content_type}, "text": PLACES}}])
}

fn policies() -> Vec<Value> {
    let forced = || json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let json = json!([{"static": {"status": 503, "json": {"%REASON%": [PLACES, {"in": "%REQUEST_ID%"}]}}}]);
    let text = json!([{"static": {"status": 503, "text": PLACES}}]);
    let ways = [
        ("text", text),
        ("json", json),
        ("html", of_type("text/html; charset=utf-8")),
        ("svg", of_type("image/svg+xml")),
    ];
    let both = |(name, fallback): (&str, Value)| {
        [fragile(name, 1000, fallback.clone()), with(fragile(&format!("shut-{name}"), 1, fallback), forced())]
    };
    ways.into_iter().flat_map(both).collect()
}

/// Request ids that would break out of something, each with what is left of it in an unescaped text.
fn hostile() -> Vec<(Vec<u8>, String)> {
    let long: String = "\"<".repeat(1000);
    vec![
        (b"42".to_vec(), "42".to_owned()),
        (Vec::new(), String::new()),
        (b"\"}]}, {\"admin\": true, \"x\": \"".to_vec(), "\"}]}, {\"admin\": true, \"x\": \"".to_owned()),
        (b"</p><script>alert('x')</script>".to_vec(), "</p><script>alert('x')</script>".to_owned()),
        (b"\\u0022\\".to_vec(), "\\u0022\\".to_owned()),
        (b"%POLICY%%REASON%%REQUEST_ID%".to_vec(), "%POLICY%%REASON%%REQUEST_ID%".to_owned()),
        (b"a\tb".to_vec(), "a\tb".to_owned()),
        (b"\xff\xc3\x28".to_vec(), String::from_utf8_lossy(b"\xff\xc3\x28").into_owned()),
        ("\u{e9}\u{1f6d2}\u{2028}".as_bytes().to_vec(), "\u{e9}\u{1f6d2}\u{2028}".to_owned()),
        (long.clone().into_bytes(), long[..256].to_owned()),
    ]
}

fn markup(text: &str) -> String {
    let escapes = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;"), ("'", "&#39;")];
    escapes.iter().fold(text.to_owned(), |text, (letter, escape)| text.replace(letter, escape))
}

fn filled(policy: &str, reason: &str, id: &str) -> String {
    format!("{policy}|{reason}||{id}|100%|%OTHER%|%{reason}")
}

async fn play(scene: &mut Scene, exposed: bool) {
    for (id, shown) in hostile() {
        for prefix in ["", "shut-"] {
            let reason = if prefix.is_empty() { "upstream_failure" } else { "circuit_open" };
            for protocol in [Protocol::Http1, Protocol::Http2] {
                for kind in ["text", "json", "html", "svg"] {
                    let name = format!("{prefix}{kind}");
                    let (policy, reason) = if exposed { (name.as_str(), reason) } else { ("", "") };
                    let request = told(Request::get(&format!("/{name}")), "status=500");
                    let answer = scene.ask(protocol, request.header("x-request-id", &id)).await.answer;
                    let what = format!("{name} {shown:?} over {protocol:?}");
                    assert_eq!((answer.status, &answer.broken), (503, &None), "{what}");
                    match kind {
                        "text" => assert_eq!(answer.text(), filled(policy, reason, &shown), "{what}"),
                        "json" => {
                            let body: Value = serde_json::from_slice(&answer.body).expect("JSON");
                            let expected = json!({reason: [filled(policy, reason, &shown), {"in": shown}]});
                            assert_eq!(body, expected, "{what}");
                        }
                        _ => assert_eq!(answer.text(), filled(policy, reason, &markup(&shown)), "{what}"),
                    }
                }
            }
        }
    }
    scene.sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_sends_cannot_break_out_of_a_body() {
    let mut scene = Scene::open(&document(&policies())).await;
    play(&mut scene, true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_exposes_nothing_fills_in_no_names() {
    let mut document = document(&policies());
    document["expose"] = false.into();
    let mut scene = Scene::open(&document).await;
    play(&mut scene, false).await;
}

/// Neither by the body nor by the headers nor by a gRPC message. The access log is the operator's.
#[tokio::test(flavor = "multi_thread")]
async fn an_edge_that_exposes_nothing_tells_outsiders_nothing() {
    let page = json!([{"on": ["failure"], "static": {"status": 200, "text": "Later."}}]);
    let loud = json!([{"fail": {"status": 503}}]);
    let elsewhere = json!([{"reroute": {"cluster": SPARE, "policy": "guard"}}]);
    let policies = [
        fragile("page", 1, page),
        fragile("loud", 2, loud),
        fragile("elsewhere", 1, elsewhere),
        fragile("guard", 1, json!([])),
    ];
    let mut document = document(&policies);
    document["expose"] = false.into();
    let mut scene = Scene::open(&document).await;
    let theirs = "header=x-resilience:inner";
    for (path, words, status, body, reason) in [
        ("/page", "status=500", 200, "Later.", "upstream_failure"),
        ("/page", "", 503, r#"{"title":"Service Unavailable","status":503}"#, "circuit_open"),
        ("/loud", "status=500", 503, r#"{"title":"Service Unavailable","status":503}"#, "upstream_failure"),
        (
            "/loud",
            "status=500; body=",
            503,
            r#"{"title":"Service Unavailable","status":503}"#,
            "upstream_failure",
        ),
        ("/loud", "", 503, r#"{"title":"Service Unavailable","status":503}"#, "circuit_open"),
        ("/elsewhere", "status=500", 500, "upstream\n", ""),
        ("/elsewhere", "status=200", 200, "upstream\n", ""),
        ("/", "status=200", 200, "upstream\n", ""),
    ] {
        let words = if words.is_empty() { theirs.to_owned() } else { format!("{words}; {theirs}") };
        let Played { case, answer } = scene.ask(Protocol::Http1, told(Request::get(path), &words)).await;
        let what = format!("{path} {words}");
        assert_eq!((answer.status, answer.text().as_str()), (status, body), "{what}");
        let told = format!("{:?}", answer.headers).to_lowercase();
        for secret in ["resilience", "circuit", "upstream_failure", "inner", "guard", "reroute", "spare"] {
            assert!(!told.contains(secret), "{what}: {secret} in {told}");
        }
        let logged = scene.logged(&case).await;
        assert!(logged.contains("via_upstream") || logged.ends_with(&format!(":{reason}")), "{logged}");
    }
    assert_eq!(scene.spare.requests(), 1, "a rerouted one");
    for words in ["status=500", "grpc-trailers-only=14", "status=500; body="] {
        let answer = scene.ask(Protocol::Http2, told(Request::grpc("/loud"), words)).await.answer;
        assert_eq!((answer.status, answer.header("grpc-status")), (200, "14".to_owned()));
        let told = format!("{:?}", answer.headers).to_lowercase();
        assert_eq!(answer.header("grpc-message"), "unavailable", "{words}: {told}");
        for secret in ["resilience", "circuit", "failure", "loud"] {
            assert!(!told.contains(secret), "{words}: {secret} in {told}");
        }
    }
    scene.sound();
}
