//! `make bench`: CPU per request of Envoy without a filter, with an empty proxy-wasm filter and with ours, side by side.
//!
//! Each variant is an Envoy of its own with one worker. A round drives every variant in turn, so that a machine that
//! changes its speed changes it for all; ratios are taken round by round and their median is what counts. CPU is the
//! kernel's account of all threads of the Envoy in question; the upstream is another process.

mod load;
mod memory;
mod variants;

use std::time::Duration;
use variants::{Variant, direct_response, empty_filter, our_filter, proxied, start_upstream};

const WARM_UP: usize = 4_000;

struct Options {
    rounds: usize,
    requests: usize,
}

#[tokio::main]
async fn main() {
    let number =
        |name: &str, default| std::env::var(name).map_or(default, |it| it.parse().expect("a number"));
    let options = Options { rounds: number("ROUNDS", 15), requests: number("REQUESTS", 8_000) };
    let upstream = start_upstream().await;
    let address = upstream.addr("upstream").await;

    let all = [
        Variant::new("proxied, no filter", &[], proxied(), address).await,
        Variant::new("proxied, empty filter", &[empty_filter()], proxied(), address).await,
        Variant::new("proxied, closed breaker", &[our_filter()], proxied(), address).await,
        Variant::new("direct response, empty filter", &[empty_filter()], direct_response(), address).await,
        Variant::new("static fallback, open breaker", &[our_filter()], proxied(), address).await,
    ];
    let [bare, empty, closed, direct, open] = [0, 1, 2, 3, 4];
    all[open].trip().await;
    for variant in &all {
        variant.drive(WARM_UP);
    }
    let mut table = vec![Vec::new(); all.len()];
    for _ in 0..options.rounds {
        for (variant, column) in all.iter().zip(&mut table) {
            column.push(variant.drive(options.requests));
        }
    }

    println!(
        "{} rounds of {} requests each; CPU per request in us: min, median, max",
        options.rounds, options.requests
    );
    for (variant, column) in all.iter().zip(&table) {
        let [min, median, max] = spread(column.iter().map(micros));
        println!("  {:<44} {min:7.2} {median:7.2} {max:7.2}", variant.name);
    }
    let by_round = |a: usize, b: usize| table[a].iter().zip(&table[b]).map(|(a, b)| (micros(a), micros(b)));
    let added = |a: usize| by_round(a, bare).map(|(with, without)| with - without);
    print_ratio("added CPU, closed breaker / empty filter", added(closed).zip(added(empty)), 1.3);
    print_ratio("CPU, open breaker / direct response behind an empty filter", by_round(open, direct), 1.2);
    drop(all);
    memory::print(address).await;
}

fn micros(cpu: &Duration) -> f64 {
    cpu.as_secs_f64() * 1e6
}

fn print_ratio(name: &str, pairs: impl Iterator<Item = (f64, f64)>, goal: f64) {
    let [min, median, max] = spread(pairs.map(|(a, b)| a / b));
    let verdict = if median <= goal { "met" } else { "MISSED" };
    println!("{name}: min {min:.2} median {median:.2} max {max:.2} (goal at most {goal}: {verdict})");
}

fn spread(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    [values[0], values[values.len() / 2], values[values.len() - 1]]
}
