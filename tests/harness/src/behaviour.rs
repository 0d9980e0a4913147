//! What an upstream does with a request.

use hyper::body::Bytes;
use std::time::Duration;

/// How an exchange is spoiled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Fault {
    /// Not at all.
    #[default]
    None,
    /// The connection is closed in order (FIN).
    Close,
    /// HTTP/1.1: the connection is reset (RST). HTTP/2: the stream is (RST_STREAM).
    Reset,
    /// Nothing more is sent until [`crate::Upstream::release`]; then all goes on as if nothing had been.
    Hang,
}

/// What an upstream does with a request. A client can steer a single request with the header `x-behave`, which
/// Envoy passes on: `;`-separated words of [`Behaviour::parse`]. Where the request has a name of its own in the header `x-id`,
/// there may be several such lists with `|` between them: the first is for the first attempt, and the last for all others.
#[derive(Debug, Clone)]
pub struct Behaviour {
    pub(crate) delay: Duration,
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
    pub(crate) chunked: bool,
    pub(crate) trailers: Vec<(String, String)>,
    pub(crate) before: Fault,
    pub(crate) mid_body: Fault,
    pub(crate) upgrade: bool,
    pub(crate) whole: bool,
}

impl Default for Behaviour {
    fn default() -> Self {
        Self::status(200)
    }
}

impl Behaviour {
    /// Answers with a status and a short body under a content-length.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            delay: Duration::ZERO,
            status,
            headers: Vec::new(),
            body: Bytes::from_static(b"upstream\n"),
            chunked: false,
            trailers: Vec::new(),
            before: Fault::None,
            mid_body: Fault::None,
            upgrade: false,
            whole: false,
        }
    }

    /// A gRPC answer: HTTP 200, an empty message, the status in trailers.
    #[must_use]
    pub fn grpc(status: u8) -> Self {
        let mut answer =
            Self::status(200).header("content-type", "application/grpc").body(&[0; 5][..]).chunked();
        answer.trailers.push(("grpc-status".to_owned(), status.to_string()));
        answer
    }

    /// A gRPC answer without a message: the status among the headers.
    #[must_use]
    pub fn grpc_trailers_only(status: u8) -> Self {
        Self::status(200)
            .header("content-type", "application/grpc")
            .header("grpc-status", &status.to_string())
            .body("")
    }

    /// One more response header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// One more trailer.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Without a content-length.
    #[must_use]
    pub fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Waits before it answers.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Does this instead of sending headers.
    #[must_use]
    pub fn before_headers(mut self, fault: Fault) -> Self {
        self.before = fault;
        self
    }

    /// Does this after half of the body was sent.
    #[must_use]
    pub fn mid_body(mut self, fault: Fault) -> Self {
        self.mid_body = fault;
        self
    }

    /// Reads the whole request first. Otherwise a connection whose request has a body is closed behind the answer.
    #[must_use]
    pub fn whole(mut self) -> Self {
        self.whole = true;
        self
    }

    /// Never answers before [`crate::Upstream::release`].
    #[must_use]
    pub fn hang() -> Self {
        Self::default().before_headers(Fault::Hang)
    }

    /// Reads the words of an `x-behave` header: `status=503`, `delay=200ms`, `body=text`,
    /// `size=number` (a body of so many bytes), `header=name:value`, `trailer=name:value`, `chunked`, `hang`, `close`, `reset`, `hang-mid-body`, `close-mid-body`, `reset-mid-body`, `grpc=14`,
    /// `grpc-trailers-only=14`, `whole` (the request is read to its end first), `upgrade` (101, then everything comes back until
    /// either end closes). The words that make a whole answer (`grpc`...) come first.
    ///
    /// # Panics
    /// On a word it does not know: a misspelt test must not pass.
    #[must_use]
    pub fn parse(words: &str) -> Self {
        words.split(';').map(str::trim).fold(Self::default(), |so_far, word| {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u16>().unwrap_or_else(|_| panic!("x-behave: {word}"));
            let code = || value.parse::<u8>().unwrap_or_else(|_| panic!("x-behave: {word}"));
            match key {
                "status" => Self { status: number(), ..so_far },
                "delay" => {
                    let milliseconds = value.strip_suffix("ms").and_then(|value| value.parse().ok());
                    so_far.delay(Duration::from_millis(
                        milliseconds.unwrap_or_else(|| panic!("x-behave: {word}")),
                    ))
                }
                "body" => so_far.body(value.to_owned()),
                "header" => {
                    let (name, value) = value.split_once(':').unwrap_or_else(|| panic!("x-behave: {word}"));
                    so_far.header(name, value)
                }
                "size" => {
                    so_far.body(vec![b'.'; value.parse().unwrap_or_else(|_| panic!("x-behave: {word}"))])
                }
                "trailer" => {
                    let (name, value) = value.split_once(':').unwrap_or_else(|| panic!("x-behave: {word}"));
                    so_far.trailer(name, value)
                }
                "chunked" => so_far.chunked(),
                "upgrade" => Self { upgrade: true, ..so_far },
                "whole" => so_far.whole(),
                "hang" => so_far.before_headers(Fault::Hang),
                "close" => so_far.before_headers(Fault::Close),
                "reset" => so_far.before_headers(Fault::Reset),
                "hang-mid-body" => so_far.mid_body(Fault::Hang),
                "close-mid-body" => so_far.mid_body(Fault::Close),
                "reset-mid-body" => so_far.mid_body(Fault::Reset),
                "grpc" => Self::grpc(code()),
                "grpc-trailers-only" => Self::grpc_trailers_only(code()),
                _ => panic!("x-behave: {word}"),
            }
        })
    }
}
