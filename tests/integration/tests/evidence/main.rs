//! What each way a request can end counts as, in a real Envoy. The table is the page `docs/evidence.md`: one of the
//! tests here compares them, so that neither can change alone.

use resilience_integration_tests::endings::Outcome::{Failure, Ignored, Success};
use resilience_integration_tests::endings::{Row, TABLE, World, filters_behind, route_of};
use resilience_integration_tests::{Calls, Edge, WORKERS, document, envoy, filter, listener, policy};
use resilience_test_harness::Protocol::Http1;
use resilience_test_harness::config::{
    self, cluster, connection_manager, route, typed, virtual_host, with_access_log,
};
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::fmt;
use std::sync::Arc;

/// What came of a row, to be compared and shown.
struct Seen {
    logged: String,
    calls: Calls,
    /// How many workers then refuse: one failure trips these breakers.
    refused: usize,
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { logged, calls: Calls { success, failure, ignored }, refused } = self;
        write!(f, "{logged}; success {success}, failure {failure}, ignored {ignored}, refused {refused}")
    }
}

fn expected_of(row: &Row) -> Seen {
    let count = |outcome| u64::from(row.outcome == outcome);
    Seen {
        logged: format!("{} {} {}", row.status, row.details, row.flags),
        calls: Calls { success: count(Success), failure: count(Failure), ignored: count(Ignored) },
        refused: if row.outcome == Failure { WORKERS } else { 0 },
    }
}

/// As the page has it.
fn line_of(row: &Row) -> String {
    let status = if row.status == 0 { "none".to_owned() } else { row.status.to_string() };
    let details = row.details.replace('*', "…");
    let flags = if row.flags == "-" { "none".to_owned() } else { format!("`{}`", row.flags) };
    let outcome = format!("{:?}", row.outcome).to_lowercase();
    format!("| {} | {status} | `{details}` | {flags} | {outcome} |", row.ending)
}

/// What is expected may end in `*`.
fn fits(expected: &str, seen: &str) -> bool {
    match expected.split_once('*') {
        Some((begin, end)) => seen.starts_with(begin) && seen.ends_with(end),
        None => expected == seen,
    }
}

/// The name of a row's policy, and its path without the slash.
fn name_of(index: usize) -> String {
    format!("row{index:03}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_counts_as_the_table_says() {
    let world = Arc::new(World::new().await);
    let scratch = Scratch::new();
    let rows: Vec<(String, &Row)> = TABLE.iter().enumerate().map(|(at, row)| (name_of(at), row)).collect();
    let breaker = || json!({"consecutive_failures": 1});
    let policies: Vec<Value> = rows.iter().map(|(name, _)| policy(name, breaker())).collect();
    let routes = rows.iter().filter_map(|(name, row)| route_of(row.route, &format!("/{name}")));
    let mut filters = filters_behind();
    filters.insert(0, filter(&document(&policies)));
    let mut manager = connection_manager(&[virtual_host("all", &routes.collect::<Vec<_>>())], &filters);
    manager["route_config"]["validate_clusters"] = false.into();
    let format = "%PATH% %RESPONSE_CODE% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%";
    let manager = with_access_log(manager, &scratch.file("access.log"), format);
    let bootstrap = config::bootstrap(&[listener("edge", manager)], &world.clusters());
    let edge = Edge::of(envoy(bootstrap).argument("--file-flush-interval-msec").argument("50")).await;
    let address = edge.address;

    // A bucket has at least one token: a path that is the route's but not the policy's takes it.
    for (name, _) in rows.iter().filter(|(_, row)| row.route == "rate_limit") {
        let first = Request::get(&format!("/{name}-first"));
        assert_eq!(send_once(address, Http1, first).await.unwrap().status, 200);
    }

    // All at once: they meet on all workers, and those that wait for a timer wait together.
    let mut playing = Vec::new();
    for (name, row) in &rows {
        let (world, client, path) = (Arc::clone(&world), row.client, format!("/{name}"));
        playing.push(tokio::spawn(async move { client.play(address, &world.upstream, &path).await }));
    }
    for ((_, row), task) in rows.iter().zip(playing) {
        assert_eq!(task.await.unwrap(), Ok(()), "{}", row.ending);
    }

    let mut clients = edge.clients(Http1).await;
    let mut wrong = Vec::new();
    for (name, row) in &rows {
        let calls = eventually(&format!("a count for: {}", row.ending), PATIENCE, async || {
            let calls = edge.calls(name).await;
            (calls != Calls::default()).then_some(calls)
        })
        .await;
        let logged = eventually(&format!("the log line of: {}", row.ending), PATIENCE, async || {
            let prefix = format!("/{name} ");
            scratch.lines("access.log").iter().find_map(|line| Some(line.strip_prefix(&prefix)?.to_owned()))
        })
        .await;
        let mut refused = 0;
        for worker in 0..WORKERS {
            let answer = clients.worker(worker).send(Request::get(&format!("/{name}"))).await.unwrap();
            refused += usize::from(answer.header("x-resilience").contains("reason=circuit_open"));
        }
        let (expected, seen) = (expected_of(row), Seen { logged, calls, refused });
        if !fits(&expected.logged, &seen.logged) || (calls, refused) != (expected.calls, expected.refused) {
            wrong.push(format!("{}\n  expected: {expected}\n  was:      {seen}", row.ending));
        }
    }
    assert!(wrong.is_empty(), "{} of {} rows:\n{}", wrong.len(), rows.len(), wrong.join("\n"));

    // Each request was counted once: nothing came on top later.
    for (name, row) in &rows {
        let passed = WORKERS - expected_of(row).refused;
        eventually(&format!("{} calls of {name}: {}", 1 + passed, row.ending), PATIENCE, async || {
            let Calls { success, failure, ignored } = edge.calls(name).await;
            (success + failure + ignored == 1 + passed as u64).then_some(())
        })
        .await;
    }
    assert_eq!(world.flaky.requests(), 3 + WORKERS, "two retries, and those who asked later");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_filter_before_ours_answers_is_no_call_at_all() {
    let upstream = Upstream::start().await;
    let denying = typed(
        "envoy.filters.http.rbac",
        "extensions.filters.http.rbac.v3.RBAC",
        json!({"rules": {"action": "ALLOW", "policies": {}}}),
    );
    let ours = filter(&document(&[policy("shop", json!({"consecutive_failures": 1}))]));
    let host = virtual_host("all", &[route("upstream", "/", "upstream")]);
    let behind = listener("edge", connection_manager(std::slice::from_ref(&host), &[denying, ours.clone()]));
    let open = listener("open", connection_manager(&[host], &[ours]));
    let clusters = [cluster("upstream", &[upstream.addr()])];
    let edge = Edge::start(config::bootstrap(&[behind, open], &clusters)).await;
    let mut denied = edge.clients(Http1).await;
    for _ in 0..2 * WORKERS {
        assert_eq!(denied.get("/shop", "status=503").await, 403);
    }
    // Were the eight on their way to be counted, they would come before this one.
    let mut clients = edge.clients_of("open", Http1).await;
    for _ in 0..WORKERS {
        assert_eq!(clients.get("/shop", "status=200").await, 200);
    }
    edge.wait_calls("shop", Calls { success: 4, ..Calls::default() }).await;
    assert_eq!(upstream.requests(), WORKERS);
}

#[test]
fn the_page_has_the_rows_of_the_table() {
    let page = include_str!("../../../../docs/evidence.md");
    let head = |line: &&str| !line.starts_with("| Ending |") && !line.starts_with("|--");
    let documented: Vec<&str> = page.lines().filter(|line| line.starts_with('|')).filter(head).collect();
    let tested: Vec<String> = TABLE.iter().map(line_of).collect();
    // One by one first: a difference in one line is then shown as that.
    for (documented, tested) in documented.iter().zip(&tested) {
        assert_eq!(documented, tested);
    }
    assert_eq!(documented.len(), tested.len());
}
