//! What a request is known by in the logs of others: its id.

use crate::scene::{Scene, resume};
use resilience_host_contract::{Event, all_events, command, envoy, probe};
use resilience_test_harness::config::{cluster, route, with_http2};
use resilience_test_harness::{Protocol, Request, Upstream, send_once};

const ID: &str = "2e7c1f2a-8d7b-4d0e-9f3e-6b1f0a5c9d42";

/// Name of the callback, and whether the id could be read there, by either of its names.
fn known(events: &[Event]) -> Vec<(&str, bool)> {
    let seen = events.iter().filter(|event| event.name() != "response_body");
    let known = seen.map(|event| {
        let id = event.get("id");
        assert_eq!(event.get("id-header"), id);
        assert!([ID, "-"].contains(&id), "{id}");
        (event.name(), id == ID)
    });
    known.collect()
}

/// As with request headers: who wants it where the answer comes has to have read it where the request came.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_that_went_on_it_can_be_read_in_its_headers_and_in_log() {
    let upstream = Upstream::start().await;
    let clusters = [with_http2(cluster("up", &[upstream.addr()]))];
    let envoy = envoy(&[probe("probe", "vm", "")], &[route("all", "/", "up")], &clusters).start().await;
    let call = Request::grpc("/a/b").header("x-behave", "grpc=0").header("x-request-id", ID);
    let edge = envoy.addr("edge").await;
    assert_eq!(send_once(edge, Protocol::Http2, call.header("x-case", "call")).await.unwrap().status, 200);
    let expected = [
        ("request_headers", true),
        ("response_headers", false),
        ("response_trailers", false),
        ("log", true),
        ("done", false),
        ("delete", false),
    ];
    assert_eq!(known(&all_events(&envoy, "probe", "call").await), expected);

    let refuse = command("reply status=503").header("x-request-id", ID).header("x-case", "refused");
    assert_eq!(send_once(edge, Protocol::Http1, refuse).await.unwrap().status, 503);
    let expected = ["request_headers", "response_headers", "log", "done", "delete"].map(|name| (name, true));
    assert_eq!(known(&all_events(&envoy, "probe", "refused").await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_request_that_waits_a_queue_and_a_tick_can_read_it() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let request = Request::get("/").header("x-request-id", ID);
    let (pending, at) = scene.pause_this(vm, "paused", request).await;
    let look = format!("look stream={}", at.stream);
    // Where no stream is meant there is none.
    let answers = scene.tell(other, vm, "told", &format!("{look}&property path=request.id")).await;
    assert_eq!(answers, ["ok", "-"]);
    assert_eq!(scene.at_tick(vm, "ticked", &look).await, ["ok"]);
    resume(&mut scene.workers, at, "resumed").await;
    assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    let events = all_events(&scene.envoy, "probe", "paused").await;
    let known = known(&events);
    assert_eq!(known[..3], [("request_headers", true), ("look", true), ("look", true)]);
    assert_eq!(known[3], ("response_headers", false));
}
