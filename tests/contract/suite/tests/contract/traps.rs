//! A VM that dies, with the policy to reload it.

use crate::scene::said;
use resilience_host_contract::{
    a_connection_to_each_worker, ask, ask_one, command, edge, events, names, probe,
};
use resilience_test_harness::config::{bootstrap, cluster, route};
use resilience_test_harness::{Envoy, PATIENCE, Request, Upstream, eventually, refused_address};
use std::time::{Duration, Instant};

const IDLE: Duration = Duration::from_secs(2);

#[tokio::test(flavor = "multi_thread")]
async fn a_trap_costs_one_worker_its_vm_and_what_was_in_flight_there() {
    let upstream = Upstream::start().await;
    let mut listener = edge(&[probe("probe", "vm", "queue")], &[route("all", "/", "up")]);
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["stream_idle_timeout"] = format!("{}s", IDLE.as_secs()).into();
    let envoy = Envoy::builder(bootstrap(&[listener], &[cluster("up", &[upstream.addr()])])).start().await;
    let mut workers = a_connection_to_each_worker(envoy.addr("edge").await, 4).await;
    let (dead, mut victim) = workers.pop_first().unwrap();
    let (other, mut unharmed) = workers.pop_first().unwrap();

    let hang = |case: &str| Request::get("/").header("x-case", case).header("x-behave", "hang");
    ask(&mut victim, "put key=k value=kept; increment kind=gauge name=held by=1").await;
    let started = Instant::now();
    let pause = Request::get("/").header("x-case", "paused").header("x-probe", "pause");
    let paused = victim.start(pause).await.unwrap();
    let in_flight = victim.start(hang("in-flight")).await.unwrap();
    let elsewhere = unharmed.start(hang("elsewhere")).await.unwrap();
    upstream.wait_in_flight(2).await;

    let trapped = victim.send(command("trap").header("x-case", "trapped")).await.unwrap();
    assert_eq!((trapped.status, trapped.text()), (503, String::new()));
    envoy.wait_log("told to trap").await;

    // The upstream's answer finds no VM to pass it on.
    upstream.release();
    let lost = in_flight.headers().await.unwrap().finish().await;
    assert_eq!((lost.status, lost.text()), (503, String::new()));
    assert_eq!(elsewhere.headers().await.unwrap().finish().await.text(), "upstream\n");
    // Nobody is left to resume what was paused: it hangs until it has been idle for too long. The answer that Envoy
    // then makes finds no VM either.
    assert!(!paused.is_over());
    let gave_up = paused.headers().await.unwrap().finish().await;
    assert_eq!(gave_up.status, 503);
    // A little less is as long to Envoy, whose timers are set by the moment at which its event loop woke up.
    assert!(started.elapsed() + Duration::from_millis(50) >= IDLE, "{:?}", started.elapsed());

    // The same connection, so the same worker, has another VM soon.
    let vm: u32 = eventually("a new VM", PATIENCE, async || {
        let answer = victim.send(command("vm")).await.unwrap();
        (answer.status == 200).then(|| answer.text().parse().unwrap())
    })
    .await;
    assert_eq!(vm, 7);
    assert_ne!(vm, dead);
    assert_eq!(ask_one(&mut unharmed, "vm").await, other.to_string());
    let kept = ask(&mut victim, "get key=k; value kind=gauge name=held").await;
    assert!(kept[0].starts_with("kept ") && kept[1] == "1", "{kept:?}");

    // Of all that was in hand there, no callback ever ran again; elsewhere all did.
    for case in ["paused", "in-flight", "trapped"] {
        assert_eq!(names(&events(&envoy, "probe", case)), ["request_headers"], "{case}");
    }
    assert_eq!(names(&events(&envoy, "probe", "elsewhere")).last(), Some(&"delete"));
}

/// Nothing ticks in the place of a dead VM until somebody asks that worker for something: a quiet worker is one observer and
/// one sign of life less for as long as it is quiet.
#[tokio::test(flavor = "multi_thread")]
async fn a_dead_vm_comes_back_with_the_next_request_and_ticks() {
    let (envoy, edge) = crate::with_probe("tick=5", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let (dead, mut victim) = workers.pop_first().unwrap();
    let (_, mut other) = workers.pop_first().unwrap();
    assert_eq!(victim.send(command("trap")).await.unwrap().status, 503);
    let ticks = envoy.stat(&format!("wasmcustom.probe_ticks_probe_{dead}")).await;
    // Many times what Envoy leaves between two reloads here.
    let so_far: u64 = ask_one(&mut other, "ticks of=probe").await.parse().unwrap();
    eventually("ticks of a worker that lives", PATIENCE, async || {
        (ask_one(&mut other, "ticks of=probe").await.parse::<u64>().unwrap() > so_far + 100).then_some(())
    })
    .await;
    assert_eq!(envoy.stat("wasmcustom.probe_configured_probe").await, Some(6));
    assert_eq!(envoy.stat(&format!("wasmcustom.probe_ticks_probe_{dead}")).await, ticks);

    let vm: u32 = eventually("a new VM", PATIENCE, async || {
        let answer = victim.send(command("vm")).await.unwrap();
        (answer.status == 200).then(|| answer.text().parse().unwrap())
    })
    .await;
    envoy.wait_stat(&format!("wasmcustom.probe_ticks_probe_{vm}"), |ticks| ticks > 0).await;
    assert_eq!(envoy.stat("wasmcustom.probe_configured_probe").await, Some(7));
}

/// The queue of a dead VM is still there for those who know its number, with nobody to wake, until another VM takes it.
#[tokio::test(flavor = "multi_thread")]
async fn telling_a_dead_vm_harms_nobody() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = crate::with_probe("queue", upstream.addr()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let (dead, mut victim) = workers.pop_first().unwrap();
    assert_eq!(victim.send(command("trap")).await.unwrap().status, 503);
    for worker in workers.values_mut() {
        assert_eq!(ask_one(worker, &format!("tell to={dead} as=lost vm")).await, "ok");
    }
    let (heir, mut worker) = workers.pop_first().unwrap();
    let queue = ask_one(&mut worker, &format!("register name=probe.{dead}")).await;
    for _ in 0..3 {
        assert_eq!(ask_one(&mut worker, &format!("dequeue queue={queue}")).await, "as=lost vm");
    }
    let (_, mut other) = workers.pop_first().unwrap();
    assert_eq!(ask_one(&mut other, &format!("tell to={dead} as=heir vm")).await, "ok");
    assert_eq!(said(&envoy, "heir", "queue_ready").await, [heir.to_string()]);
}

/// Why the policy is always set: without it that worker refuses everything from then on.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_policy_a_worker_stays_dead() {
    let mut filter = probe("probe", "vm", "");
    filter["typed_config"]["config"].as_object_mut().unwrap().remove("failure_policy");
    let envoy = resilience_host_contract::envoy(&[filter], &[], &[]).start().await;
    let mut workers = a_connection_to_each_worker(envoy.addr("edge").await, 4).await;
    let (_, mut victim) = workers.pop_first().unwrap();
    assert_eq!(victim.send(command("trap")).await.unwrap().status, 503);
    for _ in 0..100 {
        assert_eq!(victim.send(command("vm")).await.unwrap().status, 503);
    }
    for (vm, worker) in &mut workers {
        assert_eq!(ask_one(worker, "vm").await, vm.to_string());
    }
}
