//! This build of the module against another one, side by side: the same document, whose fallback, as far as the other build
//! knows, answers whatever it can.

use crate::variants::{
    HEALTHY, Variant, bulkhead_filter, bulkhead_filter_of, empty_filter, path_in, proxied, start,
};
use crate::{PARTS, measure, middle, number, spread};
use resilience_test_harness::Envoy;
use serde_json::Value;
use std::net::SocketAddr;

/// With a body, which may be gRPC's.
const UPLOAD: &str = "POST /checkout HTTP/1.1\r\nhost: shop.example\r\nx-request-id: 1\r\n\
    content-type: application/json\r\ncontent-length: 2\r\n\r\n{}";
/// A multiple of twice the number of variants.
const TURNS: usize = 160;

/// Prints the figures.
pub async fn print(upstream: &Envoy, address: SocketAddr) {
    let variant = async |name: &'static str, filter: Value, request: &str| {
        Variant::of(name, request.to_owned(), start(&[filter], &[proxied()], address, 1).await).await
    };
    let other = || bulkhead_filter_of(&path_in("RESILIENCE_BASELINE"));
    println!(
        "breaker, bulkhead and fallback: this build against {}",
        path_in("RESILIENCE_BASELINE").display()
    );
    // Twice each: how much two of the same differ is how much to believe.
    let all = [
        variant("empty filter", empty_filter(), HEALTHY).await,
        variant("the other build", other(), HEALTHY).await,
        variant("this build", bulkhead_filter(), HEALTHY).await,
        variant("the other build, once more", other(), HEALTHY).await,
        variant("this build, once more", bulkhead_filter(), HEALTHY).await,
        variant("empty filter, with a body", empty_filter(), UPLOAD).await,
        variant("the other build, with a body", other(), UPLOAD).await,
        variant("this build, with a body", bulkhead_filter(), UPLOAD).await,
    ];
    let table = measure(&all, upstream, number("AGAINST_TURNS", TURNS));
    for (name, one, two) in [
        ("this build beyond the other", 2, 1),
        ("the same, once more", 4, 3),
        ("the other beyond itself", 3, 1),
        ("this build beyond itself", 4, 2),
        ("with a body, this build beyond the other", 7, 6),
    ] {
        let size = table[0].len().div_ceil(PARTS);
        let parts = table[one].chunks(size).zip(table[two].chunks(size));
        let (least, most) = spread(parts.map(|(one, two)| middle(one) - middle(two)));
        let whole = middle(&table[one]) - middle(&table[two]);
        println!("{name}: {whole:+.2} us  ({least:+.2} to {most:+.2})");
    }
}
