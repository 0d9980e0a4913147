//! gRPC by a real client and server: a stream whose answer has begun is left alone, and a call that hangs is not.

use crate::*;
use resilience_test_grpc::{Client, Code, Hold, Plan, ReceiverStream, Server, Tick};
use resilience_test_harness::config::{self, cluster, with_http2};
use tokio::sync::mpsc;

async fn before(server: &Server, sections: &Value) -> (Edge, Vec<Client>) {
    let listener = routed_listener("edge", &[patient_route()], &[filter(&shop(true, sections))]);
    let upstream = with_http2(cluster(UPSTREAM, &[server.addr()]));
    let edge = Edge::start(config::bootstrap(&[listener], &[upstream])).await;
    let clients = edge.connections_of("edge", Client::connect).await;
    (edge, clients)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chat_whose_answer_has_begun_outlives_the_total() {
    const TOTAL: Duration = ms(500);
    let server = Server::start().await;
    let (edge, clients) = before(&server, &json!({"timeout": {"total": "500ms"}})).await;
    for client in &clients {
        let (plans, to_send) = mpsc::channel(1);
        let began = Instant::now();
        let mut chat = client.chat("shop", ReceiverStream::new(to_send)).await.expect("headers").into_inner();
        for _ in 0..3 {
            plans.send(Plan::messages(1)).await.expect("a chat that goes on");
            let tick =
                tokio::time::timeout(PATIENCE, chat.message()).await.expect("in time").expect("no error");
            assert_eq!(tick, Some(Tick { number: 0 }));
            pass(Instant::now(), TOTAL).await;
        }
        assert!(began.elapsed() > 3 * TOTAL);
        drop(plans);
        let end = tokio::time::timeout(PATIENCE, chat.message()).await.expect("in time");
        assert_eq!(end.expect("OK"), None);
    }
    edge.wait_calls("shop", Calls { success: WORKERS as u64, ..Calls::default() }).await;
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_hangs_ends_at_the_total_or_at_its_deadline() {
    let server = Server::start().await;
    let (edge, clients) = before(&server, &json!({"timeout": {"total": "500ms"}})).await;
    for client in &clients {
        let started = Instant::now();
        let status =
            client.unary("shop", Plan::messages(1).held(Hold::Headers)).await.expect_err("nobody answers");
        assert!(started.elapsed() >= ms(490), "{:?}", started.elapsed());
        assert!([Code::DeadlineExceeded, Code::Unavailable].contains(&status.code()), "{status:?}");
    }
    edge.wait_calls("shop", Calls { failure: WORKERS as u64, ..Calls::default() }).await;
    server.wait_in_hand("shop", 0).await;
}
