//! The connection manager's `local_reply_config` rewrites what Envoy answers itself. Our local replies are among that; what is
//! written over another answer is not.

use crate::*;

/// Every local reply from 400 on gets another status, a header and a body.
fn rewriting(manager: &mut Value) {
    let comparison = json!({"op": "GE", "value": {"default_value": 400, "runtime_key": "none"}});
    manager["local_reply_config"] = json!({"mappers": [{
        "filter": {"status_code_filter": {"comparison": comparison}},
        "status_code": 599,
        "body": {"inline_string": "rewritten %RESPONSE_CODE_DETAILS%"},
        "body_format_override": {"text_format_source": {"inline_string": "<%LOCAL_REPLY_BODY%>"}},
        "headers_to_add": [{"header": {"key": "x-rewritten", "value": "yes"}}],
    }]});
}

fn busy() -> Value {
    json!([{"static": {"status": 503, "headers": {"x-shop": "closed"}, "text": "Busy."}}])
}

struct Expected {
    status: u16,
    is_rewritten: bool,
}

const REWRITTEN: Expected = Expected { status: 599, is_rewritten: true };

/// What of an answer `local_reply_config` changes.
fn check(answer: &Answer, expected: &Expected, own_body: &str, mark: &str, what: &str) {
    assert_eq!(answer.status, expected.status, "{what}: {answer:?}");
    let added = if expected.is_rewritten { "yes" } else { "" };
    assert_eq!(answer.header("x-rewritten"), added, "{what}");
    if expected.is_rewritten {
        assert!(answer.text().starts_with("<rewritten"), "{what}: {}", answer.text());
    } else {
        assert_eq!(answer.text(), own_body, "{what}");
    }
    // The headers of ours are not changed.
    assert_eq!(answer.header("x-resilience"), mark, "{what}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_send_is_rewritten_and_what_we_write_over_is_not() {
    let fine = json!([{"static": {"status": 200, "text": "Later."}}]);
    let policies = [
        fragile("busy", 1000, busy()),
        fragile("fine", 1000, fine),
        with(
            fragile("open", 1, busy()),
            json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}}),
        ),
        with(
            fragile("plain", 1, json!([])),
            json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}}),
        ),
        fragile("none", 1000, json!([])),
    ];
    let routes = ["busy", "fine", "none"]
        .map(|name| route_of("refused", &format!("/{name}/refused")).expect("a route"));
    let mut scene = Scene::shaped(&document(&policies), &routes, &[], &[], rewriting).await;
    let kept = |status| Expected { status, is_rewritten: false };
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for (path, words, expected, body, reason) in [
            // Local replies: refusals, and those that are sent because there is no body to write over.
            ("/open", "", REWRITTEN, "", "circuit_open;source=static"),
            ("/plain", "", REWRITTEN, "", "circuit_open;source=none"),
            ("/busy", "status=500; body=", REWRITTEN, "", "upstream_failure;source=static"),
            ("/fine", "status=500; body=", kept(200), "Later.", "upstream_failure;source=static"),
            // Written over the upstream's answer.
            ("/busy", "status=500", kept(503), "Busy.", "upstream_failure;source=static"),
            ("/fine", "status=500", kept(200), "Later.", "upstream_failure;source=static"),
        ] {
            let answer = scene.ask(protocol, told(Request::get(path), words)).await.answer;
            let what = format!("{path} {words} over {protocol:?}");
            let mark = format!("{};reason={reason}", &path[1..]);
            check(&answer, &expected, body, &mark, &what);
        }
        // Envoy's own answer was rewritten before ours takes its place, and what was added to it goes with all else.
        for (name, status, body) in [("busy", 503, "Busy."), ("fine", 200, "Later.")] {
            let request = Request::get(&format!("/{name}/refused"));
            let Played { case, answer } = scene.ask(protocol, request).await;
            check(&answer, &kept(status), body, &mark(name, "connect_failure", "static"), name);
            assert!(scene.logged(&case).await.contains("remote_connection_failure"), "{name}");
        }
        let answer = scene.ask(protocol, Request::get("/none/refused")).await.answer;
        check(&answer, &REWRITTEN, "", "", "none");
    }
    scene.sound();
}

/// It is by then what `local_reply_config` has made of it; why Envoy answered itself is still seen.
#[tokio::test(flavor = "multi_thread")]
async fn conditions_see_the_rewritten_status() {
    let entry =
        |status: Value, text: &str| json!({"status": status, "static": {"status": 200, "text": text}});
    let fallback = json!([entry(json!([503]), "503"), entry(json!([599]), "599")]);
    let route = route_of("refused", "/shop/refused").expect("a route");
    let document = document(&[fragile("shop", 1000, fallback)]);
    let mut scene = Scene::shaped(&document, &[route], &[], &[], rewriting).await;
    for (path, words, text) in [("/shop/refused", "", "599"), ("/shop", "status=503", "503")] {
        let answer = scene.ask(Protocol::Http1, told(Request::get(path), words)).await.answer;
        assert_eq!((answer.status, answer.text().as_str()), (200, text), "{path}");
    }
    scene.edge.wait_calls("shop", calls(0, 2, 0)).await;
}

/// A gRPC caller's answer is Envoy's to make of what was rewritten.
#[tokio::test(flavor = "multi_thread")]
async fn grpc_callers_still_get_a_status() {
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let policies = [with(fragile("open", 1, busy()), forced), fragile("busy", 1000, busy())];
    let mut scene = Scene::shaped(&document(&policies), &[], &[], &[], rewriting).await;
    for (path, words) in [("/open", ""), ("/busy", "status=500"), ("/busy", "grpc-trailers-only=13")] {
        let answer = scene.ask(Protocol::Http2, told(Request::grpc(path), words)).await.answer;
        assert_eq!(
            (answer.status, answer.header("grpc-status")),
            (200, "14".to_owned()),
            "{path} {words}: {answer:?}"
        );
        assert!(answer.header("x-resilience").contains("source=static"), "{path} {words}");
        assert!(answer.body.is_empty(), "{path} {words}");
    }
    scene.sound();
}
