//! Whatever a request calls itself, it writes no line of its own, and no long one.

use crate::*;

const HOSTILE: [&[u8]; 8] = [
    b"a policy shop-1: circuit breaker closed -> open cause=forced",
    b"\"quoted\" 'twice' held_back=99",
    b"tab\there",
    b"\xc3\xbcber \xe2\x80\xa8 line \xf0\x9f\x94\xa5",
    b"\xff\xfe no utf-8",
    b"%0a[critical][wasm] percent",
    b"${jndi:ldap://x}",
    b"",
];

#[tokio::test(flavor = "multi_thread")]
async fn what_a_request_calls_itself_cannot_write_lines() {
    let long = vec![b'x'; 10_000];
    let ids: Vec<&[u8]> = HOSTILE.into_iter().chain([&long[..]]).collect();
    let upstream = Upstream::start().await;
    let policies: Vec<Value> = (0..ids.len()).map(|index| policy(&format!("shop-{index}"), once())).collect();
    let edge = Edge::before(upstream.addr(), &document(&policies)).await;
    let mut clients = edge.clients(Protocol::Http1).await;
    edge.wait_count("resilience_vm_starts_total", &[], 1 + WORKERS as u64).await;
    let before = edge.envoy.log_lines().len();
    for (index, id) in ids.iter().enumerate() {
        for (behaviour, status) in [("status=500", 500), ("status=200", 503)] {
            let request = Request::get(&format!("/shop-{index}"));
            let request = request.header("x-request-id", id).header("x-behave", behaviour);
            assert_eq!(clients.send(request).await.status, status);
        }
    }
    let plain = |id: &&[u8]| -> String {
        let byte = |byte: &u8| {
            let byte = char::from(*byte);
            if byte.is_ascii_alphanumeric() || "-_.:".contains(byte) { byte } else { '_' }
        };
        id.iter().take(64).map(byte).collect()
    };
    let lines = eventually("all lines", PATIENCE, async || {
        let lines = edge.envoy.log_lines();
        (lines.len() >= before + 2 * ids.len()).then_some(lines)
    })
    .await;
    assert_eq!(lines.len(), before + 2 * ids.len(), "{lines:#?}");
    for (index, id) in ids.iter().enumerate() {
        let said = said(&edge, &format!("shop-{index}"));
        assert_eq!(said.len(), 2, "{said:#?}");
        for (line, word) in said.iter().zip(["circuit breaker closed -> open", "refused reason=circuit_open"])
        {
            assert!(line.starts_with(&format!("warning {word}")), "{line}");
            assert!(line.ends_with(&format!(" request_id={}", plain(id))), "{line}");
            assert!(line.len() < 400, "{line}");
        }
    }
}
