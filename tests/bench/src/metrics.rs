//! What it costs that a request can be seen: this build of the module, and one that writes no metrics, side by side; and the same
//! with annotations.

use crate::variants::{
    HEALTHY, Variant, annotated_filter, bulkhead_filter_of, charged_filter_of, empty_filter, module,
    our_filter_of, path_in, proxied, start,
};
use crate::{PARTS, measure, middle, number, spread};
use resilience_test_harness::Envoy;
use serde_json::Value;
use std::net::SocketAddr;

/// A multiple of twice the number of variants.
const TURNS: usize = 180;
/// What the metrics of a healthy request may cost, in us.
const GOAL: f64 = 1.0;

/// Prints the figures.
pub async fn print(upstream: &Envoy, address: SocketAddr) {
    let variant = async |name: &'static str, filter: Value| {
        Variant::of(name, HEALTHY.to_owned(), start(&[filter], &[proxied()], address, 1).await).await
    };
    let (with, without) = (module(), path_in("RESILIENCE_MODULES").join("resilience_without_metrics.wasm"));
    println!("metrics: this build against one that writes none");
    // One pair twice: how much two of the same differ is how much to believe.
    let all = [
        variant("empty filter", empty_filter()).await,
        variant("breaker, no metrics", our_filter_of(&without)).await,
        variant("breaker", our_filter_of(&with)).await,
        variant("and a bulkhead, no metrics", bulkhead_filter_of(&without)).await,
        variant("and a bulkhead", bulkhead_filter_of(&with)).await,
        variant("the same, no metrics, once more", bulkhead_filter_of(&without)).await,
        variant("the same, once more", bulkhead_filter_of(&with)).await,
        variant("the same, annotated", annotated_filter()).await,
        variant("retries and timeouts, no metrics", charged_filter_of(&without)).await,
        variant("retries and timeouts", charged_filter_of(&with)).await,
    ];
    let table = measure(&all, upstream, number("METRICS_TURNS", TURNS));
    // Turn by turn: whatever changed the machine's speed changed it for both.
    let beyond = |pairs: &[(usize, usize)]| -> Vec<f64> {
        let of_turn = |turn: usize| pairs.iter().map(move |(one, two)| (*one, *two, turn));
        let each = (0..table[0].len()).flat_map(of_turn);
        each.map(|(one, two, turn)| table[one][turn] - table[two][turn]).collect()
    };
    for (name, pairs) in [
        ("metrics, breaker", &[(2, 1)][..]),
        ("metrics, breaker and bulkhead", &[(4, 3), (6, 5)]),
        ("metrics, retries and timeouts", &[(9, 8)]),
    ] {
        print_difference(name, &beyond(pairs), "");
    }
    // They all make the same single increment: together they are the better measure of it.
    let all = beyond(&[(2, 1), (4, 3), (6, 5), (9, 8)]);
    let verdict = if middle(&all) <= GOAL { "met" } else { "MISSED" };
    print_difference("metrics, all of these", &all, &format!("; goal at most {GOAL}: {verdict}"));
    print_difference("annotations", &beyond(&[(7, 4), (7, 6)]), "");
    print_difference("without metrics beyond itself", &beyond(&[(5, 3)]), "");
    print_difference("with metrics beyond itself", &beyond(&[(6, 4)]), "");
}

/// A difference over the whole run, and how it varies over the parts of the run.
fn print_difference(name: &str, differences: &[f64], verdict: &str) {
    let (least, most) = spread(differences.chunks(differences.len().div_ceil(PARTS)).map(middle));
    println!("{name}: {:+.2} us  ({least:+.2} to {most:+.2}{verdict})", middle(differences));
}
