//! The listener itself: HTTP, many policies, and that no other listener has what it has.

use super::*;
use std::collections::BTreeSet;

const PATHS: [&str; 5] = ["/policies", "/policies/p0", "/dependencies", "/live", "/ready"];

fn policies(count: usize) -> Value {
    let policy = |number| {
        guarded(
            &format!("p{number}"),
            &json!({"circuit_breaker": {"consecutive_failures": 1}, "bulkhead": {"max_concurrent_calls": 5}}),
        )
    };
    document(&(0..count).map(policy).collect::<Vec<_>>())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_key_the_paths_go_where_others_go() {
    let upstream = Upstream::start().await;
    let edge = edge_of(&module(), &upstream, &policies(1)).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    for path in PATHS {
        for _ in 0..WORKERS {
            let answer = clients.send(Request::get(path)).await;
            assert_eq!((answer.status, answer.text().as_str()), (200, "upstream\n"), "{path}");
        }
    }
    assert_eq!(upstream.requests(), PATHS.len() * WORKERS);
    // The listener for orders does not tell, and the one that tells obeys nobody.
    for (listener, request) in
        [("control", Request::get("/policies")), ("state", Request::post("/breakers/p0/open?for=1h", ""))]
    {
        let address = edge.envoy.addr(listener).await;
        assert_eq!(send_once(address, Protocol::Http1, request).await.unwrap().status, 404, "{listener}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_speaks_http() {
    let upstream = Upstream::start().await;
    let edge = edge_of(&module(), &upstream, &policies(3)).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut clients = edge.clients_of("state", protocol).await;
        eventually("a sign of life", PATIENCE, async || {
            (clients.send(Request::get("/ready")).await.status == 200).then_some(())
        })
        .await;
        for path in PATHS {
            let [get, head] = [
                clients.send(Request::get(path)).await,
                clients.send(Request::new(Method::HEAD, path)).await,
            ];
            assert_eq!((get.status, head.status, head.body.len()), (200, 200, 0), "{path}");
            for name in ["content-type", "cache-control"] {
                assert_eq!(get.header(name), head.header(name), "{path}");
            }
            assert_eq!(get.header("content-length"), get.body.len().to_string());
            assert_eq!(get.header("cache-control"), "no-store");
            let answer = clients.send(Request::post(path, "")).await;
            assert_eq!((answer.status, answer.header("allow").as_str()), (405, "GET, HEAD"), "{path}");
        }
        for (path, status) in [("/", 404), ("/policies/p3", 404)] {
            let answer = clients.send(Request::get(path)).await;
            assert_eq!((answer.status, said(&answer)["error"].is_string()), (status, true), "{path}");
        }
    }
    // Envoy ends an HTTP/1 connection on which it has answered 400.
    for path in ["/policies?limit=1001", "/policies?after=p3", "/policies/p0?x=y"] {
        let address = edge.envoy.addr("state").await;
        assert_eq!(
            send_once(address, Protocol::Http1, Request::get(path)).await.unwrap().status,
            400,
            "{path}"
        );
    }
    // Who looks like a gRPC client is told what such clients are told, however long that is, and nothing breaks.
    let grpc = Request::get("/policies").header("content-type", "application/grpc");
    let _ = send_once(edge.envoy.addr("state").await, Protocol::Http2, grpc).await;
    // Whoever says where a request is to go is answered as everywhere.
    let address = edge.envoy.addr("state").await;
    let steered = Request::get("/policies").header("x-resilience-reroute", "upstream");
    assert_eq!(send_once(address, Protocol::Http1, steered).await.unwrap().status, 400);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_policies_come_in_pages() {
    const MANY: usize = 2500;
    let upstream = Upstream::start().await;
    let edge = edge_of(&module(), &upstream, &policies(MANY)).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    assert_eq!(clients.get("/p1717", "status=500").await, 500);
    let mut operator = Operator::new(&edge).await;
    for (list, key) in [("policies", "name"), ("dependencies", "policy")] {
        let (mut told, mut after, mut sizes) = (Vec::new(), String::new(), Vec::new());
        loop {
            let page = operator.get(&format!("/{list}?limit=1000{after}")).await;
            let items = page[list].as_array().unwrap();
            sizes.push(items.len());
            told.extend(items.iter().cloned());
            let Some(next) = page["next"].as_str() else { break };
            after = format!("&after={next}");
        }
        assert_eq!(sizes, [1000, 1000, 500], "{list}");
        let names: BTreeSet<_> = told.iter().map(|it| it[key].as_str().unwrap()).collect();
        assert_eq!(names.len(), MANY);
        let broken = |it: &&Value| it["health"] == "down" || it["circuit_breaker"]["state"] == "open";
        let broken: Vec<_> = told.iter().filter(broken).map(|it| it[key].as_str().unwrap()).collect();
        assert_eq!(broken, ["p1717"], "{list}");
    }
    assert_eq!(operator.get("/policies").await["policies"].as_array().unwrap().len(), 500);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
