//! When a filter learns that it has a request whole, and what its pause in request headers does to a body.

use crate::scene::{place, resume};
use resilience_host_contract::{
    Event, Peer, a_connection_to_each_worker, all_events, envoy, events, hide_exports, listen, probe,
    probe_module,
};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host, wasm_filter,
};
use resilience_test_harness::{
    Behaviour, Connection, Envoy, Method, PATIENCE, Protocol, Request, Scratch, Upstream, eventually,
    send_once,
};
use serde_json::{Value, json};

/// The callbacks of a request, each with whether it was told that it is the last.
fn of_request(events: &[Event]) -> Vec<String> {
    let of_request = events.iter().filter(|event| event.name().starts_with("request_"));
    of_request.map(|event| format!("{} {}", event.name(), event.get("whole"))).collect()
}

const AT_ONCE: [&str; 1] = ["request_headers yes"];

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_of_a_request_without_a_body_are_told_to_be_its_end() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = crate::with_probe("bodies", upstream.addr()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for method in [Method::GET, Method::DELETE, Method::POST] {
            let case = format!("{method}-{protocol:?}");
            let request = Request::new(method, "/").header("x-case", &case);
            send_once(edge, protocol, request).await.unwrap();
            assert_eq!(of_request(&all_events(&envoy, "probe", &case).await), AT_ONCE, "{case}");
        }
    }
}

/// In HTTP/1.1 the end comes by itself, and so it does where only the framing says that there is a body.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_callback_of_a_request_is_told_so() {
    let upstream = Upstream::start().await;
    let filters = [probe("probe", "vm", "bodies")];
    let mut manager = connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], &filters);
    manager["http_protocol_options"] = json!({"enable_trailers": true});
    let config = bootstrap(&[listener("edge", manager)], &[cluster("up", &[upstream.addr()])]);
    let envoy = Envoy::builder(config).start().await;
    let edge = envoy.addr("edge").await;
    let chunked = "transfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n";
    for (case, rest, expected) in [
        ("none", "\r\n".to_owned(), &AT_ONCE[..]),
        ("length-0", "content-length: 0\r\n\r\n".to_owned(), &AT_ONCE),
        (
            "length-4",
            "content-length: 4\r\n\r\nbody".to_owned(),
            &["request_headers no", "request_body no", "request_body yes"],
        ),
        (
            "chunked",
            format!("{chunked}4\r\nbody\r\n0\r\n\r\n"),
            &["request_headers no", "request_body no", "request_body yes"],
        ),
        ("chunked-empty", format!("{chunked}0\r\n\r\n"), &["request_headers no", "request_body yes"]),
        (
            "trailers",
            format!("{chunked}4\r\nbody\r\n0\r\nx-sum: 7\r\n\r\n"),
            &["request_headers no", "request_body no", "request_trailers yes"],
        ),
    ] {
        let mut client = Peer::connect(edge).await;
        let head = format!("POST / HTTP/1.1\r\nhost: test\r\nconnection: close\r\nx-case: {case}\r\n");
        client.send(format!("{head}{rest}").as_bytes()).await;
        client.until_closed().await;
        assert_eq!(of_request(&all_events(&envoy, "probe", case).await), expected, "{case}");
    }
    let mut client = Connection::open(edge, Protocol::Http2).await.unwrap();
    // The answer must not be there before the body is.
    let request = Request::post("/", "body").header("x-behave", "hang").header("x-case", "h2");
    let pending = client.start(request).await.unwrap();
    eventually("the body", PATIENCE, async || {
        (of_request(&events(&envoy, "probe", "h2")) == ["request_headers no", "request_body yes"])
            .then_some(())
    })
    .await;
    // Who is let go before it is there hangs for ever.
    upstream.wait_in_flight(1).await;
    upstream.release();
    assert_eq!(pending.headers().await.unwrap().status, 200);
}

/// Then the request is never whole for us. Such an answer is retried like any other, while no timeout of the router runs.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_may_come_before_the_request_is_whole() {
    let upstream = Upstream::start().await;
    upstream.behave(Behaviour::status(503));
    let (envoy, edge) = crate::with_probe("bodies", upstream.addr()).await;
    let retry = "set-header name=x-envoy-retry-on value=5xx; set-header name=x-envoy-max-retries value=2; go";
    for (case, commands, seen) in [("once", "go", ["-", "1"]), ("retried", retry, ["URX", "3"])] {
        upstream.reset_counts();
        let mut client = Peer::connect(edge).await;
        let head = "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8";
        client.send(format!("{head}\r\nx-case: {case}\r\nx-probe: {commands}\r\n\r\nhalf").as_bytes()).await;
        client.until_text("HTTP/1.1 503").await;
        let events = all_events(&envoy, "probe", case).await;
        assert_eq!(of_request(&events), ["request_headers no", "request_body no"], "{case}");
        let end = events.last().unwrap();
        let found = [end.get("details"), &end.flags(), end.get("attempts"), end.get("whole")];
        assert_eq!(found, ["via_upstream", seen[0], seen[1], "no"], "{case}");
        assert_eq!(upstream.requests().to_string(), seen[1], "{case}");
    }
}

/// A probe with a queue in each VM, with its callbacks of a request's body or without, and with `more` in its filter.
fn pausing(scratch: &Scratch, exported: bool, more: &[&str]) -> Value {
    let module = std::fs::read(probe_module()).unwrap();
    let callbacks = ["proxy_on_request_body", "proxy_on_request_trailers"];
    let module = if exported { module } else { hide_exports(&module, &callbacks) };
    std::fs::write(scratch.file("module.wasm"), module).unwrap();
    let document = "name=probe queue bodies";
    let mut filter = wasm_filter("probe", &scratch.file("module.wasm"), "vm", "probe", document);
    for key in more {
        filter["typed_config"]["config"][key] = true.into();
    }
    filter
}

const HEAD: &str =
    "POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 8\r\nx-case: waits\r\nx-probe: pause\r\n\r\n";

#[tokio::test(flavor = "multi_thread")]
async fn no_body_comes_to_a_filter_that_paused_its_request_and_none_resumes_it() {
    for exported in [true, false] {
        let ((upstream, address), scratch) = (listen().await, Scratch::new());
        let filter = pausing(&scratch, exported, &[]);
        let envoy = envoy(&[filter], &[route("all", "/", "up")], &[cluster("up", &[address])]).start().await;
        let edge = envoy.addr("edge").await;
        let mut workers = a_connection_to_each_worker(edge, 4).await;
        let received = "http.edge.downstream_cx_rx_bytes_total";
        let before = envoy.stat(received).await.unwrap();
        let mut client = Peer::connect(edge).await;
        client.send(format!("{HEAD}half").as_bytes()).await;
        let at = place(&envoy, "probe", "waits").await;
        client.send(b"rest").await;
        let whole = before + HEAD.len() as u64 + 8;
        envoy.wait_stat(received, |bytes| bytes >= whole).await;
        assert_eq!(of_request(&events(&envoy, "probe", "waits")), ["request_headers no"], "{exported}");
        assert_eq!(envoy.stat("cluster.up.upstream_rq_total").await, Some(0), "{exported}");

        resume(&mut workers, at, "told").await;
        let mut server = Peer::accept(&upstream).await;
        server.until_text("halfrest").await;
        server.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nthere").await;
        client.until_text("\r\n\r\nthere").await;
        let after = of_request(&all_events(&envoy, "probe", "waits").await);
        // What waited may come as one piece.
        let last = if exported { "request_body yes" } else { "request_headers no" };
        assert_eq!((after[0].as_str(), after.last().unwrap().as_str()), ("request_headers no", last));
    }
}

/// Why a filter that pauses must not be configured so, be its module without a callback for bodies: the first piece of
/// a body makes the request go on. Only one without a body waits.
#[tokio::test(flavor = "multi_thread")]
async fn where_headers_alone_are_stopped_the_body_resumes_a_paused_request() {
    for exported in [true, false] {
        let (upstream, scratch) = (Upstream::start().await, Scratch::new());
        let filter = pausing(&scratch, exported, &["allow_on_headers_stop_iteration"]);
        let clusters = [cluster("up", &[upstream.addr()])];
        let envoy = envoy(&[filter], &[route("all", "/", "up")], &clusters).start().await;
        let edge = envoy.addr("edge").await;
        let mut workers = a_connection_to_each_worker(edge, 4).await;
        let mut client = Connection::open(edge, Protocol::Http1).await.unwrap();
        let pause = |request: Request, case: &str| request.header("x-case", case).header("x-probe", "pause");
        let answer = client.send(pause(Request::post("/", "body"), "body")).await.unwrap();
        assert_eq!((answer.status, upstream.requests()), (200, 1), "{exported}");

        let pending = client.start(pause(Request::get("/"), "none")).await.unwrap();
        let at = place(&envoy, "probe", "none").await;
        assert_eq!(upstream.requests(), 1, "{exported}");
        resume(&mut workers, at, "told").await;
        assert_eq!(pending.headers().await.unwrap().status, 200, "{exported}");
    }
}
