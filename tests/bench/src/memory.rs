//! What a VM of a module takes.

use crate::load;
use crate::variants::{empty_filter, module, our_filter, proxied, start};
use serde_json::Value;
use std::net::SocketAddr;

const WORKERS: u32 = 16;
const REQUEST: &str = "GET /checkout HTTP/1.1\r\nhost: shop.example\r\n\r\n";
const PAGE: u64 = 65_536;

/// Prints the module's size, the linear memory that it begins with, and the resident memory that each further worker with a
/// VM takes beyond one without.
pub async fn print(upstream: SocketAddr) {
    let wasm = std::fs::read(module()).expect("the module is built");
    println!(
        "module: {} bytes, linear memory at start {} KiB",
        wasm.len(),
        initial_pages(&wasm) * PAGE / 1024
    );
    let bare = per_worker(&[], upstream).await;
    for (name, filter) in [("empty filter", empty_filter()), ("ours", our_filter())] {
        let kilobytes = per_worker(&[filter], upstream).await.saturating_sub(bare);
        println!("resident memory per VM, {name}: {kilobytes} KiB");
    }
}

async fn per_worker(filters: &[Value], upstream: SocketAddr) -> u64 {
    let few = resident(filters, upstream, 1).await;
    let many = resident(filters, upstream, 1 + WORKERS).await;
    many.saturating_sub(few) / u64::from(WORKERS)
}

async fn resident(filters: &[Value], upstream: SocketAddr, workers: u32) -> u64 {
    let envoy = start(filters, &[proxied()], upstream, workers).await;
    load::run(envoy.addr("edge").await, REQUEST, 200, 4_000);
    envoy.resident_kilobytes()
}

/// The least size of the module's memory, in pages (WebAssembly core specification, 5.5.8).
fn initial_pages(wasm: &[u8]) -> u64 {
    const MEMORY_SECTION: u8 = 5;
    let mut rest = wasm.get(8..).expect("a header");
    while let Some((id, after)) = rest.split_first() {
        let (length, body) = number(after);
        let (section, next) = body.split_at(usize::try_from(length).expect("it is in memory"));
        if *id == MEMORY_SECTION {
            // One memory, then its flags, then its least size.
            return number(&section[2..]).0;
        }
        rest = next;
    }
    panic!("a module without memory");
}

/// LEB128.
fn number(bytes: &[u8]) -> (u64, &[u8]) {
    let len = bytes.iter().position(|byte| byte & 0x80 == 0).expect("a whole number") + 1;
    let value = bytes[..len].iter().rev().fold(0, |value, byte| value << 7 | u64::from(byte & 0x7f));
    (value, &bytes[len..])
}
