//! A listener that is replaced or removed while a request of it is paused.

use crate::scene::{Place, place};
use resilience_host_contract::{a_connection_to_each_worker, all_events, ask, ask_one, edge, names, probe};
use resilience_test_harness::config::{bootstrap, cluster, listener_resource, route, with_listeners_from};
use resilience_test_harness::{
    Connection, DynamicFile, Envoy, PATIENCE, Pending, Protocol, Request, Scratch, Upstream, eventually,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Seconds: longer than any test, and as short as can be.
const LONG: u32 = 600;
const SHORT: u32 = 1;

/// Beside a listener that is discovered, named `edge`, one that stays, with a plugin of the same VMs.
struct Stage {
    upstream: Upstream,
    envoy: Envoy,
    file: DynamicFile,
    workers: BTreeMap<u32, Connection>,
    _scratch: Scratch,
}

fn named(name: &str, filter: &Value) -> Value {
    let mut listener = edge(std::slice::from_ref(filter), &[route("all", "/", "up")]);
    listener["name"] = name.into();
    listener
}

fn discovered(filter: &Value) -> Vec<Value> {
    vec![listener_resource(named("edge", filter))]
}

impl Stage {
    /// What was replaced goes after `drain` seconds.
    async fn new(drain: u32) -> Self {
        let (scratch, upstream) = (Scratch::new(), Upstream::start().await);
        let file =
            DynamicFile::new(scratch.file("lds.json"), &discovered(&probe("old", "vm", "tick=20 queue")));
        let stays = named("stays", &probe("probe", "vm", ""));
        let bootstrap = bootstrap(&[stays], &[cluster("up", &[upstream.addr()])]);
        let builder = Envoy::builder(with_listeners_from(bootstrap, file.path()));
        let envoy = builder.argument("--drain-time-s").argument(drain.to_string()).start().await;
        let workers = a_connection_to_each_worker(envoy.addr("stays").await, 4).await;
        Self { upstream, envoy, file, workers, _scratch: scratch }
    }

    /// Replaces the filter of the discovered listener and waits until each worker has the new one.
    async fn replace(&mut self, filter: &Value) {
        self.file.replace(&discovered(filter));
        let draining = "listener_manager.total_filter_chains_draining";
        self.envoy.wait_stat(draining, |draining| draining == 1).await;
        // One of these tries the configuration, one is of the main thread.
        self.envoy.wait_stat("wasmcustom.probe_configured_new", |times| times == 6).await;
    }

    async fn pause(&self, case: &str) -> (Pending, Place) {
        let mut client = Connection::open(self.envoy.addr("edge").await, Protocol::Http1).await.unwrap();
        let request = Request::get("/").header("x-case", case).header("x-probe", "pause");
        let pending = client.start(request).await.unwrap();
        let place = place(&self.envoy, "old", case).await;
        (pending, place)
    }

    /// Another worker than that of a request puts commands into the queue there.
    async fn tell(&mut self, at: Place, case: &str, commands: &str) {
        let (_, other) = self.workers.iter_mut().find(|(vm, _)| **vm != at.vm).unwrap();
        let told = ask_one(other, &format!("tell to={} as={case} {commands}", at.vm)).await;
        assert_eq!(told, "ok");
    }

    async fn said(&self, plugin: &str, case: &str) -> String {
        eventually(&format!("{case} in {plugin}"), PATIENCE, async || {
            let events = resilience_host_contract::events(&self.envoy, plugin, case);
            Some(events.first()?.get("said").to_owned())
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn while_a_removed_listener_drains_its_root_ticks_and_is_woken() {
    let mut stage = Stage::new(LONG).await;
    let (woken, at) = stage.pause("woken").await;
    let (ticked, there) = stage.pause("ticked").await;
    stage.file.replace(&[]);
    stage.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 1).await;
    stage.tell(at, "told", &format!("look stream={} & resume stream={}", at.stream, at.stream)).await;
    assert_eq!(stage.said("old", "told").await, "ok|ok");
    assert_eq!(woken.headers().await.unwrap().status, 200);
    let worker = stage.workers.get_mut(&there.vm).unwrap();
    let leave = format!("on-tick of=old as=due resume stream={}", there.stream);
    assert_eq!(ask(worker, &leave).await, ["ok"]);
    assert_eq!(stage.said("old", "due").await, "ok");
    assert_eq!(ticked.headers().await.unwrap().status, 200);
    assert_eq!(stage.upstream.requests(), 2);
}

/// The same where the listener got another filter chain and the old one drains.
#[tokio::test(flavor = "multi_thread")]
async fn while_a_replaced_filter_chain_drains_its_root_ticks_and_is_woken() {
    let mut stage = Stage::new(LONG).await;
    let (woken, at) = stage.pause("woken").await;
    let (ticked, there) = stage.pause("ticked").await;
    stage.replace(&probe("new", "vm", "")).await;
    stage.tell(at, "told", &format!("resume stream={}", at.stream)).await;
    assert_eq!(stage.said("old", "told").await, "ok");
    assert_eq!(woken.headers().await.unwrap().status, 200);
    let worker = stage.workers.get_mut(&there.vm).unwrap();
    assert_eq!(ask(worker, &format!("on-tick of=old as=due resume stream={}", there.stream)).await, ["ok"]);
    assert_eq!(stage.said("old", "due").await, "ok");
    assert_eq!(ticked.headers().await.unwrap().status, 200);
}

/// A queue is the VM's, and any root of a VM can resume any of its streams.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_root_that_registers_the_queue_resumes_the_streams_of_the_old_one() {
    let mut stage = Stage::new(LONG).await;
    let (pending, at) = stage.pause("waits").await;
    stage.replace(&probe("new", "vm", "queue")).await;
    stage.tell(at, "told", &format!("resume stream={}", at.stream)).await;
    assert_eq!(stage.said("new", "told").await, "ok");
    assert_eq!(pending.headers().await.unwrap().status, 200);
}

/// It wakes the root that registered it last, and nobody once that is deleted, whatever other roots its VM has.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_whose_root_is_gone_wakes_nobody_until_another_registers_it() {
    let mut stage = Stage::new(SHORT).await;
    let (pending, at) = stage.pause("waits").await;
    let deleted = stage.envoy.stat("wasmcustom.probe_roots_deleted").await.unwrap_or(0);
    stage.file.replace(&[]);
    // A root in the VM of the main thread and in each worker's.
    stage.envoy.wait_stat("wasmcustom.probe_roots_deleted", |roots| roots >= deleted + 5).await;
    pending.headers().await.expect_err("the connection was closed");
    let events = all_events(&stage.envoy, "old", "waits").await;
    assert_eq!(names(&events), ["request_headers", "log", "done", "delete"]);
    stage.tell(at, "lost", "vm").await;
    let worker = stage.workers.get_mut(&at.vm).unwrap();
    let queue = ask_one(worker, &format!("register name=probe.{}", at.vm)).await;
    // It has kept what was put in.
    assert_eq!(ask_one(worker, &format!("dequeue queue={queue}")).await, "as=lost vm");
    stage.tell(at, "told", "vm").await;
    assert_eq!(stage.said("probe", "told").await, at.vm.to_string());
}
