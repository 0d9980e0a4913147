//! How soon a request that waits at one worker goes on when one at another ends.
//!
//! One call may be in flight. A client has it by way of one worker, another waits at the other. What counts is the time from the
//! upstream's answer to the first until the upstream has the second: with the way of the answer to Envoy and of the request from
//! it. Beside it stands what both ways take where nobody waits, from client to upstream and back.

use crate::load::read_answer;
use crate::variants::{proxied, start, waiting_filter};
use crate::{micros, number};
use resilience_test_harness::{Envoy, PATIENCE, eventually};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

const WORKERS: usize = 2;
/// At most, in microseconds.
const GOAL: f64 = 1000.0;
/// Long enough for a request to stand in the queue: the number of those that waited tells at the end.
const SETTLED: Duration = Duration::from_millis(5);
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A request at the upstream.
struct Call {
    arrived: Instant,
    answer: Sender<Sender<Instant>>,
}

impl Call {
    /// Has it answered, and says when that was.
    fn answer(self) -> Instant {
        let (tell, told) = channel();
        self.answer.send(tell).expect("a connection");
        told.recv().expect("a connection")
    }
}

/// An upstream that says when a request came, and answers when it is told to.
struct Upstream {
    address: SocketAddr,
    calls: Receiver<Call>,
}

impl Upstream {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let address = listener.local_addr().expect("an address");
        let (tell, calls) = channel();
        // Ends with the process, or with Envoy, which keeps its connections.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tell = tell.clone();
                thread::spawn(move || serve(stream, &tell));
            }
        });
        Self { address, calls }
    }

    fn next(&self) -> Call {
        self.calls.recv_timeout(PATIENCE).expect("a request at the upstream")
    }
}

fn serve(mut stream: TcpStream, tell: &Sender<Call>) {
    let _ = stream.set_nodelay(true);
    let mut buffer = [0; 4096];
    // A request without a body comes in one piece.
    while stream.read(&mut buffer).is_ok_and(|read| read > 0) {
        let (answer, told) = channel::<Sender<Instant>>();
        if tell.send(Call { arrived: Instant::now(), answer }).is_err() {
            return;
        }
        let Ok(when) = told.recv() else { return };
        let _ = when.send(Instant::now());
        if stream.write_all(ANSWER).is_err() {
            return;
        }
    }
}

struct Client {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Client {
    fn send(&mut self) -> Instant {
        let sent = Instant::now();
        self.stream.write_all(b"GET /checkout HTTP/1.1\r\nhost: shop.example\r\n\r\n").expect("Envoy reads");
        sent
    }

    /// When the whole answer was there.
    fn read(&mut self) -> Instant {
        let head = read_answer(&mut self.stream, &mut self.buffer);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
        Instant::now()
    }
}

/// Prints the figures.
pub async fn print() {
    let samples = number("WAKES", 1000);
    let upstream = Upstream::start();
    let envoy = start(&[waiting_filter()], &[proxied()], upstream.address, WORKERS as u32).await;
    let mut clients = clients(&envoy).await;
    let (mut woken, mut usual) = (Vec::new(), Vec::new());
    // The first ones open connections and define metrics.
    let warm_up = 20;
    for round in 0..warm_up + samples {
        clients.swap(0, 1);
        let [holder, waiter] = &mut clients;
        let sent = holder.send();
        let first = upstream.next();
        let request = first.arrived - sent;
        waiter.send();
        thread::sleep(SETTLED);
        let answered = first.answer();
        let second = upstream.next();
        let took = second.arrived - answered;
        holder.read();
        let answered = second.answer();
        usual.push(request + (waiter.read() - answered));
        woken.push(took);
        if round < warm_up {
            (woken, usual) = (Vec::new(), Vec::new());
        }
        // The permit comes back a little after the client knows.
        thread::sleep(SETTLED);
    }
    all_waited(&envoy, warm_up + samples).await;
    let [[p50, p99], [usual, usual_99]] =
        [woken, usual].map(|times| [50, 99].map(|percent| percentile(&times, percent)));
    let verdict = if p99 <= GOAL { "met" } else { "MISSED" };
    println!(
        "wake of a waiter on another worker, {samples} times, from answer to request at the upstream, in us"
    );
    println!(
        "  p50 {p50:.0}, p99 {p99:.0}  (goal p99 at most {GOAL:.0}: {verdict}; both ways where nobody waits: {usual:.0}, {usual_99:.0})"
    );
}

/// In microseconds.
fn percentile(times: &[Duration], percent: usize) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    micros(sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)])
}

/// A connection to each worker: the kernel chooses, so others are closed again.
async fn clients(envoy: &Envoy) -> [Client; WORKERS] {
    let address = envoy.addr("edge").await;
    let mut found: [Option<Client>; WORKERS] = [None, None];
    let mut before = accepted(envoy).await;
    while found.iter().any(Option::is_none) {
        let stream = TcpStream::connect(address).expect("Envoy listens");
        stream.set_nodelay(true).expect("a socket");
        let now = eventually("the connection at a worker", PATIENCE, async || {
            let now = accepted(envoy).await;
            (now != before).then_some(now)
        })
        .await;
        for (worker, place) in found.iter_mut().enumerate() {
            if now[worker] > before[worker] {
                *place = Some(Client { stream, buffer: Vec::new() });
                break;
            }
        }
        before = now;
    }
    found.map(|client| client.expect("one for each"))
}

async fn accepted(envoy: &Envoy) -> [u64; WORKERS] {
    let stats = envoy.get("/stats?filter=worker_").await.body;
    std::array::from_fn(|worker| {
        let of = |line: &str| {
            line.split_once(&format!(".worker_{worker}.downstream_cx_total: "))?.1.parse::<u64>().ok()
        };
        stats.lines().find_map(of).unwrap_or(0)
    })
}

/// Each waiter stood in the queue: what did not would be no sample. Envoy sums its histograms up every few seconds.
async fn all_waited(envoy: &Envoy, expected: usize) {
    eventually("every waiter in the histogram of waits", PATIENCE, async || {
        let text = envoy.get("/stats/prometheus?filter=resilience_bulkhead_wait").await.body;
        let count = text.lines().find(|line| line.contains("_count"))?.rsplit_once(' ')?.1.parse::<usize>();
        (count == Ok(expected)).then_some(())
    })
    .await;
}
