//! What the integration tests share: our filter in a real Envoy with four workers, clients that use every one of them,
//! and the filter's own metrics.

mod canary;
mod clients;
pub mod endings;
mod series;
mod stage;
mod trap;

pub use canary::{canary, serves};
pub use clients::Clients;
pub use series::{Moment, Series};
pub use stage::{Stage, control_listener, guarded};
pub use trap::{RELOADED, kill, trappable_filter};

use resilience_test_harness::config::{self, cluster, connection_manager, route, virtual_host};
use resilience_test_harness::{Builder, Connection, Envoy, PATIENCE, Protocol, eventually};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Worker threads of every Envoy here.
pub const WORKERS: usize = 4;

/// The name of the route and of the cluster of [`Edge::before`].
pub const UPSTREAM: &str = "upstream";

/// What makes labels of our metrics, as operators get it.
const STATS_CONFIG: &str = include_str!("../../../envoy/stats-config.yaml");

/// The module under test.
///
/// # Panics
/// If `RESILIENCE_WASM` does not name it.
#[must_use]
pub fn module() -> PathBuf {
    let path = std::env::var_os("RESILIENCE_WASM").expect(
        "RESILIENCE_WASM is not set: it names the module under test (`make test-integration` sets it)",
    );
    let path = PathBuf::from(path);
    assert!(path.is_file(), "RESILIENCE_WASM={} is not a file", path.display());
    path
}

/// A module that exists for tests only, such as `resilience_trap`.
///
/// # Panics
/// If it is not in the directory `RESILIENCE_MODULES`.
#[must_use]
pub fn test_module(name: &str) -> PathBuf {
    let directory = std::env::var_os("RESILIENCE_MODULES").expect(
        "RESILIENCE_MODULES is not set: the directory of test modules (`make test-modules` fills it)",
    );
    let path = PathBuf::from(directory).join(format!("{name}.wasm"));
    assert!(path.is_file(), "{} is not a file", path.display());
    path
}

/// A document of these policies.
#[must_use]
pub fn document(policies: &[Value]) -> Value {
    json!({"policies": policies})
}

/// A policy over `/<name>` and all below it.
#[must_use]
pub fn policy(name: &str, circuit_breaker: Value) -> Value {
    json!({
        "name": name,
        "match": [{"path": {"prefix": format!("/{name}")}}],
        "circuit_breaker": circuit_breaker,
    })
}

/// Our filter with a document.
#[must_use]
pub fn filter(document: &Value) -> Value {
    config::resilience_filter(&module(), "resilience", &document.to_string())
}

/// A listener whose stats are found by its name.
#[must_use]
pub fn listener(name: &str, connection_manager: Value) -> Value {
    let mut listener = config::listener(name, connection_manager);
    listener["stat_prefix"] = name.into();
    listener
}

/// A listener of these routes, whatever the host, and these filters.
#[must_use]
pub fn routed_listener(name: &str, routes: &[Value], filters: &[Value]) -> Value {
    listener(name, connection_manager(&[virtual_host("all", routes)], filters))
}

/// The same where Envoy holds every caller on this machine to be internal, and so does not take their `x-envoy-*` headers away:
/// whoever is believed then is the filter's choice alone.
#[must_use]
pub fn believing_listener(name: &str, routes: &[Value], filters: &[Value]) -> Value {
    let mut manager = connection_manager(&[virtual_host("all", routes)], filters);
    manager["use_remote_address"] = true.into();
    manager["internal_address_config"] =
        json!({"cidr_ranges": [{"address_prefix": "127.0.0.0", "prefix_len": 8}]});
    listener(name, manager)
}

/// A listener of one filter and one route to [`UPSTREAM`].
#[must_use]
pub fn plain_listener(name: &str, filter: Value) -> Value {
    routed_listener(name, &[plain_route()], &[filter])
}

/// The route of every path to [`UPSTREAM`].
#[must_use]
pub fn plain_route() -> Value {
    route(UPSTREAM, "/", UPSTREAM)
}

/// The same to an upstream that may take all its time.
#[must_use]
pub fn patient_route() -> Value {
    let mut patient = plain_route();
    patient["route"]["timeout"] = "0s".into();
    patient
}

/// Listeners, and the cluster [`UPSTREAM`].
#[must_use]
pub fn bootstrap(listeners: &[Value], upstream: SocketAddr) -> Value {
    config::bootstrap(listeners, &[cluster(UPSTREAM, &[upstream])])
}

/// An Envoy with the bundle's labels and all workers, not started yet.
#[must_use]
pub fn envoy(bootstrap: Value) -> Builder {
    let workers = u32::try_from(WORKERS).expect("a small number");
    Envoy::builder(bootstrap).concurrency(workers).overlay_yaml(STATS_CONFIG)
}

/// A running Envoy with a listener `edge`.
#[derive(Debug)]
pub struct Edge {
    /// The process.
    pub envoy: Envoy,
    /// Where `edge` listens.
    pub address: SocketAddr,
}

impl Edge {
    /// Our filter with a document, before one upstream that gets every path.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn before(upstream: SocketAddr, document: &Value) -> Self {
        Self::routed(upstream, &[plain_route()], &[filter(document)]).await
    }

    /// These routes and filters before one upstream.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn routed(upstream: SocketAddr, routes: &[Value], filters: &[Value]) -> Self {
        Self::start(bootstrap(&[routed_listener("edge", routes, filters)], upstream)).await
    }

    /// An Envoy of a bootstrap with a listener `edge`.
    ///
    /// # Panics
    /// If Envoy does not start.
    pub async fn start(bootstrap: Value) -> Self {
        Self::of(envoy(bootstrap)).await
    }

    /// Starts an Envoy with a listener `edge`.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn of(builder: Builder) -> Self {
        let envoy = builder.start().await;
        let address = envoy.addr("edge").await;
        Self { envoy, address }
    }

    /// One connection to each worker of the listener `edge`.
    ///
    /// # Panics
    /// If there is a worker that gets no connection.
    pub async fn clients(&self, protocol: Protocol) -> Clients {
        self.clients_of("edge", protocol).await
    }

    /// One connection to each worker of a listener.
    ///
    /// # Panics
    /// If there is a worker that gets no connection.
    pub async fn clients_of(&self, listener: &str, protocol: Protocol) -> Clients {
        let open = async |address| Connection::open(address, protocol).await.expect("a connection to Envoy");
        Clients::new(self.connections_of(listener, open).await)
    }

    /// One connection to each worker of a listener, opened by whatever client.
    ///
    /// # Panics
    /// If there is a worker that gets no connection.
    pub async fn connections_of<C>(&self, listener: &str, open: impl AsyncFn(SocketAddr) -> C) -> Vec<C> {
        let address = self.envoy.addr(listener).await;
        let mut connections: [Option<C>; WORKERS] = std::array::from_fn(|_| None);
        let mut accepted = self.accepted(listener).await;
        // The kernel chooses the worker, so each connection is looked up, and those too many are closed again.
        for _ in 0..200 {
            let connection = open(address).await;
            let before = accepted;
            accepted = eventually("the connection at a worker", PATIENCE, async || {
                let now = self.accepted(listener).await;
                (now != before).then_some(now)
            })
            .await;
            for (place, (was, is)) in connections.iter_mut().zip(before.into_iter().zip(accepted)) {
                if was != is && place.is_none() {
                    *place = Some(connection);
                    break;
                }
            }
            if connections.iter().all(Option::is_some) {
                return connections.into_iter().flatten().collect();
            }
        }
        panic!("not every worker of {listener} gets connections: {accepted:?}");
    }

    async fn accepted(&self, listener: &str) -> [u64; WORKERS] {
        let stats = self.envoy.get(&format!("/stats?filter=listener.{listener}.worker_")).await.body;
        let of = |worker: usize| {
            let name = format!("listener.{listener}.worker_{worker}.downstream_cx_total: ");
            stats.lines().find_map(|line| line.strip_prefix(&name)?.parse().ok()).unwrap_or(0)
        };
        std::array::from_fn(of)
    }

    /// A sum over one of our metrics, as a whole number.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn count(&self, metric: &str, labels: &[(&str, &str)]) -> u64 {
        whole(self.envoy.prometheus().await.sum(metric, labels))
    }

    /// Waits until a metric is what it should be.
    ///
    /// # Panics
    /// If it never is, with what it is.
    pub async fn wait_count(&self, metric: &str, labels: &[(&str, &str)], expected: u64) {
        let mut last = None;
        let waited = tokio::time::timeout(PATIENCE, async {
            while last != Some(expected) {
                last = Some(self.count(metric, labels).await);
            }
        });
        assert!(waited.await.is_ok(), "{metric}{labels:?} is {last:?}, not {expected}");
    }

    /// `resilience_calls_total` of a policy.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn calls(&self, policy: &str) -> Calls {
        let metrics = self.envoy.prometheus().await;
        let of = |outcome| {
            whole(metrics.sum("resilience_calls_total", &[("policy", policy), ("outcome", outcome)]))
        };
        Calls { success: of("success"), failure: of("failure"), ignored: of("ignored") }
    }

    /// Waits until `resilience_calls_total` of a policy is this.
    ///
    /// # Panics
    /// If it never is, with what it is.
    pub async fn wait_calls(&self, policy: &str, expected: Calls) {
        let mut last = None;
        let waited = tokio::time::timeout(PATIENCE, async {
            while last != Some(expected) {
                last = Some(self.calls(policy).await);
            }
        });
        assert!(waited.await.is_ok(), "calls of {policy}: {last:?}, not {expected:?}");
    }

    /// The gauge of a policy's breaker. A closed one that never tripped has none before some tick shows it.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn state(&self, policy: &str) -> Option<u64> {
        let labels = [("policy", policy), ("key", "_")];
        self.envoy.prometheus().await.get("resilience_circuit_breaker_state", &labels).map(whole)
    }

    /// A gauge of a policy as a whole; `None` before some tick shows it.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn gauge(&self, metric: &str, policy: &str) -> Option<u64> {
        self.envoy.prometheus().await.get(metric, &[("policy", policy)]).map(whole)
    }

    /// How often a policy's breaker changed to a state for a cause.
    ///
    /// # Panics
    /// If the admin does not answer.
    pub async fn transitions(&self, policy: &str, to: &str, cause: &str) -> u64 {
        let labels = [("policy", policy), ("to", to), ("cause", cause)];
        self.count("resilience_circuit_breaker_transitions_total", &labels).await
    }
}

/// `resilience_calls_total` of one policy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// Outcome `success`.
    pub success: u64,
    /// Outcome `failure`.
    pub failure: u64,
    /// Outcome `ignored`.
    pub ignored: u64,
}

fn whole(value: f64) -> u64 {
    assert!(value >= 0.0 && value.fract() == 0.0, "{value} is no count");
    value as u64
}

/// Waits until `wait` has passed since `since`: for tests of time itself. The margin is for waits that end strictly after
/// their last moment.
pub async fn pass(since: Instant, wait: Duration) {
    tokio::time::sleep_until((since + wait + Duration::from_millis(20)).into()).await;
}

/// What Envoy said of VMs that trapped. Empty in all tests but those that pull the trap themselves.
#[must_use]
pub fn traps(envoy: &Envoy) -> Vec<String> {
    let words = ["panicked", "Function: proxy_on", "RuntimeError", "Plugin configured to fail"];
    envoy.log_lines().into_iter().filter(|line| words.iter().any(|word| line.contains(word))).collect()
}
