//! A request that ends while it is paused: its callbacks run at once, and acting on it then is an error, not a trap.

use crate::scene::{Scene, place};
use resilience_host_contract::{all_events, names, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host,
};
use resilience_test_harness::{Connection, Envoy, Pending, Protocol, Request, send_once};
use serde_json::json;

/// More than Envoy's buffers hold.
fn upload() -> Request {
    Request::post("/", vec![b'x'; 4 << 20])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_its_paused_request() {
    let mut scene = Scene::new().await;
    let (closed, reset) = ("downstream_remote_disconnect DC", "http2.remote_reset DR");
    let cases: [(_, _, _, fn(Pending), _); 4] = [
        ("h1", Protocol::Http1, Request::get("/"), Pending::abandon, closed),
        ("h2", Protocol::Http2, Request::get("/"), Pending::abandon, reset),
        ("h2-upload", Protocol::Http2, upload(), Pending::abandon, reset),
        ("h2-disconnects", Protocol::Http2, Request::get("/"), Pending::disconnect, reset),
    ];
    for (case, protocol, request, leave, end) in cases {
        let mut client = Connection::open(scene.edge, protocol).await.unwrap();
        let request = request.header("x-case", case).header("x-probe", "pause");
        let pending = client.start(request).await.unwrap();
        let at = place(&scene.envoy, "probe", case).await;
        leave(pending);
        let events = all_events(&scene.envoy, "probe", case).await;
        assert_eq!(names(&events), ["request_headers", "log", "done", "delete"], "{case}");
        let last = events.last().unwrap();
        assert_eq!(format!("{} {}", last.get("details"), last.flags()), end, "{case}");

        // What comes too late is told so.
        let stream = at.stream;
        let commands = format!("effective stream={stream} & resume stream={stream} & refuse stream={stream}");
        let by = scene.another(at.vm);
        let late = scene.tell(by, at.vm, &format!("{case}-by-queue"), &commands).await;
        assert_eq!(late, ["E2"; 3], "{case}");
        let late = scene.at_tick(at.vm, &format!("{case}-by-tick"), &commands).await;
        assert_eq!(late, ["E2"; 3], "{case}");
    }
    assert_eq!(scene.upstream.requests(), 0);
}

/// Envoy does not read on from an HTTP/1.1 client whose request waits once its buffers are full, so the end of the
/// connection may stay unseen behind the rest of the body, as long as the request waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_left_an_unread_upload_is_missed_when_its_wait_ends_at_the_latest() {
    let mut scene = Scene::new().await;
    for what in ["resume", "refuse"] {
        let mut client = Connection::open(scene.edge, Protocol::Http1).await.unwrap();
        let pending = client.start(upload().header("x-case", what).header("x-probe", "pause")).await.unwrap();
        let at = place(&scene.envoy, "probe", what).await;
        pending.abandon();
        drop(client);
        let by = scene.another(at.vm);
        let said =
            scene.tell(by, at.vm, &format!("{what}-told"), &format!("{what} stream={}", at.stream)).await;
        assert!(said == ["ok"] || said == ["E2"], "{said:?}");
        let events = all_events(&scene.envoy, "probe", what).await;
        assert_eq!(names(&events).iter().filter(|name| **name == "delete").count(), 1, "{what}");
    }
}

/// Why the status of `effective` must be heeded: without a stream the host takes such calls and does nothing.
#[tokio::test(flavor = "multi_thread")]
async fn to_act_on_no_stream_at_all_is_accepted_and_does_nothing() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let (pending, at) = scene.pause(vm, "waits").await;
    let commands = "resume & refuse & effective stream=4242 & resume & header name=:path & \
                    property path=xds.route_name";
    let expected = ["ok", "ok", "E2", "ok", "E2", "-"];
    assert_eq!(scene.tell(other, vm, "by-queue", commands).await, expected);
    assert_eq!(scene.at_tick(vm, "by-tick", commands).await, expected);
    // It waited on.
    assert_eq!(scene.upstream.requests(), 0);
    assert_eq!(scene.tell(other, vm, "told", &format!("resume stream={}", at.stream)).await, ["ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 200);
}

/// The wait counts for each of them. What Envoy then answers comes through our response headers, like any local reply.
#[tokio::test(flavor = "multi_thread")]
async fn the_timers_of_the_connection_manager_end_a_paused_request_with_its_callbacks() {
    let idle = json!({"stream_idle_timeout": "1s"});
    // Until the last filter has the whole request, not until Envoy has.
    let received = json!({"request_timeout": "1s"});
    let duration = json!({"common_http_protocol_options": {"max_stream_duration": "1s"}});
    for (case, settings, details) in [
        ("idle", &idle, "stream_idle_timeout"),
        ("received", &received, "request_overall_timeout"),
        ("duration", &duration, "max_duration_timeout"),
    ] {
        let filters = [probe("probe", "vm", "")];
        let mut manager = connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], &filters);
        manager.as_object_mut().unwrap().extend(settings.as_object().unwrap().clone());
        let bootstrap = bootstrap(&[listener("edge", manager)], &[cluster("up", &[])]);
        let envoy = Envoy::builder(bootstrap).concurrency(1).start().await;
        let edge = envoy.addr("edge").await;
        for (name, request) in [("get", Request::get("/")), ("post", Request::post("/", "body"))] {
            let case = format!("{case}-{name}");
            let request = request.header("x-case", &case).header("x-probe", "pause");
            let answer = send_once(edge, Protocol::Http2, request).await.unwrap();
            let events = all_events(&envoy, "probe", &case).await;
            let callbacks =
                ["request_headers", "response_headers", "response_body_end", "log", "done", "delete"];
            assert_eq!(names(&events), callbacks, "{case}");
            assert_eq!((answer.status, events.last().unwrap().get("details")), (504, details), "{case}");
        }
    }
}
