//! Who the caller is decides the form of a refusal: what counts as gRPC, and what a body may hold.

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};

fn refusing(name: &str, fallback: Option<Value>) -> Value {
    let mut policy = policy(name, json!({"mode": "forced_open", "consecutive_failures": 1}));
    if let Some(answer) = fallback {
        policy["fallback"] = json!([{"static": answer}]);
    }
    policy
}

/// A call without a message: Envoy closes an HTTP/1.1 connection whose request it answers before it has the body.
fn call(name: &str, content_type: &str) -> Request {
    Request::post(&format!("/{name}/shop.Cart/Add"), "").header("content-type", content_type)
}

/// Envoy answers gRPC callers in their own way, and takes for one only who says `application/grpc`, alone or followed by a
/// `+`. A caller it takes for another would get an HTTP status and a body meant for nobody.
#[tokio::test(flavor = "multi_thread")]
async fn only_who_is_grpc_to_envoy_gets_a_grpc_status() {
    const BODY: &str = r#"{"items":[]}"#;
    let upstream = Upstream::start().await;
    let fallback = json!({"status": 202, "headers": {"x-shop": "closed"}, "json": {"items": []}});
    let document = document(&[refusing("plain", None), refusing("static", Some(fallback))]);
    let edge = Edge::before(upstream.addr(), &document).await;
    for protocol in [Protocol::Http2, Protocol::Http1] {
        let mut clients = edge.clients(protocol).await;
        for content_type in ["application/grpc", "application/grpc+proto", "application/grpc+json"] {
            for (name, source) in [("plain", "none"), ("static", "static")] {
                let answer = clients.send(call(name, content_type)).await;
                let status = (answer.status, answer.header("grpc-status"), answer.header("grpc-message"));
                assert_eq!(status, (200, "14".to_owned(), "circuit_open".to_owned()), "{content_type}");
                let marker = format!("{name};reason=circuit_open;source={source}");
                assert_eq!(answer.header("x-resilience"), marker);
                assert!(answer.body.is_empty() && answer.trailers.is_empty(), "{content_type}: {answer:?}");
            }
        }
        for content_type in [
            "application/grpc;charset=utf-8",
            "application/grpc; charset=utf-8",
            "application/grpc ;charset=utf-8",
            "application/grpc-web",
            "application/grpc-web+proto",
            "application/grpcx",
            "application/json",
        ] {
            let answer = clients.send(call("plain", content_type)).await;
            assert_eq!((answer.status, answer.header("grpc-status")), (503, String::new()), "{content_type}");
            assert_eq!(answer.header("content-type"), "application/problem+json", "{content_type}");
            let problem: Value = serde_json::from_slice(&answer.body).expect("a problem in JSON");
            let expected = json!({"title": "Service Unavailable", "status": 503, "detail": "circuit_open"});
            assert_eq!(problem, expected, "{content_type}");

            let answer = clients.send(call("static", content_type)).await;
            assert_eq!((answer.status, answer.text().as_str()), (202, BODY), "{content_type}");
            assert_eq!(answer.header("grpc-status"), "", "{content_type}");
            assert_eq!(answer.header("content-type"), "application/json", "{content_type}");
            assert_eq!(answer.header("x-shop"), "closed", "{content_type}");
        }
    }
    assert_eq!(upstream.requests(), 0);
}

fn without_entities(html: &str) -> String {
    // The ampersand last: what it begins by then was text.
    let entities = [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")];
    entities.iter().fold(html.to_owned(), |text, (entity, is)| text.replace(entity, is))
}

fn id(json: &str) -> Option<String> {
    let parsed: Value = serde_json::from_str(json).ok()?;
    parsed["id"].as_str().map(str::to_owned)
}

/// A browser reads the body by its content type, not by how it was written in the document.
#[tokio::test(flavor = "multi_thread")]
async fn json_that_is_served_as_html_is_safe_as_html_too() {
    let upstream = Upstream::start().await;
    let body = json!({"id": "%REQUEST_ID%", "<b>%REASON%</b>": 1});
    let page =
        |content_type: &str| json!({"status": 200, "headers": {"content-type": content_type}, "json": body});
    let document = document(&[
        refusing("html", Some(page("text/html"))),
        refusing("html-charset", Some(page("Text/HTML; charset=utf-8"))),
        refusing("xhtml", Some(page("application/xhtml+xml"))),
        refusing("json", Some(json!({"status": 200, "json": body}))),
    ]);
    let edge = Edge::before(upstream.addr(), &document).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let hostile = r#""}<img src=x onerror='alert(1)'>&lt;\"#;
    for name in ["html", "html-charset", "xhtml"] {
        let request = Request::get(&format!("/{name}")).header("x-request-id", hostile);
        let text = clients.send(request).await.text();
        // What the operator wrote stays markup; what the caller sent is none.
        assert!(text.contains("<b>circuit_open</b>"), "{name}: {text}");
        let sent = text.replace("<b>", "").replace("</b>", "");
        assert!(!sent.contains(['<', '>', '\'']), "{name}: {text}");
        // And nothing of it is lost or split, whether a page is read first, or JSON.
        let page_first = id(&without_entities(&text));
        let json_first = id(&text).map(|id| without_entities(&id));
        let read = [page_first, json_first];
        assert!(read.contains(&Some(hostile.to_owned())), "{name}: {text} is read as {read:?}");
    }
    // Where it is JSON to everybody nothing is done to it but what JSON wants.
    let text = clients.send(Request::get("/json").header("x-request-id", hostile)).await.text();
    let parsed: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(parsed, json!({"id": hostile, "<b>circuit_open</b>": 1}));
    assert_eq!(upstream.requests(), 0);
}
