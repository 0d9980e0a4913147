//! What the upstream does with its connections and with each request on them.

use crate::behaviour::{Behaviour, Fault};
use crate::upstream::{Received, Shared};
use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{HeaderName, HeaderValue};
use hyper::service::service_fn;
use hyper::upgrade::OnUpgrade;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};

/// Time for what was sent to leave this process before the exchange is spoiled; no test waits for it.
const GRACE: Duration = Duration::from_millis(100);

pub(crate) async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    // Dropped with this task, which takes the connections along.
    let mut connections = tokio::task::JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            shared.state().connections += 1;
            connections.spawn(serve(stream, Arc::clone(&shared)));
        }
        while connections.try_join_next().is_some() {}
    }
}

/// What a request's handler needs to spoil its connection.
#[derive(Debug)]
struct Wire {
    socket: socket2::Socket,
    cut: Notify,
}

async fn serve(stream: TcpStream, shared: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    let Ok(socket) = socket2::SockRef::from(&stream).try_clone() else { return };
    let wire = Arc::new(Wire { socket, cut: Notify::new() });
    let service = service_fn(|request| handle(request, Arc::clone(&shared), Arc::clone(&wire)));
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http2().max_concurrent_streams(10_000);
    tokio::select! {
        _ = server.serve_connection_with_upgrades(TokioIo::new(stream), service) => {}
        () = wire.cut.notified() => {}
    }
}

/// Counts a request as in hand while it lives, or until its client says that it leaves.
struct InHand {
    shared: Arc<Shared>,
    mark: Option<String>,
}

impl InHand {
    fn new(shared: Arc<Shared>, request: &Request<Incoming>) -> Self {
        let mark = request.headers().get("x-mark").map(|mark| mark.to_str().expect("text").to_owned());
        let mut state = shared.state();
        let gone = mark.as_ref().is_some_and(|mark| state.left.contains(mark));
        if !gone {
            state.in_flight += 1;
            state.max_in_flight = state.max_in_flight.max(state.in_flight);
            state.marked.extend(mark.clone());
        }
        drop(state);
        Self { shared, mark }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        if self.mark.as_ref().is_none_or(|mark| state.marked.remove(mark)) {
            state.in_flight -= 1;
        }
    }
}

async fn handle(
    mut request: Request<Incoming>,
    shared: Arc<Shared>,
    wire: Arc<Wire>,
) -> io::Result<Response<Answered>> {
    // In this order: who sees it in hand may release it.
    let mut released = shared.released.subscribe();
    let in_hand = InHand::new(Arc::clone(&shared), &request);
    // Read before the lock is taken: it panics on a misspelt word.
    let words = |name: &str| request.headers().get(name).map(|words| words.to_str().expect("text"));
    let mut steered: Vec<Behaviour> =
        words("x-behave").map(|words| words.split('|').map(Behaviour::parse).collect()).unwrap_or_default();
    let behaviour = {
        let mut state = shared.state();
        let path = request.uri().path().to_owned();
        let (method, headers) = (request.method().clone(), request.headers().clone());
        state.requests += 1;
        if !state.only_counts {
            state.received.push(Received { method, path: path.clone(), headers });
        }
        let attempt = words("x-id").map_or(0, |id| state.attempt_of(id));
        if let Some(last) = steered.len().checked_sub(1) {
            steered.swap_remove(attempt.min(last))
        } else if let Some(next) = state.script.pop_front() {
            next
        } else {
            state.by_path.get(&path).unwrap_or(&state.default).clone()
        }
    };
    let version = request.version();
    while behaviour.whole && !request.body().is_end_stream() {
        request.body_mut().frame().await.transpose().map_err(io::Error::other)?;
    }
    tokio::time::sleep(behaviour.delay).await;
    spoil(behaviour.before, version, &wire, &shared, &mut released).await?;
    if behaviour.upgrade {
        return Ok(switch(hyper::upgrade::on(&mut request), in_hand));
    }
    let head = request.method() == Method::HEAD;
    let mut response = Response::new(());
    *response.status_mut() = behaviour.status.try_into().expect("an HTTP status");
    for (name, value) in &behaviour.headers {
        let (name, value) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
        response.headers_mut().append(name.expect("a header name"), value.expect("a header value"));
    }
    if !behaviour.chunked {
        response.headers_mut().insert("content-length", behaviour.body.len().into());
    }
    let (frames, receiver) = mpsc::channel(1);
    let empty = head || (behaviour.body.is_empty() && behaviour.trailers.is_empty());
    let body = if empty { Answered::nothing() } else { Answered::of(receiver, in_hand) };
    tokio::spawn(async move { write(frames, behaviour, version, &wire, &shared, &mut released).await });
    Ok(response.map(|()| body))
}

/// Another protocol from here on, which says everything back until either end closes.
fn switch(upgrade: OnUpgrade, in_hand: InHand) -> Response<Answered> {
    tokio::spawn(async move {
        if let Ok(upgraded) = upgrade.await {
            let (mut reader, mut writer) = tokio::io::split(TokioIo::new(upgraded));
            let _ = tokio::io::copy(&mut reader, &mut writer).await;
        }
        drop(in_hand);
    });
    let mut response = Response::new(Answered::nothing());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert("connection", HeaderValue::from_static("upgrade"));
    response.headers_mut().insert("upgrade", HeaderValue::from_static("websocket"));
    response
}

/// Feeds the body's frames; ends when they were taken or nobody wants them.
async fn write(
    frames: mpsc::Sender<Piece>,
    mut behaviour: Behaviour,
    version: Version,
    wire: &Wire,
    shared: &Shared,
    released: &mut watch::Receiver<u64>,
) {
    if behaviour.mid_body != Fault::None {
        let first = behaviour.body.split_to(behaviour.body.len() / 2);
        if frames.send(Piece { frame: Ok(Frame::data(first)), last: false }).await.is_err() {
            return;
        }
        tokio::time::sleep(GRACE).await;
        tokio::select! {
            result = spoil(behaviour.mid_body, version, wire, shared, released) => if let Err(error) = result {
                let _ = frames.send(Piece { frame: Err(error), last: false }).await;
                return;
            },
            () = frames.closed() => return,
        }
    }
    let last = behaviour.trailers.is_empty();
    if frames.send(Piece { frame: Ok(Frame::data(behaviour.body)), last }).await.is_ok() && !last {
        let trailers = behaviour.trailers.iter().map(|(name, value)| {
            let (name, value) = (name.parse::<HeaderName>(), value.parse::<HeaderValue>());
            (name.expect("a trailer name"), value.expect("a trailer value"))
        });
        let _ = frames.send(Piece { frame: Ok(Frame::trailers(trailers.collect())), last: true }).await;
    }
}

async fn spoil(
    fault: Fault,
    version: Version,
    wire: &Wire,
    shared: &Shared,
    released: &mut watch::Receiver<u64>,
) -> io::Result<()> {
    match fault {
        Fault::None => return Ok(()),
        Fault::Hang => {
            tokio::select! {
                _ = released.changed() => {}
                () = shared.released_one.notified() => {}
            }
            return Ok(());
        }
        // An error of the handler or of the body is what makes hyper reset a stream.
        Fault::Reset if version == Version::HTTP_2 => return Err(io::Error::other("reset as told")),
        // Closing a socket that does not linger sends RST instead of FIN.
        Fault::Reset => wire.socket.set_linger(Some(Duration::ZERO))?,
        Fault::Close => {}
    }
    wire.cut.notify_one();
    std::future::pending().await
}

/// A part of a body.
struct Piece {
    frame: io::Result<Frame<Bytes>>,
    /// Whether nothing follows.
    last: bool,
}

/// A response body fed through a channel.
struct Answered {
    frames: Option<mpsc::Receiver<Piece>>,
    in_hand: Option<InHand>,
}

impl Answered {
    fn of(frames: mpsc::Receiver<Piece>, in_hand: InHand) -> Self {
        Self { frames: Some(frames), in_hand: Some(in_hand) }
    }

    fn nothing() -> Self {
        Self { frames: None, in_hand: None }
    }
}

impl Body for Answered {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let Some(frames) = self.frames.as_mut() else { return Poll::Ready(None) };
        frames.poll_recv(context).map(|piece| {
            let piece = piece?;
            if piece.last {
                // Before it is sent: whoever has the whole answer may ask again at once.
                self.in_hand = None;
            }
            Some(piece.frame)
        })
    }

    fn is_end_stream(&self) -> bool {
        self.frames.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        if self.frames.is_none() { SizeHint::with_exact(0) } else { SizeHint::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::State;
    use std::sync::Mutex;

    #[tokio::test]
    async fn what_is_answered_to_its_last_byte_is_not_in_flight() {
        let state = Mutex::new(State { in_flight: 1, ..State::default() });
        let shared = Arc::new(Shared { state, released: watch::Sender::new(0), released_one: Notify::new() });
        let (frames, receiver) = mpsc::channel(2);
        let mut body = Answered::of(receiver, InHand { shared: Arc::clone(&shared), mark: None });
        for last in [false, true] {
            frames.send(Piece { frame: Ok(Frame::data(Bytes::new())), last }).await.expect("room");
            body.frame().await.expect("a frame").expect("no error");
            // Although the body's end was not seen yet.
            assert_eq!(shared.state().in_flight, usize::from(!last));
        }
    }
}
