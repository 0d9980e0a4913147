//! Four workers whose requests are all of one policy: what sharing its state costs, and how often they meet in it.

use crate::load;
use crate::variants::{HEALTHY, bulkhead_filter, empty_filter, proxied, start};
use crate::{micros, middle, number, spread};
use resilience_test_harness::Envoy;
use serde_json::Value;
use std::net::SocketAddr;

const WORKERS: u32 = 4;
/// Enough for every worker to have some.
const CONNECTIONS: usize = 16;
const WARM_UP: usize = 4_000;

struct Variant {
    name: &'static str,
    envoy: Envoy,
    address: SocketAddr,
    cpu: Vec<f64>,
}

impl Variant {
    async fn new(name: &'static str, filter: Value, upstream: SocketAddr, workers: u32) -> Self {
        let envoy = start(&[filter], &[proxied()], upstream, workers).await;
        let address = envoy.addr("edge").await;
        Self { name, envoy, address, cpu: Vec::new() }
    }

    fn drive(&self, requests: usize) -> f64 {
        let before = self.envoy.cpu();
        load::run_over(CONNECTIONS, self.address, HEALTHY, 200, requests);
        micros(self.envoy.cpu() - before) / requests as f64
    }
}

/// Prints the figures.
pub async fn print(upstream: SocketAddr) {
    let (turns, requests) = (number("HOT_TURNS", 20), number("HOT_REQUESTS", 5_008));
    // Each connection sends as many.
    let requests = requests.next_multiple_of(CONNECTIONS);
    let mut all = [
        Variant::new("empty filter, 1 worker", empty_filter(), upstream, 1).await,
        Variant::new("empty filter, 4 workers", empty_filter(), upstream, WORKERS).await,
        Variant::new("breaker and bulkhead, 1 worker", bulkhead_filter(), upstream, 1).await,
        Variant::new("breaker and bulkhead, 4 workers", bulkhead_filter(), upstream, WORKERS).await,
    ];
    for variant in &all {
        variant.drive(WARM_UP);
    }
    let before = met(&all[3].envoy).await;
    for turn in 0..turns {
        let first = turn % all.len();
        for which in 0..all.len() {
            let variant = &mut all[(first + which) % 4];
            let cpu = variant.drive(requests);
            variant.cpu.push(cpu);
        }
    }
    println!(
        "one policy, {turns} turns of {requests} requests over {CONNECTIONS} connections; CPU per request in us, and its spread"
    );
    for variant in &all {
        let (least, most) = spread(variant.cpu.iter().copied());
        println!("  {:<32} {:7.2}  ({least:.2} to {most:.2})", variant.name, middle(&variant.cpu));
    }
    let [empty_one, empty_four, ours_one, ours_four] = all.each_ref().map(|variant| middle(&variant.cpu));
    println!("CPU, 4 workers / 1 worker, breaker and bulkhead: {:.2}", ours_four / ours_one);
    let (one, four) = (ours_one - empty_one, ours_four - empty_four);
    println!("CPU beyond the empty filter, 1 worker: {one:.2} us, 4 workers: {four:.2} us");
    let after = met(&all[3].envoy).await;
    let per = |was: u64, is: u64| (is - was) as f64 * 100_000.0 / (turns * requests) as f64;
    println!(
        "4 workers, per 100 000 requests: {:.1} store conflicts, {:.1} give-ups",
        per(before.0, after.0),
        per(before.1, after.1)
    );
}

/// How often a write met another's, and how often it was given up, for whatever operation.
async fn met(envoy: &Envoy) -> (u64, u64) {
    let stats = envoy.get("/stats?filter=resilience_store_").await.body;
    let sum = |metric: &str| {
        let of = |line: &str| line.contains(metric).then(|| line.rsplit_once(": ")?.1.parse::<u64>().ok());
        stats.lines().filter_map(of).flatten().sum()
    };
    (sum("resilience_store_conflicts_total"), sum("resilience_store_give_ups_total"))
}
