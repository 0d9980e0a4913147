//! The configuration changes while requests are in flight whose answers will be replaced, or that went elsewhere: each is answered
//! by the one that let it in, and what it held comes back to the policy of that name.

use crate::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Debug, Clone, Copy)]
enum Way {
    Listener,
    Extension,
}

/// What `/canary` answers tells the versions apart; the second has the same policies in another order, and other fallbacks.
fn version(number: u32) -> Value {
    let text = |name: &str| json!({"static": {"status": 200, "text": format!("{name} of {number}")}});
    let bulkhead = json!({"bulkhead": {"max_concurrent_calls": 50}});
    let elsewhere = json!({"on": ["refusal"], "reroute": {"cluster": SPARE, "policy": "guard"}});
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let mut policies = vec![
        with(fragile("shop", 1_000_000, json!([text("shop")])), bulkhead.clone()),
        with(
            with(fragile("upload", 1_000_000, json!([text("upload")])), bulkhead.clone()),
            json!({"timeout": {"total": "3s"}}),
        ),
        with(fragile("moved", 1, json!([elsewhere])), forced),
        with(fragile("guard", 1_000_000, json!([text("guard")])), bulkhead.clone()),
        with(fragile("leaving", 1_000_000, json!([text("leaving")])), bulkhead),
    ];
    if number > 1 {
        policies.pop();
        policies.reverse();
    }
    policies.push(canary(number));
    document(&policies)
}

impl Way {
    async fn scene(self, scratch: Scratch) -> (Scene, DynamicFile) {
        let resources = [self.resource(&version(1), &scratch)];
        let file = DynamicFile::new(scratch.file("discovered.json"), &resources);
        match self {
            Self::Extension => {
                let discovered = config::discovered_wasm_filter("resilience", file.path());
                let manager = managing(&[discovered], &[], &scratch);
                (Scene::listening(&[listener("edge", manager)], scratch).await, file)
            }
            Self::Listener => (Scene::discovering(&file, scratch).await, file),
        }
    }

    fn resource(self, document: &Value, scratch: &Scratch) -> Value {
        match self {
            Self::Extension => config::extension_resource(filter(document)),
            Self::Listener => {
                config::listener_resource(listener("edge", managing(&[filter(document)], &[], scratch)))
            }
        }
    }
}

/// A request that one of the upstreams has in hand.
async fn start(scene: &mut Scene, request: Request) -> Pending {
    let reached = scene.world.upstream.requests() + scene.spare.requests();
    let pending = scene.http2.next_worker().start(request).await.expect("a connection");
    eventually("one more request at an upstream", PATIENCE, async || {
        (scene.world.upstream.requests() + scene.spare.requests() > reached).then_some(())
    })
    .await;
    pending
}

/// Answers that will fail, and what will be in their places; the last belongs to an upload that takes too long.
async fn in_flight(scene: &mut Scene) -> Vec<(Pending, &'static str, String)> {
    let mut all = Vec::new();
    let by_guard = format!(
        "{}, {}",
        mark("moved", "circuit_open", "reroute"),
        mark("guard", "upstream_failure", "static")
    );
    for _ in 0..WORKERS {
        for (path, body, mark) in [
            ("/shop", "shop of 1", mark("shop", "upstream_failure", "static")),
            ("/moved", "guard of 1", by_guard.clone()),
            ("/leaving", "leaving of 1", mark("leaving", "upstream_failure", "static")),
        ] {
            let pending = start(scene, told(Request::get(path), "status=500; hang")).await;
            all.push((pending, body, mark));
        }
        let request = told(Request::post("/upload", "half").unfinished(), "whole");
        all.push((start(scene, request).await, "upload of 1", mark("upload", "timeout", "static")));
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_flight_is_answered_by_the_configuration_that_let_it_in() {
    for way in [Way::Extension, Way::Listener] {
        let (mut scene, mut file) = way.scene(Scratch::new()).await;
        let pending = in_flight(&mut scene).await;
        file.replace(&[way.resource(&version(2), &scene.scratch)]);
        serves(scene.edge.address, 2).await;
        scene.world.upstream.release();
        scene.spare.release();
        for (pending, body, mark) in pending {
            let answer = pending.headers().await.expect("an answer").finish().await;
            assert_eq!(
                (answer.status, answer.text().as_str(), &answer.broken),
                (200, body, &None),
                "{way:?}"
            );
            assert_eq!(all(&answer.headers, "x-resilience"), [mark], "{way:?}");
        }
        let times = WORKERS as u64;
        for policy in ["shop", "guard", "upload"] {
            scene.empty(policy).await;
        }
        scene.edge.wait_calls("shop", calls(0, times, 0)).await;
        scene.edge.wait_calls("guard", calls(0, times, 0)).await;
        // Of the policy that is gone, too.
        scene.edge.wait_calls("leaving", calls(0, times, 0)).await;
        for (policy, reason) in [
            ("shop", "upstream_failure"),
            ("guard", "upstream_failure"),
            ("upload", "timeout"),
            ("leaving", "upstream_failure"),
        ] {
            assert_eq!(scene.fallbacks(policy, reason, "static").await, times, "{way:?} {policy}");
        }
        assert_eq!(scene.fallbacks("moved", "circuit_open", "reroute").await, times, "{way:?}");

        // What comes now is the new one's.
        scene.http1 = scene.edge.clients(Protocol::Http1).await;
        for (path, body) in [("/shop", "shop of 2"), ("/moved", "guard of 2"), ("/leaving", "upstream\n")] {
            assert_eq!(scene.get(path, "status=500").await.text(), body, "{way:?}");
        }
        scene.sound();
    }
}

/// Clients that ask one after the other until they are told to stop; each answer is checked. Listeners that drain leave their
/// connections alone.
struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicUsize>,
    clients: Vec<tokio::task::JoinHandle<()>>,
}

impl Load {
    fn start(address: SocketAddr) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let client =
            |number| tokio::spawn(Self::client(address, number, Arc::clone(&stop), Arc::clone(&answered)));
        let clients = (0..16).map(client).collect();
        Self { stop, answered, clients }
    }

    async fn client(address: SocketAddr, number: usize, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) {
        let path = if number.is_multiple_of(2) { "/shop" } else { "/moved" };
        let protocol = if number < 8 { Protocol::Http1 } else { Protocol::Http2 };
        let forms =
            ["status=500; delay=5ms", "status=503; chunked", "status=500; body=", "status=500; size=50000"];
        let mut connection = Connection::open(address, protocol).await.expect("a connection");
        for words in forms.into_iter().cycle() {
            if stop.load(Ordering::SeqCst) {
                return;
            }
            if !connection.is_open() {
                connection = Connection::open(address, protocol).await.expect("a connection");
            }
            let answer = connection.send(told(Request::get(path), words)).await.expect("an answer");
            let text = answer.text();
            let is_ours = text.starts_with("shop of ") || text.starts_with("guard of ");
            assert!(answer.status == 200 && is_ours && answer.broken.is_none(), "{path} {words}: {answer:?}");
            answered.fetch_add(1, Ordering::SeqCst);
        }
    }

    /// Waits until so many more were answered.
    async fn more(&self, count: usize) {
        let enough = self.answered.load(Ordering::SeqCst) + count;
        eventually("more answers", PATIENCE, async || {
            assert!(!self.clients.iter().any(tokio::task::JoinHandle::is_finished), "a client gave up");
            (self.answered.load(Ordering::SeqCst) >= enough).then_some(())
        })
        .await;
    }

    /// How many were answered in all.
    async fn end(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        for client in self.clients {
            client.await.expect("a content client");
        }
        self.answered.load(Ordering::SeqCst) as u64
    }
}

/// Under load, through several changes: everybody is answered by one version or the other, and each answer is counted once.
#[tokio::test(flavor = "multi_thread")]
async fn everybody_is_answered_while_it_changes_again_and_again() {
    for way in [Way::Extension, Way::Listener] {
        let (scene, mut file) = way.scene(Scratch::new()).await;
        scene.world.upstream.only_count();
        scene.spare.only_count();
        let load = Load::start(scene.edge.address);
        load.more(300).await;
        for number in 2..=4 {
            file.replace(&[way.resource(&version(number), &scene.scratch)]);
            serves(scene.edge.address, number).await;
            load.more(300).await;
        }
        let answered = load.end().await;
        println!("{way:?}: {answered} answers through three changes");
        let of = async |policy, reason, source| scene.fallbacks(policy, reason, source).await;
        let shops = of("shop", "upstream_failure", "static").await;
        let guards = of("guard", "upstream_failure", "static").await;
        assert_eq!(
            (shops + guards, of("moved", "circuit_open", "reroute").await),
            (answered, guards),
            "{way:?}"
        );
        assert_eq!(
            (scene.world.upstream.requests() as u64, scene.spare.requests() as u64),
            (shops, guards),
            "{way:?}"
        );
        scene.edge.wait_calls("shop", calls(0, shops, 0)).await;
        scene.edge.wait_calls("guard", calls(0, guards, 0)).await;
        scene.empty("shop").await;
        scene.empty("guard").await;
        scene.sound();
    }
}
