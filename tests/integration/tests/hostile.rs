//! Requests that no well-meaning client sends: none of them traps a VM or keeps the filter from deciding over the next.

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::json;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;

/// Everything that is not UTF-8, of which HTTP forbids nothing in a value.
fn high_bytes() -> Vec<u8> {
    (0x80..=0xff).collect()
}

/// Policies that read all there is to read of a request: its host, path, method, content type and id.
async fn target(upstream: SocketAddr) -> Edge {
    let shut = json!({
        "name": "shut",
        "match": [{"path": {"prefix": "/shut"}}],
        "circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1},
        "fallback": [{"static": {"status": 200, "text": "%REQUEST_ID%"}}],
    });
    let hosts = json!({
        "name": "hosts",
        "match": [{"host": "*.example"}, {"host": "[::1]"}, {"methods": ["PURGE"]}],
        "circuit_breaker": {"consecutive_failures": 100},
    });
    let guarded = policy("guarded", json!({"consecutive_failures": 100}));
    Edge::before(upstream, &document(&[shut, hosts, guarded])).await
}

/// The filter decides on every worker, and none of their VMs was ever loaded again.
async fn assert_unharmed(edge: &Edge, clients: &mut Clients, after: &str) {
    for _ in 0..WORKERS {
        let answer = clients.send(Request::get("/shut").header("x-request-id", "next")).await;
        let seen = (answer.status, answer.text(), answer.header("x-resilience"));
        let marker = "shut;reason=circuit_open;source=static".to_owned();
        assert_eq!(seen, (200, "next".to_owned(), marker), "after {after}");
    }
    assert_eq!(traps(&edge.envoy), Vec::<String>::new(), "after {after}");
    for stat in ["vm_reload", "vm_reload_success", "vm_reload_failure"] {
        assert_eq!(
            edge.envoy.stat(&format!("wasm.resilience.{stat}")).await,
            Some(0),
            "{stat} after {after}"
        );
    }
}

/// What a client can send without breaking a rule of HTTP.
fn odd_requests(path: &str) -> Vec<(&'static str, Request)> {
    let get = || Request::get(path);
    let long = vec![b'a'; 60_000];
    let many = (0..60).fold(get(), |request, n| request.header(&format!("x-{n}"), vec![0xfe; 1000]));
    vec![
        ("a value that is not UTF-8", get().header("x-bytes", high_bytes())),
        ("an id that is not UTF-8", get().header("x-request-id", high_bytes())),
        ("a long id", get().header("x-request-id", &long)),
        ("a marker that is not UTF-8", get().header("x-resilience", high_bytes())),
        ("a forged marker", get().header("x-resilience", "shut;reason=;;source=\"")),
        ("a forged decision", get().header("x-envoy-ratelimited", "true").header("retry-after", "-1")),
        ("a forged status", get().header("grpc-status", "999999999999").header("grpc-message", high_bytes())),
        ("a content type that is not UTF-8", get().header("content-type", high_bytes())),
        ("half a content type", get().header("content-type", "application/grpc")),
        (
            "a content type with a tail",
            get().header("content-type", [b"application/grpc;", &[0xff; 9][..]].concat()),
        ),
        ("an empty content type", get().header("content-type", "")),
        ("a content type of separators", get().header("content-type", ";;;,,,//")),
        ("two content types", get().header("content-type", "a/b").header("content-type", "c")),
        ("60 KB in one header", get().header("x-long", &long)),
        ("60 KB in many headers", many),
        ("a long authority", get().authority(&format!("{}.example", "a".repeat(8000)))),
        ("an authority of dots", get().authority("...")),
        ("an authority with a port and no name", get().authority(":80")),
        ("an IPv6 authority", get().authority("[::1]:80")),
        ("a long path", Request::get(&format!("{path}/{}?{}", "b".repeat(30_000), "c".repeat(20_000)))),
        ("a path of slashes", Request::get(&format!("{path}/{}", "/".repeat(20_000)))),
        ("escapes that are not UTF-8", Request::get(&format!("{path}/%ff%fe%00?%"))),
        ("a method of its own", Request::new(Method::from_bytes(b"PURGE").unwrap(), path)),
        (
            "an answer with a garbled status",
            get().header("x-behave", "header=grpc-status:x;header=content-type:application/grpc"),
        ),
        ("an answer with a huge status", get().header("x-behave", "header=grpc-status:99999999999999999999")),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_requests_are_decided_over_like_any_other() {
    let upstream = Upstream::start().await;
    let edge = target(upstream.addr()).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut clients = edge.clients(protocol).await;
        for (what, request) in odd_requests("/guarded") {
            let what = format!("{what} by {protocol:?}");
            upstream.reset_counts();
            for _ in 0..WORKERS {
                let answer = clients.send(request.clone()).await;
                assert_eq!((answer.status, answer.text()), (200, "upstream\n".to_owned()), "{what}");
            }
            assert_eq!(upstream.requests(), WORKERS, "{what}");
            assert_unharmed(&edge, &mut clients, &what).await;
        }
        upstream.reset_counts();
        for (what, request) in odd_requests("/shut") {
            let what = format!("{what} by {protocol:?}");
            for _ in 0..WORKERS {
                let answer = clients.send(request.clone()).await;
                let marker = "shut;reason=circuit_open;source=static";
                assert_eq!((answer.status, answer.header("x-resilience").as_str()), (200, marker), "{what}");
            }
            assert_unharmed(&edge, &mut clients, &what).await;
        }
        assert_eq!(upstream.requests(), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_request_leave_the_filter_unharmed() {
    let upstream = Upstream::start().await;
    let edge = target(upstream.addr()).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    // Whether Envoy lets one of these through is its own business; what gets through reaches our filter.
    let lines: [&[u8]; 19] = [
        b"GET /shut/\xff\xfe HTTP/1.1\r\nhost: test",
        b"GET /shut?\xc3\xa9\x80 HTTP/1.1\r\nhost: test",
        b"GET /shut/%ff%fe HTTP/1.1\r\nhost: test",
        b"GET shut HTTP/1.1\r\nhost: test",
        b"GET  HTTP/1.1\r\nhost: test",
        b"GET * HTTP/1.1\r\nhost: test",
        b"OPTIONS * HTTP/1.1\r\nhost: test",
        b"CONNECT test:80 HTTP/1.1\r\nhost: test:80",
        b"GET http://other.example/shut HTTP/1.1\r\nhost: test",
        b"GET http://\xff/shut HTTP/1.1\r\nhost: test",
        b"GET /shut HTTP/1.1",
        b"GET /shut HTTP/1.1\r\nhost:",
        b"GET /shut HTTP/1.1\r\nhost: \xff\xfe",
        b"GET /shut HTTP/1.1\r\nhost: a b/?#",
        b"GET /shut HTTP/1.1\r\nhost: ]:[::",
        b"GET /shut HTTP/1.1\r\nhost: a\r\nhost: b.example",
        b"GET /shut HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\ntransfer-encoding: chunked",
        b"GET /shut HTTP/1.1\r\nhost: test\r\n\xff\xfe: x",
        b"G\x00T /shut HTTP/1.1\r\nhost: test",
    ];
    let address = edge.address;
    // All at once: Envoy takes a second to close a connection of which it has heard enough.
    let mut exchanges = JoinSet::new();
    for line in lines.into_iter().flat_map(|line| [line; 2 * WORKERS]) {
        exchanges.spawn(async move {
            let request = [line, b"\r\nconnection: close\r\n\r\n"].concat();
            (line, raw_exchange(address, &request).await)
        });
    }
    for (line, answer) in exchanges.join_all().await {
        let what = format!("{:?}: {}", String::from_utf8_lossy(line), answer.text());
        let ours = answer.text().contains("x-resilience: shut;reason=circuit_open;source=static");
        match answer.status() {
            Some(200) => assert!(ours, "{what}"),
            Some(400 | 404) => assert!(!ours, "{what}"),
            _ => panic!("{what}"),
        }
    }
    assert_unharmed(&edge, &mut clients, "bytes of HTTP/1.1").await;
    // HTTP/2 carries any bytes, in any place.
    let places: [(&[u8], &[u8]); 8] = [
        (b"/shut/\xff\xfe", b"test"),
        (b"\xff", b"test"),
        (b"", b"test"),
        (b"shut", b"test"),
        (b"/shut", b"\xff\xfe.example"),
        (b"/shut", b""),
        (b"/shut/\x00x", b"test"),
        (b"/shut", b"a\r\nb"),
    ];
    let mut exchanges = JoinSet::new();
    for (path, authority) in places.into_iter().flat_map(|place| [place; 2 * WORKERS]) {
        exchanges.spawn(raw_http2(address, path, authority));
    }
    assert_eq!(exchanges.join_all().await.len(), places.len() * 2 * WORKERS);
    assert_unharmed(&edge, &mut clients, "bytes of HTTP/2").await;
    // The same bytes where they are good, so that the frames above are known to be.
    assert_eq!(raw_http2(address, b"/shut", b"test").await, Answered::Headers);
    assert_eq!(upstream.requests(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_in_a_row_change_nothing() {
    let upstream = Upstream::start().await;
    let edge = target(upstream.addr()).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    let (guarded, shut) = (odd_requests("/guarded"), odd_requests("/shut"));
    let kinds: Vec<_> = guarded.into_iter().chain(shut).map(|(_, request)| request).collect();
    let total = 60 * kinds.len();
    for protocol in [Protocol::Http1, Protocol::Http2] {
        upstream.reset_counts();
        let answers =
            burst(edge.address, protocol, total, 32, |number| kinds[number % kinds.len()].clone()).await;
        assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 200)));
        let ours =
            answers.iter().flatten().filter(|answer| answer.headers.contains_key("x-resilience")).count();
        assert_eq!((ours, upstream.requests()), (total / 2, total / 2));
        let forged = |_| Request::get("/guarded").header("x-resilience-reroute", high_bytes());
        let refused = burst(edge.address, protocol, 500, 500, forged).await;
        assert!(refused.iter().all(|answer| answer.as_ref().is_ok_and(|answer| answer.status == 400)));
        assert_eq!(upstream.requests(), total / 2);
        assert_unharmed(&edge, &mut clients, "thousands of odd requests").await;
    }
    let guarded = edge.calls("guarded").await.success + edge.calls("hosts").await.success;
    assert_eq!(guarded, total as u64);
}

#[derive(Debug, PartialEq, Eq)]
enum Answered {
    /// With headers of an answer.
    Headers,
    /// By the end of the stream or of the connection.
    End,
}

/// A GET over HTTP/2 made by hand: no client would send such a path or authority.
async fn raw_http2(address: SocketAddr, path: &[u8], authority: &[u8]) -> Answered {
    const HEADERS: u8 = 1;
    const RST_STREAM: u8 = 3;
    const GOAWAY: u8 = 7;
    // Indexed `:method: GET` and `:scheme: http`, then literals with an indexed name, not Huffman-coded.
    let mut block = vec![0x82, 0x86];
    for (name, value) in [(0x04, path), (0x01, authority)] {
        block.extend([name, u8::try_from(value.len()).unwrap()]);
        block.extend(value);
    }
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // END_STREAM and END_HEADERS, on stream 1.
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap(), HEADERS, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
    stream.write_all(&bytes).await.expect("Envoy reads");
    let answer = timeout(PATIENCE, async {
        loop {
            let mut head = [0; 9];
            if stream.read_exact(&mut head).await.is_err() {
                return Answered::End;
            }
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            let mut payload = vec![0; length as usize];
            if stream.read_exact(&mut payload).await.is_err() {
                return Answered::End;
            }
            match head[3] {
                HEADERS => return Answered::Headers,
                RST_STREAM | GOAWAY => return Answered::End,
                _ => {}
            }
        }
    });
    answer.await.expect("Envoy answers")
}
