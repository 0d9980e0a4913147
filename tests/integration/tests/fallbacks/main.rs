//! What answers instead, in a real Envoy with four workers: each reason by each source, in whatever form the failed answer
//! has, and where the request goes that another route takes. The upstreams count what reached them.

mod formed;
mod front;
mod grpc;
mod local_reply;
mod modes;
mod needs;
mod order;
mod outage;
mod reasons;
mod reroute;
mod selection;
mod update;

use resilience_integration_tests::endings::{World, route_of};
use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, connection_manager, virtual_host, with_access_log};
use resilience_test_harness::*;
use serde_json::{Value, json};

const REJECTIONS: &str = "resilience_rejections_total";
const FALLBACKS: &str = "resilience_fallbacks_total";
const OPENED: &str = "resilience_circuit_breaker_transitions_total";
const SHADOW: &str = "resilience_shadow_decisions_total";
const STALE: &str = "resilience_stale_routes_total";
const IN_FLIGHT: &str = "resilience_bulkhead_in_flight";

/// The cluster that rerouted requests go to, and the header that says so.
const SPARE: &str = "spare";
const STEERING: &str = "x-resilience-reroute";

/// Longer than any test takes.
const FOR_EVER: &str = "10m";

/// How an answer gets to the caller.
const LOG: &str = "%REQ(X-CASE)% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS%";

/// A policy over `/<name>` whose breaker so many failures in a row open, for ever.
fn fragile(name: &str, failures: u32, fallback: Value) -> Value {
    let breaker = json!({"consecutive_failures": failures, "wait_duration_in_open_state": FOR_EVER});
    let mut policy = policy(name, breaker);
    policy["fallback"] = fallback;
    policy
}

/// The same with other sections too.
fn with(mut policy: Value, sections: Value) -> Value {
    let Value::Object(sections) = sections else { panic!("no sections: {sections}") };
    for (key, section) in sections {
        policy[key] = section;
    }
    policy
}

/// The operator's route of what is rerouted.
fn steered() -> Value {
    let mut route = route_of("plain", "/").expect("a route");
    route["name"] = "steered".into();
    route["match"]["headers"] = json!([{"name": STEERING, "string_match": {"exact": SPARE}}]);
    route["route"]["cluster"] = SPARE.into();
    route
}

/// A connection manager with these filters, these routes between those that every test has, and an access log.
fn managing(filters: &[Value], routes: &[Value], scratch: &Scratch) -> Value {
    let plain = [steered(), route_of("plain", "/").expect("a route")];
    // What is steered is so before all others.
    let routes = [&plain[..1], routes, &plain[1..]].concat();
    let manager = connection_manager(&[virtual_host("all", &routes)], filters);
    with_access_log(manager, &scratch.file("access.log"), LOG)
}

/// What an answer of ours says of itself.
fn mark(policy: &str, reason: &str, source: &str) -> String {
    format!("{policy};reason={reason};source={source}")
}

/// All headers in order of their names, but for those that change with time.
fn headers(answer: &Answer) -> Vec<String> {
    let changing = ["date", "server", "x-envoy-upstream-service-time"];
    let kept = answer.headers.iter().filter(|(name, _)| !changing.contains(&name.as_str()));
    let mut lines: Vec<String> =
        kept.map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))).collect();
    lines.sort();
    lines
}

/// All values of a header.
fn all(headers: &HeaderMap, name: &str) -> Vec<String> {
    headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned()).collect()
}

/// With words for the upstream, if there are any.
fn told(request: Request, words: &str) -> Request {
    if words.is_empty() { request } else { request.header("x-behave", words) }
}

/// An answer, and the name by which the access log has it.
#[derive(Debug)]
struct Played {
    case: String,
    answer: Answer,
}

/// Upstreams of every kind, an Envoy before them with our filter, and clients on every worker.
struct Scene {
    world: World,
    spare: Upstream,
    edge: Edge,
    http1: Clients,
    http2: Clients,
    scratch: Scratch,
    cases: usize,
}

impl Scene {
    /// With one route to an upstream that may take all its time.
    async fn open(document: &Value) -> Self {
        Self::routed(document, &[]).await
    }

    /// With these routes before that one.
    async fn routed(document: &Value, routes: &[Value]) -> Self {
        Self::placed(document, routes, &[], &[]).await
    }

    /// With these filters in front of ours and behind it too.
    async fn placed(document: &Value, routes: &[Value], front: &[Value], behind: &[Value]) -> Self {
        Self::shaped(document, routes, front, behind, |_| ()).await
    }

    /// With other changes of the connection manager too.
    async fn shaped(
        document: &Value,
        routes: &[Value],
        front: &[Value],
        behind: &[Value],
        shape: impl FnOnce(&mut Value),
    ) -> Self {
        let scratch = Scratch::new();
        let mut manager = managing(&[front, &[filter(document)], behind].concat(), routes, &scratch);
        shape(&mut manager);
        Self::listening(&[listener("edge", manager)], scratch).await
    }

    /// With these listeners, one of which is `edge`.
    async fn listening(listeners: &[Value], scratch: Scratch) -> Self {
        Self::started(|clusters| config::bootstrap(listeners, clusters), scratch).await
    }

    /// With listeners that are discovered, and drain for as long as it takes.
    async fn discovering(file: &DynamicFile, scratch: Scratch) -> Self {
        let bootstrap = |clusters: &[Value]| config::bootstrap(&[], clusters);
        Self::started(|clusters| config::with_listeners_from(bootstrap(clusters), file.path()), scratch).await
    }

    async fn started(bootstrap: impl FnOnce(&[Value]) -> Value, scratch: Scratch) -> Self {
        let (world, spare) = (World::new().await, Upstream::start().await);
        let mut clusters = world.clusters();
        clusters.push(cluster(SPARE, &[spare.addr()]));
        let arguments = ["--file-flush-interval-msec", "50", "--drain-time-s", "86400"];
        let envoy = envoy(bootstrap(&clusters));
        let edge = Edge::of(arguments.into_iter().fold(envoy, Builder::argument)).await;
        let http1 = edge.clients(Protocol::Http1).await;
        let http2 = edge.clients(Protocol::Http2).await;
        Self { world, spare, edge, http1, http2, scratch, cases: 0 }
    }

    /// A name for a request in the access log.
    fn case(&mut self) -> String {
        self.cases += 1;
        format!("case{:04}", self.cases)
    }

    fn clients(&mut self, protocol: Protocol) -> &mut Clients {
        match protocol {
            Protocol::Http1 => &mut self.http1,
            Protocol::Http2 => &mut self.http2,
        }
    }

    /// Sends a request by way of the next worker.
    async fn ask(&mut self, protocol: Protocol, request: Request) -> Played {
        let case = self.case();
        let answer = self.clients(protocol).send(request.header("x-case", &case)).await;
        Played { case, answer }
    }

    /// Sends a GET over HTTP/1.1, with words for the upstream.
    async fn get(&mut self, path: &str, words: &str) -> Answer {
        self.http1.send(told(Request::get(path), words)).await
    }

    /// A request that the upstream has in hand until it is released.
    async fn hold(&mut self, path: &str) -> Pending {
        let before = self.world.upstream.requests_to(path);
        let request = told(Request::get(path), "hang");
        let pending = self.http2.next_worker().start(request).await.expect("a connection");
        eventually(&format!("a request to {path} in hand"), PATIENCE, async || {
            (self.world.upstream.requests_to(path) > before).then_some(())
        })
        .await;
        pending
    }

    /// What the access log has of a request: status and details.
    async fn logged(&self, case: &str) -> String {
        let prefix = format!("{case} ");
        eventually(&format!("the log line of {case}"), PATIENCE, async || {
            let lines = self.scratch.lines("access.log");
            lines.iter().find_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
        })
        .await
    }

    /// How often a policy's fallback answered for a reason, by a source.
    async fn fallbacks(&self, policy: &str, reason: &str, source: &str) -> u64 {
        let labels = [("policy", policy), ("reason", reason), ("source", source)];
        self.edge.count(FALLBACKS, &labels).await
    }

    /// How often a policy refused for a reason.
    async fn refused(&self, policy: &str, reason: &str) -> u64 {
        self.edge.count(REJECTIONS, &[("policy", policy), ("reason", reason)]).await
    }

    /// How often a policy's breaker opened.
    async fn opened(&self, policy: &str) -> u64 {
        let labels = [("policy", policy), ("to", "open")];
        self.edge.count(OPENED, &labels).await
    }

    /// Nothing is in flight by the shared count.
    async fn empty(&self, policy: &str) {
        eventually(&format!("nothing in flight by {policy}"), PATIENCE, async || {
            (self.edge.gauge(IN_FLIGHT, policy).await == Some(0)).then_some(())
        })
        .await;
    }

    /// No VM trapped.
    fn sound(&self) {
        assert_eq!(traps(&self.edge.envoy), Vec::<String>::new());
    }
}

fn calls(success: u64, failure: u64, ignored: u64) -> Calls {
    Calls { success, failure, ignored }
}
