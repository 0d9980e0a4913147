//! How long breakers were open, and how long it took until they were closed again.

use crate::*;
use resilience_test_harness::config::{self, cluster, route};

const WAIT: Duration = Duration::from_millis(200);

fn fragile() -> Value {
    json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "200ms",
        "permitted_number_of_calls_in_half_open_state": 1,
    })
}

struct Scene {
    edge: Edge,
    clients: Clients,
    control: Clients,
    expected: Series,
}

impl Scene {
    async fn open(upstream: &Upstream) -> Self {
        let mut keyed = policy("keyed", fragile());
        keyed["key"] = "upstream_cluster".into();
        let names = ["twice", "reset", "forced", "taken-over"];
        let mut policies: Vec<Value> = names.map(|name| policy(name, fragile())).into();
        policies.push(keyed);
        let document = document(&policies);
        let routes = [route("a", "/keyed/a", "a"), route("b", "/keyed/b", "b"), patient_route()];
        let listeners = [routed_listener("edge", &routes, &[filter(&document)]), control_listener(&document)];
        let clusters = ["a", "b", UPSTREAM].map(|name| cluster(name, &[upstream.addr()]));
        let mut bootstrap = config::bootstrap(&listeners, &clusters);
        bootstrap["stats_flush_interval"] = "0.1s".into();
        let edge = Edge::start(bootstrap).await;
        let clients = edge.clients(Protocol::Http1).await;
        let control = edge.clients_of("control", Protocol::Http1).await;
        let mut expected = Series::default();
        for name in names.into_iter().chain(["keyed"]) {
            expected.set("circuit_breaker_state", &[("policy", name), ("key", "_")], 0);
        }
        for key in ["a", "b"] {
            expected.set("circuit_breaker_state", &[("policy", "keyed"), ("key", key)], 0);
        }
        expected.set("vm_starts_total", &[], 1 + WORKERS as u64);
        expected.set("vm_deaths_total", &[("namespace", "default")], 0);
        expected.set("configuration_generation", &[("namespace", "default")], 1);
        Self { edge, clients, control, expected }
    }

    fn turned(&mut self, policy: &str, to: &str, cause: &str) {
        let labels = [("policy", policy), ("to", to), ("cause", cause)];
        self.expected.add("circuit_breaker_transitions_total", &labels, 1);
    }

    async fn get(&mut self, path: &str, status: u16) -> Moment {
        let (moment, answered) = Moment::of(self.clients.get(path, &format!("status={status}"))).await;
        assert_eq!(answered, status, "{path}");
        let policy = path.split('/').nth(1).unwrap();
        let outcome = if status == 200 { "success" } else { "failure" };
        self.expected.add(CALLS, &calls_of(policy, outcome, false), 1);
        moment
    }

    async fn trip(&mut self, path: &str) -> Moment {
        let moment = self.get(path, 500).await;
        self.turned(path.split('/').nth(1).unwrap(), "open", "consecutive_failures");
        moment
    }

    /// The wait is over, and a probe says what is true.
    async fn probe(&mut self, path: &str, opened: Moment, status: u16) -> Moment {
        let policy = path.split('/').nth(1).unwrap();
        let probed = self.get(path, status).await;
        let (outcome, to) = if status == 200 { ("success", "closed") } else { ("failure", "open") };
        self.expected.add(PROBES, &[("policy", policy), ("outcome", outcome)], 1);
        self.turned(policy, "half_open", "wait_over");
        self.turned(policy, to, "probes");
        self.expected.add_within(OPEN, &[("policy", policy)], opened.until(probed));
        probed
    }

    fn recovered(&mut self, policy: &str, from: Moment, to: Moment) {
        self.expected.observe(RECOVERY, &[("policy", policy)], &from.until(to));
    }

    async fn order(&mut self, policy: &str, words: &str) -> Moment {
        let order = Request::post(&format!("/breakers/{policy}/{words}"), "");
        let (moment, answer) = Moment::of(self.control.send(order)).await;
        assert_eq!(answer.status, 200, "{policy} {words}");
        self.turned(policy, if words.starts_with("open") { "open" } else { "closed" }, "forced");
        moment
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn time_in_open_is_added_up_and_each_outage_that_probes_end_counts_once() {
    let upstream = Upstream::start().await;
    let mut scene = Scene::open(&upstream).await;

    // Two outages; in the first of them a probe fails.
    let tripped = scene.trip("/twice").await;
    pass_since(tripped, WAIT).await;
    let again = scene.probe("/twice", tripped, 500).await;
    pass_since(again, WAIT).await;
    let closed = scene.probe("/twice", again, 200).await;
    scene.recovered("twice", tripped, closed);
    let tripped = scene.trip("/twice").await;
    pass_since(tripped, WAIT).await;
    let closed = scene.probe("/twice", tripped, 200).await;
    scene.recovered("twice", tripped, closed);

    // Two keys at the same time: the policy's time is that of both.
    let (a, b) = (scene.trip("/keyed/a").await, scene.trip("/keyed/b").await);
    pass_since(b, WAIT).await;
    for (path, tripped) in [("/keyed/a", a), ("/keyed/b", b)] {
        let closed = scene.probe(path, tripped, 200).await;
        scene.recovered("keyed", tripped, closed);
    }

    // An operator ends one: nothing has recovered.
    let tripped = scene.trip("/reset").await;
    let reset = scene.order("reset", "reset").await;
    scene.expected.add_within(OPEN, &[("policy", "reset")], tripped.until(reset));
    scene.get("/reset", 200).await;

    // An operator begins one, and probes end it: there was no outage. Another begins on its own, is prolonged by an operator,
    // and is one.
    let forced = scene.order("forced", "open?for=1s").await;
    let tripped = scene.trip("/taken-over").await;
    let prolonged = scene.order("taken-over", "open?for=1s").await;
    scene.expected.add_within(OPEN, &[("policy", "taken-over")], tripped.until(prolonged));
    pass_since(prolonged, Duration::from_secs(1)).await;
    scene.probe("/forced", forced, 200).await;
    let closed = scene.probe("/taken-over", prolonged, 200).await;
    scene.recovered("taken-over", tripped, closed);
    scene.edge.wait_series(&scene.expected).await;
    assert_eq!(traps(&scene.edge.envoy), Vec::<String>::new());
}
