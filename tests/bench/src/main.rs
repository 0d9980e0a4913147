//! `make bench`: CPU per request of Envoy without a filter, with an empty proxy-wasm filter and with ours, side by side.
//!
//! Each variant is an Envoy of its own with one worker. They are driven in turn, a few hundred requests at a time, so that a
//! machine that changes its speed changes it for all. CPU is the kernel's account of all threads of the Envoy in question,
//! which has a processor to itself; the upstream and the load have another. A variant's figure is the mean of the middle
//! half of its turns; the spread is that of the figures of ten parts of the run.
//!
//! After that the same over a table of many routes, where it shows what a header costs that is written.
//!
//! Before that, unpinned: how soon a waiter of one worker is woken by another, what four workers cost that share one policy, and
//! what a dependency that hangs costs its neighbour.
//!
//! What failed answers cost that are replaced, and how long a caller waits for a fallback while other traffic runs.
//!
//! With the argument `large` (`make bench-large`): one policy and ten thousand, side by side in the same way. With `against`
//! (`make bench-against`): this build of the module and another one. With `metrics` (`make bench-metrics`) only what metrics
//! cost, which is part of the whole too.

mod against;
mod fallback;
mod hot;
mod large;
mod load;
mod memory;
mod metrics;
mod neighbour;
mod routes;
mod variants;
mod wake;

use resilience_test_harness::{Envoy, pin};
use std::net::SocketAddr;
use std::time::Duration;
use variants::{
    Variant, bulkhead_filter, capped_filter, charged_filter, direct_response, empty_filter, our_filter,
    proxied, rates_filter, retried, start_upstream,
};

const WARM_UP: usize = 4_000;
const PARTS: usize = 10;
/// A multiple of twice the number of variants: each goes first as often as any other, in both directions.
const TURNS: usize = 154;

#[tokio::main]
async fn main() {
    let upstream = start_upstream().await;
    let address = upstream.addr("upstream").await;
    let asked = |word: &str| std::env::args().any(|argument| argument == word);
    if asked("large") {
        large::print(&upstream, address).await;
    } else if asked("against") {
        against::print(&upstream, address).await;
    } else if asked("metrics") {
        metrics::print(&upstream, address).await;
    } else if asked("fallback") {
        fallback::print(&upstream, address).await;
    } else {
        wake::print().await;
        hot::print(address).await;
        neighbour::print(address).await;
        fallback::print(&upstream, address).await;
        compare(&upstream, address).await;
        routes::print(&upstream, address).await;
        metrics::print(&upstream, address).await;
        memory::print(address).await;
    }
}

/// Without a filter, with an empty one, and with ours.
async fn compare(upstream: &Envoy, address: SocketAddr) {
    let all = [
        Variant::new("proxied, no filter", &[], proxied(), address).await,
        Variant::new("proxied, empty filter", &[empty_filter()], proxied(), address).await,
        Variant::new("proxied, closed breaker", &[our_filter()], proxied(), address).await,
        Variant::new("direct response, empty filter", &[empty_filter()], direct_response(), address).await,
        Variant::new("static fallback, open breaker", &[our_filter()], proxied(), address).await,
        Variant::new("proxied, rates by count", &[rates_filter("count")], proxied(), address).await,
        Variant::new("proxied, rates by time", &[rates_filter("time")], proxied(), address).await,
        Variant::new("proxied, breaker and bulkhead", &[bulkhead_filter()], proxied(), address).await,
        Variant::new("proxied, and a retry budget", &[capped_filter()], proxied(), address).await,
        Variant::new("proxied, retries and timeouts", &[charged_filter()], proxied(), address).await,
        Variant::new("proxied, no filter, by its route", &[], retried(), address).await,
    ];
    let [bare, empty, closed, direct, open, by_count, by_time, bulkhead] = [0, 1, 2, 3, 4, 5, 6, 7];
    let [capped, charged, by_route] = [8, 9, 10];
    all[open].trip().await;
    let table = measure(&all, upstream, number("TURNS", TURNS));
    let added = |rows: &[&[f64]], which: usize| middle(rows[which]) - middle(rows[bare]);
    let goals =
        [(closed, 1.3), (by_count, 1.3), (by_time, 1.3), (bulkhead, 1.4), (capped, 1.5), (charged, 1.5)];
    for (which, goal) in goals {
        let name = all[which].name.trim_start_matches("proxied, ");
        print_ratio(&format!("added CPU, {name} / empty filter"), &table, goal, |rows| {
            added(rows, which) / added(rows, empty)
        });
    }
    // What is written has the router prepare for retries and set timers, as it does for a route that says so.
    print_ratio(
        "added CPU, retries and timeouts beyond those of a route / empty filter",
        &table,
        1.5,
        |rows| (added(rows, charged) - added(rows, by_route)) / added(rows, empty),
    );
    print_ratio("CPU, open breaker / direct response behind an empty filter", &table, 1.2, |rows| {
        middle(rows[open]) / middle(rows[direct])
    });
}

/// Drives the variants in turn and prints what a request costs in each. Returns the figures of every turn, by variant.
fn measure(all: &[Variant], upstream: &Envoy, turns: usize) -> Vec<Vec<f64>> {
    let requests = number("REQUESTS", 400);
    let pinned = all.iter().all(|variant| pin(variant.pid(), 0))
        && pin(upstream.pid(), 1)
        && pin(std::process::id(), 1);
    for variant in all {
        variant.drive(WARM_UP);
    }
    let mut table = vec![Vec::new(); all.len()];
    for turn in 0..turns {
        // Whoever follows a heavier one pays for what that left in the caches: each turn begins with another, and every
        // other goes backwards, so that all follow all.
        let mut order: Vec<_> = (0..all.len()).collect();
        order.rotate_left(turn % all.len());
        if turn / all.len() % 2 == 1 {
            order.reverse();
        }
        for which in order {
            table[which].push(micros(all[which].drive(requests)));
        }
    }
    let apart = if pinned { "a processor to itself" } else { "NOT a processor to itself" };
    println!("{turns} turns of {requests} requests each, {apart}; CPU per request in us, and its spread");
    for (variant, column) in all.iter().zip(&table) {
        let parts = spread(column.chunks(column.len().div_ceil(PARTS)).map(middle));
        println!("  {:<32} {:7.2}  ({:.2} to {:.2})", variant.name, middle(column), parts.0, parts.1);
    }
    table
}

/// A number that the environment may set.
fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |it| it.parse().expect("a number"))
}

fn micros(cpu: Duration) -> f64 {
    cpu.as_secs_f64() * 1e6
}

/// A ratio over the whole run, and how it varies over the parts of the run.
fn print_ratio(name: &str, table: &[Vec<f64>], goal: f64, ratio: impl Fn(&[&[f64]]) -> f64) {
    let whole = ratio(&table.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let size = table[0].len().div_ceil(PARTS);
    let parts = spread((0..table[0].len().div_ceil(size)).map(|part| {
        let rows: Vec<_> = table.iter().filter_map(|column| column.chunks(size).nth(part)).collect();
        ratio(&rows)
    }));
    let verdict = if whole <= goal { "met" } else { "MISSED" };
    println!("{name}: {whole:.2}  ({:.2} to {:.2}; goal at most {goal}: {verdict})", parts.0, parts.1);
}

/// The mean of the middle half: what disturbs a turn makes it longer by far, or follows one that was.
fn middle(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let quarter = sorted.len() / 4;
    let half = &sorted[quarter..sorted.len() - quarter];
    half.iter().sum::<f64>() / half.len() as f64
}

fn spread(values: impl Iterator<Item = f64>) -> (f64, f64) {
    values
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(value), most.max(value)))
}
