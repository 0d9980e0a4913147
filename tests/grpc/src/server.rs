//! The server.

use crate::plan::{Hold, Plan, Tick};
use hyper::body::{Body as HttpBody, Bytes, Frame};
use resilience_test_harness::{PATIENCE, eventually};
use std::collections::HashMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::server::{Grpc, ServerStreamingService, StreamingService};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;

/// What went wrong so that the library resets the stream: no status says it.
type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Answer = ReceiverStream<Result<Tick, Status>>;
type Answering<T> = Pin<Box<dyn Future<Output = T> + Send>>;

#[derive(Debug)]
struct Shared {
    calls: Mutex<HashMap<String, Calls>>,
    /// Grows with each release; what is held waits for it to change.
    released: watch::Sender<u64>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Calls {
    received: usize,
    in_hand: usize,
}

impl Shared {
    fn calls(&self) -> MutexGuard<'_, HashMap<String, Calls>> {
        self.calls.lock().expect("no panic while counting")
    }
}

/// A gRPC server on a loopback port, with the methods `Unary`, `Stream` and `Chat` of every service.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    serving: JoinHandle<()>,
}

impl Server {
    /// Starts one.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let shared = Arc::new(Shared { calls: Mutex::default(), released: watch::Sender::new(0) });
        let service = Service(Arc::clone(&shared));
        let serving = tokio::spawn(async move {
            let incoming = TcpListenerStream::new(listener);
            tonic::transport::Server::builder()
                .serve_with_incoming(service, incoming)
                .await
                .expect("a listener that stays");
        });
        Self { address, shared, serving }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// How many calls of a service reached it.
    #[must_use]
    pub fn received(&self, service: &str) -> usize {
        self.of(service).received
    }

    /// How many calls of all services reached it.
    #[must_use]
    pub fn received_in_all(&self) -> usize {
        self.shared.calls().values().map(|calls| calls.received).sum()
    }

    /// Waits until a service has exactly so many calls in hand.
    ///
    /// # Panics
    /// If it never has.
    pub async fn wait_in_hand(&self, service: &str, exactly: usize) {
        eventually(&format!("{exactly} calls of {service} in hand"), PATIENCE, async || {
            (self.of(service).in_hand == exactly).then_some(())
        })
        .await;
    }

    /// Lets everything that is held go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    fn of(&self, service: &str) -> Calls {
        self.shared.calls().get(service).copied().unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// Counts a call as long as it lives.
struct InHand {
    shared: Arc<Shared>,
    service: String,
}

impl InHand {
    fn new(shared: Arc<Shared>, service: &str) -> Self {
        let mut calls = shared.calls();
        let of_service = calls.entry(service.to_owned()).or_default();
        of_service.received += 1;
        of_service.in_hand += 1;
        drop(calls);
        Self { shared, service: service.to_owned() }
    }
}

impl Drop for InHand {
    fn drop(&mut self) {
        if let Some(calls) = self.shared.calls().get_mut(&self.service) {
            calls.in_hand -= 1;
        }
    }
}

#[derive(Clone)]
struct Service(Arc<Shared>);

impl tower_service::Service<hyper::Request<Body>> for Service {
    type Response = hyper::Response<Body>;
    type Error = BoxError;
    type Future = Answering<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let (service, method) = path[1..].split_once('/').unwrap_or_default();
        let reset = Arc::new(AtomicBool::new(false));
        let in_hand = InHand::new(Arc::clone(&self.0), service);
        let call = Call { in_hand, reset: Arc::clone(&reset), released: self.0.released.subscribe() };
        let method = method.to_owned();
        Box::pin(async move {
            let mut grpc = Grpc::new(ProstCodec::<Tick, Plan>::default());
            let call = Once(Some(call));
            let response = match method.as_str() {
                // A call is unary by the number of messages in its answer, which its plan says.
                "Unary" | "Stream" => grpc.server_streaming(call, request).await,
                "Chat" => grpc.streaming(call, request).await,
                _ => Status::unimplemented(method).into_http(),
            };
            if reset.load(Ordering::SeqCst) {
                return Err("a reset before headers".into());
            }
            Ok(response.map(|body| Body::new(Resettable { body, reset })))
        })
    }
}

/// A call on its way. It is in hand as long as this lives.
struct Call {
    #[expect(dead_code, reason = "its drop counts")]
    in_hand: InHand,
    reset: Arc<AtomicBool>,
    released: watch::Receiver<u64>,
}

/// The library takes a service for many calls; this is for one.
struct Once(Option<Call>);

impl ServerStreamingService<Plan> for Once {
    type Response = Tick;
    type ResponseStream = Answer;
    type Future = Answering<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Plan>) -> Self::Future {
        let mut call = self.0.take().expect("called once");
        Box::pin(async move {
            let plan = request.into_inner();
            if plan.hold() == Hold::Headers {
                call.wait().await;
            }
            if plan.at_once {
                call.reset.store(plan.reset, Ordering::SeqCst);
                return Err(status(&plan));
            }
            let (ticks, answer) = mpsc::channel(1);
            tokio::spawn(async move {
                call.play(&plan, &ticks).await;
            });
            Ok(Response::new(ReceiverStream::new(answer)))
        })
    }
}

impl StreamingService<Plan> for Once {
    type Response = Tick;
    type ResponseStream = Answer;
    type Future = Answering<Result<Response<Answer>, Status>>;

    fn call(&mut self, request: Request<Streaming<Plan>>) -> Self::Future {
        let mut call = self.0.take().expect("called once");
        Box::pin(async move {
            let mut plans = request.into_inner();
            let (ticks, answer) = mpsc::channel(1);
            tokio::spawn(async move {
                // Ends with the client's last plan, with the call, or with a plan that ends it.
                while let Ok(Some(plan)) = plans.message().await
                    && call.play(&plan, &ticks).await
                {}
            });
            Ok(Response::new(ReceiverStream::new(answer)))
        })
    }
}

impl Call {
    /// Plays a plan; false where it has ended the call.
    async fn play(&mut self, plan: &Plan, ticks: &mpsc::Sender<Result<Tick, Status>>) -> bool {
        for number in 0..plan.messages {
            if ticks.send(Ok(Tick { number })).await.is_err() {
                return false;
            }
        }
        if plan.hold() == Hold::Status {
            tokio::select! {
                () = self.wait() => {}
                () = ticks.closed() => return false,
            }
        }
        if plan.code == i32::from(Code::Ok) && !plan.reset {
            return true;
        }
        self.reset.store(plan.reset, Ordering::SeqCst);
        let _ = ticks.send(Err(status(plan))).await;
        false
    }

    async fn wait(&mut self) {
        let _ = self.released.changed().await;
    }
}

fn status(plan: &Plan) -> Status {
    Status::new(plan.code.into(), "as told")
}

/// An answer's body; where the call was to be reset its trailers become an error, which is what makes the library reset the
/// stream.
struct Resettable {
    body: Body,
    reset: Arc<AtomicBool>,
}

impl HttpBody for Resettable {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        polled.map(|frame| match frame? {
            Ok(frame) if frame.is_trailers() && self.reset.load(Ordering::SeqCst) => {
                Some(Err("a reset as told".into()))
            }
            Ok(frame) => Some(Ok(frame)),
            Err(status) => Some(Err(status.into())),
        })
    }
}
