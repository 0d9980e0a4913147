//! A request that was paused at its headers: what can be done to it from callbacks that are not its own.

use crate::scene::{Scene, place, said};
use resilience_host_contract::{Peer, all_events, envoy, listen, names, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host,
};
use resilience_test_harness::{Connection, Envoy, Protocol, Request};
use serde_json::json;

/// More than any buffer of Envoy's holds by default (1 MiB).
const LARGE: usize = 4 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_while_it_waited_and_after_goes_on_in_order() {
    let (upstream, address) = listen().await;
    let trailers = json!({"enable_trailers": true});
    let mut manager =
        connection_manager(&[virtual_host("all", &[route("all", "/", "up")])], &[probe("probe", "vm", "queue")]);
    manager["http_protocol_options"] = trailers.clone();
    let mut up = cluster("up", &[address]);
    up["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http_protocol_options": trailers},
    }});
    let envoy = Envoy::builder(bootstrap(&[listener("edge", manager)], &[up])).start().await;
    let edge = envoy.addr("edge").await;
    let mut workers = resilience_host_contract::a_connection_to_each_worker(edge, 4).await;

    let head = "POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n";
    let end = "5\r\nafter\r\n0\r\nx-sum: 7\r\n\r\n";
    for whole in [false, true] {
        let case = format!("whole-{whole}");
        let mut client = Peer::connect(edge).await;
        client.send(format!("{head}x-case: {case}\r\nx-probe: pause\r\n\r\n6\r\nbefore\r\n").as_bytes()).await;
        if whole {
            client.send(end.as_bytes()).await;
        }
        let at = place(&envoy, "probe", &case).await;
        let (_, other) = workers.iter_mut().find(|(vm, _)| **vm != at.vm).unwrap();
        let tell = format!("tell to={} as={case} resume stream={}", at.vm, at.stream);
        assert_eq!(resilience_host_contract::ask_one(other, &tell).await, "ok");
        let mut server = Peer::accept(&upstream).await;
        server.until_text("6\r\nbefore\r\n").await;
        if !whole {
            client.send(end.as_bytes()).await;
        }
        let received = server.until_text("x-sum: 7\r\n\r\n").await;
        assert!(received.contains("6\r\nbefore\r\n5\r\nafter\r\n0\r\n") || received.contains("b\r\nbeforeafter\r\n0\r\n"), "{received}");
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
    let mut workers = resilience_host_contract::a_connection_to_each_worker(edge, 4).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let case = format!("large-{protocol:?}");
        let mut client = Connection::open(edge, protocol).await.unwrap();
        let request = Request::post("/", vec![b'x'; LARGE]).header("x-case", &case).header("x-probe", "pause");
        let pending = client.start(request).await.unwrap();
        let at = place(&envoy, "probe", &case).await;
        let (_, other) = workers.iter_mut().find(|(vm, _)| **vm != at.vm).unwrap();
        let tell = format!("tell to={} as={case} resume stream={}", at.vm, at.stream);
        assert_eq!(resilience_host_contract::ask_one(other, &tell).await, "ok");
        let mut server = Peer::accept(&upstream).await;
        server.until("the whole body", |bytes| bytes.iter().filter(|byte| **byte == b'x').count() >= LARGE).await;
        server.send(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nthere").await;
        assert_eq!(pending.headers().await.unwrap().finish().await.text(), "there");
    }
}

/// Headers and properties of a request that waits, and that it can be written.
#[tokio::test(flavor = "multi_thread")]
async fn its_headers_route_and_cluster_stay_readable_while_it_waits() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let (pending, at) = scene.pause(vm, "waits").await;
    let stream = at.stream;
    let look = format!(
        "look stream={stream} & effective stream={stream} & header name=:path & \
         property path=xds.route_name & property path=xds.cluster_name & header name=x-case & set-header name=x-late value=queue"
    );
    let waits: String = b"waits".iter().map(|byte| format!("{byte:02x}")).collect();
    let expected = ["ok", "ok", "2f", "all", "up", &waits, "ok"];
    assert_eq!(scene.tell(other, vm, "by-queue", &look).await, expected);
    assert_eq!(scene.at_tick(vm, "by-tick", &look).await, expected);
    // As soon as the request was told to go on they are not.
    let after = format!("resume stream={stream} & effective stream={stream} & header name=:path & property path=xds.route_name");
    let after = scene.tell(other, vm, "resumed", &after).await;
    println!("{after:?}");
    assert_eq!(pending.headers().await.unwrap().status, 200);
    assert_eq!(scene.upstream.received()[0].headers["x-late"], "queue");
    let gone = format!("resume stream={stream}");
    println!("{:?}", scene.tell(other, vm, "gone", &gone).await);
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
    let events = all_events(&scene.envoy, "probe", "refused").await;
    assert_eq!(names(&events), ["request_headers", "response_headers", "log", "done", "delete"]);
    let seen: Vec<_> = events.iter().map(|event| (event.name(), event.get("details"), event.get("request"), event.get("response"))).collect();
    println!("{seen:?}");
    assert_eq!(scene.upstream.requests(), 1);
}

/// One callback serves several.
#[tokio::test(flavor = "multi_thread")]
async fn one_callback_resumes_and_answers_several() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    let mut waiting = Vec::new();
    for number in 0..6 {
        waiting.push(scene.pause(vm, &format!("several-{number}")).await);
    }
    let commands: Vec<String> = waiting.iter().enumerate().map(|(number, (_, at))| {
        format!("{} stream={}", if number % 2 == 0 { "resume" } else { "refuse" }, at.stream)
    }).collect();
    let said = scene.tell(other, vm, "several", &commands.join(" & ")).await;
    assert_eq!(said, ["ok"; 6]);
    for (number, (pending, _)) in waiting.into_iter().enumerate() {
        assert_eq!(pending.headers().await.unwrap().status, if number % 2 == 0 { 200 } else { 429 });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn to_resume_it_twice_is_harmless() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    // In the same callback, in a later one while the upstream has it, and after its end.
    let hang = Request::get("/").header("x-behave", "hang");
    let (pending, at) = scene.pause_this(vm, "twice", hang).await;
    let resume = format!("resume stream={}", at.stream);
    println!("{:?}", scene.tell(other, vm, "first", &format!("{resume} & {resume}")).await);
    scene.upstream.wait_in_flight(1).await;
    println!("{:?}", scene.tell(other, vm, "second", &resume).await);
    scene.upstream.release();
    assert_eq!(pending.headers().await.unwrap().finish().await.text(), "upstream\n");
    let events = all_events(&scene.envoy, "probe", "twice").await;
    println!("{:?}", names(&events));
    println!("{:?}", scene.tell(other, vm, "third", &resume).await);
    assert_eq!(scene.upstream.requests(), 1);
    // Refused and resumed in one.
    let (pending, at) = scene.pause(vm, "refused").await;
    let resume = format!("resume stream={}", at.stream);
    let refuse = format!("refuse stream={}", at.stream);
    println!("{:?}", scene.tell(other, vm, "fourth", &format!("{refuse} & {resume}")).await);
    println!("{:?}", pending.headers().await.unwrap().status);
    println!("{}", scene.upstream.requests());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_another_stream_resumes_it() {
    let mut scene = Scene::new().await;
    let (vm, _) = scene.two();
    for (event, what) in [("log", "resume"), ("done", "resume"), ("delete", "resume"), ("log", "refuse"), ("done", "refuse"), ("delete", "refuse")] {
        let case = format!("{event}-{what}");
        let (pending, at) = scene.pause(vm, &case).await;
        let commands = format!("on-end event={event} as={case} {what} stream={}; stream", at.stream);
        resilience_host_contract::ask(scene.worker(vm), &commands).await;
        let said = said(&scene.envoy, &case, event).await;
        println!("{case}: {said:?}");
        match pending.headers().await { Ok(a) => println!("{case}: {}", a.status), Err(e) => println!("{case}: {e}") }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_its_own_callback() {
    let scene = Scene::new().await;
    for (case, request) in [("own-get", Request::get("/")), ("own-post", Request::post("/", "body"))] {
        let mut client = Connection::open(scene.edge, Protocol::Http2).await.unwrap();
        let request = request.header("x-case", case).header("x-probe", "resume; pause");
        let pending = client.start(request).await.unwrap();
        match tokio::time::timeout(std::time::Duration::from_secs(2), pending.headers()).await { Ok(Ok(a)) => println!("{case}: {}", a.status), other => println!("{case}: {other:?}") }
    }
}

/// Several plugins of one VM.
#[tokio::test(flavor = "multi_thread")]
async fn a_root_resumes_a_stream_of_another_root_of_its_vm() {
    let upstream = resilience_test_harness::Upstream::start().await;
    let filters = [probe("probe", "vm", "queue"), probe("second", "vm", "")];
    let envoy = envoy(&filters, &[route("all", "/", "up")], &[cluster("up", &[upstream.addr()])]).start().await;
    let edge = envoy.addr("edge").await;
    let mut workers = resilience_host_contract::a_connection_to_each_worker(edge, 4).await;
    let mut client = Connection::open(edge, Protocol::Http1).await.unwrap();
    let request = Request::get("/").header("x-case", "second").header("x-probe", "only name=second; pause");
    let pending = client.start(request).await.unwrap();
    let at = place(&envoy, "second", "second").await;
    let (_, other) = workers.iter_mut().find(|(vm, _)| **vm != at.vm).unwrap();
    let tell = format!("tell to={} as=told resume stream={}", at.vm, at.stream);
    assert_eq!(resilience_host_contract::ask_one(other, &tell).await, "ok");
    assert_eq!(said(&envoy, "told", "queue_ready").await, ["ok"]);
    assert_eq!(pending.headers().await.unwrap().status, 200);
}
