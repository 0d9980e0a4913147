//! An upstream that answers in every shape, and what a client got of it.

use resilience_host_contract::{Event, Origin, Peer, all_events, events, names, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host, with_http2,
};
use resilience_test_harness::{
    Answer, Connection, Envoy, Method, PATIENCE, Pending, Protocol, Request, eventually,
};
use serde_json::json;
use std::net::SocketAddr;

pub(super) const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

/// What connections and streams may hold in Envoy: less than some bodies have.
const BUFFER: u32 = 16_384;

/// How an upstream answers.
#[derive(Clone, Debug)]
pub(super) struct Shape {
    pub(super) name: String,
    pub(super) protocol: Protocol,
    pub(super) status: u16,
    pub(super) headers: Vec<(&'static str, String)>,
    /// What follows the headers, each a piece of its own; `None` where the headers are all.
    pub(super) pieces: Option<Vec<Vec<u8>>>,
    /// Trailers, which HTTP/1.1 writes as a piece.
    pub(super) trailers: Vec<(&'static str, &'static str)>,
}

impl Shape {
    pub(super) fn new(name: &str, protocol: Protocol) -> Self {
        let headers = vec![("content-type", "text/theirs".to_owned())];
        let (name, trailers) = (name.to_owned(), Vec::new());
        Self { name, protocol, status: 500, headers, pieces: None, trailers }
    }

    pub(super) fn status(self, status: u16) -> Self {
        Self { status, ..self }
    }

    pub(super) fn header(mut self, name: &'static str, value: impl ToString) -> Self {
        self.headers.push((name, value.to_string()));
        self
    }

    /// Written as they are in HTTP/1.1, and each in frames of DATA in HTTP/2.
    pub(super) fn pieces<const N: usize>(self, pieces: [&[u8]; N]) -> Self {
        Self { pieces: Some(pieces.map(<[u8]>::to_vec).to_vec()), ..self }
    }

    pub(super) fn trailer(mut self, name: &'static str, value: &'static str) -> Self {
        self.trailers.push((name, value));
        self
    }

    /// A body of these pieces in every framing that there is.
    pub(super) fn of_every_framing(size: &str, pieces: &[Vec<u8>]) -> Vec<Self> {
        let length: usize = pieces.iter().map(Vec::len).sum();
        let chunk = |piece: &Vec<u8>| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        let chunks = pieces.iter().map(chunk).chain([b"0\r\n\r\n".to_vec()]);
        let framed = |name: &str, protocol, pieces: Vec<Vec<u8>>| {
            let shape = Self::new(&format!("{name}, {size}"), protocol);
            Self { pieces: Some(pieces), ..shape }
        };
        vec![
            framed("h1 with a length", Protocol::Http1, pieces.to_vec()).header("content-length", length),
            framed("h1 in chunks", Protocol::Http1, chunks.collect()).header("transfer-encoding", "chunked"),
            framed("h2 with a length", Protocol::Http2, pieces.to_vec()).header("content-length", length),
            framed("h2 with an empty end", Protocol::Http2, [pieces, &[Vec::new()]].concat()),
        ]
    }
}

/// What came of an exchange.
#[derive(Debug)]
pub(super) struct Exchange {
    /// The client's answer, or why there was none.
    pub(super) answer: Result<Answer, String>,
    /// All callbacks of the probe.
    pub(super) events: Vec<Event>,
}

impl Exchange {
    /// The callbacks of the answer, without what was said in them.
    pub(super) fn callbacks(&self) -> Vec<&str> {
        names(&self.events).into_iter().filter_map(|name| name.strip_prefix("response_")).collect()
    }

    /// What the host said to each rewriting.
    pub(super) fn said(&self) -> Vec<&str> {
        let rewrites = self.events.iter().filter(|event| event.name() == "rewrite");
        rewrites.map(|event| event.get("said")).collect()
    }

    /// Code, details and flags at the end.
    pub(super) fn end(&self) -> String {
        ended(&self.events)
    }
}

/// Code, details and flags in the log callback.
pub(super) fn ended(events: &[Event]) -> String {
    let end = events.iter().find(|event| event.name() == "log").expect("a log callback");
    [end.get("code"), end.get("details"), &end.flags()].join(" ")
}

/// One worker between a client and an [`Origin`].
pub(super) struct Stage {
    pub(super) origin: Origin,
    pub(super) envoy: Envoy,
    pub(super) edge: SocketAddr,
    cases: usize,
}

impl Stage {
    pub(super) async fn new(protocol: Protocol) -> Self {
        let origin = Origin::start(protocol).await;
        let trailers = json!({"enable_trailers": true});
        let mut up = cluster("up", &[origin.address]);
        match protocol {
            Protocol::Http1 => up["http_protocol_options"] = trailers.clone(),
            Protocol::Http2 => up = with_http2(up),
        }
        let hosts = [virtual_host("all", &[route("all", "/", "up")])];
        let mut manager = connection_manager(&hosts, &[probe("probe", "vm", "")]);
        manager["http_protocol_options"] = trailers;
        let mut edge = listener("edge", manager);
        for limited in [&mut up, &mut edge] {
            limited["per_connection_buffer_limit_bytes"] = BUFFER.into();
        }
        // With several, each would have a connection of its own to the upstream.
        let envoy = Envoy::builder(bootstrap(&[edge], &[up])).concurrency(1).start().await;
        let edge = envoy.addr("edge").await;
        Self { origin, envoy, edge, cases: 0 }
    }

    /// A name for the next exchange.
    pub(super) fn case(&mut self) -> String {
        self.cases += 1;
        format!("case-{}", self.cases)
    }

    /// Answers the request that is there, one piece after the other.
    pub(super) async fn answer(&mut self, shape: &Shape, case: &str) {
        self.begin(shape, case).await;
        self.finish(shape).await;
    }

    /// As [`Self::answer`], but the last piece and what follows it.
    pub(super) async fn begin(&mut self, shape: &Shape, case: &str) {
        self.origin.request().await;
        let headers: Vec<(&str, &str)> =
            shape.headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
        self.origin.head(shape.status, &headers, shape.pieces.is_none()).await;
        self.wait(case, "response_headers", 1).await;
        let pieces = shape.pieces.iter().flat_map(|pieces| pieces.iter().rev().skip(1).rev());
        for (number, piece) in pieces.enumerate() {
            self.origin.data(piece, false).await;
            // What is read at once is one piece.
            self.wait(case, "response_body", number + 1).await;
        }
    }

    /// What [`Self::begin`] left.
    pub(super) async fn finish(&mut self, shape: &Shape) {
        let last = shape.pieces.as_ref().and_then(|pieces| pieces.last());
        if let Some(last) = last {
            self.origin.data(last, shape.trailers.is_empty()).await;
        }
        if !shape.trailers.is_empty() {
            self.origin.trailers(&shape.trailers).await;
        }
    }

    async fn wait(&self, case: &str, callback: &str, times: usize) {
        eventually(&format!("{times} of {callback} in {case}"), PATIENCE, async || {
            let events = events(&self.envoy, "probe", case);
            let seen = events.iter().filter(|event| event.name().starts_with(callback)).count();
            (seen >= times).then_some(())
        })
        .await;
    }

    /// Starts a request whose answer is rewritten as told.
    pub(super) async fn start(
        &mut self,
        client: &mut Connection,
        request: Request,
        told: &str,
    ) -> (Pending, String) {
        let case = self.case();
        let request = request.header("x-case", &case).header("x-probe", format!("on-response {told}; go"));
        (client.start(request).await.expect("a connection"), case)
    }

    /// Plays one exchange.
    pub(super) async fn play(
        &mut self,
        client: &mut Connection,
        request: Request,
        shape: &Shape,
        told: &str,
    ) -> Exchange {
        let (pending, case) = self.start(client, request, told).await;
        self.answer(shape, &case).await;
        let answer = match pending.headers().await {
            Ok(answer) => Ok(answer.finish().await),
            Err(error) => Err(error),
        };
        Exchange { answer, events: all_events(&self.envoy, "probe", &case).await }
    }

    /// Plays one exchange on a connection of its own, asserts that the answer is well-formed and that the connections on
    /// both sides are still good, and gives it.
    pub(super) async fn play_well(
        &mut self,
        down: Protocol,
        request: Request,
        shape: &Shape,
        told: &str,
    ) -> (Answer, Exchange) {
        let what = format!("{} {down:?} {told}", shape.name);
        let mut client = Connection::open(self.edge, down).await.expect("a connection");
        let mut exchange = self.play(&mut client, request, shape, told).await;
        let answer = std::mem::replace(&mut exchange.answer, Err(String::new()));
        let answer = answer.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.broken, None, "{what}");
        self.again(&mut client, &what).await;
        (answer, exchange)
    }

    /// Sends another request on a connection, and asserts that it goes over the upstream's old one.
    pub(super) async fn again(&mut self, client: &mut Connection, what: &str) {
        let connections = self.origin.connections;
        self.another(client, what).await;
        assert_eq!(self.origin.connections, connections, "{what}");
    }

    /// Sends another request on a connection.
    pub(super) async fn another(&mut self, client: &mut Connection, what: &str) {
        let pending = client.start(Request::get("/")).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        self.origin.request().await;
        self.origin.head(200, &[("content-length", "5")], false).await;
        self.origin.data(b"again", true).await;
        let answer = pending.headers().await.unwrap_or_else(|error| panic!("{what}: {error}")).finish().await;
        assert_eq!((answer.status, answer.text().as_str(), answer.broken), (200, "again", None), "{what}");
    }

    /// Asserts that an answer is not well-formed: a client of HTTP/1.1 that reads the body which the headers promise
    /// gets the head of the next answer instead, one of HTTP/2 sees an error.
    pub(super) async fn play_ill(&mut self, down: Protocol, method: Method, shape: &Shape, told: &str) {
        let what = format!("{} {down:?} {told}", shape.name);
        if down == Protocol::Http2 {
            let mut client = Connection::open(self.edge, down).await.expect("a connection");
            let exchange = self.play(&mut client, Request::new(method, "/"), shape, told).await;
            let broken = exchange.answer.as_ref().map_or(true, |answer| answer.broken.is_some());
            assert!(broken, "{what}: {:?}", exchange.answer);
            return self.again(&mut client, &what).await;
        }
        let case = self.case();
        let mut client = Peer::connect(self.edge).await;
        let told = format!("x-case: {case}\r\nx-probe: on-response {told}; go\r\n\r\n");
        client.send(format!("{method} / HTTP/1.1\r\nhost: test\r\n{told}").as_bytes()).await;
        self.answer(shape, &case).await;
        all_events(&self.envoy, "probe", &case).await;
        client.send(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n").await;
        self.origin.request().await;
        self.origin.head(200, &[("content-length", "5")], false).await;
        self.origin.data(b"again", true).await;
        let came = client.until_text("again").await;
        let (head, rest) = came.split_once("\r\n\r\n").expect("a head");
        let promised = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        let bodiless =
            method == Method::HEAD || [" 204 ", " 304 "].iter().any(|status| head[..16].contains(status));
        let promised = promised.filter(|_| !bodiless).map_or(0, |length| length.parse().expect("a length"));
        let next = rest.find("HTTP/1.1 200 OK").expect("the next answer");
        assert_ne!(promised, next, "{what}: {came}");
    }
}
