//! What a gRPC library's own client makes of an answer in another's place, and of a call that goes elsewhere.

use crate::*;
use resilience_test_grpc::{Client, Code, Plan, ReceiverStream, Server, Status, Streaming, Tick};
use resilience_test_harness::config::with_http2;

struct Shop {
    server: Server,
    spare: Server,
    edge: Edge,
    clients: Vec<Client>,
}

async fn open(policies: &[Value]) -> Shop {
    let (server, spare) = (Server::start().await, Server::start().await);
    let filters = [filter(&document(policies))];
    let listener = routed_listener("edge", &[steered(), patient_route()], &filters);
    let clusters =
        [(UPSTREAM, &server), (SPARE, &spare)].map(|(name, it)| with_http2(cluster(name, &[it.addr()])));
    let edge = Edge::start(config::bootstrap(&[listener], &clusters)).await;
    let clients = edge.connections_of("edge", Client::connect).await;
    Shop { server, spare, edge, clients }
}

fn page() -> Value {
    json!({"static": {"status": 200, "json": {"items": []}}})
}

/// What a caller sees of a status: its code, its message, and what we say of it.
fn seen(status: &Status) -> (Code, &str, &str) {
    let mark = status.metadata().get("x-resilience").map_or("", |value| value.to_str().expect("text"));
    (status.code(), status.message(), mark)
}

/// The number of messages, and the status.
async fn rest(mut stream: Streaming<Tick>) -> (usize, Result<(), Status>) {
    let mut messages = 0;
    loop {
        let next = tokio::time::timeout(PATIENCE, stream.message()).await.expect("a message or the end");
        match next {
            Ok(Some(_)) => messages += 1,
            Ok(None) => return (messages, Ok(())),
            Err(status) => return (messages, Err(status)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_status_at_once_is_replaced_and_one_after_messages_is_not() {
    let shop = open(&[fragile("cart", 1000, json!([page()]))]).await;
    let ours = mark("cart", "upstream_failure", "static");
    let mut failures = 0;
    for client in &shop.clients {
        for code in [Code::Internal, Code::Unavailable, Code::DataLoss] {
            let replaced = client.unary("cart", Plan::status_at_once(code)).await.expect_err("a failure");
            assert_eq!(seen(&replaced), (Code::Unavailable, "upstream_failure", ours.as_str()));
            let replaced = client.stream("cart", Plan::status_at_once(code)).await.expect_err("a failure");
            assert_eq!(seen(&replaced), (Code::Unavailable, "upstream_failure", ours.as_str()));
            let told = client.unary("cart", Plan::status(code)).await.expect_err("a failure");
            assert_eq!(seen(&told), (code, "as told", ""));
            let stream =
                client.stream("cart", Plan::messages(5).then(code)).await.expect("headers").into_inner();
            let (messages, end) = rest(stream).await;
            assert_eq!((messages, seen(&end.expect_err("a failure"))), (5, (code, "as told", "")));
            failures += 4;
        }
        // What is no failure, and what is a reset before headers.
        let told = client.unary("cart", Plan::status_at_once(Code::NotFound)).await.expect_err("a status");
        assert_eq!(seen(&told), (Code::NotFound, "as told", ""));
        let reset = Plan::status_at_once(Code::Ok).then_reset();
        let replaced = client.unary("cart", reset).await.expect_err("a failure");
        assert_eq!(seen(&replaced), (Code::Unavailable, "reset", mark("cart", "reset", "static").as_str()));
        failures += 1;
    }
    let each = WORKERS as u64;
    shop.edge.wait_calls("cart", calls(each, failures, 0)).await;
    for (reason, times) in [("upstream_failure", 6 * each), ("reset", each)] {
        let labels = [("policy", "cart"), ("reason", reason), ("source", "static")];
        assert_eq!(shop.edge.count(FALLBACKS, &labels).await, times, "{reason}");
    }
    assert_eq!(traps(&shop.edge.envoy), Vec::<String>::new());
}

/// Messages both ways and the status, as if it had been there from the first.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_conversation_goes_elsewhere() {
    let forced = json!({"circuit_breaker": {"mode": "forced_open", "consecutive_failures": 1}});
    let elsewhere = json!([{"reroute": {"cluster": SPARE, "policy": "guard"}}, page()]);
    let shop =
        open(&[with(fragile("cart", 1, elsewhere), forced), fragile("guard", 1, json!([page()]))]).await;
    let rerouted = mark("cart", "circuit_open", "reroute");
    for client in &shop.clients {
        let answer = client.unary("cart", Plan::messages(1)).await.expect("OK");
        assert_eq!(answer.metadata().get("x-resilience").expect("a mark"), rerouted.as_str());
        let (plans, stream) = tokio::sync::mpsc::channel(1);
        let asked = tokio::spawn(async move {
            for messages in [3, 0, 4] {
                plans.send(Plan::messages(messages)).await.expect("somebody hears it");
            }
        });
        let chat = client.chat("cart", ReceiverStream::new(stream)).await.expect("headers");
        assert_eq!(chat.metadata().get("x-resilience").expect("a mark"), rerouted.as_str());
        let (messages, end) = rest(chat.into_inner()).await;
        assert_eq!((messages, end.is_ok()), (7, true));
        asked.await.expect("all was asked");
    }
    let each = 2 * WORKERS;
    assert_eq!((shop.server.received("cart"), shop.spare.received("cart")), (0, each));
    // A failure there is the guard's, and then the guard keeps out the next.
    let client = &shop.clients[0];
    let failed = client.unary("cart", Plan::status_at_once(Code::Internal)).await.expect_err("a failure");
    let marks = format!("{rerouted}, {}", mark("guard", "upstream_failure", "static"));
    assert_eq!(seen(&failed), (Code::Unavailable, "upstream_failure", marks.as_str()));
    for client in &shop.clients {
        let refused = client.unary("cart", Plan::messages(1)).await.expect_err("a refusal");
        let mark = mark("cart", "circuit_open", "static");
        assert_eq!(seen(&refused), (Code::Unavailable, "circuit_open", mark.as_str()));
    }
    assert_eq!((shop.server.received("cart"), shop.spare.received("cart")), (0, each + 1));
    shop.edge.wait_calls("guard", calls(each as u64, 1, 0)).await;
    assert_eq!(traps(&shop.edge.envoy), Vec::<String>::new());
}
