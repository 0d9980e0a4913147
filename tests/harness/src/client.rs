//! Clients: a connection that is kept, a connection for one request, and requests that are abandoned half-way.

use crate::PATIENCE;
use crate::upload::Upload;
use http_body_util::BodyExt;
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::header::{HeaderName, HeaderValue};
use hyper::{HeaderMap, Method};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// The protocol between client and Envoy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 without TLS, by prior knowledge.
    Http2,
}

/// A request to send.
#[derive(Debug, Clone)]
pub struct Request {
    method: Method,
    authority: String,
    path: String,
    headers: HeaderMap,
    body: Bytes,
    whole: bool,
}

impl Request {
    /// A request without headers or body, to the authority `test`.
    #[must_use]
    pub fn new(method: Method, path: &str) -> Self {
        let (authority, path) = ("test".to_owned(), path.to_owned());
        Self { method, authority, path, headers: HeaderMap::new(), body: Bytes::new(), whole: true }
    }

    /// A GET.
    #[must_use]
    pub fn get(path: &str) -> Self {
        Self::new(Method::GET, path)
    }

    /// A POST with a body.
    #[must_use]
    pub fn post(path: &str, body: impl Into<Bytes>) -> Self {
        Self { body: body.into(), ..Self::new(Method::POST, path) }
    }

    /// A unary gRPC call's headers with an empty message; send it over HTTP/2.
    #[must_use]
    pub fn grpc(path: &str) -> Self {
        Self::post(path, Bytes::from_static(&[0; 5]))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
    }

    /// The same, but more of its body seems to be on its way for as long as it lasts.
    #[must_use]
    pub fn unfinished(self) -> Self {
        Self { whole: false, ..self }
    }

    /// The host it is for.
    #[must_use]
    pub fn authority(mut self, authority: &str) -> Self {
        authority.clone_into(&mut self.authority);
        self
    }

    /// One more header; the value may be any bytes that the protocol can carry.
    ///
    /// # Panics
    /// If it is no header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl AsRef<[u8]>) -> Self {
        let name: HeaderName = name.parse().expect("a header name");
        self.headers.append(name, HeaderValue::from_bytes(value.as_ref()).expect("a header value"));
        self
    }

    fn into_http(mut self, protocol: Protocol) -> hyper::Request<Upload> {
        let uri = match protocol {
            Protocol::Http1 => {
                self.headers.insert("host", self.authority.parse().expect("an authority"));
                self.path
            }
            Protocol::Http2 => format!("http://{}{}", self.authority, self.path),
        };
        let mut request = hyper::Request::new(Upload::new(self.body, self.whole));
        *request.method_mut() = self.method;
        *request.uri_mut() = uri.parse().expect("a path");
        *request.headers_mut() = self.headers;
        request
    }
}

/// A whole answer.
#[derive(Debug, Clone)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    /// Body, as far as it came.
    pub body: Bytes,
    /// Trailers, empty where there were none.
    pub trailers: HeaderMap,
    /// Why the body ended early, if it did.
    pub broken: Option<String>,
}

impl Answer {
    /// The first value of a header, empty where there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> String {
        text_of(&self.headers, name)
    }

    /// The first value of a trailer, empty where there is none.
    #[must_use]
    pub fn trailer(&self, name: &str) -> String {
        text_of(&self.trailers, name)
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

fn text_of(headers: &HeaderMap, name: &str) -> String {
    headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).unwrap_or_default()
}

/// Ends the connection's task, and with it the socket, when the last user of the connection is gone.
#[derive(Debug)]
struct Socket(JoinHandle<()>);

impl Drop for Socket {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Debug)]
enum Sender {
    Http1(http1::SendRequest<Upload>),
    Http2(http2::SendRequest<Upload>),
}

/// One connection, kept alive until dropped. HTTP/1.1 sends one request at a time; HTTP/2 as many as started.
#[derive(Debug)]
pub struct Connection {
    sender: Sender,
    socket: Arc<Socket>,
    /// This end's address: how Envoy sees the client.
    pub local: SocketAddr,
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn open(address: SocketAddr, protocol: Protocol) -> Result<Self, String> {
        Self::over(within("connect", TcpStream::connect(address)).await?, protocol).await
    }

    /// Connects from one of this machine's addresses.
    ///
    /// # Errors
    /// Why it could not.
    pub async fn open_from(source: IpAddr, address: SocketAddr, protocol: Protocol) -> Result<Self, String> {
        let socket =
            if source.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }.map_err(text)?;
        socket.bind(SocketAddr::new(source, 0)).map_err(text)?;
        Self::over(within("connect", socket.connect(address)).await?, protocol).await
    }

    async fn over(stream: TcpStream, protocol: Protocol) -> Result<Self, String> {
        stream.set_nodelay(true).map_err(text)?;
        let local = stream.local_addr().map_err(text)?;
        let io = TokioIo::new(stream);
        let (sender, task) = match protocol {
            Protocol::Http1 => {
                let handshake = http1::Builder::new().max_headers(1000).handshake(io);
                let (sender, connection) = within("handshake", handshake).await?;
                (Sender::Http1(sender), tokio::spawn(async { drop(connection.await) }))
            }
            Protocol::Http2 => {
                let handshake = http2::handshake(TokioExecutor::new(), io);
                let (sender, connection) = within("handshake", handshake).await?;
                (Sender::Http2(sender), tokio::spawn(async { drop(connection.await) }))
            }
        };
        Ok(Self { sender, socket: Arc::new(Socket(task)), local })
    }

    /// Sends a request and waits for the whole answer. A body that broke off is not an error here: see
    /// [`Answer::broken`].
    ///
    /// # Errors
    /// Why no headers came.
    pub async fn send(&mut self, request: Request) -> Result<Answer, String> {
        let pending = self.start(request).await?;
        Ok(pending.headers().await?.finish().await)
    }

    /// Whether another request can be sent: not after either end closed it or asked to.
    #[must_use]
    pub fn is_open(&self) -> bool {
        match &self.sender {
            Sender::Http1(sender) => !sender.is_closed(),
            Sender::Http2(sender) => !sender.is_closed(),
        }
    }

    /// Sends a request and returns at once.
    ///
    /// # Errors
    /// If the connection is closed.
    pub async fn start(&mut self, request: Request) -> Result<Pending, String> {
        let head = match &mut self.sender {
            Sender::Http1(sender) => {
                within("connection", sender.ready()).await?;
                tokio::spawn(sender.send_request(request.into_http(Protocol::Http1)))
            }
            Sender::Http2(sender) => {
                within("connection", sender.ready()).await?;
                tokio::spawn(sender.send_request(request.into_http(Protocol::Http2)))
            }
        };
        Ok(Pending { head, socket: Arc::clone(&self.socket) })
    }
}

/// A request whose headers have not come back.
#[derive(Debug)]
pub struct Pending {
    head: JoinHandle<hyper::Result<hyper::Response<Incoming>>>,
    socket: Arc<Socket>,
}

impl Pending {
    /// Waits for the response headers.
    ///
    /// # Errors
    /// Why they did not come.
    pub async fn headers(mut self) -> Result<Streaming, String> {
        let response = within("response headers", &mut self.head).await?.map_err(text)?;
        let (head, body) = response.into_parts();
        let (status, headers) = (head.status.as_u16(), head.headers);
        Ok(Streaming { status, headers, body, socket: Arc::clone(&self.socket) })
    }

    /// Whether the request was answered or lost.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.head.is_finished()
    }

    /// Leaves: the stream is reset (HTTP/2) or the connection closed (HTTP/1.1).
    pub fn abandon(self) {
        drop(self);
    }

    /// Leaves by closing the whole connection.
    pub fn disconnect(self) {
        self.socket.0.abort();
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.head.abort();
    }
}

/// An answer whose body is still on its way.
#[derive(Debug)]
pub struct Streaming {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: HeaderMap,
    body: Incoming,
    socket: Arc<Socket>,
}

impl Streaming {
    /// The next piece of the body; `None` at its end.
    ///
    /// # Errors
    /// Why it broke off.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, String> {
        loop {
            match timeout(PATIENCE, self.body.frame()).await.map_err(|_| "no body in time")? {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        return Ok(Some(data));
                    }
                }
                Some(Err(error)) => return Err(text(error)),
                None => return Ok(None),
            }
        }
    }

    /// Reads the rest.
    pub async fn finish(mut self) -> Answer {
        let (mut body, mut trailers, mut broken) = (Vec::new(), HeaderMap::new(), None);
        loop {
            match timeout(PATIENCE, self.body.frame()).await {
                Ok(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => body.extend_from_slice(&data),
                    Err(frame) => trailers.extend(frame.into_trailers().unwrap_or_default()),
                },
                Ok(None) => break,
                Ok(Some(Err(error))) => {
                    broken = Some(text(error));
                    break;
                }
                Err(_) => {
                    broken = Some("no end in time".to_owned());
                    break;
                }
            }
        }
        Answer { status: self.status, headers: self.headers, body: body.into(), trailers, broken }
    }

    /// Leaves: the stream is reset (HTTP/2) or the connection closed (HTTP/1.1).
    pub fn abandon(self) {
        drop(self);
    }

    /// Leaves by closing the whole connection.
    pub fn disconnect(self) {
        self.socket.0.abort();
    }
}

/// Sends one request over a connection of its own.
///
/// # Errors
/// Why no headers came.
pub async fn send_once(address: SocketAddr, protocol: Protocol, request: Request) -> Result<Answer, String> {
    Connection::open(address, protocol).await?.send(request).await
}

fn text(error: impl Display) -> String {
    error.to_string()
}

async fn within<T, E: Display>(what: &str, future: impl Future<Output = Result<T, E>>) -> Result<T, String> {
    match timeout(PATIENCE, future).await {
        Ok(result) => result.map_err(|error| format!("{what}: {error}")),
        Err(_) => Err(format!("{what}: nothing in {PATIENCE:?}")),
    }
}
