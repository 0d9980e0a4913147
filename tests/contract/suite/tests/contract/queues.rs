//! Shared queues: how one worker wakes another, and how a paused request goes on.

use crate::scene::said;
use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask, ask_one, names, probe};
use resilience_test_harness::{Connection, Pending, Request, Upstream};
use std::collections::BTreeMap;

/// Pauses a request on each worker; gives them by worker with the number of the stream there.
async fn paused(
    upstream: &Upstream,
    workers: &mut BTreeMap<u32, Connection>,
) -> BTreeMap<u32, (Pending, u32)> {
    let mut waiting = BTreeMap::new();
    for (vm, worker) in workers.iter_mut() {
        let case = format!("paused-{vm}");
        let request = Request::get("/").header("x-case", &case).header("x-probe", "pause");
        let pending = worker.start(request).await.unwrap();
        // The next request of the connection is handled after it; contexts of a VM are numbered in order.
        let next: u32 = ask_one(worker, "stream").await.parse().unwrap();
        waiting.insert(*vm, (pending, next - 1));
    }
    assert_eq!(upstream.requests(), 0);
    waiting
}

#[tokio::test(flavor = "multi_thread")]
async fn another_worker_resumes_a_paused_request_or_answers_it() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = with_probe("queue", upstream.addr()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let waiting = paused(&upstream, &mut workers).await;
    for (at, (vm, (pending, stream))) in waiting.into_iter().enumerate() {
        assert!(!pending.is_over());
        let (_, other) = workers.iter_mut().find(|(other, _)| **other != vm).unwrap();
        let what = if at % 2 == 0 { "resume" } else { "refuse" };
        let told = ask_one(other, &format!("tell to={vm} as=told {what} stream={stream}")).await;
        assert_eq!(told, "ok");
        let answer = pending.headers().await.unwrap().finish().await;
        let case = format!("paused-{vm}");
        let events = resilience_host_contract::all_events(&envoy, "probe", &case).await;
        if what == "resume" {
            assert_eq!((answer.status, upstream.requests()), (200, at / 2 + 1));
        } else {
            assert_eq!((answer.status, upstream.requests()), (429, at / 2 + 1));
            assert_eq!(events.last().unwrap().get("details"), "refused_while_waiting");
            // A refusal while waiting comes back through our own response headers like any local reply.
            assert_eq!(names(&events)[..2], ["request_headers", "response_headers"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_stream_of_the_same_worker_resumes_a_paused_request_or_answers_it() {
    let upstream = Upstream::start().await;
    let (_envoy, edge) = with_probe("", upstream.addr()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let waiting = paused(&upstream, &mut workers).await;
    for (at, (vm, (pending, stream))) in waiting.into_iter().enumerate() {
        let what = if at % 2 == 0 { "resume" } else { "refuse" };
        let worker = workers.get_mut(&vm).unwrap();
        assert_eq!(ask_one(worker, &format!("{what} stream={stream}")).await, "ok");
        let status = pending.headers().await.unwrap().status;
        assert_eq!(status, if what == "resume" { 200 } else { 429 });
    }
    assert_eq!(upstream.requests(), 2);
}

/// What a VM learns about a stream that has gone is a status, not a trap.
#[tokio::test(flavor = "multi_thread")]
async fn a_paused_request_whose_client_left_is_not_there_to_resume() {
    let upstream = Upstream::start().await;
    let (envoy, edge) = with_probe("", upstream.addr()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    for (vm, (pending, stream)) in paused(&upstream, &mut workers).await {
        pending.abandon();
        let events = resilience_host_contract::all_events(&envoy, "probe", &format!("paused-{vm}")).await;
        assert_eq!(names(&events), ["request_headers", "log", "done", "delete"]);
        let worker = workers.get_mut(&vm).unwrap();
        assert_eq!(ask_one(worker, &format!("effective stream={stream}")).await, "E2");
    }
}

/// A queue is a name in a `vm_id`; to register it again takes it over.
#[tokio::test(flavor = "multi_thread")]
async fn a_queue_is_found_by_name_and_keeps_its_order() {
    let (_envoy, edge) = with_probe("", resilience_test_harness::refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let (_, mut one) = workers.pop_first().unwrap();
    let (_, mut two) = workers.pop_first().unwrap();
    assert_eq!(ask_one(&mut one, "resolve vm_id= name=q").await, "none");
    let queue = ask_one(&mut one, "register name=q").await;
    assert_eq!(ask(&mut two, "resolve vm_id= name=q; resolve vm_id=vm name=q").await, [&*queue, &*queue]);
    assert_eq!(ask_one(&mut two, "resolve vm_id=other name=q").await, "none");
    assert_eq!(ask_one(&mut two, "register name=q").await, queue);
    assert_eq!(ask_one(&mut one, &format!("dequeue queue={queue}")).await, "empty");
    assert_eq!(ask_one(&mut one, "enqueue queue=987654 data=x").await, "E1");
    // In one callback, before the owner can be woken: first in, first out.
    let commands =
        format!("enqueue queue={queue} data=a; enqueue queue={queue} data=b; dequeue queue={queue}");
    let in_order = ask(&mut two, &format!("{commands}; dequeue queue={queue}; dequeue queue={queue}")).await;
    assert_eq!(in_order, ["ok", "ok", "a", "b", "empty"]);
}

/// The root of the VM that registered a queue last is woken, whoever put something in, and where.
#[tokio::test(flavor = "multi_thread")]
async fn to_register_a_queue_again_moves_the_waking() {
    let filters = [probe("probe", "vm", ""), probe("other", "other", "")];
    let envoy = resilience_host_contract::envoy(&filters, &[], &[]).start().await;
    let mut workers = a_connection_to_each_worker(envoy.addr("edge").await, 4).await;
    let vms: Vec<u32> = workers.keys().copied().collect();
    let mut asked =
        async |vm: u32, commands: &str| ask(workers.get_mut(&vm).unwrap(), commands).await.pop().unwrap();
    let woken = async |case: &str| said(&envoy, case, "queue_ready").await.remove(0);

    let queue = asked(vms[0], "only name=probe; register name=q").await;
    let put = |case: &str| format!("enqueue queue={queue} data=as={case},vm");
    for (case, by) in [("by-another", vms[3]), ("by-itself", vms[0])] {
        assert_eq!(asked(by, &put(case)).await, "ok");
        assert_eq!(woken(case).await, vms[0].to_string());
    }
    assert_eq!(asked(vms[1], "register name=q").await, queue);
    for (case, by) in [("after", vms[3]), ("by-the-first", vms[0])] {
        assert_eq!(asked(by, &put(case)).await, "ok");
        assert_eq!(woken(case).await, vms[1].to_string());
    }
    // The number is enough, for those who do not share its `vm_id` too.
    let foreign = put("foreign");
    assert_eq!(asked(vms[2], &format!("only name=other; resolve vm_id=vm name=q; {foreign}")).await, "ok");
    assert_eq!(woken("foreign").await, vms[1].to_string());
    assert_eq!(asked(vms[2], &format!("register name=q; {}", put("last"))).await, "ok");
    assert_eq!(woken("last").await, vms[2].to_string());
}
