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
