//! Bytes that no HTTP client would send.

use crate::PATIENCE;
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// What came back on a raw connection.
#[derive(Debug, Clone)]
pub struct RawAnswer {
    /// Everything, headers included.
    pub bytes: Vec<u8>,
}

impl RawAnswer {
    /// The status of the first answer; `None` where the connection was closed without one.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        let line = self.bytes.split(|byte| *byte == b'\r').next()?;
        std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()
    }

    /// Everything as text, with replacement characters where it is none.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes).into_owned()
    }
}

/// Sends `bytes` on a connection of their own and reads until Envoy closes it: a valid request among them should ask
/// for that with `connection: close`.
///
/// # Panics
/// If it does not connect, or Envoy keeps the connection.
pub async fn raw_exchange(address: SocketAddr, bytes: &[u8]) -> RawAnswer {
    let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
    // Envoy may have answered and closed before all was sent: that shows in what is read.
    let _ = stream.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = timeout(PATIENCE, stream.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "Envoy kept the connection; so far: {:?}", String::from_utf8_lossy(&answer));
    RawAnswer { bytes: answer }
}

/// A connection that has left HTTP behind, as a WebSocket does.
#[derive(Debug)]
pub struct Upgraded(TcpStream);

impl Upgraded {
    /// Asks for an upgrade, with the upstream told to echo.
    ///
    /// # Errors
    /// The answer's headers, if they are not 101.
    ///
    /// # Panics
    /// If it does not connect, or no answer comes.
    pub async fn open(address: SocketAddr, path: &str) -> Result<Self, String> {
        let mut stream = TcpStream::connect(address).await.expect("Envoy listens");
        let ask = format!(
            "GET {path} HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-behave: upgrade\r\n\r\n"
        );
        stream.write_all(ask.as_bytes()).await.expect("a connection");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let byte = timeout(PATIENCE, stream.read_u8()).await.expect("an answer");
            head.push(byte.expect("a whole head"));
        }
        let head = String::from_utf8_lossy(&head).into_owned();
        if head.starts_with("HTTP/1.1 101 ") { Ok(Self(stream)) } else { Err(head) }
    }

    /// Sends some bytes and waits until they came back.
    ///
    /// # Panics
    /// If they do not.
    pub async fn echo(&mut self, bytes: &[u8]) {
        self.0.write_all(bytes).await.expect("a connection");
        let mut back = vec![0; bytes.len()];
        timeout(PATIENCE, self.0.read_exact(&mut back)).await.expect("an echo").expect("a connection");
        assert_eq!(back, bytes);
    }
}
