//! A request that was paused at its headers: what can be done to it from callbacks that are not its own.

use crate::scene::{Scene, place, resume, said};
use resilience_host_contract::{
    Peer, a_connection_to_each_worker, all_events, command, envoy, listen, names, probe,
};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host,
};
use resilience_test_harness::{Connection, Envoy, Protocol, Request, Upstream};
use serde_json::json;

/// More than any buffer of Envoy's holds by default (1 MiB).
const LARGE: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_while_it_waited_and_after_goes_on_in_order() {
    let (upstream, address) = listen().await;
    let trailers = json!({"enable_trailers": true});
    let mut manager = connection_manager(
        &[virtual_host("all", &[route("all", "/", "up")])],
        &[probe("probe", "vm", "queue")],
    );
    manager["http_protocol_options"] = trailers.clone();
    let mut up = cluster("up", &[address]);
    up["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": trailers},
    }});
    let envoy = Envoy::builder(bootstrap(&[listener("edge", manager)], &[up])).start().await;
    let edge = envoy.addr("edge").await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;

    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n";
    let end = "5\r\nafter\r\n0\r\nx-sum: 7\r\n\r\n";
    for (at_once, at_last) in [("", end), (end, "")] {
        let case = format!("{}-waits", at_once.len());
        let mut client = Peer::connect(edge).await;
        let waits = format!("{head}x-case: {case}\r\nx-probe: pause\r\n\r\n6\r\nbefore\r\n{at_once}");
        client.send(waits.as_bytes()).await;
        let at = place(&envoy, "probe", &case).await;
        resume(&mut workers, at, &case).await;
        let mut server = Peer::accept(&upstream).await;
        server.until_text("before").await;
        client.send(at_last.as_bytes()).await;
        let received = server.until_text("x-sum: 7\r\n\r\n").await;
        // What waited may go on as one piece.
        let bodies = ["6\r\nbefore\r\n5\r\nafter\r\n0\r\n", "b\r\nbeforeafter\r\n0\r\n"];
        assert!(bodies.iter().any(|body| received.contains(body)), "{received}");
        server.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere").await;
        client.until_text("\r\n\r\nthere").await;
        assert_eq!(said(&envoy, &case, "queue_ready").await, ["ok"]);
    }
}

/// Envoy does not refuse a body that is larger than its buffers: it stops reading until the request goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_larger_than_the_buffers_waits_with_its_request() {
    let (upstream, address) = listen().await;
    let (envoy, edge) = crate::with_probe("queue", address).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let case = format!("large-{protocol:?}");
        let mut client = Connection::open(edge, protocol).await.unwrap();
        let request =
            Request::post("/", vec![b'#'; LARGE]).header("x-case", &case).header("x-probe", "pause");
        let pending = client.start(request).await.unwrap();
        let at = place(&envoy, "probe", &case).await;
        resume(&mut workers, at, &case).await;
        let mut server = Peer::accept(&upstream).await;
        server
            .until("the whole body", |bytes| bytes.iter().filter(|byte| **byte == b'#').count() >= LARGE)
            .await;
        server.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere").await;
        assert_eq!(pending.headers().await.unwrap().finish().await.text(), "there");
    }
}

/// In callbacks of the root, while it waits, as in its own; once it was told to go on its headers are not.
#[tokio::test(flavor = "multi_thread")]
async fn its_headers_and_properties_can_be_read_while_it_waits_and_its_headers_written() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let (pending, at) = scene.pause(vm, "waits").await;
    let stream = at.stream;
    let read = "header name=:path & property path=xds.route_name & property path=xds.cluster_name";
    let look = format!("effective stream={stream} & {read} & set-header name=x-late value=yes");
    let expected = ["ok", "2f", "all", "up", "ok"];
    assert_eq!(scene.tell(other, vm, "by-queue", &look).await, expected);
    assert_eq!(scene.at_tick(vm, "by-tick", &look).await, expected);
    let after = format!("effective stream={stream} & resume & {read}");
    assert_eq!(scene.tell(other, vm, "after", &after).await, ["ok", "ok", "E2", "all", "up"]);
    assert_eq!(pending.headers().await.unwrap().status, 200);
    assert_eq!(scene.upstream.received()[0].headers["x-late"], "yes");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tick_resumes_it_or_answers_it() {
    let mut scene = Scene::new().await;
    let (vm, _) = scene.two();
    let (pending, at) = scene.pause(vm, "goes-on").await;
    assert_eq!(scene.at_tick(vm, "resume", &format!("resume stream={}", at.stream)).await, ["ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 200);
    let (pending, at) = scene.pause(vm, "refused").await;
    assert_eq!(scene.at_tick(vm, "refuse", &format!("refuse stream={}", at.stream)).await, ["ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 429);
    // The reply comes back through our own response headers, and what the request was can be read to the end.
    let events = all_events(&scene.envoy, "probe", "refused").await;
    let seen: Vec<_> =
        events.iter().map(|event| [event.name(), event.get("details"), event.get("request")]).collect();
    let details = "refused_while_waiting";
    assert_eq!(seen[0], ["request_headers", "-", "yes"]);
    let later = ["response_headers", "log", "done", "delete"].map(|callback| [callback, details, "yes"]);
    assert_eq!(seen[1..], later);
    assert_eq!(scene.upstream.requests(), 1);
}

/// On one connection too; those that Envoy then answers at once end at once.
#[tokio::test(flavor = "multi_thread")]
async fn one_callback_acts_on_several() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    for (by, cases) in [("queue", 0..9), ("tick", 9..18)] {
        let (mut waiting, mut commands) = (Vec::new(), Vec::new());
        for number in cases {
            let (path, what, status) =
                [("/", "resume", 200), ("/", "refuse", 429), ("/bad", "resume", 503)][number % 3];
            let case = format!("several-{number}");
            let (pending, at) = scene.pause_this(vm, &case, Request::get(path)).await;
            commands.push(format!("{what} stream={}", at.stream));
            waiting.push((case, pending, status));
        }
        let commands = commands.join(" & ");
        let said = match by {
            "queue" => scene.tell(other, vm, by, &commands).await,
            _ => scene.at_tick(vm, by, &commands).await,
        };
        assert_eq!(said, ["ok"; 9]);
        for (case, pending, status) in waiting {
            assert_eq!(pending.headers().await.unwrap().finish().await.status, status, "{case}");
            let events = all_events(&scene.envoy, "probe", &case).await;
            assert_eq!(names(&events).iter().filter(|name| **name == "delete").count(), 1, "{case}");
        }
    }
    assert_eq!(scene.upstream.requests(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn to_resume_it_again_is_harmless() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let hang = Request::post("/", "body").header("x-behave", "hang");
    let (pending, at) = scene.pause_this(vm, "again", hang).await;
    let resume = format!("resume stream={}", at.stream);
    assert_eq!(scene.tell(other, vm, "at-once", &format!("{resume} & {resume}")).await, ["ok", "ok"]);
    scene.upstream.wait_in_flight(1).await;
    assert_eq!(scene.tell(other, vm, "in-flight", &resume).await, ["ok"]);
    scene.upstream.release();
    assert_eq!(pending.headers().await.unwrap().finish().await.text(), "upstream\n");
    let mut events = all_events(&scene.envoy, "probe", "again").await;
    events.retain(|event| event.name() != "response_body");
    let callbacks = ["request_headers", "response_headers", "response_body_end", "log", "done", "delete"];
    assert_eq!(names(&events), callbacks);
    assert_eq!(scene.tell(other, vm, "over", &resume).await, ["E2"]);
    assert_eq!(scene.upstream.requests(), 1);

    // What was answered does not go on.
    let (pending, at) = scene.pause(vm, "refused").await;
    let both = format!("refuse stream={} & resume stream={}", at.stream, at.stream);
    assert_eq!(scene.tell(other, vm, "both", &both).await, ["ok", "ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 429);
    assert_eq!(all_events(&scene.envoy, "probe", "refused").await.last().unwrap().name(), "delete");
    assert_eq!(scene.upstream.requests(), 1);
}

/// The way from the end of one stream to another of the same worker leads through the worker's own queue, which is read
/// when no stream is in hand. Acted on at once, in the callback, most go well. But where both are on one HTTP/2
/// connection, the one that ends was answered in its request headers, and the other is then answered without an
/// upstream (by us, or for want of a host), Envoy 1.40 crashes; 1.36 breaks the stream in the second case.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_stream_reaches_another_of_its_worker_through_its_own_queue() {
    let mut scene = Scene::new().await;
    let (vm, _) = scene.two();
    for event in ["log", "done", "delete"] {
        for (path, what, status) in [("/", "resume", 200), ("/", "refuse", 429), ("/bad", "resume", 503)] {
            for then in ["stream", "go"] {
                let case = format!("{event}-{what}-{status}-{then}");
                let (pending, at) = scene.pause_this(vm, &case, Request::get(path)).await;
                let told = format!("{case}-told");
                let tell = format!("tell to={vm} as={told} {what} stream={}", at.stream);
                let ends = command(&format!("on-end event={event} as={case} {tell}; {then}"));
                assert_eq!(scene.worker(vm).send(ends).await.unwrap().status, 200);
                assert_eq!(pending.headers().await.unwrap().finish().await.status, status, "{case}");
                assert_eq!(said(&scene.envoy, &told, "queue_ready").await, ["ok"]);
            }
        }
    }
    assert!(scene.envoy.is_running());
}

/// Its headers go on, and then it pauses after all: its body stays behind.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_resumed_in_its_own_request_headers_before_it_pauses_hangs() {
    let (upstream, address) = listen().await;
    let filters = [probe("probe", "vm", "")];
    let mut manager = connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], &filters);
    manager["stream_idle_timeout"] = "1s".into();
    let bootstrap = bootstrap(&[listener("edge", manager)], &[cluster("up", &[address])]);
    let envoy = Envoy::builder(bootstrap).start().await;
    let mut client = Connection::open(envoy.addr("edge").await, Protocol::Http2).await.unwrap();
    let request = Request::post("/", "body").header("x-case", "own").header("x-probe", "resume; pause");
    let pending = client.start(request).await.unwrap();
    let mut server = Peer::accept(&upstream).await;
    let head = server.until_text("\r\n\r\n").await;
    assert!(head.ends_with("\r\n\r\n"), "{head}");
    assert_eq!(pending.headers().await.unwrap().status, 504);
    let events = all_events(&envoy, "probe", "own").await;
    assert_eq!(events.last().unwrap().get("details"), "stream_idle_timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_resumes_a_stream_of_another_root_of_its_vm() {
    let upstream = Upstream::start().await;
    let filters = [probe("probe", "vm", "queue"), probe("second", "vm", "")];
    let (routes, clusters) = ([route("all", "/", "up")], [cluster("up", &[upstream.addr()])]);
    let envoy = envoy(&filters, &routes, &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let mut client = Connection::open(edge, Protocol::Http1).await.unwrap();
    let pause = command("only name=second; pause").header("x-case", "second");
    let pending = client.start(pause).await.unwrap();
    let at = place(&envoy, "second", "second").await;
    resume(&mut workers, at, "told").await;
    assert_eq!(said(&envoy, "told", "queue_ready").await, ["ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 200);
}
