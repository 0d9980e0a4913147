//! Request headers: what a filter reads and writes, and what a write does to the route.

use crate::with_probe;
use resilience_host_contract::{command, edge as edge_listener, envoy, probe};
use resilience_test_harness::config::{bootstrap, cluster, route};
use resilience_test_harness::{
    Behaviour, Connection, Envoy, Protocol, Request, Upstream, raw_exchange, refused_address, send_once,
};
use serde_json::{Value, json};
use std::net::SocketAddr;

async fn get(edge: SocketAddr, commands: &str) -> resilience_test_harness::Answer {
    send_once(edge, Protocol::Http1, command(commands)).await.unwrap()
}

/// A route `pinned` for requests with the header `x-pin`, and a route `first` for the others.
fn pinned_and_first() -> [Value; 2] {
    let mut pinned = route("pinned", "/", "pinned");
    pinned["match"]["headers"] = json!([{"name": "x-pin", "present_match": true}]);
    let mut first = route("first", "/", "first");
    first["metadata"] = json!({"filter_metadata": {"shop": {"policy": "checkout"}}});
    [pinned, first]
}

#[tokio::test(flavor = "multi_thread")]
async fn the_route_and_its_metadata_can_be_read_and_a_header_write_matches_again() {
    let (first, pinned) = (Upstream::start().await, Upstream::start().await);
    let clusters = [cluster("first", &[first.addr()]), cluster("pinned", &[pinned.addr()])];
    let envoy = envoy(&[probe("probe", "vm", "")], &pinned_and_first(), &clusters).start().await;
    let edge = envoy.addr("edge").await;
    let look = "property path=xds.route_name; property path=xds.route_metadata.filter_metadata.shop.policy; \
                property path=xds.route_metadata.filter_metadata.shop.none";

    let answer = get(edge, &format!("{look}; go")).await;
    assert_eq!(answer.header("x-probe-answer"), "first|checkout|-");
    assert_eq!((first.requests(), pinned.requests()), (1, 0));

    // The name that we read stays the old one; the request takes the new route.
    let answer =
        get(edge, &format!("{look}; set-header name=x-pin value=1; property path=xds.route_name; go")).await;
    assert_eq!(answer.header("x-probe-answer"), "first|checkout|-|ok|first");
    assert_eq!((first.requests(), pinned.requests()), (1, 1));

    // Removing a header is a write too.
    let request = command("property path=xds.route_name; remove-header name=x-pin; go").header("x-pin", "1");
    let answer = send_once(edge, Protocol::Http1, request).await.unwrap();
    assert_eq!(answer.header("x-probe-answer"), "pinned|ok");
    assert_eq!((first.requests(), pinned.requests()), (2, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn there_is_no_route_name_where_there_is_no_route() {
    let envoy = envoy(&[probe("probe", "vm", "")], &[route("other", "/other", "up")], &[cluster("up", &[])]);
    let envoy = envoy.start().await;
    let edge = envoy.addr("edge").await;
    let answer = get(edge, "property path=xds.route_name; property path=xds.route_metadata").await;
    assert_eq!(answer.text(), "-\n-");
}

#[tokio::test(flavor = "multi_thread")]
async fn header_bytes_come_as_they_are() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let request = |value: &[u8]| {
        let head =
            b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-probe: header name=x-bytes\r\nx-bytes: ";
        [head, value, b"\r\n\r\n"].concat()
    };
    let answer = raw_exchange(edge, &request(&[0xff, 0x80, b'a'])).await;
    assert!(answer.status() == Some(200) && answer.text().ends_with("ff8061"), "{}", answer.text());
    // Empty is there, absent is not.
    let answer = raw_exchange(edge, &request(b"")).await;
    assert!(answer.text().ends_with("\r\n\r\n"), "{}", answer.text());
    assert_eq!(get(edge, "header name=x-bytes").await.text(), "none");
    // Of several of one name only the first is seen.
    let twice = command("header name=x-bytes").header("x-bytes", "a").header("x-bytes", "b");
    assert_eq!(send_once(edge, Protocol::Http1, twice).await.unwrap().text(), "61");
    let long = command("length name=x-long").header("x-long", "x".repeat(60_000));
    assert_eq!(send_once(edge, Protocol::Http1, long).await.unwrap().text(), "60000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_map_has_every_line_with_its_name_in_lower_case() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let head = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-probe: headers name=x-bytes\r\n";
    let lines = [b"X-Bytes: \xff\x80a\r\nx-other: b\r\n".as_slice(), b"x-bytes:\r\nx-BYTES:  c, d \r\n\r\n"];
    let answer = raw_exchange(edge, &[head.as_slice(), lines[0], lines[1]].concat()).await;
    assert!(answer.text().ends_with("\r\n\r\n3:ff8061,,632c2064"), "{}", answer.text());
    let long = command("headers name=x-long").header("x-long", "x".repeat(50_000));
    let answer = send_once(edge, Protocol::Http1, long).await.unwrap();
    assert_eq!(answer.text(), format!("1:{}", "78".repeat(50_000)));
    // One that cannot be read in this phase is empty, where a single header of it is an error.
    assert_eq!(get(edge, "headers name=:status response").await.text(), "0:");
}

/// Pseudo-headers are among the lines, and each line is a pair of its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_map_has_the_pseudo_headers_too() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let request = command("names").header("x-a", "1").header("x-b", "2").header("x-a", "3");
        let names = send_once(edge, protocol, request).await.unwrap().text();
        let of = |name: &str| names.split(',').filter(|have| *have == name).count();
        let counts = [":authority", ":path", ":method", ":scheme", "host", "x-a", "x-b"].map(of);
        assert_eq!(counts, [1, 1, 1, 1, 0, 2, 1], "{protocol:?}: {names}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_do_without_the_filter() {
    let mut without = route("without", "/without", "up");
    without["typed_per_filter_config"]["probe"] = json!({
        "@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true,
    });
    let upstream = Upstream::start().await;
    let (routes, clusters) = ([without, route("all", "/", "up")], [cluster("up", &[upstream.addr()])]);
    let envoy = envoy(&[probe("probe", "vm", "")], &routes, &clusters).start().await;
    let edge = envoy.addr("edge").await;
    assert_eq!(get(edge, "stream").await.header("content-type"), "text/plain");
    let request = Request::get("/without").header("x-probe", "stream");
    assert_eq!(send_once(edge, Protocol::Http1, request).await.unwrap().text(), "upstream\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_stops_the_retries_of_the_route() {
    let upstream = Upstream::start().await;
    upstream.behave(Behaviour::status(503));
    let mut retried = route("retried", "/", "up");
    retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
    let mut listener = edge_listener(&[probe("probe", "vm", "")], &[retried]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["route_config"]["virtual_hosts"][0]["include_attempt_count_in_response"] = json!(true);
    let envoy = Envoy::builder(bootstrap(&[listener], &[cluster("up", &[upstream.addr()])])).start().await;
    let edge = envoy.addr("edge").await;
    let answer = get(edge, "go").await;
    assert_eq!((upstream.requests(), answer.header("x-envoy-attempt-count")), (3, "3".to_owned()));
    upstream.reset_counts();
    // The router obeys what a filter sets, whatever it thinks of the client.
    let answer = get(edge, "set-header name=x-envoy-max-retries value=0; go").await;
    assert_eq!((upstream.requests(), answer.header("x-envoy-attempt-count")), (1, "1".to_owned()));
    // A client that Envoy does not hold to be internal cannot say so.
    upstream.reset_counts();
    let request = Request::get("/").header("x-envoy-max-retries", "0");
    send_once(edge, Protocol::Http1, request).await.unwrap();
    assert_eq!(upstream.requests(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_envoy_in_front_retries_our_refusal_unless_it_says_rate_limited() {
    let (back, edge) = with_probe("", refused_address()).await;
    let mut retried = route("retried", "/", "back");
    retried["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 3});
    let front = envoy(&[], &[retried], &[cluster("back", &[edge])]).start().await;
    let mut client = Connection::open(front.addr("edge").await, Protocol::Http1).await.unwrap();
    let mut so_far = 0;
    for (header, attempts) in [("x-other", 4), ("x-envoy-overloaded", 4), ("x-envoy-ratelimited", 1)] {
        let refusal = command(&format!("reply status=503 h:{header}=true"));
        assert_eq!(client.send(refusal).await.unwrap().status, 503);
        so_far += attempts;
        let total = back.stat("http.edge.downstream_rq_total").await;
        assert_eq!(total, Some(so_far), "{header}");
    }
}
