//! What it costs to write a request's headers: Envoy matches its route again, one route after the other.

use crate::variants::{HEALTHY, Variant, capped_filter, charged_filter, empty_filter, proxied, start};
use crate::{measure, middle, number};
use resilience_test_harness::{Envoy, config};
use serde_json::Value;
use std::net::SocketAddr;

/// How many routes Envoy looks at before the one that is asked for.
const OTHERS: usize = 499;

/// Prints the figures.
pub async fn print(upstream: &Envoy, address: SocketAddr) {
    let route = |number: usize| config::route("other", &format!("/other-{number}/"), "upstream");
    let routes: Vec<Value> = (0..OTHERS).map(route).chain([proxied()]).collect();
    println!("{} routes, of which the last is asked for", routes.len());
    let mut all = Vec::new();
    for (name, filters) in [
        ("no filter", vec![]),
        ("empty filter", vec![empty_filter()]),
        ("retry budget, nothing written", vec![capped_filter()]),
        ("retries and timeouts, written", vec![charged_filter()]),
    ] {
        let envoy = start(&filters, &routes, address, 1).await;
        all.push(Variant::of(name, HEALTHY.to_owned(), envoy).await);
    }
    let table = measure(&all, upstream, number("ROUTES_TURNS", 50));
    let [_, empty, capped, charged] = [0, 1, 2, 3].map(|which| middle(&table[which]));
    println!(
        "CPU beyond the empty filter: {:.2} us with nothing written, {:.2} us with headers written",
        capped - empty,
        charged - empty
    );
}
