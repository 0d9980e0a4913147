//! Clients that never rest, over both protocols, some of which leave at any moment.

use crate::assert_full;
use resilience_test_harness::*;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::sync::Mutex;

/// Half of them with an HTTP/1.1 connection each, the others on HTTP/2 connections of so many.
pub(crate) const CLIENTS: usize = 400;
const STREAMS: usize = 8;

/// What all clients together do.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// Requests in all. The first of each client hangs at the upstream, if it gets there.
    pub(crate) requests: usize,
    /// Whether a third of them is abandoned at any moment, and of another sixth those that get half of an answer.
    pub(crate) aborts: bool,
    pub(crate) seed: u64,
}

/// How the requests ended, as their clients saw it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Ended {
    pub(crate) served: usize,
    pub(crate) refused: usize,
    pub(crate) abandoned: usize,
}

/// The moment at which a client leaves.
#[derive(Clone, Copy, PartialEq)]
enum Leaves {
    Never,
    After(Duration),
    InBody,
}

/// A connection, where there is one, and who may start a request on it.
type Place = Arc<Mutex<Option<Connection>>>;

struct Run {
    load: Load,
    address: SocketAddr,
    upstream: Arc<Upstream>,
    next: AtomicUsize,
}

impl Load {
    /// Sends all requests to `/shop` and returns how they ended. Any ending but these fails here.
    pub(crate) async fn run(self, address: SocketAddr, upstream: &Arc<Upstream>) -> Ended {
        let run = Run { load: self, address, upstream: Arc::clone(upstream), next: AtomicUsize::new(0) };
        let run = Arc::new(run);
        let connections: Vec<_> = (0..CLIENTS / 2 / STREAMS).map(|_| Arc::default()).collect();
        let tasks: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let run = Arc::clone(&run);
                if number % 2 == 0 {
                    tokio::spawn(run.client(Protocol::Http1, Arc::default()))
                } else {
                    let shared = Arc::clone(&connections[number / 2 % connections.len()]);
                    tokio::spawn(run.client(Protocol::Http2, shared))
                }
            })
            .collect();
        let mut ended = Ended::default();
        for task in tasks {
            let by_one = task.await.expect("every request ended in one of these ways");
            ended.served += by_one.served;
            ended.refused += by_one.refused;
            ended.abandoned += by_one.abandoned;
        }
        ended
    }

    /// When the client of a request leaves, and what the upstream is told to do with it.
    fn plan(&self, number: usize) -> (Leaves, String) {
        let chance = random(self.seed, number as u64);
        let moment = Duration::from_micros((chance >> 8) % 30_000);
        let delay = format!("delay={}ms", 2 + (chance >> 32) % 20);
        if number < CLIENTS {
            return (Leaves::Never, "hang".to_owned());
        }
        match (self.aborts, chance % 6) {
            (true, 0 | 1) => (Leaves::After(moment), delay),
            (true, 2) => (Leaves::InBody, format!("{delay}; hang-mid-body")),
            _ => (Leaves::Never, delay),
        }
    }
}

impl Run {
    async fn client(self: Arc<Self>, protocol: Protocol, place: Place) -> Ended {
        let mut ended = Ended::default();
        loop {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            if number >= self.load.requests {
                return ended;
            }
            let (leaves, behaviour) = self.load.plan(number);
            let mark = number.to_string();
            let request = Request::get("/shop").header("x-behave", behaviour).header("x-mark", &mark);
            let pending = self.start(protocol, &place, request).await;
            if let Leaves::After(moment) = leaves {
                tokio::time::sleep(moment).await;
                self.upstream.client_leaves(&mark);
                pending.abandon();
                ended.abandoned += 1;
                forget(protocol, &place).await;
                continue;
            }
            let mut streaming = pending.headers().await.expect("headers");
            if leaves == Leaves::InBody && streaming.status == 200 {
                streaming.chunk().await.expect("half of a body");
                self.upstream.client_leaves(&mark);
                streaming.abandon();
                ended.abandoned += 1;
                forget(protocol, &place).await;
                continue;
            }
            let answer = streaming.finish().await;
            if answer.status == 200 {
                let whole = (answer.text(), answer.header("x-resilience"), answer.broken);
                assert_eq!(whole, ("upstream\n".to_owned(), String::new(), None));
                ended.served += 1;
            } else {
                assert_full(&answer, "shop");
                ended.refused += 1;
            }
        }
    }

    /// Sends on the connection, which is opened first where there is none.
    async fn start(&self, protocol: Protocol, place: &Place, request: Request) -> Pending {
        let mut place = place.lock().await;
        if place.is_none() {
            *place = Some(Connection::open(self.address, protocol).await.expect("a connection to Envoy"));
        }
        place.as_mut().expect("just opened").start(request).await.expect("a connection that stays")
    }
}

/// An HTTP/1.1 client leaves with its connection.
async fn forget(protocol: Protocol, place: &Place) {
    if protocol == Protocol::Http1 {
        *place.lock().await = None;
    }
}

/// A number that looks like chance and is the same in every run (the finalizer of splitmix64).
fn random(seed: u64, number: u64) -> u64 {
    let mut z = seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
