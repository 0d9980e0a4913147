//! The module under test, and requests as the shop of the bundle sees them.

use crate::{Action, Failure, FakeStream, FakeVm, Guest, Headers, LocalResponse, SharedHost, headers};
use std::time::Duration;

/// The root context of every test that needs but one.
pub const ROOT: u32 = 1;
/// The route that [`CONFIG`] guards.
pub const ROUTE: &str = "checkout";
/// The key of its policy's state.
pub const KEY: &str = "resilience/shop/checkout";
/// How many failures in a row trip it.
pub const FAILURES: usize = 3;
/// How long it stays open.
pub const WAIT: Duration = Duration::from_secs(10);
/// How long it may stay half-open.
pub const STAY: Duration = Duration::from_secs(5);
/// How often a root asks to be ticked.
pub const TICK: Duration = Duration::from_millis(500);

/// One policy, over [`ROUTE`].
pub const CONFIG: &str = r#"{
  "namespace": "shop",
  "policies": [{
    "name": "checkout",
    "match": [{"route": "checkout"}],
    "circuit_breaker": {
      "consecutive_failures": 3,
      "wait_duration_in_open_state": "10s",
      "permitted_number_of_calls_in_half_open_state": 1,
      "max_wait_duration_in_half_open_state": "5s"
    }
  }]
}"#;

/// The breaker of [`CONFIG`], as a section.
pub const BREAKER: &str = r#""circuit_breaker": {
    "consecutive_failures": 3,
    "wait_duration_in_open_state": "10s",
    "permitted_number_of_calls_in_half_open_state": 1,
    "max_wait_duration_in_half_open_state": "5s"
}"#;

/// [`CONFIG`] with more in the document, such as `"exempt": []`.
#[must_use]
pub fn config_and(more: &str) -> String {
    CONFIG.replacen("\"policies\"", &format!("{more},\n  \"policies\""), 1)
}

/// [`CONFIG`] with more in its policy, such as `"mode": "shadow"`.
#[must_use]
pub fn policy_and(more: &str) -> String {
    CONFIG.replacen("\"name\"", &format!("{more},\n    \"name\""), 1)
}

/// A document of several policies, each over the route of its own name and with these sections.
#[must_use]
pub fn policies(of: &[(&str, &str)]) -> String {
    let policies = of.iter().map(|(name, sections)| {
        let sections = if sections.is_empty() { String::new() } else { format!(", {sections}") };
        format!(r#"{{"name": "{name}", "match": [{{"route": "{name}"}}]{sections}}}"#)
    });
    format!(r#"{{"namespace": "shop", "policies": [{}]}}"#, policies.collect::<Vec<_>>().join(", "))
}

/// How a request ends once it was let through.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// The upstream answers with this status.
    Status(u16),
    /// A gRPC upstream answers 200 and this `grpc-status` in its trailers.
    Grpc(u16),
    /// No connection: Envoy answers 503 in the upstream's place.
    ConnectFailure,
    /// The upstream breaks off in mid-body.
    ResetInBody,
    /// The client leaves before anything came back.
    ClientLeft,
}

/// What Envoy says of a response that came from an upstream.
pub const VIA_UPSTREAM: &str = "via_upstream";

/// What Envoy's router adds to an answer of the upstream's.
pub const SERVICE_TIME: (&str, &str) = ("x-envoy-upstream-service-time", "7");

/// Sets what Envoy says of a stream.
pub fn describe(stream: &FakeStream, details: &str, flags: u64) {
    stream
        .set_property(b"response\0code_details", details)
        .set_property(b"response\0flags", flags.to_le_bytes());
}

/// Fails a test with what it was about.
pub trait OrFail<T> {
    /// The value.
    ///
    /// # Panics
    /// If there is none, with what it was about.
    fn or_fail(self, about: &str) -> T;
}

impl<T> OrFail<T> for Result<T, Failure> {
    #[track_caller]
    fn or_fail(self, about: &str) -> T {
        match self {
            Ok(value) => value,
            Err(failure) => panic!("{about}: {failure}"),
        }
    }
}

/// The headers of an ordinary request.
#[must_use]
pub fn request(path: &str) -> Headers {
    headers(&[
        (":method", "GET"),
        (":scheme", "http"),
        (":authority", "shop.example"),
        (":path", path),
        ("x-request-id", "8f14e45f-ceea-467f-9575-e2a1d6e3a1b2"),
    ])
}

/// A process with one VM or several.
pub struct Shop {
    /// The process.
    pub host: SharedHost,
    /// Its workers.
    pub vms: Vec<FakeVm>,
}

impl Shop {
    /// This many workers with [`CONFIG`].
    ///
    /// # Panics
    /// If the module refuses it or traps.
    #[must_use]
    pub fn open(workers: usize) -> Self {
        Self::with(CONFIG, workers)
    }

    /// This many workers with a configuration that must be accepted.
    ///
    /// # Panics
    /// If it is not, or the module traps.
    #[must_use]
    pub fn with(config: &str, workers: usize) -> Self {
        let host = SharedHost::new();
        let vms = (0..workers).map(|_| worker(&host, config)).collect();
        Self { host, vms }
    }

    /// The same process, of whose workers only this one is left.
    #[must_use]
    pub fn only(&self, worker: usize) -> Self {
        Self { host: self.host.clone(), vms: vec![self.vms[worker].clone()] }
    }

    /// The first worker.
    #[must_use]
    pub fn vm(&self) -> &FakeVm {
        &self.vms[0]
    }

    /// Lets time pass while every worker ticks.
    ///
    /// # Errors
    /// If the module traps.
    pub fn pass(&self, time: Duration) -> Result<(), Failure> {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(TICK);
            self.host.advance(step);
            left -= step;
            for vm in &self.vms {
                vm.tick(ROOT)?;
            }
        }
        Ok(())
    }

    /// Fails requests until the breaker is open.
    ///
    /// # Panics
    /// If it opens too early or not at all.
    pub fn trip(&self) {
        self.trip_by(|| {
            assert!(serve(self.vm(), End::Status(500)).unwrap().is_none(), "refused before it tripped");
        });
        assert!(serve(self.vm(), End::Status(200)).unwrap().is_some(), "not refused after it tripped");
    }

    /// Fails so many requests in a way of the test's own that a breaker opens.
    pub fn trip_by(&self, fail: impl Fn()) {
        (0..FAILURES).for_each(|_| fail());
    }

    /// A metric's value; 0 where nobody defined it.
    #[must_use]
    pub fn metric(&self, name: &str) -> u64 {
        self.host.metric(name).unwrap_or(0)
    }
}

/// A configured worker.
///
/// # Panics
/// If the configuration is refused, or the module traps.
#[must_use]
pub fn worker(host: &SharedHost, config: &str) -> FakeVm {
    let vm = FakeVm::load(&Guest::under_test(), host).unwrap();
    let accepted = vm.configure(ROOT, config).unwrap();
    assert!(accepted, "refused: {:?}", vm.logs());
    vm
}

/// A request on the guarded route that has not been shown to the module yet.
#[must_use]
pub fn arrive(vm: &FakeVm) -> FakeStream {
    arrive_at(vm, ROOT)
}

/// The same for another root than [`ROOT`].
#[must_use]
pub fn arrive_at(vm: &FakeVm, root: u32) -> FakeStream {
    let stream = vm.stream(root);
    stream.set_request_headers(request("/checkout")).set_property(b"xds\0route_name", ROUTE);
    stream
}

/// A request on the route of this name.
#[must_use]
pub fn arrive_on(vm: &FakeVm, route: &str) -> FakeStream {
    let stream = arrive(vm);
    stream.set_property(b"xds\0route_name", route);
    stream
}

/// Runs a request from its headers to its end; the reply if the module made one.
///
/// # Errors
/// If the module traps.
pub fn serve(vm: &FakeVm, end: End) -> Result<Option<LocalResponse>, Failure> {
    let stream = arrive(vm);
    run(&stream, end)?;
    Ok(stream.local_response())
}

/// The same for a stream that a test made itself.
///
/// # Errors
/// If the module traps.
pub fn run(stream: &FakeStream, end: End) -> Result<(), Failure> {
    if let Some(reply) = enter(stream)? {
        describe(stream, &String::from_utf8_lossy(&reply.details), 0);
        stream.deliver_local_response()?;
    } else {
        answer(stream, end)?;
    }
    stream.finish()
}

/// Shows the module the request; the reply if it made one.
///
/// # Errors
/// If the module traps.
///
/// # Panics
/// If it made one without holding the request, or held it without one.
pub fn enter(stream: &FakeStream) -> Result<Option<LocalResponse>, Failure> {
    let action = stream.request_headers(true)?;
    let reply = stream.local_response();
    let expected = if reply.is_some() { Action::Pause } else { Action::Continue };
    assert_eq!(action, expected, "with reply {reply:?}");
    Ok(reply)
}

/// The response callbacks of a request that was let through.
///
/// # Errors
/// If the module traps.
///
/// # Panics
/// If the module holds the response.
pub fn answer(stream: &FakeStream, end: End) -> Result<(), Failure> {
    let respond = |status: u16, content_type: &str| {
        let status = status.to_string();
        let mut answered = headers(&[(":status", &status), ("content-type", content_type)]);
        if end != End::ConnectFailure {
            answered.extend(headers(&[SERVICE_TIME]));
        }
        if content_type != "application/grpc" {
            answered.extend(headers(&[("content-length", "2")]));
        }
        stream.set_response_headers(answered);
        stream.set_property(b"upstream\0address", "127.0.0.1:8080");
    };
    let on_headers = |end: bool| {
        let action = stream.response_headers(end)?;
        assert_eq!(action, Action::Continue);
        Ok(())
    };
    match end {
        End::Status(status) => {
            describe(stream, VIA_UPSTREAM, 0);
            respond(status, "application/json");
            on_headers(false)
        }
        End::Grpc(status) => {
            describe(stream, VIA_UPSTREAM, 0);
            respond(200, "application/grpc");
            on_headers(false)?;
            stream.set_response_trailers(headers(&[("grpc-status", &status.to_string())]));
            assert_eq!(stream.trailers()?, Action::Continue);
            Ok(())
        }
        End::ConnectFailure => {
            describe(stream, "upstream_reset_before_response_started{connection_failure}", 1 << 5);
            respond(503, "text/plain");
            on_headers(false)
        }
        End::ResetInBody => {
            describe(stream, VIA_UPSTREAM, 0);
            respond(200, "application/json");
            on_headers(false)?;
            describe(stream, "upstream_reset_after_response_started{connection_termination}", 1 << 6);
            Ok(())
        }
        End::ClientLeft => {
            describe(stream, "downstream_remote_disconnect", 1 << 14);
            Ok(())
        }
    }
}
