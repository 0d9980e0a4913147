//! The answers we make, as clients, access logs and an Envoy in front of us see them.

mod callers;
mod contents;
mod marks;

use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::time::{Duration, Instant};

const WAIT: Duration = Duration::from_secs(30);

/// A policy whose breaker one failure opens, for longer than any test here takes.
fn fragile(name: &str) -> Value {
    policy(name, json!({"consecutive_failures": 1, "wait_duration_in_open_state": "30s"}))
}

fn fragile_with(name: &str, fallback: Value) -> Value {
    let mut policy = fragile(name);
    policy["fallback"] = fallback;
    policy
}

/// An Envoy all of whose policies' breakers are open, and what its upstream counts from then on.
struct Open {
    edge: Edge,
    upstream: Upstream,
    clients: Clients,
    /// The breakers opened after the first and before the second.
    opened: (Instant, Instant),
}

impl Open {
    async fn all_of(document: Value) -> Self {
        let upstream = Upstream::start().await;
        let edge = Edge::before(upstream.addr(), &document).await;
        Self::trip(edge, upstream, &document).await
    }

    async fn trip(edge: Edge, upstream: Upstream, document: &Value) -> Self {
        let mut clients = edge.clients(Protocol::Http1).await;
        let before = Instant::now();
        for policy in document["policies"].as_array().unwrap() {
            let path = format!("/{}", policy["name"].as_str().unwrap());
            // Some of the policies answer this themselves, too.
            clients.get(&path, "status=500").await;
        }
        let opened = (before, Instant::now());
        assert_eq!(upstream.requests(), document["policies"].as_array().unwrap().len());
        upstream.reset_counts();
        Self { edge, upstream, clients, opened }
    }

    /// Asks every worker; what they say must be the same but for the seconds left, which are checked.
    async fn ask(&mut self, request: Request) -> Answer {
        let mut first: Option<Answer> = None;
        for _ in 0..WORKERS {
            let asked = Instant::now();
            let answer = self.clients.send(request.clone()).await;
            let tells = answer.headers.contains_key("retry-after");
            if tells {
                let rest = |opened: Instant, now: Instant| {
                    (opened + WAIT).saturating_duration_since(now).as_secs_f64().ceil() as u64
                };
                let bounds = rest(self.opened.0, Instant::now())..=rest(self.opened.1, asked);
                let said: u64 = answer.header("retry-after").parse().unwrap();
                assert!(bounds.contains(&said), "retry-after {said} is not in {bounds:?}");
            }
            if let Some(first) = &first {
                let summary = |answer: &Answer| (answer.status, headers(answer));
                assert_eq!(summary(first), summary(&answer), "workers disagree");
                assert_eq!(first.headers.contains_key("retry-after"), tells);
            }
            first.get_or_insert(answer);
        }
        first.unwrap()
    }
}

/// All headers in order of their names, but for those that change with time.
fn headers(answer: &Answer) -> Vec<String> {
    let mut lines: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| {
            !["date", "server", "retry-after", "x-envoy-upstream-service-time"].contains(&name.as_str())
        })
        .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
        .collect();
    lines.sort();
    lines
}

fn json_body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error}: {:?}", answer.text()))
}
