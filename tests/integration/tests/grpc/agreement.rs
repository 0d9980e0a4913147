//! What clients, server and metrics count, they count alike.

use crate::{Shop, calls, fragile, is_refusal};
use resilience_integration_tests::*;
use resilience_test_grpc::{Client, Code, Plan, Status};
use serde_json::json;

/// What one client saw.
#[derive(Default)]
struct Seen {
    /// Calls that the server ended, by whether their status is a failure.
    successes: u64,
    failures: u64,
    refusals: u64,
}

impl Seen {
    fn note(&mut self, end: Result<(), Status>) {
        match end {
            Err(status) if is_refusal(&status) => self.refusals += 1,
            Err(status) if status.code() == Code::Internal => self.failures += 1,
            _ => self.successes += 1,
        }
    }

    fn add(self, other: Self) -> Self {
        Self {
            successes: self.successes + other.successes,
            failures: self.failures + other.failures,
            refusals: self.refusals + other.refusals,
        }
    }
}

/// Unary calls and streams in turn, every fifth of which fails.
async fn mix(client: Client, service: &'static str, number: usize) -> Seen {
    let mut seen = Seen::default();
    for call in number..number + 25 {
        let code = if call % 5 == 4 { Code::Internal } else { [Code::Ok, Code::NotFound][call % 2] };
        let plan = Plan::messages(1).then(code);
        if call % 3 == 0 {
            seen.note(client.unary(service, plan).await.map(drop));
            continue;
        }
        match client.stream(service, plan).await {
            Err(status) => seen.note(Err(status)),
            Ok(answer) => {
                let mut stream = answer.into_inner();
                let end = loop {
                    match stream.message().await {
                        Ok(Some(_)) => {}
                        end => break end.map(drop),
                    }
                };
                seen.note(end);
            }
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_server_and_metrics_agree() {
    let never = json!({"consecutive_failures": 1000});
    let forced = json!({"mode": "forced_open", "consecutive_failures": 1});
    let policies = [policy("steady", never), fragile("breaking"), policy("shut", forced)];
    let shop = Shop::open(&policies).await;
    for service in ["steady", "breaking", "shut"] {
        let all = shop.clients.iter().enumerate().flat_map(|(worker, client)| {
            (0..2).map(move |again| tokio::spawn(mix(client.clone(), service, 7 * worker + again)))
        });
        let mut seen = Seen::default();
        for client in all.collect::<Vec<_>>() {
            seen = seen.add(client.await.expect("no panic"));
        }
        let answered = seen.successes + seen.failures;
        assert_eq!(answered + seen.refusals, 25 * 2 * WORKERS as u64, "{service}");
        assert_eq!(shop.server.received(service) as u64, answered, "{service}");
        shop.edge.wait_calls(service, calls(seen.successes, seen.failures, 0)).await;
        let refused = [("policy", service), ("reason", "circuit_open")];
        assert_eq!(shop.edge.count("resilience_rejections_total", &refused).await, seen.refusals);
        let (opened, refuses) = match service {
            "steady" => (0, false),
            "breaking" => (1, true),
            _ => (0, true),
        };
        assert_eq!(seen.refusals > 0, refuses, "{service}");
        assert_eq!(shop.edge.transitions(service, "open", "consecutive_failures").await, opened);
    }
    assert_eq!(shop.server.received("shut"), 0);
    assert_eq!(
        shop.server.received_in_all(),
        shop.server.received("steady") + shop.server.received("breaking"),
    );
    assert!(traps(&shop.edge.envoy).is_empty());
}
