//! `max_metrics`: what is beyond is not shown, and that is; requests do not notice.

use crate::*;

const DROPPED: &str = "resilience_metrics_dropped_total";
const POLICIES: usize = 300;
/// The least that can be configured.
const MOST: u32 = 100;

fn name(index: usize) -> String {
    format!("shop-{index}")
}

/// A request to every policy of a range by every worker; returns how many of each were sent.
async fn used(clients: &mut Clients, policies: std::ops::Range<usize>) -> u64 {
    for worker in 0..WORKERS {
        for index in policies.clone() {
            let request = Request::get(&format!("/{}", name(index)));
            assert_eq!(clients.worker(worker).send(request).await.unwrap().status, 200);
        }
    }
    WORKERS as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn beyond_the_most_series_nothing_is_shown_and_everything_is_served() {
    let upstream = Upstream::start().await;
    let policies: Vec<Value> =
        (0..POLICIES).map(|index| policy(&name(index), json!({"consecutive_failures": 1}))).collect();
    let mut document = document(&policies);
    document["max_metrics"] = MOST.into();
    let edge = Edge::before(upstream.addr(), &document).await;
    let mut clients = edge.clients(Protocol::Http1).await;

    // What nobody uses is shown as long as there is plenty of room for what somebody uses.
    let shown = |metrics: &Metrics, name: &str| metrics.of(name).count();
    let unused = eventually("those that are not used", PATIENCE, async || {
        let metrics = edge.envoy.prometheus().await;
        let unused = shown(&metrics, "resilience_circuit_breaker_state");
        (unused >= MOST as usize / 2 - 5).then_some(unused)
    })
    .await;
    tokio::time::sleep(2 * TICK + TICK / 4).await;
    let metrics = edge.envoy.prometheus().await;
    let later = shown(&metrics, "resilience_circuit_breaker_state");
    assert!(later >= unused && later <= MOST as usize / 2, "{unused}, {later}");
    assert_eq!(metrics.of(DROPPED).count(), 0);

    // Those that are used first are right.
    let each = used(&mut clients, 200..210).await;
    assert_eq!(clients.get("/shop-200", "status=500").await, 500);
    assert_eq!(clients.get("/shop-200", "status=200").await, 503);
    for index in 200..210 {
        edge.wait_calls(&name(index), Calls { success: each, failure: u64::from(index == 200), ignored: 0 })
            .await;
    }
    assert_eq!(edge.transitions("shop-200", "open", "consecutive_failures").await, 1);
    assert_eq!(edge.state("shop-200").await, Some(2));
    assert_eq!(edge.count(DROPPED, &[]).await, 0);
    let warnings = || {
        let lines = edge.envoy.log_lines().into_iter();
        lines.filter(|line| line.contains("\"max_metrics\" allows more")).collect::<Vec<_>>()
    };
    assert_eq!(warnings(), Vec::<String>::new());

    // Then there is no room for all.
    upstream.reset_counts();
    used(&mut clients, 0..150).await;
    used(&mut clients, 0..150).await;
    assert_eq!(upstream.requests(), 2 * 150 * WORKERS);
    assert!(edge.count(DROPPED, &[]).await > 0);
    // Breakers do not go by what is shown.
    for index in 140..150 {
        let path = format!("/{}", name(index));
        assert_eq!(clients.get(&path, "status=500").await, 500);
        for _ in 0..WORKERS {
            assert_eq!(clients.get(&path, "status=200").await, 503);
        }
    }
    let warnings = warnings();
    // One for each worker, and for the main thread's VM if it leads.
    assert!((WORKERS..=WORKERS + 1).contains(&warnings.len()), "{warnings:#?}");
    assert!(warnings.iter().all(|line| line.contains("defined 100 metrics")), "{warnings:#?}");
    // What was there before goes on.
    let before = edge.calls("shop-205").await.success;
    let each = used(&mut clients, 205..206).await;
    edge.wait_calls("shop-205", Calls { success: before + each, ..Calls::default() }).await;
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
