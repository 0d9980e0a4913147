//! What can be read in which callback.

use crate::with_probe;
use resilience_host_contract::{Event, all_events, command};
use resilience_test_harness::config::{cluster, route, with_http2};
use resilience_test_harness::{Connection, Protocol, Request, Upstream, send_once};

/// Name of the callback, and whether request headers, response headers can be read.
fn readable(events: &[Event]) -> Vec<[&str; 3]> {
    let seen = events.iter().filter(|event| event.name() != "response_body");
    seen.map(|event| [event.name(), event.get("request"), event.get("response")]).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_can_be_read_in_their_own_callback_and_in_log() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = with_probe("", upstream.addr()).await;
    let request = Request::get("/").header("x-case", "plain");
    assert_eq!(send_once(edge, Protocol::Http1, request).await.unwrap().status, 200);
    // E2 is BadArgument.
    let expected = [
        ["request_headers", "yes", "E2"],
        ["response_headers", "E2", "yes"],
        ["response_body_end", "E2", "E2"],
        ["log", "yes", "yes"],
        ["done", "E2", "E2"],
        ["delete", "E2", "E2"],
    ];
    assert_eq!(readable(&all_events(&envoy, "probe", "plain").await), expected);
}

/// A reply made while request headers were handled leaves these readable to the end, where they cannot be otherwise.
#[tokio::test(flavor = "multi_thread")]
async fn after_our_own_reply_request_headers_stay_readable() {
    let (envoy, edge) = with_probe("", resilience_test_harness::refused_address()).await;
    let request = command("reply status=503").header("x-case", "reply");
    assert_eq!(send_once(edge, Protocol::Http1, request).await.unwrap().status, 503);
    let expected = [
        ["request_headers", "yes", "E2"],
        ["response_headers", "yes", "yes"],
        ["log", "yes", "yes"],
        ["done", "yes", "E2"],
        ["delete", "yes", "E2"],
    ];
    assert_eq!(readable(&all_events(&envoy, "probe", "reply").await), expected);
}

/// The property follows from headers and trailers that can be read at the moment, and from the HTTP status where there
/// are none: at the end of a stream it is wrong (2, UNKNOWN, follows from HTTP 200).
#[tokio::test(flavor = "multi_thread")]
async fn the_grpc_status_must_be_read_when_it_comes() {
    let upstream = Upstream::start().await;
    let clusters = [with_http2(cluster("up", &[upstream.addr()]))];
    let filters = [resilience_host_contract::probe("probe", "vm", "")];
    let envoy =
        resilience_host_contract::envoy(&filters, &[route("all", "/", "up")], &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let seen = async |case: &str, words: &str| -> Vec<[String; 3]> {
        let call = Request::grpc("/shop.Cart/Add").header("x-case", case).header("x-behave", words);
        assert_eq!(send_once(edge, Protocol::Http2, call).await.unwrap().status, 200);
        let events = all_events(&envoy, "probe", case).await;
        let answered =
            events.iter().filter(|event| !["request_headers", "response_body"].contains(&event.name()));
        answered.map(|event| ["event", "grpc", "trailer"].map(|key| event.get(key).to_owned())).collect()
    };
    let in_trailers = [
        ["response_headers", "2", "E2"],
        ["response_trailers", "14", "14"],
        ["log", "14", "14"],
        ["done", "2", "E2"],
        ["delete", "2", "E2"],
    ];
    assert_eq!(seen("trailers", "grpc=14").await, in_trailers);
    let in_headers =
        [["response_headers", "4", "E2"], ["log", "4", "-"], ["done", "2", "E2"], ["delete", "2", "E2"]];
    assert_eq!(seen("headers", "grpc-trailers-only=4").await, in_headers);
}

/// Whether a call was gRPC: once its client has left, only log can still read the content types.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_client_that_left_only_log_can_read_the_content_types() {
    let upstream = Upstream::start().await;
    let clusters = [with_http2(cluster("up", &[upstream.addr()]))];
    let filters = [resilience_host_contract::probe("probe", "vm", "")];
    let envoy =
        resilience_host_contract::envoy(&filters, &[route("all", "/", "up")], &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let call = |case, words: &str| {
        Request::grpc("/shop.Cart/Watch").header("x-case", case).header("x-behave", words)
    };

    let mut early = Connection::open(edge, Protocol::Http2).await.unwrap();
    let pending = early.start(call("early", "hang")).await.unwrap();
    upstream.wait_in_flight(1).await;
    pending.abandon();
    let mut mid = Connection::open(edge, Protocol::Http2).await.unwrap();
    let answer = mid.start(call("mid", "grpc=0;hang-mid-body")).await.unwrap().headers().await.unwrap();
    answer.abandon();

    let grpc = "application/grpc";
    for (case, answered) in [("early", "-"), ("mid", grpc)] {
        let events = all_events(&envoy, "probe", case).await;
        let end = events.iter().skip_while(|event| event.name() != "log");
        let seen: Vec<_> = end
            .map(|event| {
                [event.name(), &event.flags(), event.get("asked-type"), event.get("answer-type")]
                    .map(str::to_owned)
            })
            .collect();
        let expected =
            [["log", "DR", grpc, answered], ["done", "DR", "E2", "E2"], ["delete", "DR", "E2", "E2"]];
        assert_eq!(seen, expected, "{case}");
    }
}

/// A module need not export what it does not want to hear of.
#[tokio::test(flavor = "multi_thread")]
async fn callbacks_that_are_not_exported_are_not_missed() {
    let (upstream, scratch) = (Upstream::start().await, resilience_test_harness::Scratch::new());
    let module = std::fs::read(resilience_host_contract::probe_module()).unwrap();
    let hidden = ["proxy_on_response_body", "proxy_on_response_trailers", "proxy_on_log", "proxy_on_done"];
    let hidden = [&hidden[..], &["proxy_on_tick", "proxy_on_queue_ready"]].concat();
    let module = resilience_host_contract::hide_exports(&module, &hidden);
    std::fs::write(scratch.file("few.wasm"), module).unwrap();
    let few = resilience_test_harness::config::wasm_filter(
        "few",
        &scratch.file("few.wasm"),
        "vm",
        "few",
        "name=few tick=20 queue",
    );
    let clusters = [with_http2(cluster("up", &[upstream.addr()]))];
    let envoy = resilience_host_contract::envoy(&[few], &[route("all", "/", "up")], &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let call = Request::grpc("/a/b").header("x-case", "few").header("x-behave", "grpc=0");
    let answer = send_once(edge, Protocol::Http2, call).await.unwrap();
    assert_eq!((answer.status, answer.trailer("grpc-status")), (200, "0".to_owned()));
    let events = all_events(&envoy, "few", "few").await;
    assert_eq!(resilience_host_contract::names(&events), ["request_headers", "response_headers", "delete"]);
}
