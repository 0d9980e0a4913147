//! Callers of other kinds at the same service: other message formats, browsers, and who speaks no gRPC at all.

use crate::{SECOND, Shop, assert_refused, assert_told, calls, fragile};
use resilience_integration_tests::*;
use resilience_test_grpc::{Code, Plan};
use resilience_test_harness::{Protocol, Request, config};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn a_content_type_with_a_message_format_is_grpc() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    let proto = shop.client().clone().content_type("application/grpc+proto");
    assert_eq!(proto.unary("cart", Plan::messages(1)).await.expect("OK").get_ref().number, 0);
    assert_told(&proto.unary("cart", Plan::status(Code::Unavailable)).await.unwrap_err(), Code::Unavailable);
    assert_refused(&proto.unary("cart", Plan::messages(1)).await.unwrap_err(), "cart");
    assert_refused(&proto.stream("cart", Plan::messages(1)).await.unwrap_err(), "cart");
    assert_eq!(shop.server.received("cart"), 2);
    shop.edge.wait_calls("cart", calls(1, 1, 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_http_caller_of_the_same_route_gets_a_problem_in_json() {
    let mut shop = Shop::open(&[fragile("cart")]).await;
    assert_told(&shop.fails("cart", Plan::status(Code::Unavailable)).await, Code::Unavailable);
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut clients = shop.edge.clients(protocol).await;
        for _ in 0..WORKERS {
            let answer = clients.send(Request::get("/cart/Unary")).await;
            assert_eq!((answer.status, answer.header("grpc-status")), (503, String::new()));
            assert_eq!(answer.header("content-type"), "application/problem+json");
            let problem: Value = serde_json::from_slice(&answer.body).expect("a problem in JSON");
            assert_eq!(problem["detail"], "circuit_open");
        }
    }
    // One breaker for both: gRPC callers are refused as before.
    shop.refused_by_all("cart").await;
    assert_eq!(shop.server.received("cart"), 1);
}

/// A browser's call goes through Envoy's own filter, which makes gRPC of it before we see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_browser_behind_the_grpc_web_filter_is_grpc() {
    let web = config::typed(
        "envoy.filters.http.grpc_web",
        "extensions.filters.http.grpc_web.v3.GrpcWeb",
        json!({}),
    );
    let mut answered = fragile("answered");
    answered["fallback"] = json!([{"static": {"status": 200, "json": {"items": []}}}]);
    let filters = [web, filter(&document(&[fragile("cart"), answered]))];
    let shop = Shop::routed(&patient_route(), &filters).await;
    let mut browser = shop.edge.clients(Protocol::Http2).await;
    let call = |service: &str, plan: Plan| {
        Request::post(&format!("/{service}/Unary"), plan.framed())
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1")
    };
    for (service, source) in [("cart", "none"), ("answered", "static")] {
        let answer = browser.send(call(service, Plan::messages(1))).await;
        assert!(answer.status == 200 && answer.text().contains("grpc-status:0"), "{answer:?}");
        shop.edge.wait_calls(service, calls(1, 0, 0)).await;
        let answer = browser.send(call(service, Plan::status(Code::Unavailable))).await;
        assert!(answer.status == 200 && answer.text().contains("grpc-status:14"), "{answer:?}");
        shop.edge.wait_calls(service, calls(1, 1, 0)).await;
        for _ in 0..WORKERS {
            let answer = browser.send(call(service, Plan::messages(1))).await;
            let status = (answer.header("grpc-status"), answer.header("grpc-message"));
            assert_eq!(status, ("14".to_owned(), "circuit_open".to_owned()), "{answer:?}");
            assert_eq!(answer.header("content-type"), "application/grpc-web+proto");
            let marker = format!("{service};reason=circuit_open;source={source}");
            assert_eq!((answer.header("x-resilience"), answer.text()), (marker, String::new()));
        }
        assert_eq!(shop.server.received(service), 2);
    }
}

/// Envoy ends the call a whole deadline less the offset before client and server would: a silent server is to blame.
#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_envoy_enforces_is_a_failure() {
    let mut route = patient_route();
    route["route"]["max_stream_duration"] =
        json!({"grpc_timeout_header_max": "0s", "grpc_timeout_header_offset": "599s"});
    // Else the server ends it at the same moment, and says something else.
    route["request_headers_to_remove"] = json!(["grpc-timeout"]);
    let mut shop = Shop::routed(&route, &[filter(&document(&[fragile("cart")]))]).await;
    let silent = Plan::messages(1).held(resilience_test_grpc::Hold::Headers);
    let hasty = shop.client().clone().deadline(600 * SECOND);
    let status = hasty.unary("cart", silent).await.unwrap_err();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    shop.refused_by_all("cart").await;
    assert_eq!(shop.server.received("cart"), 1);
    shop.edge.wait_calls("cart", calls(0, 1, 0)).await;
}
