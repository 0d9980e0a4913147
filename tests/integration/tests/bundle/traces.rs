//! What the spans say that the bundle sends where it is told a port.

use super::*;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

const TRACES_PORT: &str = "RESILIENCE_TRACES_PORT";

/// An attribute as OpenTelemetry's protocol has it: a key, and a value that is a text.
fn attribute(key: &str, value: &str) -> Vec<u8> {
    let field =
        |number: u8, bytes: &[u8]| [&[number << 3 | 2, u8::try_from(bytes.len()).unwrap()], bytes].concat();
    [field(1, key.as_bytes()), field(2, &field(1, value.as_bytes()))].concat()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Takes whatever comes over a connection to the collector, answers each request, and gives it all once it holds these.
fn collect(listener: &TcpListener, parts: &[Vec<u8>]) -> Vec<u8> {
    let (mut stream, _): (TcpStream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let (mut received, mut chunk) = (Vec::new(), [0; 65536]);
    while !parts.iter().all(|part| holds(&received, part)) {
        let read = stream.read(&mut chunk).expect("spans in time");
        assert_ne!(read, 0, "the connection was closed: {}", String::from_utf8_lossy(&received));
        received.extend_from_slice(&chunk[..read]);
    }
    let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    received
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_says_what_was_decided() {
    // In one batch: the exporter sends what it has after some seconds, or after some spans.
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = collector.local_addr().unwrap().port().to_string();
    let (edge, _) = bundle_with(&PORTS, &[(TRACES_PORT, port)], |yaml| yaml).await;
    let send =
        async |request: Request| send_once(edge.address, Protocol::Http1, request).await.unwrap().status;
    assert_eq!(send(Request::get("/checkout").header("x-envoy-fault-abort-request", "503")).await, 202);
    let expected = [
        ("resilience.policy", "checkout"),
        ("resilience.decision", "fallback"),
        ("resilience.reason", "upstream_failure"),
        ("resilience.breaker", "closed"),
        ("service.name", "shopfast-edge"),
    ];
    let parts = expected.map(|(key, value)| attribute(key, value));
    let received = tokio::task::spawn_blocking(move || collect(&collector, &parts)).await.unwrap();
    assert!(holds(&received, b"POST /v1/traces "), "{}", String::from_utf8_lossy(&received));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_traced_unasked() {
    let yaml = rendered(&[]);
    assert!(!yaml.contains("tracing:") && !yaml.contains("name: traces"), "{yaml}");
}
