//! The callbacks at the end of a stream, and what can be read in them.

mod scene;
mod table;

use crate::since;
use resilience_host_contract::{Event, all_events, events};
use resilience_test_harness::{
    Answer, Behaviour, Connection, Envoy, Method, PATIENCE, Pending, Protocol, Request, Scratch, Streaming,
    Upstream, eventually,
};
use std::net::SocketAddr;

struct Stage {
    upstream: Upstream,
    scratch: Scratch,
    envoy: Envoy,
    edge: SocketAddr,
}

impl Stage {
    async fn new() -> Self {
        let (upstream, scratch) = (Upstream::start().await, Scratch::new());
        let envoy = scene::start(upstream.addr(), &scratch).await;
        let edge = envoy.addr("edge").await;
        Self { upstream, scratch, envoy, edge }
    }

    /// Flags and details as the access log shows them.
    async fn access_log(&self, case: &str) -> (String, String) {
        eventually(&format!("access log of {case}"), PATIENCE, async || {
            let lines = self.scratch.lines(scene::ACCESS_LOG);
            let line = lines.iter().find_map(|line| line.strip_prefix(case)?.strip_prefix('\t'))?;
            let mut fields = line.split('\t').skip(1).map(str::to_owned);
            Some((fields.next()?, fields.next()?))
        })
        .await
    }

    /// Both probes' events of a case.
    async fn events(&self, case: &str) -> (Vec<Event>, Vec<Event>) {
        (all_events(&self.envoy, "full", case).await, all_events(&self.envoy, "bare", case).await)
    }
}

/// A row of the table.
struct Row {
    case: &'static str,
    client: &'static str,
    path: &'static str,
    told: &'static str,
    answer: String,
    callbacks: &'static str,
    at_headers: String,
    at_end: String,
    attempts: &'static str,
}

fn rows() -> Vec<Row> {
    let told_of_breaks = since(1, 37);
    let in_full = |text: &str| {
        table::DETAILS.iter().fold(text.to_owned(), |text, (short, long)| text.replace(short, long))
    };
    let rows = table::TABLE.lines().skip(2).map(|line| {
        let cells: Vec<&str> = line.split(" | ").map(str::trim).collect();
        let [case, client, path, told, answer, callbacks, at_headers, at_end, attempts] = cells[..] else {
            panic!("nine cells in {line}");
        };
        let answer = answer.replace(" reset", if told_of_breaks { " broken" } else { "" });
        let at_end = in_full(if at_end == "=" { at_headers } else { at_end });
        Row { case, client, path, told, answer, callbacks, at_headers: in_full(at_headers), at_end, attempts }
    });
    rows.collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_ending_shows_as_in_the_table() {
    let stage = Stage::new().await;
    let mut wrong = Vec::new();
    for row in rows() {
        let answer = play(&stage, &row).await;
        let (full, bare) = stage.events(row.case).await;
        let at_headers =
            full.iter().find(|event| event.name() == "response_headers").map_or("-".into(), shown);
        let at_end = shown(full.last().unwrap());
        let callbacks = letters(&full);
        let attempts = full.last().unwrap().get("attempts");
        let found = [answer.as_str(), &callbacks, &at_headers, &at_end, attempts];
        if found != [&row.answer, row.callbacks, &row.at_headers, &row.at_end, row.attempts] {
            wrong.push(format!(
                "{} | {} | {} | {} | {}",
                row.case,
                row.client,
                row.path,
                row.told,
                found.join(" | ")
            ));
        }
        // Log, done and delete agree, with each other, with the module that has delete alone, and with the access log.
        for event in full.iter().filter(|event| ["log", "done", "delete"].contains(&event.name())) {
            assert_eq!(shown(event), at_end, "{}: {}", row.case, event.name());
            assert_eq!(event.get("attempts"), attempts, "{}: {}", row.case, event.name());
        }
        assert_eq!(shown(bare.last().unwrap()), at_end, "{}: delete alone", row.case);
        assert_eq!(bare.last().unwrap().get("attempts"), attempts, "{}: delete alone", row.case);
        // A reply made in response headers passes by the filters between us and the client.
        let passed_by = if row.told == "REPLACE" { &['L', 'D', 'R', 'E'][..] } else { &['L', 'D'] };
        assert_eq!(letters(&bare), callbacks.replace(passed_by, ""), "{}: delete alone", row.case);
        let (flags, details) = stage.access_log(row.case).await;
        // The access log names the flags in another order.
        let mut flags: Vec<&str> = flags.split(',').collect();
        flags.sort_unstable();
        assert_eq!(format!("{details} {}", flags.join(",")), at_end, "{}: access log", row.case);
    }
    assert!(wrong.is_empty(), "measured otherwise:\n{}", wrong.join("\n"));
    // By now a second run of a callback would have happened.
    for row in rows() {
        let (full, bare) = stage.events(row.case).await;
        for (plugin, events) in [("full", full), ("bare", bare)] {
            let deleted = events.iter().filter(|event| event.name() == "delete").count();
            assert_eq!(deleted, 1, "delete of {} in {plugin}", row.case);
        }
    }
}

/// Plays a row's client and returns what it got.
async fn play(stage: &Stage, row: &Row) -> String {
    let upstream = &stage.upstream;
    upstream.reset_counts();
    let (protocol, rest) = row.client.split_once(' ').unwrap_or((row.client, ""));
    let protocol = if protocol == "h1" { Protocol::Http1 } else { Protocol::Http2 };
    let mut connection = Connection::open(stage.edge, protocol).await.unwrap();
    let held = holders(stage, row, &mut connection).await;
    let request = request(row, rest, upstream);
    let pending = connection.start(request).await.unwrap();
    let answer = match rest {
        "leaves" | "disconnects" => {
            upstream.wait_in_flight(1).await;
            if rest == "leaves" {
                pending.abandon()
            } else {
                pending.disconnect()
            }
            "-".to_owned()
        }
        "leaves mid" | "disconnects mid" => {
            let mut streaming: Streaming = pending.headers().await.unwrap();
            streaming.chunk().await.unwrap().expect("a part of the body");
            if rest == "leaves mid" {
                streaming.abandon()
            } else {
                streaming.disconnect()
            }
            "-".to_owned()
        }
        _ => {
            let Answer { status, broken, .. } = pending.headers().await.unwrap().finish().await;
            format!("{status}{}", if broken.is_some() { " broken" } else { "" })
        }
    };
    // Nothing is released here: what hangs upstream hangs until Envoy gives it up.
    drop(held);
    answer
}

/// Requests that have taken what the row's request will lack.
async fn holders(stage: &Stage, row: &Row, connection: &mut Connection) -> Vec<Pending> {
    let hold = |words: &str| Request::get(row.path).header("x-case", "holder").header("x-behave", words);
    let mut held = Vec::new();
    match row.path {
        "/limited" => {
            let mut other = Connection::open(stage.edge, Protocol::Http1).await.unwrap();
            assert_eq!(other.send(hold("status=200")).await.unwrap().status, 200);
        }
        // On the same worker, as each worker may have a connection of its own whatever the limit.
        "/connections" => {
            held.push(connection.start(hold("hang")).await.unwrap());
            stage.upstream.wait_requests(1).await;
            held.push(connection.start(hold("hang")).await.unwrap());
            let waiting = "cluster.one-connection.upstream_rq_pending_active";
            stage.envoy.wait_stat(waiting, |waiting| waiting == 1).await;
        }
        _ => {}
    }
    held
}

fn request(row: &Row, client: &str, upstream: &Upstream) -> Request {
    let request = match client {
        "HEAD" => Request::new(Method::HEAD, row.path),
        "gRPC" => Request::grpc(row.path),
        _ => Request::get(row.path),
    };
    // An early filter's refusal leaves no request headers to know the case by.
    let request = request.header("x-case", row.case);
    match row.told {
        "" => request,
        "DENY" => request.header("x-deny", "1"),
        "FAULT" => request.header("x-envoy-fault-abort-request", "503"),
        "REPLY" => {
            request.header("x-probe", "reply status=503 details=resilience:checkout:circuit_open body=x")
        }
        "REPLACE" => request.header("x-probe", "on-response reply status=504 details=resilience:late body=x"),
        "SCRIPT" => {
            upstream.script([Behaviour::status(503), Behaviour::status(500)]);
            request
        }
        words => request.header("x-behave", words),
    }
}

/// Details, and flags in alphabetical order.
fn shown(event: &Event) -> String {
    let flags = event.flags();
    let mut flags: Vec<&str> = flags.split(',').collect();
    flags.sort_unstable();
    format!("{} {}", event.get("details"), flags.join(","))
}

fn letters(events: &[Event]) -> String {
    let letter = |event: &Event| match event.name() {
        "request_headers" => "Q",
        "response_headers" => "R",
        "response_body" => "",
        "response_body_end" => "E",
        "response_trailers" => "T",
        "log" => "L",
        "done" => "D",
        "delete" => "X",
        other => panic!("{other}"),
    };
    events.iter().map(letter).collect()
}

/// A filter above us that answers keeps the request from us, yet our stream exists: it is created to be logged.
#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_an_earlier_filter_answers_only_ends() {
    let stage = Stage::new().await;
    let request = Request::get("/up").header("x-case", "early").header("x-deny-early", "1");
    let mut connection = Connection::open(stage.edge, Protocol::Http1).await.unwrap();
    assert_eq!(connection.send(request).await.unwrap().status, 403);
    // Without request headers the probe never learnt the name of the case.
    let (full, bare) = stage.events("").await;
    assert_eq!(letters(&full), "LDX");
    assert_eq!(letters(&bare), "X");
    assert!(events(&stage.envoy, "full", "early").is_empty());
    for event in [full.last().unwrap(), bare.last().unwrap()] {
        assert_eq!(shown(event), "rbac_access_denied_matched_policy[named] -");
        assert_eq!(event.get("attempts"), "0");
    }
}
