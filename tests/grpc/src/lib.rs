//! A gRPC server that does what each call asks of it and counts what reached it, and the client that asks. Both are a gRPC
//! library's own (`tonic`): what they make of an answer is what any caller makes of it.
//!
//! A crate of its own, because only some of the integration tests need what it is built from.

mod client;
mod plan;
mod server;

pub use client::Client;
pub use plan::{Hold, Plan, Tick};
pub use server::Server;

/// What of the library appears in this crate's interface.
pub use tokio_stream::wrappers::ReceiverStream;
pub use tonic::{Code, Response, Status, Streaming};
