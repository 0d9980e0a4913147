//! Clients that use every worker.

use resilience_test_harness::{Answer, Connection, Request};

/// One connection to each worker; what is sent goes to one worker after the other.
#[derive(Debug)]
pub struct Clients {
    connections: Vec<Connection>,
    next: usize,
}

impl Clients {
    pub(crate) fn new(connections: Vec<Connection>) -> Self {
        Self { connections, next: 0 }
    }

    /// The connection to the next worker.
    pub fn next_worker(&mut self) -> &mut Connection {
        self.next = (self.next + 1) % self.connections.len();
        &mut self.connections[self.next]
    }

    /// The connection to a worker, by its number.
    pub fn worker(&mut self, number: usize) -> &mut Connection {
        &mut self.connections[number]
    }

    /// The connections by themselves, in the order of the workers.
    #[must_use]
    pub fn into_connections(self) -> Vec<Connection> {
        self.connections
    }

    /// Sends a request to the next worker.
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn send(&mut self, request: Request) -> Answer {
        self.next_worker().send(request).await.expect("an answer")
    }

    /// Sends a GET that tells the upstream what to do with it, and returns the status.
    ///
    /// # Panics
    /// If no answer comes.
    pub async fn get(&mut self, path: &str, behaviour: &str) -> u16 {
        self.send(Request::get(path).header("x-behave", behaviour)).await.status
    }
}
