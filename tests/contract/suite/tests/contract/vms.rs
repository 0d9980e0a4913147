//! VMs, what is run in them, their timers and their clock.

use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask_one, probe};
use resilience_test_harness::{
    Connection, PATIENCE, Protocol, eventually, monotonic_nanoseconds, refused_address,
};

/// Seven VMs begin for four workers: one that compiles the module, one that tries the configuration and is thrown
/// away, one of the main thread, one for each worker. All but the first are configured.
#[tokio::test(flavor = "multi_thread")]
async fn there_are_more_vms_than_workers() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    envoy.wait_stat("wasmcustom.probe_configured_probe", |times| times == 6).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let begun = ask_one(workers.first_entry().unwrap().get_mut(), "get key=vms").await;
    assert!(begun.starts_with("6 "), "{begun}");
    assert_eq!(envoy.stat("wasmcustom.probe_configured_probe").await, Some(6));
    assert_eq!(envoy.stat("wasm.envoy.wasm.runtime.v8.active").await, Some(6));
}

/// A plugin of the same module and `vm_id` shares the VMs: each has a root in them, and the start of the VM runs for
/// each root again.
#[tokio::test(flavor = "multi_thread")]
async fn plugins_of_one_vm_id_share_their_vms() {
    let filters = [probe("a", "vm", ""), probe("b", "vm", "")];
    let envoy = resilience_host_contract::envoy(&filters, &[], &[]).start().await;
    envoy.wait_stat("wasmcustom.probe_configured_b", |times| times == 6).await;
    assert_eq!(envoy.stat("wasm.envoy.wasm.runtime.v8.active").await, Some(6));
    assert_eq!(envoy.stat("wasmcustom.probe_started").await, Some(12));
    let mut worker = Connection::open(envoy.addr("edge").await, Protocol::Http1).await.unwrap();
    // Each plugin was tried in a VM of its own.
    let begun = ask_one(&mut worker, "get key=vms").await;
    assert!(begun.starts_with("7 "), "{begun}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_worker_ticks_without_any_traffic() {
    let (envoy, _) = with_probe("tick=20", refused_address()).await;
    // No request was sent. The main thread's VM ticks too; the one that tried the configuration is gone.
    let ticking = async || {
        let stats = envoy.get("/stats?filter=probe_ticks").await.body;
        let counts = stats.lines().filter_map(|line| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        counts.filter(|ticks| *ticks >= 10).count()
    };
    eventually("five VMs that tick", PATIENCE, async || (ticking().await == 5).then_some(())).await;
    assert_eq!(ticking().await, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_have_the_clock_of_the_machine() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    for _ in 0..5 {
        for worker in workers.values_mut() {
            let before = monotonic_nanoseconds();
            let now: u64 = ask_one(worker, "clock").await.parse().unwrap();
            assert!((before..=monotonic_nanoseconds()).contains(&now), "{now}");
        }
    }
}

/// The clock moves during a callback: it is not the time at which the event loop woke up.
#[tokio::test(flavor = "multi_thread")]
async fn the_clock_does_not_stand_still_within_a_callback() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    let commands = "put key=n value=0; clock; add key=n times=1000; clock";
    let answers = resilience_host_contract::ask(&mut worker, commands).await;
    let [before, after] = [1, 3].map(|at| answers[at].parse::<u64>().unwrap());
    assert!(after > before + 100_000, "{answers:?}");
}
