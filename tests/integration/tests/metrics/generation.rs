//! Which configuration is the newest, by number, while listeners come, drain and go.

use crate::*;
use resilience_test_harness::config::{self, listener_resource};

const GENERATION: &str = "resilience_configuration_generation";
const REJECTED: &str = "listener_manager.lds.update_rejected";

/// A document that is told apart by what `/canary` answers.
fn version(number: u32, namespace: &str) -> Value {
    let mut document = document(&[canary(number)]);
    document["namespace"] = namespace.into();
    document
}

fn resource(document: &Value) -> Value {
    listener_resource(plain_listener("edge", filter(document)))
}

/// An Envoy that discovers its listeners, and drains those it replaces for so long.
async fn discovering(file: &DynamicFile, upstream: SocketAddr, drain_seconds: &str) -> Edge {
    let bootstrap = config::with_listeners_from(bootstrap(&[], upstream), file.path());
    Edge::of(envoy(bootstrap).argument("--drain-time-s").argument(drain_seconds)).await
}

async fn wait_generation(edge: &Edge, namespace: &str, generation: u64) {
    edge.wait_count(GENERATION, &[("namespace", namespace)], generation).await;
    // The same VMs serve all versions.
    edge.wait_count("resilience_vm_starts_total", &[], 1 + WORKERS as u64).await;
    assert_eq!(edge.count("resilience_vm_deaths_total", &[]).await, 0);
}

/// Each update counts once, whatever drains beside it; what is rejected counts nothing. Envoy gives a document that still drains
/// the root contexts it had: then it has taken over once the one between is gone.
async fn updates(drain_seconds: &str, drains_first: bool) {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let mut file = DynamicFile::new(scratch.file("listeners.json"), &[resource(&version(1, "shop"))]);
    let edge = discovering(&file, upstream.addr(), drain_seconds).await;
    wait_generation(&edge, "shop", 1).await;
    for generation in 2..=3 {
        file.replace(&[resource(&version(generation, "shop"))]);
        serves(edge.address, generation).await;
        wait_generation(&edge, "shop", generation.into()).await;
    }
    let mut wrong = version(4, "shop");
    wrong["policies"][0]["circuit_breaker"]["consecutive_failures"] = "many".into();
    let rejected = edge.envoy.stat(REJECTED).await.unwrap_or(0);
    file.replace(&[resource(&wrong)]);
    edge.envoy.wait_stat(REJECTED, |now| now > rejected).await;
    // Two ticks of each worker.
    tokio::time::sleep(2 * TICK + TICK / 4).await;
    wait_generation(&edge, "shop", 3).await;
    assert_eq!(edge.envoy.prometheus().await.of(GENERATION).count(), 1);
    if drains_first {
        edge.envoy.wait_stat("listener_manager.total_listeners_draining", |draining| draining == 0).await;
    }
    file.replace(&[resource(&version(2, "shop"))]);
    serves(edge.address, 2).await;
    wait_generation(&edge, "shop", 4).await;
}

/// Those of one namespace do not count another's.
async fn two_namespaces() {
    let upstream = Upstream::start().await;
    let scratch = Scratch::new();
    let listeners = |shop: u32, office: u32| {
        [("edge", shop, "shop"), ("other", office, "office")].map(|(name, number, namespace)| {
            listener_resource(plain_listener(name, filter(&version(number, namespace))))
        })
    };
    let mut file = DynamicFile::new(scratch.file("listeners.json"), &listeners(1, 1));
    let edge = discovering(&file, upstream.addr(), "86400").await;
    for (shop, office) in [(1, 1), (1, 2), (2, 2), (3, 2)] {
        file.replace(&listeners(shop, office));
        serves(edge.address, shop).await;
        serves(edge.envoy.addr("other").await, office).await;
        wait_generation(&edge, "shop", shop.into()).await;
        wait_generation(&edge, "office", office.into()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_configuration_that_takes_over_counts() {
    tokio::join!(updates("1", true), updates("6", false), two_namespaces());
}
