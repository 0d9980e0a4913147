//! Many requests at once.

use crate::client::{Answer, Connection, Protocol, Request};
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::sync::Barrier;

/// Sends `total` requests over `connections` connections of their own, which the kernel spreads over Envoy's workers.
///
/// All connections are open before the first request is sent, so that with `connections == total` all requests are
/// sent at once; otherwise each connection sends its share one after the other. `request` gets the request's number.
/// The answers come back in the order of these numbers.
///
/// # Panics
/// If a connection cannot be opened.
pub async fn burst(
    address: SocketAddr,
    protocol: Protocol,
    total: usize,
    connections: usize,
    request: impl Fn(usize) -> Request,
) -> Vec<Result<Answer, String>> {
    let start = Arc::new(Barrier::new(connections));
    let mut tasks = Vec::with_capacity(connections);
    for first in 0..connections {
        let share: Vec<(usize, Request)> =
            (first..total).step_by(connections).map(|number| (number, request(number))).collect();
        let start = Arc::clone(&start);
        tasks.push(tokio::spawn(async move {
            let connection = Connection::open(address, protocol).await;
            // Waited for even after a failure: the others would wait for ever.
            start.wait().await;
            let mut connection = connection.expect("a connection to Envoy");
            let mut answers = Vec::with_capacity(share.len());
            for (number, request) in share {
                // Envoy may have asked to close it with the last answer. A request that was sent and got no answer
                // is not sent again: that is a failure for the test to see.
                if !connection.is_open() {
                    connection = Connection::open(address, protocol).await.expect("a connection to Envoy");
                }
                let answer = connection.send(request).await;
                answers.push((number, answer));
            }
            answers
        }));
    }
    let mut answers = Vec::with_capacity(total);
    for task in tasks {
        answers.extend(task.await.expect("a client does not panic"));
    }
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}
