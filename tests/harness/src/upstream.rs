//! A programmable HTTP server that counts what reaches it.

use crate::behaviour::Behaviour;
use crate::exchange;
use crate::{PATIENCE, eventually};
use hyper::{HeaderMap, Method};
use socket2::{Domain, Socket, Type};
use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

/// A request that reached an upstream.
#[derive(Debug, Clone)]
pub struct Received {
    /// Method.
    pub method: Method,
    /// Path without the query.
    pub path: String,
    /// Headers as Envoy sent them.
    pub headers: HeaderMap,
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) requests: usize,
    pub(crate) received: Vec<Received>,
    pub(crate) only_counts: bool,
    pub(crate) in_flight: usize,
    /// The marks of what is in flight, and of those whose clients said that they left.
    pub(crate) marked: HashSet<String>,
    pub(crate) left: HashSet<String>,
    pub(crate) max_in_flight: usize,
    pub(crate) connections: usize,
    /// How often each `x-id` came.
    pub(crate) attempts: HashMap<String, usize>,
    /// How many requests had one that had come before.
    pub(crate) repeats: usize,
    pub(crate) default: Behaviour,
    pub(crate) by_path: HashMap<String, Behaviour>,
    pub(crate) script: VecDeque<Behaviour>,
}

impl State {
    /// How often a request came before, which came now.
    pub(crate) fn attempt_of(&mut self, id: &str) -> usize {
        let before = self.attempts.get(id).copied().unwrap_or(0);
        self.attempts.insert(id.to_owned(), before + 1);
        self.repeats += usize::from(before > 0);
        before
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) state: Mutex<State>,
    /// Grows with each release; what hangs waits for it to change.
    pub(crate) released: watch::Sender<u64>,
    /// What hangs takes turns at this.
    pub(crate) released_one: Notify,
}

impl Shared {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic while counting")
    }
}

/// A programmable HTTP/1.1 and h2c server on a loopback port. Dropping it closes the port and all connections.
///
/// What a request gets, first match: its `x-behave` header, the script, its path, the default.
#[derive(Debug)]
pub struct Upstream {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: JoinHandle<()>,
}

impl Upstream {
    /// Starts one that answers 200.
    ///
    /// # Panics
    /// If no port can be bound.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("bound");
        let (released, released_one) = (watch::Sender::new(0), Notify::new());
        let shared = Arc::new(Shared { state: Mutex::default(), released, released_one });
        let acceptor = tokio::spawn(exchange::accept(listener, Arc::clone(&shared)));
        Self { address, shared, acceptor }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// How many requests reached it.
    #[must_use]
    pub fn requests(&self) -> usize {
        self.shared.state().requests
    }

    /// From now on it does not remember what requests looked like: under much load that would fill the memory.
    pub fn only_count(&self) {
        self.shared.state().only_counts = true;
    }

    /// How many requests for a path (without query) reached it.
    #[must_use]
    pub fn requests_to(&self, path: &str) -> usize {
        self.shared.state().received.iter().filter(|request| request.path == path).count()
    }

    /// How often the request with this `x-id` reached it: the first time, and each time that somebody tried it again.
    #[must_use]
    pub fn attempts(&self, id: &str) -> usize {
        self.shared.state().attempts.get(id).copied().unwrap_or(0)
    }

    /// How many requests had an `x-id`, each counted once, and how many more were the same again.
    #[must_use]
    pub fn distinct_and_repeated(&self) -> (usize, usize) {
        let state = self.shared.state();
        (state.attempts.len(), state.repeats)
    }

    /// All requests that reached it, in order.
    #[must_use]
    pub fn received(&self) -> Vec<Received> {
        self.shared.state().received.clone()
    }

    /// How many requests it has in hand: from their headers to just before the last byte of the answer.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.shared.state().in_flight
    }

    /// The most it ever had in hand at once.
    #[must_use]
    pub fn max_in_flight(&self) -> usize {
        self.shared.state().max_in_flight
    }

    /// How many connections were opened to it.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.shared.state().connections
    }

    /// Forgets what was counted; what is in hand stays counted as that.
    pub fn reset_counts(&self) {
        let mut state = self.shared.state();
        state.requests = 0;
        state.received.clear();
        state.max_in_flight = state.in_flight;
        state.connections = 0;
        state.attempts.clear();
        state.repeats = 0;
    }

    /// What requests get from now on.
    pub fn behave(&self, behaviour: Behaviour) {
        self.shared.state().default = behaviour;
    }

    /// What requests for a path get from now on.
    pub fn behave_on(&self, path: &str, behaviour: Behaviour) {
        self.shared.state().by_path.insert(path.to_owned(), behaviour);
    }

    /// What the next requests get, one each, before the default counts again.
    pub fn script(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.shared.state().script.extend(behaviours);
    }

    /// Lets everything that hangs go on.
    pub fn release(&self) {
        self.shared.released.send_modify(|times| *times += 1);
    }

    /// Lets one of those that hang go on; if nothing hangs, the next that would.
    pub fn release_one(&self) {
        self.shared.released_one.notify_one();
    }

    /// The client of the request with this `x-mark` is about to leave: it does not count as in hand any more. The upstream
    /// itself learns of that after Envoy did, and would count what is not in flight.
    pub fn client_leaves(&self, mark: &str) {
        let mut state = self.shared.state();
        state.left.insert(mark.to_owned());
        if state.marked.remove(mark) {
            state.in_flight -= 1;
        }
    }

    /// Waits until at least so many requests reached it.
    ///
    /// # Panics
    /// If they do not.
    pub async fn wait_requests(&self, at_least: usize) {
        eventually(&format!("{at_least} requests at the upstream"), PATIENCE, async || {
            (self.requests() >= at_least).then_some(())
        })
        .await;
    }

    /// Waits until exactly so many requests are in hand.
    ///
    /// # Panics
    /// If they never are.
    pub async fn wait_in_flight(&self, exactly: usize) {
        eventually(&format!("{exactly} requests in flight at the upstream"), PATIENCE, async || {
            (self.in_flight() == exactly).then_some(())
        })
        .await;
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

/// An address nobody listens on. It stays taken until this process ends: were it given back, another listener could get it.
///
/// # Panics
/// If no port can be bound.
#[must_use]
pub fn refused_address() -> SocketAddr {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a free port");
    let address = socket.local_addr().ok().and_then(|address| address.as_socket());
    std::mem::forget(socket);
    address.expect("bound")
}
