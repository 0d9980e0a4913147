//! Clients that send one request after the other, as fast as they are answered or at a steady rate.

use crate::client::{Connection, Protocol, Request};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

/// How many requests, over how many connections, how fast.
#[derive(Debug, Clone, Copy)]
pub struct Flow {
    /// Requests in all.
    pub requests: usize,
    /// HTTP/1.1 connections, which the kernel spreads over Envoy's workers. Each has one request in flight at most.
    pub connections: usize,
    /// Requests started in a second, by all together; without it each connection sends as soon as it is answered. A
    /// connection that is late, because an answer took long, does not wait.
    pub per_second: Option<u32>,
}

/// A flow on its way.
#[derive(Debug)]
pub struct Running {
    started: Instant,
    sent: Arc<AtomicUsize>,
    clients: JoinSet<BTreeMap<u16, usize>>,
    answers: BTreeMap<u16, usize>,
}

impl Flow {
    /// Sends the requests; `request` gets the number of each.
    pub fn start(
        self,
        address: SocketAddr,
        request: impl Fn(usize) -> Request + Send + Sync + 'static,
    ) -> Running {
        let (sent, next, request) = (Arc::<AtomicUsize>::default(), Arc::default(), Arc::new(request));
        let started = Instant::now();
        let mut clients = JoinSet::new();
        for _ in 0..self.connections {
            let client =
                Client { flow: self, started, address, sent: Arc::clone(&sent), next: Arc::clone(&next) };
            clients.spawn(client.run(Arc::clone(&request)));
        }
        Running { started, sent, clients, answers: BTreeMap::new() }
    }
}

impl Running {
    /// How many requests were sent. Counted before they are: whoever has got requests, it were no more than these.
    #[must_use]
    pub fn sent(&self) -> usize {
        self.sent.load(Ordering::SeqCst)
    }

    /// The time since just before the first request.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Whether all were answered.
    ///
    /// # Panics
    /// If a request was not answered at all.
    pub fn is_over(&mut self) -> bool {
        while let Some(answers) = self.clients.try_join_next() {
            for (status, times) in answers.expect("every request is answered") {
                *self.answers.entry(status).or_default() += times;
            }
        }
        self.clients.is_empty()
    }

    /// How many answers of each status came; all of them once [`Self::is_over`].
    #[must_use]
    pub fn answers(&self) -> &BTreeMap<u16, usize> {
        &self.answers
    }

    /// Calls `look` again and again until all were answered, and once more then.
    ///
    /// # Panics
    /// If a request was not answered at all.
    pub async fn watch(&mut self, mut look: impl FnMut(&Self)) {
        while !self.is_over() {
            look(self);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        look(self);
    }
}

struct Client {
    flow: Flow,
    started: Instant,
    address: SocketAddr,
    sent: Arc<AtomicUsize>,
    next: Arc<AtomicUsize>,
}

impl Client {
    async fn run(self, request: Arc<impl Fn(usize) -> Request>) -> BTreeMap<u16, usize> {
        let mut answers = BTreeMap::new();
        let mut connection =
            Connection::open(self.address, Protocol::Http1).await.expect("a connection to Envoy");
        loop {
            let number = self.next.fetch_add(1, Ordering::SeqCst);
            if number >= self.flow.requests {
                return answers;
            }
            if let Some(rate) = self.flow.per_second {
                let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
                tokio::time::sleep_until((self.started + due).into()).await;
            }
            if !connection.is_open() {
                connection =
                    Connection::open(self.address, Protocol::Http1).await.expect("a connection to Envoy");
            }
            self.sent.fetch_add(1, Ordering::SeqCst);
            let answer = connection.send(request(number)).await.expect("an answer");
            *answers.entry(answer.status).or_default() += 1;
        }
    }
}
