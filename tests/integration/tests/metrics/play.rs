//! The stage of the scenario: policies of every kind, and a book of what was seen of each.

use crate::*;
use resilience_test_harness::config::{self, cluster, route};

/// The cluster that rerouted requests go to, and the policy that guards it.
pub const SPARE: &str = "spare";

pub struct Play {
    pub upstream: Upstream,
    pub spare: Upstream,
    pub edge: Edge,
    /// Over HTTP/2, so that what waits or hangs takes no connection.
    pub clients: Clients,
    /// What is to be there in the end.
    pub expected: Series,
}

pub fn told(path: &str, behaviour: &str) -> Request {
    let request = Request::get(path);
    if behaviour.is_empty() { request } else { request.header("x-behave", behaviour) }
}

/// A breaker that the first failure opens for longer than any test takes.
fn once() -> Value {
    json!({"consecutive_failures": 1, "wait_duration_in_open_state": FOR_EVER})
}

fn with(mut policy: Value, key: &str, value: Value) -> Value {
    policy[key] = value;
    policy
}

/// Retries that come back after the test.
fn budget(per_second: u32) -> Value {
    json!({"percent_can_retry": 0, "min_retries_per_second": per_second, "ttl": "60s"})
}

fn fallback(policy: Value, entries: Value) -> Value {
    with(policy, "fallback", entries)
}

fn policies() -> Vec<Value> {
    let probing = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "300ms",
        "permitted_number_of_calls_in_half_open_state": 1,
        "max_wait_duration_in_half_open_state": "2s",
    });
    let rate = |key: &str| {
        json!({
            key: 50, "sliding_window_size": 4, "minimum_number_of_calls": 4,
            "slow_call_duration_threshold": "2s", "wait_duration_in_open_state": FOR_EVER,
        })
    };
    let classes = json!({"header": "x-class", "default": "bulk", "classes": [
        {"name": "gold", "max_share": 100}, {"name": "bulk", "max_share": 100},
    ]});
    let waiting = |calls: u32, wait: &str, queue: u32| json!({"max_concurrent_calls": calls, "max_wait_duration": wait, "max_queue": queue});
    let retried = |budget: Value| json!({"retry": {"max_retries": 2}, "retry_budget": budget});
    let mut poor = budget(1);
    poor["max_balance"] = 3.into();
    let kinds = json!({
        "timeout": {"deadline_header": "x-deadline-ms"},
        "fallback": [{"on": ["failure"], "static": {"status": 202, "text": "%REASON%"}}],
    });
    let late = with(kinds.clone(), "timeout", json!({"total": "300ms"}));
    let mut shadow_budget = budget(10);
    shadow_budget["mode"] = "shadow".into();
    let mut trips = probing.clone();
    trips["consecutive_failures"] = 2.into();
    let mut unproved = probing.clone();
    unproved["max_wait_duration_in_half_open_state"] = FOR_EVER.into();
    let reroute = |cluster: &str, policy: &str| json!({"reroute": {"cluster": cluster, "policy": policy}});
    let forced = json!({"mode": "forced_open", "consecutive_failures": 1});
    let off = with(policy("off", once()), "mode", "disabled".into());
    vec![
        policy("trips", trips),
        policy("unproved", unproved),
        policy("window", json!({"failures_in_window": {"failures": 2, "window": "60s"}})),
        policy("shut", once()),
        guarded("needy", &json!({"when_open": ["shut"]})),
        with(policy("shadow", once()), "mode", "shadow".into()),
        policy("forced", forced.clone()),
        with(policy("shadow-forced", forced), "mode", "shadow".into()),
        policy("idle", once()),
        policy("rate", rate("failure_rate_threshold")),
        policy("slow", rate("slow_call_rate_threshold")),
        with(with(policy("keyed", once()), "key", "upstream_cluster".into()), "max_keys", 2.into()),
        guarded("idle-bulkhead", &json!({"bulkhead": {"max_concurrent_calls": 7}})),
        guarded("hold", &json!({"bulkhead": with(waiting(2, FOR_EVER, 2), "priority", classes)})),
        guarded("brief", &json!({"bulkhead": waiting(1, "200ms", 5)})),
        guarded("shadow-bulkhead", &json!({"mode": "shadow", "bulkhead": {"max_concurrent_calls": 1}})),
        guarded("retried", &retried(budget(10))),
        guarded("poor", &retried(poor)),
        with(
            with(guarded("hurried", &retried(budget(10))), "retry", json!({"max_retries": 3})),
            "timeout",
            json!({"total": "10s", "per_try": "4s"}),
        ),
        with(guarded("probed", &retried(budget(10))), "circuit_breaker", probing),
        guarded("shadow-budget", &json!({"retry_budget": shadow_budget})),
        guarded("idle-budget", &json!({"retry_budget": budget(1)})),
        guarded("kinds", &kinds),
        guarded("late", &late),
        fallback(policy("fails", once()), json!([{"on": ["refusal"], "fail": {"status": 429}}])),
        fallback(
            policy("email", once()),
            json!([reroute(SPARE, SPARE), {"on": ["refusal"], "static": {"status": 202, "text": "later"}}]),
        ),
        policy(SPARE, once()),
        fallback(policy("lost", once()), json!([reroute("nowhere", "lost-guard")])),
        policy("lost-guard", once()),
        policy("steered", once()),
        json!({"name": "watched", "match": [{"path": {"prefix": "/watched"}}]}),
        off,
    ]
}

fn routes() -> Vec<Value> {
    let mut steered = route("steered", "/", SPARE);
    steered["match"]["headers"] = json!([{"name": "x-resilience-reroute", "string_match": {"exact": SPARE}}]);
    let mut retrying = patient_route();
    retrying["match"]["prefix"] = "/shadow-budget".into();
    retrying["route"]["retry_policy"] = json!({"retry_on": "5xx", "num_retries": 2});
    let keyed = KEYS.map(|(path, _, cluster)| route(path, path, cluster));
    let mut all = vec![steered, retrying, route("refused", "/kinds/refused", "refused")];
    all.extend(keyed);
    all.extend(["/unproved/own", "/watched/own"].map(|path| direct_response(path, path, 200, "Envoy's own")));
    all.push(patient_route());
    all
}

/// What there is to see before anything has happened.
fn at_first() -> Series {
    let mut expected = Series::default();
    let closed = [
        "trips",
        "unproved",
        "window",
        "shut",
        "shadow",
        "idle",
        "rate",
        "slow",
        "keyed",
        "probed",
        "fails",
        "email",
        SPARE,
        "lost",
        "lost-guard",
        "steered",
    ];
    let forced = ["forced", "shadow-forced"];
    for (policy, state) in closed.map(|name| (name, 0)).into_iter().chain(forced.map(|name| (name, 2))) {
        expected.set("circuit_breaker_state", &[("policy", policy), ("key", "_")], state);
    }
    for (policy, limit) in [("idle-bulkhead", 7), ("hold", 2), ("brief", 1), ("shadow-bulkhead", 1)] {
        for (name, value) in [("in_flight", 0), ("waiting", 0), ("limit", limit)] {
            expected.set(&format!("bulkhead_{name}"), &[("policy", policy)], value);
        }
    }
    let budgets = [
        ("retried", 600),
        ("poor", 3),
        ("hurried", 600),
        ("probed", 600),
        ("shadow-budget", 600),
        ("idle-budget", 60),
    ];
    for (policy, retries) in budgets {
        expected.set(BALANCE, &[("policy", policy)], retries);
    }
    // Nobody asks it.
    expected.set("circuit_breaker_state", &[("policy", "off"), ("key", "_")], 0);
    expected.set("vm_starts_total", &[], 1 + WORKERS as u64);
    expected.set("vm_deaths_total", &[("namespace", "default")], 0);
    expected.set("configuration_generation", &[("namespace", "default")], 1);
    expected
}

impl Play {
    pub async fn open() -> Self {
        let (upstream, spare) = (Upstream::start().await, Upstream::start().await);
        let mut document = document(&policies());
        document["trust_caller_headers"] = true.into();
        let listeners =
            [routed_listener("edge", &routes(), &[filter(&document)]), control_listener(&document)];
        let mut clusters: Vec<Value> =
            KEYS.iter().map(|(_, _, name)| cluster(name, &[upstream.addr()])).collect();
        clusters.push(cluster(UPSTREAM, &[upstream.addr()]));
        clusters.push(cluster(SPARE, &[spare.addr()]));
        clusters.push(cluster("refused", &[refused_address()]));
        let mut bootstrap = config::bootstrap(&listeners, &clusters);
        bootstrap["stats_flush_interval"] = "0.1s".into();
        let edge = Edge::start(bootstrap).await;
        let clients = edge.clients(Protocol::Http2).await;
        Self { upstream, spare, edge, clients, expected: at_first() }
    }

    /// Sends a GET by way of the next worker.
    pub async fn get(&mut self, path: &str, behaviour: &str) -> Answer {
        self.clients.send(told(path, behaviour)).await
    }

    /// A call of the policy of this name that the upstream gets.
    pub async fn call(&mut self, policy: &str, status: u16, outcome: &str) {
        let path = format!("/{policy}");
        let before = self.upstream.requests_to(&path);
        let answer = self.get(&path, &format!("status={status}")).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, "upstream\n"), "{path}");
        assert_eq!(self.upstream.requests_to(&path), before + 1);
        self.called(policy, outcome, false);
    }

    pub async fn probe(&mut self, policy: &str, status: u16, outcome: &str) {
        self.call(policy, status, outcome).await;
        self.probed(policy, outcome);
    }

    /// The policy refuses so many, and says so.
    pub async fn refused(&mut self, policy: &str, reason: &str, times: u64) {
        for _ in 0..times {
            let answer = self.get(&format!("/{policy}"), "").await;
            assert_eq!(answer.header("x-resilience"), format!("{policy};reason={reason};source=none"));
        }
        self.rejected(policy, reason, "_", times);
    }

    /// A request that the upstream has in hand until it is released.
    pub async fn hold(&mut self, path: &str) -> Pending {
        self.hold_request(told(path, "hang")).await
    }

    pub async fn hold_request(&mut self, request: Request) -> Pending {
        let before = self.upstream.requests();
        let pending = self.clients.next_worker().start(request).await.unwrap();
        self.upstream.wait_requests(before + 1).await;
        pending
    }

    /// Has the upstream fail a request each time, and returns how often it got it.
    pub async fn attempts(&mut self, policy: &str, request: Request) -> u64 {
        let before = self.upstream.requests();
        assert_eq!(self.clients.send(request.header("x-behave", "status=503")).await.status, 503);
        self.called(policy, "failure", false);
        let attempts = (self.upstream.requests() - before) as u64;
        if attempts > 1 {
            self.expected.add(RETRIES, &[("policy", policy), ("decision", "granted")], attempts - 1);
        }
        attempts
    }

    pub fn called(&mut self, policy: &str, outcome: &str, slow: bool) {
        self.expected.add(CALLS, &calls_of(policy, outcome, slow), 1);
    }

    pub fn probed(&mut self, policy: &str, outcome: &str) {
        self.expected.add(PROBES, &[("policy", policy), ("outcome", outcome)], 1);
    }

    pub fn rejected(&mut self, policy: &str, reason: &str, class: &str, times: u64) {
        let labels = [("policy", policy), ("reason", reason), ("class", class)];
        self.expected.add(REJECTIONS, &labels, times);
    }

    pub fn fell(&mut self, policy: &str, reason: &str, source: &str, times: u64) {
        let labels = [("policy", policy), ("reason", reason), ("source", source)];
        self.expected.add("fallbacks_total", &labels, times);
    }

    pub fn turned(&mut self, policy: &str, to: &str, cause: &str) {
        let labels = [("policy", policy), ("to", to), ("cause", cause)];
        self.expected.add("circuit_breaker_transitions_total", &labels, 1);
    }

    pub fn was_open(&mut self, policy: &str, from: Moment, to: Moment) {
        self.expected.add_within(OPEN, &[("policy", policy)], from.until(to));
    }

    pub fn state(&mut self, policy: &str, key: &str, state: u64) {
        self.expected.set("circuit_breaker_state", &[("policy", policy), ("key", key)], state);
    }
}
