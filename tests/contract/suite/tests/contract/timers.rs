//! The timer of a root, set from callbacks that are not the root's.

use crate::scene::{Scene, said};
use resilience_host_contract::{ask, ask_one};
use resilience_test_harness::{Connection, PATIENCE, eventually};
use std::time::{Duration, Instant};

/// Milliseconds of a timer that no test sees firing.
const NEVER: u32 = 3_600_000;

async fn ticks(worker: &mut Connection) -> u64 {
    ask_one(worker, "ticks of=probe").await.parse().unwrap()
}

async fn more_ticks(worker: &mut Connection, count: u64) {
    let at_least = ticks(worker).await + count;
    eventually("ticks", PATIENCE, async || (ticks(worker).await >= at_least).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_callback_of_a_vm_sets_the_timer_of_its_root() {
    let mut scene = Scene::new().await;
    let (vm, other) = scene.two();
    // The measure of time: a worker that ticks all the while.
    assert_eq!(ask_one(scene.worker(other), "period milliseconds=5").await, "ok");
    let (soon, never) = ("period milliseconds=5", format!("period milliseconds={NEVER}"));
    for (at, stop) in ["period milliseconds=0", &never].into_iter().enumerate() {
        for from in ["request_headers", "queue_ready", "log", "done", "delete"] {
            // A longer one is in the place of a shorter one at once, and so is none.
            let case = format!("stop-{at}-{from}");
            assert_eq!(scene.at_tick(vm, &case, stop).await, ["ok"]);
            let before = ticks(scene.worker(vm)).await;
            more_ticks(scene.worker(other), 10).await;
            assert_eq!(ticks(scene.worker(vm)).await, before, "{case}");
            // A shorter one in the place of a longer one, or of none.
            let case = format!("start-{at}-{from}");
            match from {
                "request_headers" => assert_eq!(ask_one(scene.worker(vm), soon).await, "ok"),
                "queue_ready" => assert_eq!(scene.tell(other, vm, &case, soon).await, ["ok"]),
                _ => {
                    ask(scene.worker(vm), &format!("on-end event={from} as={case} {soon}")).await;
                    assert_eq!(said(&scene.envoy, &case, from).await, ["ok"]);
                }
            }
            more_ticks(scene.worker(vm), 3).await;
        }
    }
}

/// Whoever sets it at every request never ticks: the period begins anew, even where it is the same.
#[tokio::test(flavor = "multi_thread")]
async fn to_set_the_timer_again_starts_it_anew() {
    const PERIOD: Duration = Duration::from_secs(1);
    let mut scene = Scene::new().await;
    let (vm, _) = scene.two();
    let worker = scene.worker(vm);
    let again = format!("period milliseconds={}; ticks of=probe", PERIOD.as_millis());
    // A machine that holds the worker up for a third of the period proves nothing; then it is tried again.
    eventually("a worker that is asked often enough", PATIENCE, async || {
        let (started, mut asked, before) =
            (Instant::now(), Instant::now(), ask(worker, &again).await.remove(1));
        while started.elapsed() < PERIOD * 2 {
            tokio::time::sleep(PERIOD / 50).await;
            let ticks = ask(worker, &again).await.remove(1);
            if asked.elapsed() > PERIOD / 3 {
                return None;
            }
            asked = Instant::now();
            assert_eq!(ticks, before);
        }
        Some(())
    })
    .await;
    more_ticks(worker, 1).await;
}
