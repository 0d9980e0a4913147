//! A fake proxy-wasm host: it loads a real module and plays Envoy to it, without an Envoy.
//!
//! What a real Envoy cannot do is what this is for: count every host call by kind, make any one of them fail at any
//! moment, and hand the module input that no HTTP codec would let through. Where Envoy's behaviour is known to matter
//! (shared data, which header map can be read in which phase, metrics, who allocates) this host does the same; what it
//! does not have, it refuses by name, so that a module never rests on something that was only imagined here.
//!
//! ```ignore
//! let shared = SharedHost::new();
//! let vm = FakeVm::load(&Guest::under_test(), &shared)?;
//! assert!(vm.configure(1, r#"{"policies": []}"#)?);
//! let stream = vm.stream(1);
//! stream.set_request_headers(headers(&[(":method", "GET"), (":path", "/"), (":authority", "shop.example")]));
//! assert_eq!(stream.request_headers(true)?, Action::Continue);
//! println!("{}", stream.counts());
//! ```

mod faults;
mod guest;
mod headers;
mod imports;
pub mod orders;
mod output;
mod random;
mod received;
mod record;
mod shared;
pub mod shop;
mod state;
mod stream;
mod vm;

pub use faults::status;
pub use guest::Guest;
pub use headers::{Headers, Map, Mutation, MutationKind, headers};
pub use output::{Action, Failure, LocalResponse, LogLine};
pub use random::Random;
pub use received::Received;
pub use record::{Call, Counts, Kind};
pub use shared::{MetricKind, SharedHost};
pub use stream::FakeStream;
pub use vm::FakeVm;
