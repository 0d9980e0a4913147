//! Configurations that replace each other under a running process.

use resilience_host_contract::{all_events, ask, ask_one, edge, hide_exports, names, probe, probe_module};
use resilience_test_harness::config::{
    bootstrap, cluster, discovered_wasm_filter, extension_resource, listener_resource, route, wasm_filter,
    with_listeners_from,
};
use resilience_test_harness::{
    Connection, DynamicFile, Envoy, PATIENCE, Protocol, Request, Scratch, Upstream, eventually,
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long the turns of event loops are counted, and how many of them are none of a timer of 5 ms: with one on each of
/// four workers there are 1200, without any some dozens.
const WATCHED: Duration = Duration::from_millis(1500);
const BUSY: u64 = 400;

/// An Envoy whose listener a test replaces.
struct Stage {
    envoy: Envoy,
    upstream: Upstream,
    file: DynamicFile,
    replaced: u64,
    scratch: Scratch,
}

fn listener_with(filter: &Value) -> Vec<Value> {
    vec![listener_resource(edge(std::slice::from_ref(filter), &[route("all", "/", "up")]))]
}

impl Stage {
    async fn new(filter: Value) -> Self {
        let (scratch, upstream) = (Scratch::new(), Upstream::start().await);
        let file = DynamicFile::new(scratch.file("lds.json"), &listener_with(&filter));
        let mut bootstrap =
            with_listeners_from(bootstrap(&[], &[cluster("up", &[upstream.addr()])]), file.path());
        // What the workers do while nobody asks them anything, up to the moment of the question.
        bootstrap["enable_dispatcher_stats"] = true.into();
        bootstrap["stats_flush_on_admin"] = true.into();
        // A replaced listener goes after two seconds instead of ten minutes.
        let envoy = Envoy::builder(bootstrap).argument("--drain-time-s").argument("2").start().await;
        Self { envoy, upstream, file, replaced: 0, scratch }
    }

    /// The numbers of all VMs that ever ticked, each with the plugins whose ticks it had.
    async fn ticking(&self) -> BTreeMap<u32, BTreeSet<String>> {
        let mut ticking = BTreeMap::<_, BTreeSet<_>>::new();
        let stats = self.envoy.get("/stats?filter=probe_ticks").await.body;
        let counters =
            stats.lines().filter_map(|line| line.strip_prefix("wasmcustom.probe_ticks_")?.split_once(": "));
        for (name, _) in counters {
            let (plugin, vm) = name.rsplit_once('_').expect("a plugin and a number");
            ticking.entry(vm.parse().expect("a number")).or_default().insert(plugin.to_owned());
        }
        ticking
    }

    /// Waits until so many VMs have ticked.
    async fn wait_ticking(&self, vms: usize) {
        let ticking = async || (self.ticking().await.len() == vms).then_some(());
        eventually(&format!("{vms} VMs that tick"), PATIENCE, ticking).await;
    }

    /// Waits until a plugin has ticked in so many VMs.
    async fn wait_ticks_of(&self, plugin: &str, vms: usize) {
        let ticking = async || {
            let ticking = self.ticking().await;
            let of_plugin = ticking.values().filter(|plugins| plugins.contains(plugin)).count();
            (of_plugin == vms).then_some(())
        };
        eventually(&format!("{vms} VMs in which {plugin} ticks"), PATIENCE, ticking).await;
    }

    /// How often the event loops of all workers turn in a while.
    async fn turns(&self) -> u64 {
        let before = self.turns_so_far().await;
        tokio::time::sleep(WATCHED).await;
        self.turns_so_far().await - before
    }

    async fn turns_so_far(&self) -> u64 {
        // A question makes the workers hand over what they counted, and is answered before they have.
        for _ in 0..2 {
            self.envoy.get("/stats?filter=dispatcher").await;
        }
        let turns = "envoy_listener_manager_worker_dispatcher_loop_duration_us_count";
        self.envoy.prometheus().await.sum(turns, &[]) as u64
    }

    async fn connect(&self) -> Connection {
        Connection::open(self.envoy.addr("edge").await, Protocol::Http1).await.unwrap()
    }

    /// Replaces the listener and waits until the old one has gone.
    async fn replace(&mut self, filter: &Value) -> Connection {
        self.file.replace(&listener_with(filter));
        self.replaced += 1;
        let replaced = self.replaced;
        self.envoy.wait_stat("listener_manager.listener_modified", |times| times == replaced).await;
        // In this order: the old one begins to drain when the new one is warm.
        self.envoy.wait_stat("listener_manager.total_listeners_warming", |warming| warming == 0).await;
        self.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;
        self.connect().await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_data_survives_a_new_configuration_and_a_new_module() {
    let mut stage = Stage::new(probe("old", "same", "")).await;
    let mut worker = stage.connect().await;
    assert_eq!(ask_one(&mut worker, "put key=k value=kept").await, "ok");
    drop(worker);
    // The same module: the VMs stay, with a root more; one tried the configuration.
    let mut worker = stage.replace(&probe("new", "same", "")).await;
    assert!(ask(&mut worker, "only name=new; get key=k").await[1].starts_with("kept "));
    wait_vms(&mut worker, "new", "7 ").await;
    drop(worker);
    // Another module beside it: other VMs, the same data.
    let module = hide_exports(&std::fs::read(probe_module()).unwrap(), &["proxy_on_done"]);
    std::fs::write(stage.scratch.file("newer.wasm"), module).unwrap();
    let newer = wasm_filter("newer", &stage.scratch.file("newer.wasm"), "same", "newer", "name=newer");
    let mut worker = stage.replace(&newer).await;
    assert!(ask(&mut worker, "only name=newer; get key=k").await[1].starts_with("kept "));
    wait_vms(&mut worker, "newer", "13 ").await;
}

/// Waits until so many VMs have counted themselves: a worker may serve before its neighbours have theirs.
async fn wait_vms(worker: &mut Connection, name: &str, expected: &str) {
    let started = Instant::now();
    loop {
        let answers = ask(worker, &format!("only name={name}; get key=vms")).await;
        if answers[1].starts_with(expected) {
            return;
        }
        assert!(started.elapsed() < PATIENCE, "{expected}: {answers:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn shared_data_goes_with_the_last_vm_of_its_vm_id() {
    let mut stage = Stage::new(probe("first", "first", "")).await;
    let mut worker = stage.connect().await;
    assert_eq!(ask_one(&mut worker, "put key=k value=gone").await, "ok");
    drop(worker);
    let mut worker = stage.replace(&probe("between", "second", "")).await;
    assert_eq!(ask(&mut worker, "only name=between; get key=k").await, ["between", "none"]);
    drop(worker);
    eventually("the VMs of the first vm_id to be gone", PATIENCE, async || {
        (stage.envoy.stat("wasm.envoy.wasm.runtime.v8.active").await? <= 6).then_some(())
    })
    .await;
    let mut worker = stage.replace(&probe("again", "first", "")).await;
    assert_eq!(ask(&mut worker, "only name=again; get key=k").await, ["again", "none"]);
}

/// The timer outlives its root: the host arms it again at every turn, for nobody, as long as the VM lives.
#[tokio::test(flavor = "multi_thread")]
async fn the_timer_of_a_deleted_root_goes_on_unless_the_root_stopped_it_when_it_was_deleted() {
    let mut stage = Stage::new(probe("quiet", "same", "")).await;
    for (name, more, goes_on) in [("stops", "tick=5 stop", false), ("forgets", "tick=5", true)] {
        drop(stage.replace(&probe(name, "same", more)).await);
        // Eventually, here and below, because a busy machine may let a worker hand over late what it counted.
        let ticks = async || (stage.turns().await > BUSY).then_some(());
        eventually(&format!("the ticks of {name}"), PATIENCE, ticks).await;

        // There is a root of it in the VM of the main thread and in each worker's.
        let deleted = stage.envoy.stat("wasmcustom.probe_roots_deleted").await.unwrap_or(0);
        drop(stage.replace(&probe("quiet", "same", "")).await);
        stage.envoy.wait_stat("wasmcustom.probe_roots_deleted", |roots| roots >= deleted + 5).await;
        // What was still to be handed over of the time before is in this.
        stage.turns().await;
        let as_expected = async || ((stage.turns().await > BUSY) == goes_on).then_some(());
        let what = format!("timers of deleted roots: {name}, so they go on: {goes_on}");
        eventually(&what, PATIENCE, as_expected).await;
    }
}

/// A VM begins where its first tick is, which neither the one that only tries a configuration nor the one that compiles the
/// module has: one for each worker and the main thread. A new configuration gives them a root more, a new module gives
/// each a VM.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_new_module_brings_vms_that_tick() {
    let mut stage = Stage::new(probe("first", "same", "tick=5")).await;
    stage.wait_ticking(5).await;
    drop(stage.replace(&probe("second", "same", "tick=5")).await);
    stage.wait_ticks_of("second", 5).await;
    assert_eq!(stage.ticking().await.len(), 5);

    let module = hide_exports(&std::fs::read(probe_module()).unwrap(), &["proxy_on_done"]);
    std::fs::write(stage.scratch.file("newer.wasm"), module).unwrap();
    let newer = wasm_filter("newer", &stage.scratch.file("newer.wasm"), "same", "newer", "name=newer tick=5");
    drop(stage.replace(&newer).await);
    stage.wait_ticks_of("newer", 5).await;
    assert_eq!(stage.ticking().await.len(), 10);
}

/// What a replaced listener still had in hand when its time was over ends like any stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_outlives_its_listener_is_ended_with_it() {
    let mut stage = Stage::new(probe("old", "same", "")).await;
    let mut worker = stage.connect().await;
    let request = Request::get("/").header("x-case", "late").header("x-behave", "hang");
    let pending = worker.start(request).await.unwrap();
    stage.upstream.wait_in_flight(1).await;
    drop(stage.replace(&probe("new", "same", "")).await);
    let events = all_events(&stage.envoy, "old", "late").await;
    assert_eq!(names(&events), ["request_headers", "log", "done", "delete"]);
    let end = events.last().unwrap();
    assert_eq!(
        (end.get("details"), end.flags().as_str()),
        ("downstream_local_disconnect(filter_chain_is_being_removed)", "DC")
    );
    pending.headers().await.expect_err("the connection was closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_configuration_runs_once_and_leaves_the_old_one_serving() {
    let mut stage = Stage::new(probe("good", "vm", "put=good")).await;
    let mut worker = stage.connect().await;
    assert!(ask_one(&mut worker, "get key=configured").await.starts_with("good "));
    stage.file.replace(&listener_with(&probe("bad", "vm", "reject put=bad")));
    stage.envoy.wait_stat("listener_manager.lds.update_rejected", |rejected| rejected == 1).await;
    stage.envoy.wait_log("Failed to configure base Wasm plugin").await;
    assert_eq!(stage.envoy.stat("wasmcustom.probe_configured_bad").await, Some(1));
    // It ran beside the serving VMs, on their shared data: what it wrote before it refused is there.
    let answers = ask(&mut worker, "only name=good; get key=configured").await;
    assert!(answers[1].starts_with("bad "), "{answers:?}");
    let mut fresh = stage.connect().await;
    assert_eq!(ask_one(&mut fresh, "only name=good").await, "good");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_discovered_filter_is_replaced_on_open_connections_and_a_bad_one_refused() {
    let scratch = Scratch::new();
    // A discovered filter has the name that it was asked for by.
    let version = |name: &str, more: &str| {
        let mut filter = probe(name, "vm", more);
        filter["name"] = "probe".into();
        vec![extension_resource(filter)]
    };
    let mut file = DynamicFile::new(scratch.file("ecds.json"), &version("one", ""));
    let listener = edge(&[discovered_wasm_filter("probe", file.path())], &[route("all", "/", "up")]);
    let envoy = Envoy::builder(bootstrap(&[listener], &[cluster("up", &[])])).start().await;
    let mut kept = Connection::open(envoy.addr("edge").await, Protocol::Http1).await.unwrap();
    assert_eq!(ask(&mut kept, "only name=one; put key=k value=kept").await, ["one", "ok"]);

    file.replace(&version("bad", "reject"));
    envoy.wait_log("Failed to configure base Wasm plugin").await;
    assert_eq!(ask_one(&mut kept, "only name=one").await, "one");

    file.replace(&version("two", ""));
    // Until the new one is there the command is not for the old one: the request goes on, to a cluster without hosts.
    let found = eventually("the new filter on the old connection", PATIENCE, async || {
        let answer = kept.send(resilience_host_contract::command("only name=two; get key=k")).await.unwrap();
        (answer.status == 200).then(|| answer.text())
    })
    .await;
    assert!(found.starts_with("two\nkept "), "{found}");
}

#[tokio::test(flavor = "multi_thread")]
async fn validation_runs_the_configuration_of_static_listeners() {
    let validate =
        |more: &str| resilience_host_contract::envoy(&[probe("probe", "vm", more)], &[], &[]).validate();
    let good = validate("");
    assert_eq!(good.code, Some(0), "{}", good.output);
    let bad = validate("reject");
    assert_eq!(bad.code, Some(1), "{}", bad.output);
    assert!(bad.output.contains("Failed to configure base Wasm plugin"), "{}", bad.output);
}
