//! One policy against ten thousand: what a start takes, what a VM takes, and what a request costs.

use crate::load;
use crate::variants::{Variant, module, start};
use crate::{measure, middle, number, print_ratio};
use resilience_test_harness::many::{self, Kind};
use resilience_test_harness::{Envoy, config};
use serde_json::Value;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const MANY: usize = 10_000;
/// One policy of each kind: a look-up reads the same of a request as among ten thousand.
const FEW: usize = Kind::ALL.len();
/// How often each start is timed.
const STARTS: usize = 5;
/// Workers of which each has a VM, for the memory of one.
const WORKERS: u32 = 8;

/// Prints the figures.
pub async fn print(upstream: &Envoy, address: SocketAddr) {
    let document = many::document(MANY).to_string();
    println!("document of {MANY} policies: {} KiB", document.len() / 1024);
    requests(upstream, address).await;
    starts(address).await;
    memory(address).await;
}

/// A policy of a kind, far down in the document.
fn far(kind: Kind) -> usize {
    (MANY / 2..MANY).rev().find(|index| Kind::of(*index) == kind).expect("there are some of each kind")
}

fn filter(policies: usize) -> Value {
    config::resilience_filter(&module(), "resilience", &many::document(policies).to_string())
}

/// The same route table for every variant: those of the first policies and of those that are asked for.
async fn envoy(policies: usize, upstream: SocketAddr, workers: u32) -> Envoy {
    let routed = [0, 1, far(Kind::Route), far(Kind::Metadata)];
    start(&[filter(policies)], &many::routes(&routed, "upstream"), upstream, workers).await
}

fn request(index: usize) -> String {
    let (host, path) = many::target(index);
    format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nx-request-id: 1\r\n\r\n")
}

async fn requests(upstream: &Envoy, address: SocketAddr) {
    let (route, prefix) = (0, 4);
    let all = [
        Variant::of("1 policy, by route", request(route), envoy(1, address, 1).await).await,
        Variant::of("10 000, by route", request(far(Kind::Route)), envoy(MANY, address, 1).await).await,
        Variant::of("1 of each kind, by prefix", request(prefix), envoy(FEW, address, 1).await).await,
        Variant::of("10 000, by prefix", request(far(Kind::Prefix)), envoy(MANY, address, 1).await).await,
    ];
    let table = measure(&all, upstream, number("TURNS", 200));
    print_ratio("CPU, 10 000 policies / 1, by route", &table, 1.1, |rows| middle(rows[1]) / middle(rows[0]));
    print_ratio("CPU, 10 000 policies / 1 of each kind, by prefix", &table, 1.1, |rows| {
        middle(rows[3]) / middle(rows[2])
    });
}

/// From the start of the process until the listener answers: four workers, so six VMs read the document.
async fn starts(upstream: SocketAddr) {
    for policies in [1, MANY] {
        let mut times = Vec::new();
        for _ in 0..STARTS {
            times.push(time_to_answer(policies, upstream).await);
        }
        times.sort_unstable();
        let [least, middle, most] = [0, STARTS / 2, STARTS - 1].map(|at| times[at].as_millis());
        println!("start with {policies} policies: {middle} ms  ({least} to {most})");
    }
}

async fn time_to_answer(policies: usize, upstream: SocketAddr) -> Duration {
    let started = Instant::now();
    let envoy = envoy(policies, upstream, 4).await;
    load::run(envoy.addr("edge").await, &request(0), 200, load::CONNECTIONS);
    started.elapsed()
}

/// Resident memory that a further worker takes, VM included.
async fn memory(upstream: SocketAddr) {
    let mut per_worker = Vec::new();
    for policies in [1, MANY] {
        let few = resident(policies, upstream, 1).await;
        let many = resident(policies, upstream, 1 + WORKERS).await;
        per_worker.push(many.saturating_sub(few) / u64::from(WORKERS));
        println!(
            "resident with {policies} policies and one worker: {few} KiB, each further one: {} KiB",
            per_worker[per_worker.len() - 1]
        );
    }
    println!(
        "resident memory that {MANY} policies take in a VM: {} KiB",
        per_worker[1].saturating_sub(per_worker[0])
    );
}

async fn resident(policies: usize, upstream: SocketAddr, workers: u32) -> u64 {
    let envoy = envoy(policies, upstream, workers).await;
    load::run(envoy.addr("edge").await, &request(0), 200, 4_000);
    envoy.resident_kilobytes()
}
