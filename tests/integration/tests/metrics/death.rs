//! VMs die in the midst of everything: what they held is counted once it is given back, and the gauges are right again.

use crate::*;
use std::ops::RangeInclusive;

/// Longer than it takes to count a death.
const COUNTED: Duration = Duration::from_secs(30);

fn policies() -> [Value; 3] {
    let breaker = json!({
        "consecutive_failures": 1,
        "wait_duration_in_open_state": "100ms",
        "permitted_number_of_calls_in_half_open_state": 4,
        "max_wait_duration_in_half_open_state": FOR_EVER,
    });
    let bulkhead = json!({"max_concurrent_calls": 3, "max_wait_duration": FOR_EVER, "max_queue": 5});
    let budget = json!({"percent_can_retry": 0, "min_retries_per_second": 10, "ttl": "60s"});
    [
        policy("probing", breaker),
        guarded("hold", &json!({"bulkhead": bulkhead})),
        guarded("retried", &json!({"retry": {"max_retries": 2}, "retry_budget": budget})),
    ]
}

struct Scene {
    upstream: Upstream,
    edge: Edge,
    clients: Clients,
    expected: Series,
}

impl Scene {
    async fn open() -> Self {
        let upstream = Upstream::start().await;
        let filter = trappable_filter(&document(&policies()));
        let mut bootstrap =
            bootstrap(&[routed_listener("edge", &[patient_route()], &[filter])], upstream.addr());
        bootstrap["stats_flush_interval"] = "0.1s".into();
        let edge = Edge::start(bootstrap).await;
        let clients = edge.clients(Protocol::Http2).await;
        let mut scene = Self { upstream, edge, clients, expected: Series::default() };
        scene.gauges(0, (0, 0), 600);
        scene.expected.set("bulkhead_limit", &[("policy", "hold")], 3);
        scene.expected.set("configuration_generation", &[("namespace", "default")], 1);
        scene.vms(5, 0..=0);
        scene
    }

    fn gauges(&mut self, state: u64, (in_flight, waiting): (u64, u64), balance: u64) {
        let hold = [("policy", "hold")];
        self.expected.set("circuit_breaker_state", &[("policy", "probing"), ("key", "_")], state);
        self.expected.set("bulkhead_in_flight", &hold, in_flight);
        self.expected.set("bulkhead_waiting", &hold, waiting);
        self.expected.set(BALANCE, &[("policy", "retried")], balance);
    }

    fn vms(&mut self, starts: u64, deaths: RangeInclusive<u64>) {
        self.expected.set("vm_starts_total", &[], starts);
        self.expected.set_within("vm_deaths_total", &[("namespace", "default")], deaths);
    }

    fn turned(&mut self, to: &str, cause: &str) {
        let labels = [("policy", "probing"), ("to", to), ("cause", cause)];
        self.expected.add("circuit_breaker_transitions_total", &labels, 1);
    }

    fn probed(&mut self, outcome: &str, times: u64) {
        self.expected.add(PROBES, &[("policy", "probing"), ("outcome", outcome)], times);
    }

    fn called(&mut self, policy: &str, outcome: &str, times: u64) {
        self.expected.add(CALLS, &calls_of(policy, outcome, false), times);
    }

    fn reclaimed(&mut self, policy: &str, kind: &str, leases: u64) {
        self.expected.add("leases_reclaimed_total", &[("policy", policy), ("kind", kind)], leases);
    }

    async fn hold(&mut self, worker: usize, path: &str) -> Pending {
        let before = self.upstream.requests();
        let request = Request::get(path).header("x-behave", "hang");
        let pending = self.clients.worker(worker).start(request).await.unwrap();
        self.upstream.wait_requests(before + 1).await;
        pending
    }

    async fn wait(&mut self, worker: usize, of: u64) -> Pending {
        let pending = self.clients.worker(worker).start(Request::get("/hold")).await.unwrap();
        self.edge.wait_count("resilience_bulkhead_waiting", &[("policy", "hold")], of).await;
        pending
    }

    /// Kills the VM of a worker, to which nothing is sent afterwards.
    async fn kill_for_good(&mut self, worker: usize) {
        let trap = Request::get("/kill").header("x-test-trap", "now");
        assert_eq!(self.clients.worker(worker).send(trap).await.unwrap().status, 503);
        self.edge.envoy.wait_log("a test pulled the trap").await;
    }

    async fn wait_deaths(&self, deaths: u64) {
        eventually("the death to be counted", COUNTED, async || {
            (self.edge.count("resilience_vm_deaths_total", &[]).await == deaths).then_some(())
        })
        .await;
    }
}

async fn answered(pending: impl IntoIterator<Item = Pending>) {
    for pending in pending {
        assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    }
}

/// A VM that holds probes, permits and retries, and one of those that wait.
async fn a_quiet_worker() {
    let mut scene = Scene::open().await;
    let (opened, _) = Moment::of(scene.clients.get("/probing", "status=500")).await;
    scene.called("probing", "failure", 1);
    scene.turned("open", "consecutive_failures");
    pass_since(opened, Duration::from_millis(100)).await;
    let (half_open, first) = Moment::of(scene.hold(0, "/probing")).await;
    scene.turned("half_open", "wait_over");
    scene.expected.add_within(OPEN, &[("policy", "probing")], opened.until(half_open));
    let doomed = [
        first,
        scene.hold(0, "/probing").await,
        scene.hold(0, "/hold").await,
        scene.hold(0, "/hold").await,
        scene.hold(0, "/retried").await,
    ];
    let living =
        [scene.hold(1, "/probing").await, scene.hold(1, "/hold").await, scene.hold(2, "/retried").await];
    let paused = scene.wait(0, 1).await;
    let (waits, waiting) = Moment::of(scene.wait(2, 2)).await;
    // Each may make two retries.
    scene.gauges(1, (3, 2), 600 - 4);
    scene.edge.wait_series(&scene.expected).await;

    scene.kill_for_good(0).await;
    // What the other waits for comes with the lease.
    let (admitted, ()) = Moment::of(answered([waiting])).await;
    scene.called("hold", "success", 1);
    scene.expected.observe(WAITED, &[("policy", "hold")], &waits.until(admitted));
    scene.reclaimed("probing", "probe", 2);
    scene.reclaimed("hold", "permit", 2);
    // What was kept for the dead counts as made.
    scene.reclaimed("retried", "retry", 2);
    scene.gauges(1, (1, 0), 600 - 4);
    // A death is counted some time after the lease.
    scene.vms(5, 0..=1);
    scene.edge.wait_series(&scene.expected).await;
    scene.wait_deaths(1).await;
    scene.vms(5, 1..=1);
    scene.edge.wait_series(&scene.expected).await;

    // It comes back with the next request of its worker, and counts.
    for status in [200, 404] {
        let request = Request::get("/retried").header("x-behave", format!("status={status}"));
        assert_eq!(scene.clients.worker(0).send(request).await.unwrap().status, status);
    }
    scene.called("retried", "success", 2);
    scene.vms(6, 1..=1);
    scene.edge.wait_series(&scene.expected).await;

    scene.upstream.release();
    answered(living).await;
    for policy in ["probing", "hold", "retried"] {
        scene.called(policy, "success", 1);
    }
    scene.probed("success", 1);
    // Of four probes two came back with the lease, so three are to come.
    let mut closed = opened;
    for _ in 0..3 {
        let (moment, status) = Moment::of(scene.clients.get("/probing", "status=200")).await;
        assert_eq!(status, 200);
        closed = moment;
    }
    scene.called("probing", "success", 3);
    scene.probed("success", 3);
    scene.turned("closed", "probes");
    scene.expected.observe(RECOVERY, &[("policy", "probing")], &opened.until(closed));
    scene.gauges(0, (0, 0), 600 - 2);
    scene.edge.wait_series(&scene.expected).await;
    for pending in doomed.into_iter().chain([paused]) {
        pending.abandon();
    }
    scene.upstream.wait_in_flight(0).await;
    scene.edge.wait_series(&scene.expected).await;
    let deaths = scene.edge.envoy.log_lines().into_iter().filter(|line| line.contains("VMs died"));
    assert_eq!(deaths.count(), 1);
}

/// All of them, each of which comes back at once: whoever led is among them, or was on the main thread. Some die before their
/// first tick, and count as started all the same.
async fn one_worker_after_the_other() {
    let mut scene = Scene::open().await;
    for worker in 0..WORKERS {
        let answer = scene.clients.worker(worker).send(Request::get("/hold")).await.unwrap();
        assert_eq!(answer.status, 200);
        kill(&scene.edge, scene.clients.worker(worker)).await;
    }
    scene.called("hold", "success", WORKERS as u64);
    scene.vms(5 + WORKERS as u64, 0..=WORKERS as u64);
    scene.edge.wait_series(&scene.expected).await;
    scene.wait_deaths(WORKERS as u64).await;
    scene.vms(5 + WORKERS as u64, WORKERS as u64..=WORKERS as u64);
    scene.edge.wait_series(&scene.expected).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_dead_held_is_counted_and_the_gauges_are_right_again() {
    tokio::join!(a_quiet_worker(), one_worker_after_the_other());
}
