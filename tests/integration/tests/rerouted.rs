//! Another filter changes a header and clears the cached route, so that a request takes another route than the one it showed
//! us when it arrived.

use resilience_integration_tests::*;
use resilience_test_harness::config::{self, cluster, route, typed};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::Instant;

/// One success in so many is looked at by each worker.
const LOOKS_AT: usize = 128;

/// Who reroutes: a filter before ours that nobody after it asks for the route again, and one after ours.
const PLACES: [&str; 2] = ["before", "after"];

/// A filter that sends the requests that name it by the other route.
fn rerouting(name: &str) -> Value {
    let code = format!(
        "function envoy_on_request(handle)
           if handle:headers():get('x-by') == '{name}' then
             handle:headers():replace('x-pin', '1')
             handle:clearRouteCache()
           end
         end"
    );
    let source = json!({"default_source_code": {"inline_string": code}});
    typed(name, "extensions.filters.http.lua.v3.Lua", source)
}

/// A route of the requests that were rerouted.
fn pinned(name: &str, prefix: &str) -> Value {
    let mut route = route(name, prefix, "pinned");
    route["match"]["headers"] = json!([{"name": "x-pin", "present_match": true}]);
    route
}

fn by_route(name: &str, wait: &str) -> Value {
    json!({
        "name": name,
        "match": [{"route": name}],
        "circuit_breaker": {
            "consecutive_failures": 2,
            "wait_duration_in_open_state": wait,
            "permitted_number_of_calls_in_half_open_state": 1,
        },
    })
}

struct Stage {
    first: Upstream,
    pinned: Upstream,
    edge: Edge,
    clients: Clients,
}

impl Stage {
    async fn new(wait: &str) -> Self {
        let (first, pinned_upstream) = (Upstream::start().await, Upstream::start().await);
        let routes = [
            pinned("elsewhere", "/by-path"),
            route("plain", "/by-path", "first"),
            pinned("pinned", "/"),
            route("first", "/", "first"),
        ];
        let breaker = json!({"consecutive_failures": 2, "wait_duration_in_open_state": "10m"});
        let policies = [by_route("first", wait), by_route("pinned", wait), policy("by-path", breaker)];
        let filters = [rerouting("before"), filter(&document(&policies)), rerouting("after")];
        let clusters = [cluster("first", &[first.addr()]), cluster("pinned", &[pinned_upstream.addr()])];
        let listeners = [routed_listener("edge", &routes, &filters)];
        let edge = Edge::start(config::bootstrap(&listeners, &clusters)).await;
        let clients = edge.clients(Protocol::Http1).await;
        Self { first, pinned: pinned_upstream, edge, clients }
    }

    /// A request that is rerouted by this filter, or by none.
    async fn ask(&mut self, path: &str, by: &str, behaviour: &str) -> Answer {
        self.clients.send(Request::get(path).header("x-by", by).header("x-behave", behaviour)).await
    }

    async fn stale(&self, policy: &str) -> u64 {
        self.edge.count("resilience_stale_routes_total", &[("policy", policy)]).await
    }

    async fn open(&mut self) {
        for _ in 0..2 {
            assert_eq!(self.ask("/", "nobody", "status=500").await.status, 500);
        }
        assert_eq!(self.edge.state("first").await, Some(2));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failures_by_another_route_trip_nobody_and_are_counted() {
    for by in PLACES {
        let mut stage = Stage::new("10m").await;
        for _ in 0..2 * WORKERS {
            assert_eq!(stage.ask("/", by, "status=500").await.status, 500, "{by}");
        }
        let counted = 2 * WORKERS as u64;
        assert_eq!((stage.first.requests(), stage.pinned.requests()), (0, 2 * WORKERS), "{by}");
        assert_eq!(stage.edge.calls("first").await, Calls { ignored: counted, ..Calls::default() }, "{by}");
        // The other route's policy never saw them: it was not asked.
        assert_eq!(stage.edge.calls("pinned").await, Calls::default(), "{by}");
        assert_eq!((stage.stale("first").await, stage.stale("pinned").await), (counted, 0), "{by}");
        for answer in [stage.ask("/", "nobody", "status=200").await, stage.ask("/", by, "status=200").await] {
            assert_eq!(answer.status, 200, "{by}");
        }
        assert_eq!(stage.edge.count("resilience_circuit_breaker_transitions_total", &[]).await, 0, "{by}");
        assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_policy_of_the_route_shown_at_arrival_decides() {
    for by in PLACES {
        let mut stage = Stage::new("10m").await;
        stage.open().await;
        for _ in 0..WORKERS {
            let answer = stage.ask("/", by, "status=200").await;
            assert_eq!(answer.header("x-resilience"), "first;reason=circuit_open;source=none", "{by}");
        }
        assert_eq!((stage.pinned.requests(), stage.stale("first").await), (0, 0), "{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_by_another_route_proves_nothing_and_gives_its_place_back() {
    for by in PLACES {
        let mut stage = Stage::new("200ms").await;
        stage.open().await;
        pass(Instant::now(), std::time::Duration::from_millis(200)).await;
        for (number, status) in [200, 500].into_iter().enumerate() {
            let answer = stage.ask("/", by, &format!("status={status}")).await;
            assert_eq!((answer.status, stage.pinned.requests()), (status, number + 1), "{by}");
            assert_eq!(stage.edge.state("first").await, Some(1), "{by}");
            assert_eq!(stage.stale("first").await, number as u64 + 1, "{by}");
        }
        // One that goes where it said decides.
        assert_eq!(stage.ask("/", "nobody", "status=200").await.status, 200, "{by}");
        assert_eq!(stage.edge.transitions("first", "closed", "probes").await, 1, "{by}");
        assert_eq!(stage.edge.calls("first").await, Calls { success: 1, failure: 2, ignored: 2 }, "{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_successes_each_worker_looks_at_one_in_so_many() {
    for by in PLACES {
        let mut stage = Stage::new("10m").await;
        for worker in 0..2 {
            for _ in 0..2 * LOOKS_AT {
                let request = Request::get("/").header("x-by", by);
                assert_eq!(stage.clients.worker(worker).send(request).await.unwrap().status, 200);
            }
        }
        let (all, looked_at) = (4 * LOOKS_AT as u64, 4);
        let expected = Calls { success: all - looked_at, failure: 0, ignored: looked_at };
        stage.edge.wait_calls("first", expected).await;
        assert_eq!(stage.stale("first").await, looked_at, "{by}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_policy_by_path_stays_the_right_one() {
    for by in PLACES {
        let mut stage = Stage::new("10m").await;
        for _ in 0..2 {
            assert_eq!(stage.ask("/by-path", by, "status=500").await.status, 500, "{by}");
        }
        assert_eq!((stage.first.requests(), stage.pinned.requests()), (0, 2), "{by}");
        assert_eq!(stage.edge.transitions("by-path", "open", "consecutive_failures").await, 1, "{by}");
        for by in [by, "nobody"] {
            assert_eq!(stage.ask("/by-path", by, "status=200").await.status, 503, "{by}");
        }
        assert_eq!(stage.edge.count("resilience_stale_routes_total", &[]).await, 0, "{by}");
        assert_eq!(stage.edge.calls("by-path").await, Calls { failure: 2, ..Calls::default() }, "{by}");
    }
}
