//! The bundle's mails: refused by the first provider's breaker they go to a second one, which has a guard of its own.

use super::{PORTS, edited_bundle, moved};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};

const REROUTED: &str = "email;reason=circuit_open;source=reroute";

fn mail() -> Request {
    Request::post("/email/welcome", "Dear customer").authority("shop.example")
}

async fn send(edge: &Edge, request: Request) -> Answer {
    send_once(edge.address, Protocol::Http1, request).await.expect("an answer")
}

/// The bundle with providers of ours, the first of which fails until its breaker is open.
async fn tripped() -> (Edge, Upstream, Upstream) {
    let (first, second) = (Upstream::start().await, Upstream::start().await);
    let with_providers = |yaml: String| {
        let yaml = moved(&yaml, "email", first.addr().port());
        moved(&yaml, "email_secondary", second.addr().port())
    };
    let (edge, _) = edited_bundle(&PORTS, with_providers).await;
    first.behave(Behaviour::status(503));
    for _ in 0..3 {
        // Whoever sends a mail has to know that it was not sent.
        let answer = send(&edge, mail()).await;
        assert_eq!((answer.status, answer.header("x-resilience")), (503, String::new()));
    }
    assert_eq!((first.requests(), second.requests()), (3, 0));
    (edge, first, second)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_provider_takes_over_and_is_told_nothing_of_it() {
    let (edge, first, second) = tripped().await;
    second.behave(Behaviour::parse("status=202; body=queued; header=x-resilience:theirs"));
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let answer = send_once(edge.address, protocol, mail()).await.expect("an answer");
        let marker = format!("theirs, {REROUTED}");
        assert_eq!(
            (answer.status, answer.header("x-resilience"), answer.text().as_str()),
            (202, marker, "queued")
        );
    }
    assert_eq!((first.requests(), second.requests()), (3, 2));
    for received in second.received() {
        assert_eq!((received.method, received.path.as_str()), (Method::POST, "/email_secondary/welcome"));
        assert!(!received.headers.contains_key("x-resilience-reroute"), "{:?}", received.headers);
        assert_eq!(received.headers["content-length"], "13");
    }
    // Counted as what it is: the caller's refusal, and the second one's success.
    let fallbacks = [("policy", "email"), ("reason", "circuit_open"), ("source", "reroute")];
    assert_eq!(edge.count("resilience_fallbacks_total", &fallbacks).await, 2);
    assert_eq!(edge.count("resilience_rejections_total", &[("policy", "email")]).await, 2);
    edge.wait_calls("email-secondary", Calls { success: 2, ..Calls::default() }).await;
    edge.wait_calls("email", Calls { failure: 3, ..Calls::default() }).await;
    let line: Value = serde_json::from_str(&edge.envoy.wait_log(REROUTED).await).unwrap();
    let said = ["path", "status", "policy", "decision", "route", "cluster"].map(|field| line[field].clone());
    let [route, cluster] = ["email-secondary", "email_secondary"];
    assert_eq!(json!(said), json!(["/email/welcome", 202, "email", "rerouted", route, cluster]));
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// A mail that both refuse is refused plainly, and says when the first one's wait is over.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_provider_that_fails_as_well_is_left_in_peace() {
    let (edge, first, second) = tripped().await;
    second.behave(Behaviour::status(500));
    for _ in 0..3 {
        let answer = send(&edge, mail()).await;
        assert_eq!((answer.status, answer.header("x-resilience").as_str()), (500, REROUTED));
    }
    let answer = send(&edge, mail()).await;
    let refused = "email;reason=circuit_open;source=none";
    assert_eq!((answer.status, answer.header("x-resilience").as_str()), (503, refused));
    assert!(answer.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{answer:?}");
    assert_eq!((first.requests(), second.requests()), (3, 3));
    for policy in ["email", "email-secondary"] {
        assert_eq!(edge.transitions(policy, "open", "consecutive_failures").await, 1, "{policy}");
    }
    // Of another host it is no mail of the shop's, and nobody's to send elsewhere.
    let answer = send(&edge, mail().authority("elsewhere.example")).await;
    assert_eq!((answer.status, answer.header("x-resilience")), (503, String::new()));
    assert_eq!((first.requests(), second.requests()), (4, 3));
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}
