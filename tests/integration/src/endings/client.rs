//! The client's side: each way to ask, and to leave.

use Client::{Get, GoneBeforeHeaders, GoneInBody, GoneInCall, Grpc, HalfPost, HalfPostAndGone, Post};
use resilience_test_harness::Protocol::{Http1, Http2};
use resilience_test_harness::*;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use tokio::io::AsyncWriteExt;

/// What a client does; words are the upstream's `x-behave`.
#[derive(Clone, Copy, Debug)]
pub enum Client {
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
    /// The same of a gRPC call, whose status is still to come.
    GoneInCall(&'static str),
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
    pub async fn play(self, edge: SocketAddr, upstream: &Upstream, path: &str) -> Result<(), String> {
        let told = |request: Request, words: &str| {
            if words.is_empty() { request } else { request.header("x-behave", words) }
        };
        let get = |words: &str| told(Request::get(path), words);
        let half = format!(
            "POST {path} HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\nx-behave: hang\r\n\r\nhalf."
        );
        match self {
            Get(words) => send_once(edge, Http1, get(words)).await.map(drop),
            Post(words) => send_once(edge, Http1, told(Request::post(path, "a body"), words)).await.map(drop),
            Grpc(words) => send_once(edge, Http2, told(Request::grpc(path), words)).await.map(drop),
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
                let pending = connection.start(get("hang")).await?;
                reached(upstream, path).await;
                pending.abandon();
                Ok(())
            }
            GoneInBody(protocol, words) => {
                let mut connection = Connection::open(edge, protocol).await?;
                let words = format!("{words}; hang-mid-body");
                let mut streaming = connection.start(get(&words)).await?.headers().await?;
                streaming.chunk().await?;
                streaming.abandon();
                Ok(())
            }
            GoneInCall(words) => {
                let mut connection = Connection::open(edge, Http2).await?;
                let call = told(Request::grpc(path), &format!("{words}; hang-mid-body"));
                let mut streaming = connection.start(call).await?.headers().await?;
                streaming.chunk().await?;
                streaming.abandon();
                Ok(())
            }
        }
    }
}
