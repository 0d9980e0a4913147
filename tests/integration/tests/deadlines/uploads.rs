//! Bodies that take their time: Envoy's own timers start when the request is there whole, so the filter has one.

use crate::*;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

fn sections(total: &str) -> Value {
    json!({
        "timeout": {"total": total},
        "circuit_breaker": {"consecutive_failures": 1, "wait_duration_in_open_state": "10m"},
        "retry": {"max_retries": 3, "non_idempotent": "always"},
        "retry_budget": {"percent_can_retry": 0, "min_retries_per_second": 1, "ttl": "60s"},
    })
}

/// Sends the head of a POST and then a byte at a time until it is answered; returns the answer's head, after how long it was
/// there, and how many bytes were sent.
async fn trickle(stage: &Stage, bytes: usize, pause: Duration) -> (String, Duration, usize) {
    let mut stream = TcpStream::connect(stage.edge.address).await.expect("Envoy listens");
    stream.set_nodelay(true).expect("a socket");
    let head =
        format!("POST /shop HTTP/1.1\r\nhost: test\r\ncontent-length: {bytes}\r\nx-behave: whole\r\n\r\n");
    let started = Instant::now();
    stream.write_all(head.as_bytes()).await.expect("a connection");
    let (mut reader, mut writer) = stream.into_split();
    let (mut sent, mut answer) = (0, Vec::new());
    // Only the head: Envoy keeps the connection for a while, to be heard by a client that still sends.
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        assert!(started.elapsed() < 2 * PATIENCE, "no answer after {sent} bytes");
        tokio::select! {
            read = reader.read_buf(&mut answer) => assert_ne!(read.expect("a connection"), 0, "closed without an answer"),
            () = tokio::time::sleep(pause) => {
                if sent < bytes && writer.write_all(b".").await.is_ok() {
                    sent += 1;
                }
            }
        }
    }
    (String::from_utf8_lossy(&answer).into_owned(), started.elapsed(), sent)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_trickles_is_ended_by_the_total() {
    const TOTAL: Duration = ms(500);
    const BYTES: usize = 100_000;
    let mut stage = stage(false, &sections("500ms")).await;
    for ended in 1..=WORKERS {
        let took = at_least_once_within(TOTAL + ms(300), async || {
            let (answer, took, sent) = trickle(&stage, BYTES, ms(20)).await;
            assert!(answer.starts_with("HTTP/1.1 504 "), "{answer:?}");
            assert!(answer.contains("x-resilience: shop;reason=timeout;source=none\r\n"), "{answer:?}");
            assert!(answer.contains("x-envoy-ratelimited: true\r\n"), "{answer:?}");
            assert!(!answer.contains("retry-after"), "{answer:?}");
            assert!(took >= TOTAL - ms(10), "{took:?}");
            assert!(sent < BYTES);
            took
        })
        .await;
        println!("an upload that trickles, total 500 ms: answered after {took:?}");
        // The upstream is not to blame for what it has not got.
        eventually("an ignored call", PATIENCE, async || {
            (stage.edge.calls("shop").await.ignored >= ended as u64).then_some(())
        })
        .await;
    }
    let calls = stage.edge.calls("shop").await;
    assert_eq!((calls.success, calls.failure), (0, 0));
    assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
    assert_eq!(stage.ask(Request::get("/shop")).await.status, 200);
    let labels = [("policy", "shop")];
    stage.edge.wait_count("resilience_retry_budget_balance", &labels, 60).await;
    assert_eq!(stage.edge.count(REJECTIONS, &[]).await, 0, "it was let in");
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_upload_that_is_not_answered_is_a_failure() {
    let mut stage = stage(false, &sections("500ms")).await;
    let (answer, took) = timed(&mut stage, hanging(Request::post("/shop", "a body"))).await;
    assert_eq!(answer.status, 504, "{answer:?}");
    assert!((ms(490)..ms(10_000)).contains(&took), "{took:?}");
    stage.edge.wait_calls("shop", Calls { failure: 1, ..Calls::default() }).await;
    assert_eq!(stage.edge.transitions("shop", "open", "consecutive_failures").await, 1);
}

/// Sends a POST whose last byte comes after `missing`, to an upstream that does not answer; returns the answer's head.
async fn late(address: SocketAddr, path: &str, missing: Duration) -> String {
    let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
    stream.set_nodelay(true).expect("a socket");
    let head = format!("POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 2\r\nx-behave: hang\r\n\r\n.");
    stream.write_all(head.as_bytes()).await.expect("a connection");
    tokio::time::sleep(missing).await;
    // On a machine that stood still it may have been answered already.
    let _ = stream.write_all(b".").await;
    let mut answer = Vec::new();
    while !answer.windows(4).any(|four| four == b"\r\n\r\n") {
        let read = tokio::time::timeout(PATIENCE, stream.read_buf(&mut answer)).await.expect("in time");
        assert_ne!(read.expect("a connection"), 0, "closed without an answer");
    }
    String::from_utf8_lossy(&answer).into_owned()
}

/// A policy that gives an upload two seconds, and trips after so many failures.
fn tripping(name: &str, failures: usize) -> Value {
    let breaker = json!({"consecutive_failures": failures, "wait_duration_in_open_state": "10m"});
    guarded(name, &json!({"timeout": {"total": "2s"}, "circuit_breaker": breaker}))
}

/// Otherwise any client could trip a breaker that has seen its answers: it has only to be late.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_whole_at_the_last_moment_is_no_failure() {
    let thresholds = 1..=3;
    let policies: Vec<Value> = thresholds.clone().map(|it| tripping(&format!("shop{it}"), it)).collect();
    let stage = Stage::open(&document(&policies)).await;
    let mut uploads = tokio::task::JoinSet::new();
    for failures in thresholds.clone() {
        for _ in 0..=failures {
            let address = stage.edge.address;
            uploads.spawn(async move {
                let name = format!("shop{failures}");
                let answer = late(address, &format!("/{name}"), ms(1800)).await;
                assert!(answer.starts_with("HTTP/1.1 504 "), "{answer:?}");
                let marker = format!("x-resilience: {name};reason=timeout;source=none\r\n");
                assert!(answer.contains(&marker), "{answer:?}");
            });
        }
    }
    uploads.join_all().await;
    for failures in thresholds {
        let calls = Calls { ignored: failures as u64 + 1, ..Calls::default() };
        stage.edge.wait_calls(&format!("shop{failures}"), calls).await;
    }
    assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_was_whole_for_most_of_the_time_is_a_failure() {
    let stage = Stage::open(&document(&[tripping("shop", 1)])).await;
    let mut round = 0;
    // Where the machine stood still it came late, and is no failure.
    let calls = loop {
        round += 1;
        let answer = late(stage.edge.address, "/shop", ms(200)).await;
        assert!(answer.contains("x-resilience: shop;reason=timeout;source=none\r\n"), "{answer:?}");
        let calls = eventually("a call that is counted", PATIENCE, async || {
            let calls = stage.edge.calls("shop").await;
            (calls.failure + calls.ignored == round).then_some(calls)
        })
        .await;
        if calls.failure > 0 || round == 5 {
            break calls;
        }
    };
    assert_eq!(calls, Calls { failure: 1, ignored: round - 1, ..Calls::default() });
    assert_eq!(stage.edge.transitions("shop", "open", "consecutive_failures").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_in_time_passes() {
    let mut stage = stage(false, &sections("30s")).await;
    let (answer, _, sent) = trickle(&stage, 50, ms(10)).await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer:?}");
    assert_eq!(sent, 50);
    let large = Request::post("/shop", vec![b'.'; 5 << 20]).header("x-behave", "whole");
    assert_eq!(stage.ask(large).await.status, 200);
    stage.edge.wait_calls("shop", Calls { success: 2, ..Calls::default() }).await;
}
