//! What fallbacks cost where something fails: CPU for an answer that is replaced, and how long a caller waits for one while
//! other traffic runs.

use crate::load::{self, read_answer};
use crate::variants::{
    BODY, FAILING, FAILING_EMPTY, HEALTHY, NEVER, Variant, empty_filter, fallback_filter, module, proxied,
    start,
};
use crate::{measure, micros, middle, number};
use resilience_test_harness::{Envoy, PATIENCE, config, eventually};
use serde_json::{Value, json};
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: u32 = 4;
/// At most, in milliseconds: 99 of 100 fallbacks of an open breaker.
const GOAL: f64 = 5.0;
/// Connections that keep the workers busy with healthy requests, one after the other.
const BUSY: usize = 8;
/// Between one measured request and the next.
const PACE: Duration = Duration::from_millis(1);
/// A multiple of twice the number of variants.
const TURNS: usize = 50;

/// Prints the figures.
pub async fn print(upstream: &Envoy, address: SocketAddr) {
    latency(address).await;
    replaced(upstream, address).await;
}

/// A fixed answer for whatever fails.
fn answer() -> Value {
    json!([{"static": {"status": 200, "headers": {"content-type": "text/plain"}, "text": BODY}}])
}

/// CPU for an answer that failed: left as it is, and replaced.
async fn replaced(upstream: &Envoy, address: SocketAddr) {
    let variant = async |name: &'static str, filter: Value, request: &str| {
        Variant::of(name, request.to_owned(), start(&[filter], &[proxied()], address, 1).await).await
    };
    let all = [
        variant("failed, empty filter", empty_filter(), FAILING).await.answered(503),
        variant("failed, left as it is", fallback_filter(&json!([])), FAILING).await.answered(503),
        variant("failed, replaced in place", fallback_filter(&answer()), FAILING).await,
        variant("failed, without a body", fallback_filter(&json!([])), FAILING_EMPTY).await.answered(503),
        variant("failed, replaced by a reply", fallback_filter(&answer()), FAILING_EMPTY).await,
    ];
    println!("answers that failed");
    let table = measure(&all, upstream, number("FALLBACK_TURNS", TURNS));
    let [_, left, in_place, empty, reply] = [0, 1, 2, 3, 4].map(|which| middle(&table[which]));
    println!("CPU of a replacement: {:.2} us in place, {:.2} us by a reply", in_place - left, reply - empty);
}

/// What is asked for, and by which path.
const ASKED: [(&str, &str, &str); 5] = [
    ("healthy, for comparison", "/checkout", ""),
    ("open breaker, static answer", "/open", ""),
    ("open breaker, another cluster", "/elsewhere", ""),
    ("failed answer, replaced in place", "/checkout", "x-fail: 1\r\n"),
    ("failed answer, replaced by a reply", "/checkout", "x-fail-empty: 1\r\n"),
];

/// How long a caller waits, while others keep every worker busy.
async fn latency(upstream: SocketAddr) {
    let envoy = busy_shop(upstream).await;
    let edge = envoy.addr("edge").await;
    let requests = number("FALLBACK_REQUESTS", 2_000);
    let over = AtomicBool::new(false);
    let mut columns = thread::scope(|scope| {
        for _ in 0..BUSY {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    load::run_over(1, edge, HEALTHY, 200, 100);
                }
            });
        }
        // In turns, so that a busier moment of the machine is one for all.
        let mut columns = ASKED.map(|_| Vec::new());
        for turn in 0..10 {
            for (which, column) in columns.iter_mut().enumerate() {
                let latencies = ask(edge, ASKED[which], requests / 10);
                // The first ones define metrics and open connections.
                column.extend(latencies.into_iter().filter(|_| turn > 0));
            }
        }
        over.store(true, Ordering::Relaxed);
        columns
    });
    println!(
        "latency of a fallback, {WORKERS} workers, {BUSY} connections of other traffic, {} requests each, in us, p50 and p99",
        columns[0].len()
    );
    for ((title, ..), column) in ASKED.iter().zip(&mut columns) {
        column.sort_unstable();
        let at = |share: usize| micros(column[(column.len() - 1) * share / 100]);
        println!("  {title:<36} {:7.0} {:7.0}", at(50), at(99));
        if *title == ASKED[1].0 {
            let (p99, verdict) = (at(99) / 1000.0, if at(99) <= GOAL * 1000.0 { "met" } else { "MISSED" });
            println!("  its p99: {p99:.2} ms  (goal at most {GOAL} ms: {verdict})");
        }
    }
}

/// A policy whose failures are replaced, one that is open, and one that is open and sends elsewhere.
async fn busy_shop(upstream: SocketAddr) -> Envoy {
    let breaker = json!({"consecutive_failures": NEVER});
    let open = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "24h"});
    let policy = |name: &str, breaker: &Value, fallback: Value| json!({"name": name, "match": [{"route": name}], "circuit_breaker": breaker, "fallback": fallback});
    let reroute = json!([{"reroute": {"cluster": "backup", "policy": "backup"}}]);
    let document = json!({"policies": [
        policy("checkout", &breaker, answer()),
        policy("open", &open, answer()),
        policy("elsewhere", &open, reroute),
        policy("backup", &breaker, json!([])),
    ]});
    let filter = config::resilience_filter(&module(), "resilience", &document.to_string());
    let mut backup = config::route("backup", "/elsewhere", "backup");
    backup["match"]["headers"] =
        json!([{"name": "x-resilience-reroute", "string_match": {"exact": "backup"}}]);
    let own =
        ["checkout", "open", "elsewhere"].map(|name| config::route(name, &format!("/{name}"), "upstream"));
    let routes: Vec<Value> = std::iter::once(backup).chain(own).collect();
    let clusters = ["upstream", "backup"].map(|name| config::cluster(name, &[upstream]));
    let manager = config::connection_manager(&[config::virtual_host("all", &routes)], &[filter]);
    let bootstrap = config::bootstrap(&[config::listener("edge", manager)], &clusters);
    let envoy = Envoy::builder(bootstrap).concurrency(WORKERS).start().await;
    let edge = envoy.addr("edge").await;
    for policy in ["open", "elsewhere"] {
        let failing = format!("GET /{policy} HTTP/1.1\r\nhost: shop.example\r\nx-fail: 1\r\n\r\n");
        let mut stream = connect(edge);
        stream.write_all(failing.as_bytes()).expect("Envoy reads");
        read_answer(&mut stream, &mut Vec::new());
        eventually("the breaker to open", PATIENCE, async || {
            let stats = envoy.get("/stats?filter=circuit_breaker_transitions_total").await.body;
            stats.lines().any(|line| line.contains(policy) && line.contains("to=open")).then_some(())
        })
        .await;
    }
    envoy
}

fn connect(edge: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(edge).expect("Envoy listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}

/// The latency of so many requests.
fn ask(edge: SocketAddr, (title, path, more): (&str, &str, &str), requests: usize) -> Vec<Duration> {
    let mut stream = connect(edge);
    let request = format!("GET {path} HTTP/1.1\r\nhost: shop.example\r\n{more}\r\n");
    let mut buffer = Vec::new();
    let mut latency = || {
        thread::sleep(PACE);
        let sent = Instant::now();
        stream.write_all(request.as_bytes()).expect("Envoy reads");
        let head = read_answer(&mut stream, &mut buffer);
        let took = sent.elapsed();
        assert!(head.starts_with("HTTP/1.1 200 "), "{title}: {head:?}");
        let is_marked = head.contains("\r\nx-resilience: ");
        assert_eq!(is_marked, path != "/checkout" || !more.is_empty(), "{title}: {head:?}");
        took
    };
    (0..requests).map(|_| latency()).collect()
}
