//! One end of a connection that is written byte by byte: for what no HTTP library would leave half done.

use resilience_test_harness::PATIENCE;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

/// One end of a connection, and what came in on it.
#[derive(Debug)]
pub struct Peer {
    stream: TcpStream,
    received: Vec<u8>,
}

impl Peer {
    /// The end of a client.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.expect("Envoy listens"), received: Vec::new() }
    }

    /// The end of an upstream.
    ///
    /// # Panics
    /// If nobody connects.
    pub async fn accept(listener: &TcpListener) -> Self {
        let accepted = timeout(PATIENCE, listener.accept()).await.expect("Envoy connects");
        Self { stream: accepted.expect("a connection").0, received: Vec::new() }
    }

    /// Sends bytes; returns when the kernel has taken them all.
    ///
    /// # Panics
    /// If it does not.
    pub async fn send(&mut self, bytes: &[u8]) {
        let sent = timeout(PATIENCE, self.stream.write_all(bytes)).await;
        sent.expect("bytes taken in time").expect("an open connection");
    }

    /// As [`Self::send`], where the other end may have closed.
    ///
    /// # Panics
    /// If it takes nothing and does not close.
    pub async fn offer(&mut self, bytes: &[u8]) {
        let _ = timeout(PATIENCE, self.stream.write_all(bytes)).await.expect("bytes taken or an end in time");
    }

    /// Reads until all that came in so far satisfies `check`, and returns it.
    ///
    /// # Panics
    /// If it never does.
    pub async fn until(&mut self, what: &str, check: impl Fn(&[u8]) -> bool) -> &[u8] {
        while !check(&self.received) {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await;
            let so_far =
                || String::from_utf8_lossy(&self.received[..self.received.len().min(2000)]).into_owned();
            match read {
                Ok(Ok(count)) if count > 0 => {}
                other => panic!("{what}: {other:?} after {}", so_far()),
            }
        }
        &self.received
    }

    /// As [`Self::until`]; `None` where the other end closes first.
    ///
    /// # Panics
    /// If neither happens.
    pub async fn until_or_closed(&mut self, check: impl Fn(&[u8]) -> bool) -> Option<&[u8]> {
        while !check(&self.received) {
            let read = timeout(PATIENCE, self.stream.read_buf(&mut self.received)).await;
            if !read.expect("bytes or an end in time").is_ok_and(|count| count > 0) {
                return None;
            }
        }
        Some(&self.received)
    }

    /// Reads until this text came, and returns all that did.
    ///
    /// # Panics
    /// If it does not come.
    pub async fn until_text(&mut self, text: &str) -> String {
        let bytes = self.until(text, |bytes| String::from_utf8_lossy(bytes).contains(text)).await;
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// Reads until the other end closes.
    ///
    /// # Panics
    /// If it does not.
    pub async fn until_closed(mut self) {
        let closed = timeout(PATIENCE, self.stream.read_to_end(&mut self.received)).await;
        // A reset is an end too.
        let _ = closed.expect("an end in time");
    }
}

/// A port for [`Peer::accept`].
///
/// # Panics
/// If none can be bound.
pub async fn listen() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}
