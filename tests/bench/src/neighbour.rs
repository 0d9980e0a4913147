//! What a dependency that hangs costs its neighbour: the latency of one route while another's bulkhead is empty, and while it
//! is full and refuses what still comes.

use crate::load::read_answer;
use crate::variants::{HEALTHY, module};
use crate::{micros, number};
use resilience_test_harness::{Envoy, PATIENCE, config, eventually};
use serde_json::json;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: u32 = 2;
const PERMITS: usize = 50;
const NEIGHBOUR: &str = "GET /catalogue HTTP/1.1\r\nhost: shop.example\r\nx-request-id: 1\r\n\r\n";
/// Between one request and the next, of either kind.
const PACE: Duration = Duration::from_millis(2);

/// Prints the neighbour's latency without and with the trouble, in turns.
pub async fn print(upstream: SocketAddr) {
    let hanging = hang();
    let policy = |name: &str, calls: usize| json!({"name": name, "match": [{"route": name}], "bulkhead": {"max_concurrent_calls": calls}});
    let document = json!({"policies": [policy("checkout", PERMITS), policy("catalogue", 30)]});
    let filter = config::resilience_filter(&module(), "resilience", &document.to_string());
    let routes = ["checkout", "catalogue"].map(|name| config::route(name, &format!("/{name}"), name));
    let clusters = [config::cluster("checkout", &[hanging]), config::cluster("catalogue", &[upstream])];
    let manager = config::connection_manager(&[config::virtual_host("all", &routes)], &[filter]);
    let bootstrap = config::bootstrap(&[config::listener("edge", manager)], &clusters);
    let envoy = Envoy::builder(bootstrap).concurrency(WORKERS).start().await;
    let edge = envoy.addr("edge").await;

    let (turns, requests) = (number("NEIGHBOUR_TURNS", 5), number("NEIGHBOUR_REQUESTS", 400));
    let mut latencies = [Vec::new(), Vec::new()];
    ask(edge, requests);
    for _ in 0..turns {
        latencies[0].extend(ask(edge, requests));
        let held = fill(&envoy, edge).await;
        latencies[1].extend(while_refusing(edge, || ask(edge, requests)));
        drop(held);
        in_flight(&envoy, 0).await;
    }
    println!("neighbour: {} requests each, {WORKERS} workers, latency in us, p50 and p99", turns * requests);
    for (title, mut column) in
        ["the other route idle", "its bulkhead full, refusing"].into_iter().zip(latencies)
    {
        column.sort();
        let at = |share: usize| micros(column[(column.len() - 1) * share / 100]);
        println!("  {title:<32} {:7.0} {:7.0}", at(50), at(99));
    }
}

/// An upstream that reads and never answers.
fn hang() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("an address");
    // Ends with the process.
    thread::spawn(move || listener.incoming().map_while(Result::ok).collect::<Vec<_>>());
    address
}

/// The latency of so many requests to the neighbour.
fn ask(edge: SocketAddr, requests: usize) -> Vec<Duration> {
    let mut stream = connect(edge);
    let mut buffer = Vec::new();
    let mut latency = || {
        thread::sleep(PACE);
        let sent = Instant::now();
        stream.write_all(NEIGHBOUR.as_bytes()).expect("Envoy reads");
        let head = read_answer(&mut stream, &mut buffer);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head:?}");
        sent.elapsed()
    };
    (0..requests).map(|_| latency()).collect()
}

/// Takes all the permits with requests that hang.
async fn fill(envoy: &Envoy, edge: SocketAddr) -> Vec<TcpStream> {
    let mut held = Vec::new();
    for _ in 0..PERMITS {
        let mut stream = connect(edge);
        stream.write_all(HEALTHY.as_bytes()).expect("Envoy reads");
        held.push(stream);
    }
    in_flight(envoy, PERMITS).await;
    held
}

async fn in_flight(envoy: &Envoy, calls: usize) {
    let shown = format!("policy=checkout: {calls}\n");
    eventually("the bulkhead's gauge", PATIENCE, async || {
        envoy.get("/stats?filter=bulkhead_in_flight").await.body.contains(&shown).then_some(())
    })
    .await;
}

/// Does something while others are refused.
fn while_refusing<T>(edge: SocketAddr, act: impl FnOnce() -> T) -> T {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let (mut stream, mut buffer) = (connect(edge), Vec::new());
            while !over.load(Ordering::Relaxed) {
                stream.write_all(HEALTHY.as_bytes()).expect("Envoy reads");
                let head = read_answer(&mut stream, &mut buffer);
                assert!(head.starts_with("HTTP/1.1 503 "), "{head:?}");
                thread::sleep(PACE);
            }
        });
        let done = act();
        over.store(true, Ordering::Relaxed);
        done
    })
}

fn connect(edge: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(edge).expect("Envoy listens");
    stream.set_nodelay(true).expect("a socket");
    stream
}
