//! What is no failure of the upstream is nobody's to replace, whoever answers it.

use crate::*;
use resilience_integration_tests::endings::Client::{Get, Grpc, HalfPost};
use resilience_integration_tests::endings::Outcome::{Ignored, Success};
use resilience_integration_tests::endings::{Row, TABLE, filters_behind};

fn request(row: &Row, path: &str) -> Option<(Protocol, Request)> {
    Some(match row.client {
        Get(words) => (Protocol::Http1, told(Request::get(path), words)),
        Grpc(words) => (Protocol::Http2, told(Request::grpc(path), words)),
        HalfPost => (Protocol::Http1, told(Request::post(path, "half.").unfinished(), "hang")),
        _ => return None,
    })
}

/// The endings that prove nothing of the upstream, or that it is well. That Envoy's own limits were reached, or that it had to drop
/// load, proves nothing either, and is no answer to the caller: see the table beside this.
fn rows() -> Vec<(String, &'static Row)> {
    let is_untouched =
        |row: &&Row| [Ignored, Success].contains(&row.outcome) && !["overflow", "drop"].contains(&row.route);
    let rows = TABLE.iter().filter(is_untouched).filter(|row| request(row, "/").is_some());
    rows.enumerate().map(|(at, row)| (format!("row{at:03}"), row)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_failure_of_the_upstream_is_not_touched() {
    let rows = rows();
    let later = || json!([{"static": {"status": 200, "text": "Later."}}, {"fail": {"status": 502}}]);
    let policies: Vec<Value> = rows.iter().map(|(name, _)| fragile(name, 1, later())).collect();
    let routes: Vec<Value> =
        rows.iter().filter_map(|(name, row)| route_of(row.route, &format!("/{name}"))).collect();
    let mut scene = Scene::shaped(&document(&policies), &routes, &[], &filters_behind(), |manager| {
        let config = &mut manager["route_config"];
        config["validate_clusters"] = false.into();
        // A row is about what has no route.
        let routes = config["virtual_hosts"][0]["routes"].as_array_mut().expect("routes");
        routes.pop();
    })
    .await;
    for (name, row) in rows.iter().filter(|(_, row)| row.route == "rate_limit") {
        assert_eq!(scene.get(&format!("/{name}-first"), "").await.status, 200, "{}", row.ending);
    }
    let address = scene.edge.address;
    let mut playing = Vec::new();
    for (name, row) in &rows {
        let (protocol, request) = request(row, &format!("/{name}")).expect("a request");
        playing.push((name, row, tokio::spawn(send_once(address, protocol, request))));
    }
    assert!(playing.len() > 20, "no real test: {}", playing.len());
    for (name, row, task) in playing {
        let answer = task.await.expect("no panic").unwrap_or_else(|error| panic!("{}: {error}", row.ending));
        let seen = (answer.status, all(&answer.headers, "x-resilience"), answer.text() == "Later.");
        assert_eq!(seen, (row.status, Vec::new(), false), "{}: {answer:?}", row.ending);
        eventually(&format!("a call that is counted: {}", row.ending), PATIENCE, async || {
            let Calls { success, failure, ignored } = scene.edge.calls(name).await;
            (success + failure + ignored == 1).then_some(())
        })
        .await;
    }
    for metric in [FALLBACKS, REJECTIONS, OPENED] {
        assert_eq!(scene.edge.count(metric, &[]).await, 0, "{metric}");
    }
    scene.sound();
}
