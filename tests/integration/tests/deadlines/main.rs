//! Timeouts and deadlines in a real Envoy with four workers. Here time is the subject, so it is measured, at the client: what
//! has to be early may be repeated on a machine that stood still, and what has to be late never is.

mod callers;
mod fit;
mod modes;
mod passed_on;
mod refusals;
mod streams;
mod total;
mod uploads;
mod waiting;

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const REJECTIONS: &str = "resilience_rejections_total";
const SHADOW: &str = "resilience_shadow_decisions_total";

/// The headers in which a caller can say how long it will wait, the last because the policies here say so.
const EXPECTED: &str = "x-envoy-expected-rq-timeout-ms";
const GRPC: &str = "grpc-timeout";
const OWN: &str = "x-deadline-ms";

const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The policy `shop` alone, of an edge that believes its callers or does not.
fn shop(trust: bool, sections: &Value) -> Value {
    let mut document = document(&[guarded("shop", sections)]);
    document["trust_caller_headers"] = trust.into();
    document
}

/// Before an upstream that may take all its time by its route.
async fn stage(trust: bool, sections: &Value) -> Stage {
    Stage::believing(&[patient_route()], &shop(trust, sections)).await
}

/// A request for `/shop` with a deadline in one of the headers.
fn within(header: &str, milliseconds: u64) -> Request {
    let request = if header == GRPC { Request::grpc("/shop/Cart/Add") } else { Request::get("/shop") };
    let value = if header == GRPC { format!("{milliseconds}m") } else { milliseconds.to_string() };
    request.header(header, value)
}

fn hanging(request: Request) -> Request {
    request.header("x-behave", "hang")
}

/// Sends a request, and says when its answer was there.
async fn timed(stage: &mut Stage, request: Request) -> (Answer, Duration) {
    let started = Instant::now();
    let answer = stage.ask(request).await;
    (answer, started.elapsed())
}

/// Plays `round`, which measures how long something took, until it was within `limit`: a machine on which others work may
/// stand still for longer than the margin, but not every time. What is always too late never passes.
async fn at_least_once_within(limit: Duration, mut round: impl AsyncFnMut() -> Duration) -> Duration {
    const ROUNDS: usize = 10;
    let mut took = Vec::new();
    for _ in 0..ROUNDS {
        took.push(round().await);
        if took.last().is_some_and(|it| *it < limit) {
            break;
        }
    }
    let last = took.last().copied().expect("one round at least");
    assert!(last < limit, "never within {limit:?}: {took:?}");
    last
}

/// Envoy's answer to what took too long, or the filter's.
fn timed_out(answer: &Answer) -> bool {
    answer.status == 504 || ["4", "14"].contains(&&*answer.header("grpc-status"))
}

/// The plain refusal of what cannot be in time.
fn assert_exceeded(answer: &Answer) {
    let marker = "shop;reason=deadline_exceeded;source=none";
    assert_eq!((answer.status, answer.header("x-resilience").as_str()), (504, marker), "{answer:?}");
}

/// How many were refused for their deadlines.
async fn exceeded(edge: &Edge) -> u64 {
    edge.count(REJECTIONS, &[("policy", "shop"), ("reason", "deadline_exceeded")]).await
}

/// A number of milliseconds in a header that the upstream got.
fn milliseconds(received: &Received, name: &str) -> Option<u64> {
    let value = received.headers.get(name)?.to_str().expect("text");
    if name != GRPC {
        return Some(value.parse().expect("milliseconds"));
    }
    let (number, unit) = value.split_at(value.len() - 1);
    let number: u64 = number.parse().expect("a number");
    Some(match unit {
        "H" => number * 3_600_000,
        "M" => number * 60_000,
        "S" => number * 1000,
        "m" => number,
        "u" => number.div_ceil(1000),
        "n" => number.div_ceil(1_000_000),
        _ => panic!("{value}"),
    })
}
