//! An upstream whose answers are written piece by piece, in HTTP/1.1 or in frames of HTTP/2: for shapes that no HTTP
//! library would give an answer.

use crate::peer::{Peer, listen};
use resilience_test_harness::Protocol;
use std::net::SocketAddr;
use tokio::net::TcpListener;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Types of frames.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;

/// Flags of frames.
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

/// What a frame's head takes, and the most that a frame may hold unless its reader says otherwise.
const FRAME_HEAD: usize = 9;
const FRAME_MOST: usize = 16_384;

/// An upstream that the test answers for. It serves one request at a time, over the connection that was opened last; what it
/// sends where Envoy has closed that is lost, as for any upstream.
#[derive(Debug)]
pub struct Origin {
    /// Where it listens.
    pub address: SocketAddr,
    /// How many connections were opened to it.
    pub connections: usize,
    listener: TcpListener,
    protocol: Protocol,
    served: Option<Served>,
}

impl Origin {
    /// Starts one.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start(protocol: Protocol) -> Self {
        let (listener, address) = listen().await;
        Self { address, connections: 0, listener, protocol, served: None }
    }

    /// Waits until the next request is there as a whole.
    ///
    /// # Panics
    /// If none comes.
    pub async fn request(&mut self) {
        loop {
            let protocol = self.protocol;
            let next = async {
                let came = match &mut self.served {
                    Some(served) => served.request(protocol).await,
                    None => false,
                };
                if !came {
                    // There will be another connection.
                    std::future::pending().await
                }
            };
            tokio::select! {
                () = next => return,
                peer = Peer::accept(&self.listener) => {
                    self.connections += 1;
                    self.served = Some(Served::greet(peer, protocol).await);
                }
            }
        }
    }

    /// Sends the headers of the answer to the last request. In HTTP/1.1 they alone say whether a body follows, in HTTP/2
    /// it is `end`.
    ///
    /// # Panics
    /// If there was no request.
    pub async fn head(&mut self, status: u16, headers: &[(&str, &str)], end: bool) {
        let (protocol, served) = self.served();
        let bytes = match protocol {
            Protocol::Http1 => {
                let line = |(name, value): &(&str, &str)| format!("{name}: {value}\r\n");
                let lines: String = headers.iter().map(line).collect();
                format!("HTTP/1.1 {status} As-Told\r\n{lines}\r\n").into_bytes()
            }
            Protocol::Http2 => {
                let status = status.to_string();
                let headers = [&[(":status", status.as_str())], headers].concat();
                fields(served.stream, &headers, end)
            }
        };
        served.peer.offer(&bytes).await;
    }

    /// Sends bytes: as they are in HTTP/1.1, in HTTP/2 in as few frames as they fit into.
    ///
    /// # Panics
    /// If there was no request.
    pub async fn data(&mut self, bytes: &[u8], end: bool) {
        let (protocol, served) = self.served();
        if protocol == Protocol::Http1 {
            return served.peer.offer(bytes).await;
        }
        let mut parts: Vec<&[u8]> = bytes.chunks(FRAME_MOST).collect();
        let last = parts.pop().unwrap_or_default();
        let mut frames: Vec<u8> = parts.iter().flat_map(|part| frame(DATA, 0, served.stream, part)).collect();
        frames.extend(frame(DATA, if end { END_STREAM } else { 0 }, served.stream, last));
        served.peer.offer(&frames).await;
    }

    /// Sends trailers, in HTTP/2.
    ///
    /// # Panics
    /// If there was no request.
    pub async fn trailers(&mut self, trailers: &[(&str, &str)]) {
        let (_, served) = self.served();
        let bytes = fields(served.stream, trailers, true);
        served.peer.offer(&bytes).await;
    }

    /// Breaks the answer off: the stream in HTTP/2, else the connection.
    ///
    /// # Panics
    /// If there was no request.
    pub async fn reset(&mut self) {
        let (protocol, served) = self.served();
        match protocol {
            Protocol::Http1 => self.served = None,
            Protocol::Http2 => {
                let internal_error = 2_u32.to_be_bytes();
                let bytes = frame(RST_STREAM, 0, served.stream, &internal_error);
                served.peer.offer(&bytes).await;
            }
        }
    }

    fn served(&mut self) -> (Protocol, &mut Served) {
        (self.protocol, self.served.as_mut().expect("a request"))
    }
}

/// A connection.
#[derive(Debug)]
struct Served {
    peer: Peer,
    /// How much of what came in belongs to what was served.
    read: usize,
    /// The stream of the last request, in HTTP/2.
    stream: u32,
}

impl Served {
    async fn greet(mut peer: Peer, protocol: Protocol) -> Self {
        let mut read = 0;
        if protocol == Protocol::Http2 {
            peer.until("a preface", |bytes| bytes.len() >= PREFACE.len()).await;
            read = PREFACE.len();
            peer.offer(&frame(SETTINGS, 0, 0, &[])).await;
        }
        Self { peer, read, stream: 0 }
    }

    /// Whether a request came and not the end of the connection.
    async fn request(&mut self, protocol: Protocol) -> bool {
        match protocol {
            Protocol::Http1 => match self.next(request_of_http1).await {
                Some(request) => {
                    self.read += request.len();
                    true
                }
                None => false,
            },
            Protocol::Http2 => self.request_of_http2().await,
        }
    }

    async fn request_of_http2(&mut self) -> bool {
        loop {
            let Some(frame_) = self.next(one_frame).await else { return false };
            self.read += frame_.len();
            let (kind, flags) = (frame_[3], frame_[4]);
            let stream = u32::from_be_bytes([frame_[5], frame_[6], frame_[7], frame_[8]]);
            if kind == SETTINGS && flags & ACK == 0 {
                self.peer.offer(&frame(SETTINGS, ACK, 0, &[])).await;
            }
            if [HEADERS, DATA].contains(&kind) && stream > self.stream && flags & END_STREAM != 0 {
                self.stream = stream;
                return true;
            }
        }
    }

    /// The next bytes that `find` holds to be whole; `None` where the connection ends before.
    async fn next(&mut self, find: impl Fn(&[u8]) -> Option<&[u8]>) -> Option<Vec<u8>> {
        let start = self.read;
        let bytes = self.peer.until_or_closed(|bytes| find(&bytes[start..]).is_some()).await?;
        find(&bytes[start..]).map(<[u8]>::to_vec)
    }
}

/// A whole request, as Envoy writes it: names in lower case, and no trailers.
fn request_of_http1(bytes: &[u8]) -> Option<&[u8]> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]);
    let length = text.lines().find_map(|line| line.strip_prefix("content-length: "));
    if let Some(length) = length {
        return bytes.get(..head + length.parse::<usize>().expect("a length"));
    }
    if !text.contains("transfer-encoding: chunked") {
        return bytes.get(..head);
    }
    let end = b"\r\n0\r\n\r\n";
    // With the line before it, as a body without bytes is its end alone.
    let at = bytes[head - 2..].windows(end.len()).position(|window| window == end)?;
    bytes.get(..head - 2 + at + end.len())
}

fn one_frame(bytes: &[u8]) -> Option<&[u8]> {
    let [high, middle, low] = *bytes.first_chunk()?;
    bytes.get(..FRAME_HEAD + u32::from_be_bytes([0, high, middle, low]) as usize)
}

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a frame").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// A frame of HEADERS with each field written out: nothing indexed, nothing compressed.
fn fields(stream: u32, headers: &[(&str, &str)], end: bool) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
        [&[length], text.as_bytes()].concat()
    };
    let block = headers.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat());
    let block: Vec<u8> = block.collect();
    frame(HEADERS, END_HEADERS | if end { END_STREAM } else { 0 }, stream, &block)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_ends_where_its_framing_says() {
        for (request, rest) in [
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "GET"),
            ("POST / HTTP/1.1\r\ncontent-length: 4\r\n\r\nbody", "POST"),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n", ""),
            ("POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n", "GET"),
        ] {
            let bytes = format!("{request}{rest}");
            assert_eq!(request_of_http1(bytes.as_bytes()), Some(request.as_bytes()));
            assert_eq!(request_of_http1(&request.as_bytes()[..request.len() - 1]), None, "{request}");
        }
    }

    #[test]
    fn a_frame_is_read_as_it_was_written() {
        let written = frame(DATA, END_STREAM, 3, b"body");
        assert_eq!(written, b"\x00\x00\x04\x00\x01\x00\x00\x00\x03body");
        assert_eq!(one_frame(&[&written[..], b"more"].concat()), Some(&written[..]));
        assert_eq!(one_frame(&written[..written.len() - 1]), None);
    }
}
