//! Envoy's own replies for an upstream that cannot answer, on their way through our response callbacks.

use resilience_host_contract::{all_events, names, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, direct_response, listener, route, virtual_host, with_http2,
};
use resilience_test_harness::{
    Answer, Connection, Envoy, Method, Protocol, Request, Upstream, refused_address,
};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// Why Envoy answers by itself.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause {
    pub(super) path: &'static str,
    /// What the upstream is told, if it is asked at all.
    behave: &'static str,
    /// Flag and the beginning of the details.
    pub(super) end: [&'static str; 2],
    /// Whether it is answered before the request was taken over by anybody.
    pub(super) at_once: bool,
}

const fn cause(path: &'static str, behave: &'static str, end: [&'static str; 2]) -> Cause {
    Cause { path, behave, end, at_once: false }
}

const BEFORE: &str = "upstream_reset_before_response_started{";

pub(super) const CAUSES: [Cause; 7] = [
    cause("/refused", "", ["UF", BEFORE]),
    cause("/reset", "reset", ["UC", BEFORE]),
    cause("/late", "hang", ["UT", "response_timeout"]),
    cause("/idle", "hang", ["SI", "stream_idle_timeout"]),
    Cause { at_once: true, ..cause("/over", "", ["UO", BEFORE]) },
    Cause { at_once: true, ..cause("/none", "", ["UH", "no_healthy_upstream"]) },
    Cause { at_once: true, ..cause("/direct", "", ["-", "direct_response"]) },
];

impl Cause {
    /// A request that meets it.
    pub(super) fn request(&self, method: &Method) -> Request {
        let request = match *method {
            Method::POST => Request::post(self.path, "body"),
            _ => Request::new(method.clone(), self.path),
        };
        self.met_by(request)
    }

    /// A gRPC call that meets it.
    pub(super) fn call(&self) -> Request {
        self.met_by(Request::grpc(self.path))
    }

    fn met_by(&self, request: Request) -> Request {
        if self.behave.is_empty() { request } else { request.header("x-behave", self.behave) }
    }
}

/// An Envoy with a route to each cause, and one to an upstream.
pub(super) struct Stage {
    pub(super) upstream: Upstream,
    pub(super) envoy: Envoy,
    pub(super) edge: SocketAddr,
    cases: usize,
}

impl Stage {
    /// `edit` changes the connection manager.
    pub(super) async fn new(edit: impl Fn(&mut Value)) -> Self {
        let upstream = Upstream::start().await;
        let (mut late, mut idle) = (route("late", "/late", "up"), route("idle", "/idle", "up"));
        late["route"]["timeout"] = "0.1s".into();
        idle["route"]["timeout"] = "0s".into();
        idle["route"]["idle_timeout"] = "0.1s".into();
        let mut unknown = route("unknown", "/unknown", "up");
        unknown["route"] = json!({"cluster_header": "x-unknown"});
        let routes = [
            late,
            idle,
            unknown,
            route("over", "/over", "over"),
            route("none", "/none", "none"),
            route("refused", "/refused", "refused"),
            direct_response("direct", "/direct", 503, "direct"),
            route("all", "/", "up"),
        ];
        let mut over = with_http2(cluster("over", &[upstream.addr()]));
        over["circuit_breakers"]["thresholds"] = json!([{"max_pending_requests": 0}]);
        let clusters = [
            cluster("up", &[upstream.addr()]),
            cluster("none", &[]),
            cluster("refused", &[refused_address()]),
            over,
        ];
        let mut manager = connection_manager(&[virtual_host("all", &routes)], &[probe("probe", "vm", "")]);
        edit(&mut manager);
        let envoy = Envoy::builder(bootstrap(&[listener("edge", manager)], &clusters)).start().await;
        let edge = envoy.addr("edge").await;
        Self { upstream, envoy, edge, cases: 0 }
    }

    /// Sends a request whose answer is met with these commands; gives the answer, which must be well-formed, the names of our
    /// callbacks of it, and code, flags and details at the end.
    pub(super) async fn send(
        &mut self,
        down: Protocol,
        request: Request,
        told: &str,
    ) -> (Answer, Vec<String>, [String; 3]) {
        self.cases += 1;
        let case = format!("case-{}", self.cases);
        let mut client = Connection::open(self.edge, down).await.expect("a connection");
        let request = request.header("x-case", &case).header("x-probe", told);
        let what = format!("{down:?} {told}: {request:?}");
        let answer = client.send(request).await.unwrap_or_else(|error| panic!("{what}: {error}"));
        assert_eq!(answer.broken, None, "{what}");
        // Unless Envoy itself had the connection closed.
        if answer.header("connection") != "close" {
            let again = client.send(Request::get("/")).await;
            assert_eq!(again.unwrap_or_else(|error| panic!("{what}: {error}")).status, 200, "{what}");
        }
        let events = all_events(&self.envoy, "probe", &case).await;
        let end = events.iter().find(|event| event.name() == "log").expect("a log callback");
        let end = [end.get("code").to_owned(), end.flags(), end.get("details").to_owned()];
        let callbacks = names(&events).into_iter().filter_map(|name| name.strip_prefix("response_"));
        (answer, callbacks.map(str::to_owned).collect(), end)
    }
}

/// They have a length and one piece, the last.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_envoys_own_is_rewritten_in_place_as_an_upstreams_is() {
    let mut stage = Stage::new(|_| ()).await;
    for cause in CAUSES {
        for (framing, length) in [("remove=content-length", ""), ("h:content-length=4", "4")] {
            for (down, method, body) in [
                (Protocol::Http1, Method::GET, "ours"),
                (Protocol::Http2, Method::GET, "ours"),
                (Protocol::Http1, Method::POST, "ours"),
                (Protocol::Http2, Method::POST, "ours"),
                (Protocol::Http1, Method::HEAD, ""),
                (Protocol::Http2, Method::HEAD, ""),
            ] {
                let what = format!("{cause:?} {down:?} {method} {framing}");
                let told = format!(
                    "on-response rewrite status=599 h:content-type=text/ours {framing} body=ours; go"
                );
                let (answer, callbacks, end) = stage.send(down, cause.request(&method), &told).await;
                let found = (answer.status, answer.header("content-type"), answer.text());
                assert_eq!(found, (599, "text/ours".to_owned(), body.to_owned()), "{what}");
                assert_eq!(answer.header("content-length"), length, "{what}");
                let expected: &[&str] =
                    if method == Method::HEAD { &["headers"] } else { &["headers", "body_end"] };
                assert_eq!(callbacks, expected, "{what}");
                // The code is ours; why it came is Envoy's.
                let [flag, details] = cause.end;
                assert_eq!([&end[0], &end[1]], ["599", flag], "{what}");
                assert!(end[2].starts_with(details), "{what}: {end:?}");
            }
        }
    }
}

/// To a gRPC caller they are headers alone.
#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_of_envoys_own_is_rewritten_in_headers() {
    let mut stage = Stage::new(|_| ()).await;
    for cause in CAUSES {
        let told = "on-response rewrite h:grpc-status=8 h:grpc-message=ours h:x-a=b body=ours; go";
        let (answer, callbacks, end) = stage.send(Protocol::Http2, cause.call(), told).await;
        let found = ["grpc-status", "grpc-message", "content-type", "x-a"].map(|name| answer.header(name));
        assert_eq!(found, ["8", "ours", "application/grpc", "b"], "{cause:?}");
        assert_eq!((answer.status, answer.body.len()), (200, 0), "{cause:?}");
        assert_eq!((callbacks, end[0].as_str()), (vec!["headers".to_owned()], "200"), "{cause:?}");
    }
}

/// A reply may also have no body of its own, as an upstream's answer may.
#[tokio::test(flavor = "multi_thread")]
async fn a_reply_of_envoys_own_without_a_body_takes_none() {
    let mut stage = Stage::new(|_| ()).await;
    for down in [Protocol::Http1, Protocol::Http2] {
        let told = "on-response rewrite status=599 remove=content-length body=ours; go";
        let (answer, callbacks, end) = stage.send(down, Request::get("/unknown"), told).await;
        assert_eq!((answer.status, answer.body.len()), (599, 0), "{down:?}");
        assert_eq!(callbacks, ["headers"], "{down:?}");
        assert_eq!(end, ["599", "NC", "cluster_not_found"], "{down:?}");
    }
}
