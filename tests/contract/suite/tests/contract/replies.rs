//! Replies that a filter makes itself.

use resilience_host_contract::{all_events, command, edge, names, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host, with_access_log,
};
use resilience_test_harness::{
    Answer, Envoy, Method, PATIENCE, Protocol, Request, Scratch, Upstream, eventually, send_once,
};
use std::net::SocketAddr;

struct Stage {
    upstream: Upstream,
    envoy: Envoy,
    edge: SocketAddr,
    scratch: Scratch,
}

async fn stage() -> Stage {
    let (upstream, scratch) = (Upstream::start().await, Scratch::new());
    let hosts = [virtual_host("all", &[route("all", "/", "up")])];
    let manager = connection_manager(&hosts, &[probe("probe", "vm", "")]);
    let format =
        "%RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS% %FILTER_STATE(wasm.decision:PLAIN)%";
    let manager = with_access_log(manager, &scratch.file("access.log"), format);
    let bootstrap = bootstrap(&[listener("edge", manager)], &[cluster("up", &[upstream.addr()])]);
    let envoy = Envoy::builder(bootstrap).argument("--file-flush-interval-msec").argument("20").start().await;
    let edge = envoy.addr("edge").await;
    Stage { upstream, envoy, edge, scratch }
}

impl Stage {
    async fn send(&self, request: Request) -> Answer {
        send_once(self.edge, Protocol::Http2, request).await.unwrap()
    }

    async fn access_log(&self) -> String {
        eventually("an access log", PATIENCE, async || self.scratch.lines("access.log").into_iter().next())
            .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_is_sent_as_given_and_comes_back_through_our_own_response_headers() {
    let stage = stage().await;
    let reply = "set-property path=decision value=refused; reply status=503 details=resilience:checkout:circuit_open \
                 body={} h:content-type=application/problem+json h:retry-after=7 h:x-twice=a h:x-twice=b";
    let answer = stage.send(command(reply).header("x-case", "reply")).await;
    assert_eq!((answer.status, answer.text()), (503, "{}".to_owned()));
    assert_eq!(answer.header("content-type"), "application/problem+json");
    assert_eq!(answer.header("content-length"), "2");
    assert_eq!(answer.header("retry-after"), "7");
    assert_eq!(answer.headers.get_all("x-twice").iter().count(), 2);
    assert_eq!(stage.upstream.requests(), 0);
    let events = all_events(&stage.envoy, "probe", "reply").await;
    let order = ["request_headers", "response_headers", "response_body_end", "log", "done", "delete"];
    assert_eq!(names(&events), order);
    assert_eq!(events[1].get("details"), "resilience:checkout:circuit_open");
    assert_eq!(stage.access_log().await, "503 resilience:checkout:circuit_open - refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_content_type_it_is_plain_text_and_without_a_body_it_has_neither() {
    let stage = stage().await;
    let answer = stage.send(command("reply status=503 body=x")).await;
    assert_eq!((answer.header("content-type"), answer.text()), ("text/plain".to_owned(), "x".to_owned()));
    let answer = stage.send(command("reply status=503")).await;
    assert_eq!((answer.header("content-type"), answer.text()), (String::new(), String::new()));
}

/// The host stops the iteration itself after a local reply, so that this forgives a filter that does not pause.
#[tokio::test(flavor = "multi_thread")]
async fn continue_after_a_reply_does_not_reach_the_upstream() {
    let stage = stage().await;
    let answer = stage.send(command("reply continue status=503 body=x").header("x-case", "forgiven")).await;
    assert_eq!((answer.status, answer.text()), (503, "x".to_owned()));
    let events = all_events(&stage.envoy, "probe", "forgiven").await;
    assert_eq!(events.last().unwrap().name(), "delete");
    assert_eq!(stage.upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn head_gets_the_headers_alone() {
    let stage = stage().await;
    let reply = "reply status=503 body=four h:content-type=application/json h:retry-after=7";
    let answer = stage.send(Request::new(Method::HEAD, "/").header("x-probe", reply)).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "7".to_owned()));
    assert_eq!((answer.header("content-type"), answer.body.len()), ("application/json".to_owned(), 0));
    assert_eq!(answer.broken, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_caller_gets_its_status_and_the_body_as_message() {
    let stage = stage().await;
    let call = |reply: &str| stage.send(Request::grpc("/shop.Cart/Add").header("x-probe", reply));
    let answer =
        call("reply status=503 grpc=8 body=circuit_open h:content-type=application/json h:x-a=b").await;
    assert_eq!((answer.status, answer.header("grpc-status")), (200, "8".to_owned()));
    assert_eq!(answer.header("grpc-message"), "circuit_open");
    assert_eq!((answer.header("x-a"), answer.body.len()), ("b".to_owned(), 0));
    // Whatever we said it was.
    assert_eq!(answer.header("content-type"), "application/grpc");
    // Without a status of ours it follows from the HTTP status.
    let answer = call("reply status=503 body=x").await;
    assert_eq!(
        (answer.header("grpc-status"), answer.header("grpc-message")),
        ("14".to_owned(), "x".to_owned())
    );
    let answer = call("reply status=504").await;
    assert_eq!(
        (answer.header("grpc-status"), answer.header("grpc-message")),
        ("14".to_owned(), String::new())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reply_in_response_headers_takes_the_place_of_the_upstreams() {
    let stage = stage().await;
    let replace = "on-response reply status=504 details=late body=ours h:x-a=b";
    let answer =
        stage.send(command(replace).header("x-case", "late").header("x-behave", "header=x-theirs:1")).await;
    assert_eq!(
        (answer.status, answer.text(), answer.header("x-a")),
        (504, "ours".to_owned(), "b".to_owned())
    );
    assert_eq!((answer.header("x-theirs"), stage.upstream.requests()), (String::new(), 1));
    // It does not come back through our response headers a second time.
    let events = all_events(&stage.envoy, "probe", "late").await;
    assert_eq!(names(&events), ["request_headers", "response_headers", "log", "done", "delete"]);
    assert_eq!(stage.access_log().await, "504 late - -");
}

#[tokio::test(flavor = "multi_thread")]
async fn local_reply_config_rewrites_ours_too() {
    let mut listener = edge(&[probe("probe", "vm", "")], &[route("all", "/", "up")]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["local_reply_config"]["body_format"]["text_format_source"]["inline_string"] = "rewritten".into();
    let envoy = Envoy::builder(bootstrap(&[listener], &[cluster("up", &[])])).start().await;
    let edge = envoy.addr("edge").await;
    let answer = send_once(edge, Protocol::Http1, command("reply status=503 body=ours")).await.unwrap();
    assert_eq!((answer.status, answer.text()), (503, "rewritten".to_owned()));
}
