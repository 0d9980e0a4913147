//! The client.

use crate::plan::{Plan, Tick};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::http::uri::PathAndQuery;
use resilience_test_harness::PATIENCE;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::timeout;
use tokio_stream::Stream;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status, Streaming};
use tonic_prost::ProstCodec;
use tower_service::Service;

/// A client on one connection. Dropping what a call returned cancels the call.
#[derive(Clone, Debug)]
pub struct Client {
    channel: Typed,
    deadline: Option<Duration>,
}

impl Client {
    /// Connects.
    ///
    /// # Panics
    /// If nobody listens.
    pub async fn connect(address: SocketAddr) -> Self {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("an address is a URI");
        let channel = endpoint.connect().await.expect("a connection");
        Self { channel: Typed { channel, content_type: None }, deadline: None }
    }

    /// The same connection, with another `content-type` than `application/grpc` on each call.
    #[must_use]
    pub fn content_type(mut self, content_type: &'static str) -> Self {
        self.channel.content_type = Some(HeaderValue::from_static(content_type));
        self
    }

    /// The same connection, with a `grpc-timeout` on each call.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Calls `/<service>/Unary`.
    ///
    /// # Errors
    /// The status, if it is not `OK`.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn unary(&self, service: &str, plan: Plan) -> Result<Response<Tick>, Status> {
        let mut grpc = self.ready().await;
        let call = grpc.unary(self.request(plan), path(service, "Unary"), ProstCodec::default());
        timeout(PATIENCE, call).await.expect("an answer")
    }

    /// Calls `/<service>/Stream` and waits for the answer's headers.
    ///
    /// # Errors
    /// The status, if the headers hold it.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn stream(&self, service: &str, plan: Plan) -> Result<Response<Streaming<Tick>>, Status> {
        let mut grpc = self.ready().await;
        let call = grpc.server_streaming(self.request(plan), path(service, "Stream"), ProstCodec::default());
        timeout(PATIENCE, call).await.expect("an answer")
    }

    /// Calls `/<service>/Chat` and waits for the answer's headers. The server plays one plan after the other.
    ///
    /// # Errors
    /// The status, if the headers hold it.
    ///
    /// # Panics
    /// If there is no answer.
    pub async fn chat(
        &self,
        service: &str,
        plans: impl Stream<Item = Plan> + Send + 'static,
    ) -> Result<Response<Streaming<Tick>>, Status> {
        let mut grpc = self.ready().await;
        let call = grpc.streaming(self.request(plans), path(service, "Chat"), ProstCodec::default());
        timeout(PATIENCE, call).await.expect("an answer")
    }

    async fn ready(&self) -> Grpc<Typed> {
        let mut grpc = Grpc::new(self.channel.clone());
        timeout(PATIENCE, grpc.ready()).await.expect("a connection in time").expect("a connection");
        grpc
    }

    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        if let Some(deadline) = self.deadline {
            request.set_timeout(deadline);
        }
        request
    }
}

fn path(service: &str, method: &str) -> PathAndQuery {
    format!("/{service}/{method}").parse().expect("a path")
}

/// The channel, below what writes the content type.
#[derive(Clone, Debug)]
struct Typed {
    channel: Channel,
    content_type: Option<HeaderValue>,
}

impl Service<hyper::Request<Body>> for Typed {
    type Response = <Channel as Service<hyper::Request<Body>>>::Response;
    type Error = <Channel as Service<hyper::Request<Body>>>::Error;
    type Future = <Channel as Service<hyper::Request<Body>>>::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.channel.poll_ready(context)
    }

    fn call(&mut self, mut request: hyper::Request<Body>) -> Self::Future {
        if let Some(content_type) = &self.content_type {
            request.headers_mut().insert(CONTENT_TYPE, content_type.clone());
        }
        self.channel.call(request)
    }
}
