//! The client's side: each way to ask, and to leave.

use Client::{Get, GoneBeforeHeaders, GoneInBody, Grpc, HalfPost, HalfPostAndGone, Post};
use resilience_test_harness::Protocol::{Http1, Http2};
use resilience_test_harness::*;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// What a client does; words are the upstream's `x-behave`.
#[derive(Clone, Copy)]
pub(super) enum Client {
    /// Sends a GET and waits for its end.
    Get(&'static str),
    /// The same as a gRPC call.
    Grpc(&'static str),
    /// Sends a body and waits.
    Post(&'static str),
    /// Says that a body follows, sends half of it, and waits.
    HalfPost,
    /// The same, and leaves when the upstream has the request.
    HalfPostAndGone,
    /// Leaves when the upstream has the request.
    GoneBeforeHeaders(Protocol),
    /// Leaves when the first piece of the body came.
    GoneInBody(Protocol, &'static str),
}

/// Waits for the one request for a path. By hand: the future of an async closure over borrows is not known to be `Send`
/// wherever it is spawned.
async fn reached(upstream: &Upstream, path: &str) {
    let started = Instant::now();
    while upstream.requests_to(path) != 1 {
        assert!(started.elapsed() < PATIENCE, "waited {PATIENCE:?} for {path} at the upstream");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

impl Client {
    /// Plays the request up to its end, as far as the client sees one.
    pub(super) async fn play(self, edge: SocketAddr, upstream: &Upstream, path: &str) -> Result<(), String> {
        let request = |words: &str| {
            let request = Request::get(path);
            if words.is_empty() { request } else { request.header("x-behave", words) }
        };
        let host_path = path.to_owned();
        let half = format!(
            "POST {host_path} HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\nx-behave: hang\r\n\r\nhalf."
        );
        match self {
            Get(words) => send_once(edge, Http1, request(words)).await.map(drop),
            Post(words) => {
                let request = Request::post(path, "a body");
                let request = if words.is_empty() { request } else { request.header("x-behave", words) };
                send_once(edge, Http1, request).await.map(drop)
            }
            Grpc(words) => {
                let request = Request::grpc(path);
                let request = if words.is_empty() { request } else { request.header("x-behave", words) };
                send_once(edge, Http2, request).await.map(drop)
            }
            HalfPost => {
                raw_exchange(edge, half.as_bytes()).await;
                Ok(())
            }
            HalfPostAndGone => {
                let mut stream =
                    tokio::net::TcpStream::connect(edge).await.map_err(|error| error.to_string())?;
                stream.write_all(half.as_bytes()).await.map_err(|error| error.to_string())?;
                reached(upstream, path).await;
                Ok(())
            }
            GoneBeforeHeaders(protocol) => {
                let mut connection = Connection::open(edge, protocol).await?;
                let pending = connection.start(request("hang")).await?;
                reached(upstream, path).await;
                pending.abandon();
                Ok(())
            }
            GoneInBody(protocol, words) => {
                let mut connection = Connection::open(edge, protocol).await?;
                let words = format!("{words}; hang-mid-body");
                let mut streaming = connection.start(request(&words)).await?.headers().await?;
                streaming.chunk().await?;
                streaming.abandon();
                Ok(())
            }
        }
    }
}
