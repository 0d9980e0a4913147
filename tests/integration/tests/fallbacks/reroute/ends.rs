//! However a rerouted request ends, what it held of either policy comes back.

use super::*;

const REQUESTS: usize = 600;
const AT_ONCE: usize = 60;
const PERMITS: u32 = 8;

/// What becomes of a request by its number: words for the upstream, and whether its client leaves.
fn fate(number: usize) -> (&'static str, bool) {
    let words =
        ["status=200", "status=500", "close", "delay=5ms", "size=100000; chunked", "reset-mid-body", "hang"];
    // Coprime, so that everything meets everything.
    let words = words[number % words.len()];
    (words, words == "hang" || number.is_multiple_of(3))
}

/// A client with one request after the other. Returns how many were answered by the upstreams, and how many by us.
async fn client(edge: std::net::SocketAddr, first: usize) -> (usize, usize) {
    let (mut served, mut refused) = (0, 0);
    for number in (first..REQUESTS).step_by(AT_ONCE) {
        let (words, leaves) = fate(number);
        let protocol = if number.is_multiple_of(2) { Protocol::Http1 } else { Protocol::Http2 };
        let mut connection = Connection::open(edge, protocol).await.expect("a connection");
        let pending = connection.start(told(Request::get("/shop"), words)).await.expect("a connection");
        if leaves {
            // At any moment: before it was let in, while it waits, or when it is there.
            tokio::time::sleep(Duration::from_millis(number as u64 * 7 % 40)).await;
            pending.abandon();
            continue;
        }
        let answer = pending.headers().await.expect("an answer").finish().await;
        let marks = marked(&answer);
        let is_ours = marks.iter().any(|mark| mark.ends_with("source=none"));
        assert!(
            is_ours || marks.is_empty() || marks == [mark("shop", "bulkhead_full", "reroute")],
            "{marks:?}"
        );
        served += usize::from(!is_ours);
        refused += usize::from(is_ours);
    }
    (served, refused)
}

#[tokio::test(flavor = "multi_thread")]
async fn permits_of_both_policies_come_back_whatever_happens() {
    let bulkhead = |wait: &str| json!({"bulkhead": {"max_concurrent_calls": PERMITS, "max_wait_duration": wait, "max_queue": 20}});
    let shop = with(fragile("shop", 1_000_000, json!([elsewhere()])), bulkhead("10ms"));
    let policies = [shop, with(guard(bulkhead("20ms")), json!({"circuit_breaker": null}))];
    let scene = Scene::open(&document(&policies)).await;
    scene.world.upstream.only_count();
    scene.spare.only_count();
    let edge = scene.edge.address;
    let clients: Vec<_> = (0..AT_ONCE).map(|first| tokio::spawn(client(edge, first))).collect();
    let (mut served, mut refused) = (0, 0);
    for client in clients {
        let (by_upstreams, by_us) = client.await.expect("a content client");
        served += by_upstreams;
        refused += by_us;
    }
    println!("{served} served, {refused} refused by both, {} gone", REQUESTS - served - refused);
    for (policy, upstream) in [("shop", &scene.world.upstream), ("guard", &scene.spare)] {
        assert!(upstream.requests() > 20, "no real test of {policy}: {}", upstream.requests());
        upstream.release();
        scene.empty(policy).await;
    }
    // Every call that was let in has ended, once.
    let rerouted = scene.fallbacks("shop", "bulkhead_full", "reroute").await;
    eventually("every rerouted call counted", PATIENCE, async || {
        let Calls { success, failure, ignored } = scene.edge.calls("guard").await;
        (success + failure + ignored == rerouted).then_some(())
    })
    .await;
    assert_eq!(scene.edge.count("resilience_store_give_ups_total", &[("operation", "lease")]).await, 0);
    scene.sound();
}

/// All of them can be held again, and not one more.
#[tokio::test(flavor = "multi_thread")]
async fn a_guard_holds_what_its_limit_says_and_gives_all_of_it_back() {
    let full = json!({"bulkhead": {"max_concurrent_calls": PERMITS}});
    let policies = [shut("shop", json!([elsewhere()])), guard(full)];
    let mut scene = Scene::open(&document(&policies)).await;
    let mut seen = 0;
    for words in ["status=200", "status=500", "close", "size=50000; close-mid-body", "status=204; body="] {
        let mut held = Vec::new();
        for _ in 0..PERMITS {
            let request = told(Request::get("/shop"), "hang");
            held.push(scene.http2.next_worker().start(request).await.expect("a connection"));
            seen += 1;
            scene.spare.wait_requests(seen).await;
        }
        for _ in 0..WORKERS {
            let answer = scene.ask(Protocol::Http2, Request::get("/shop")).await.answer;
            assert_eq!((answer.status, marked(&answer)), (503, vec![mark("shop", "circuit_open", "none")]));
        }
        scene.spare.wait_in_flight(PERMITS as usize).await;
        assert_eq!(scene.spare.requests(), seen);
        // Half of them leave.
        let stay = held.split_off(PERMITS as usize / 2);
        held.into_iter().for_each(Pending::abandon);
        scene.spare.release();
        for pending in stay {
            assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 200);
        }
        scene.empty("guard").await;
        let answer = scene.ask(Protocol::Http2, told(Request::get("/shop"), words)).await.answer;
        assert_eq!(marked(&answer), [mark("shop", "circuit_open", "reroute")], "{words}");
        seen += 1;
        scene.empty("guard").await;
    }
    scene.sound();
}
