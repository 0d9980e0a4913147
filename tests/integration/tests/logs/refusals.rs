//! Of refusals there is a line for the first of a burst, over all workers, and for what was held back.

use crate::*;

/// How much time there is at least between two lines of one policy and reason.
const INTERVAL: Duration = Duration::from_secs(10);

/// A line of a refusal.
#[derive(Debug, Clone)]
struct Line {
    text: String,
    /// When it was not there yet, and when it was seen.
    written: (Instant, Instant),
    held_back: u64,
    of_a_request: bool,
}

impl Line {
    fn new(text: String, written: (Instant, Instant)) -> Self {
        let (_, behind) = text.split_once("held_back=").expect("a number");
        let held_back = behind.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
        let of_a_request = behind.contains(" request_id=");
        Self { text, written, held_back, of_a_request }
    }

    /// How many refusals it speaks of.
    fn refusals(&self) -> u64 {
        self.held_back + u64::from(self.of_a_request)
    }
}

/// The lines of one policy and reason.
struct Watched<'a> {
    edge: &'a Edge,
    policy: &'a str,
    reason: &'a str,
    looked: Instant,
    lines: Vec<Line>,
}

impl<'a> Watched<'a> {
    /// Before there are any.
    fn new(edge: &'a Edge, policy: &'a str, reason: &'a str) -> Self {
        Self { edge, policy, reason, looked: Instant::now(), lines: Vec::new() }
    }

    fn look(&mut self) {
        let looked = Instant::now();
        let words = format!("refused reason={} ", self.reason);
        let said = said(self.edge, self.policy).into_iter().filter(|line| line.contains(&words));
        let written = (self.looked, Instant::now());
        let new: Vec<_> = said.skip(self.lines.len()).map(|text| Line::new(text, written)).collect();
        self.lines.extend(new);
        self.looked = looked;
    }

    fn refusals(&self) -> u64 {
        self.lines.iter().map(Line::refusals).sum()
    }

    /// Waits until all refusals are spoken of, none twice, and there was never more than one line in the interval.
    async fn account(&mut self) {
        let labels = [("policy", self.policy), ("reason", self.reason)];
        let refused = self.edge.count("resilience_rejections_total", &labels).await;
        let started = Instant::now();
        self.look();
        while self.refusals() < refused {
            assert!(started.elapsed() < 3 * INTERVAL + PATIENCE, "{refused} refusals, but {:#?}", self.lines);
            tokio::time::sleep(TICK / 5).await;
            self.look();
        }
        assert_eq!(self.refusals(), refused, "{:#?}", self.lines);
        for pair in self.lines.windows(2) {
            let most = pair[1].written.1 - pair[0].written.0;
            // A worker may have been held up between its decision and its line.
            assert!(most + 4 * TICK >= INTERVAL, "{most:?} at most between {pair:#?}");
        }
    }
}

/// Each worker refuses hundreds at once.
async fn a_burst(edge: &Edge) {
    const REQUESTS: usize = 2000;
    let mut watched = Watched::new(edge, "shut", "circuit_open");
    let ask = |number: usize| named("/shut", "", &number.to_string());
    let answers = burst(edge.address, Protocol::Http1, REQUESTS, 16, ask).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|it| it.status == 503)));
    watched.look();
    assert_eq!((watched.lines[0].of_a_request, watched.lines[0].held_back), (true, 0));
    watched.account().await;
    assert_eq!(watched.refusals(), REQUESTS as u64);
    // Nothing is said of nothing.
    let lines = watched.lines.len();
    tokio::time::sleep(INTERVAL + 2 * TICK).await;
    watched.look();
    assert_eq!(watched.lines.len(), lines, "{:#?}", watched.lines);
}

/// A policy that refuses for two reasons, now and then, for longer than a line keeps others back.
async fn a_trickle(edge: &Edge) {
    let mut clients = edge.clients(Protocol::Http2).await;
    let held = clients.next_worker().start(named("/full", "hang", "holder")).await.unwrap();
    edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "full")], 1).await;
    let mut full = Watched::new(edge, "full", "bulkhead_full");
    let mut late = Watched::new(edge, "full", "deadline_exceeded");
    let (mut sent, started) = (0, Instant::now());
    while started.elapsed() < INTERVAL + 4 * TICK {
        let by_time = sent % 2 == 0;
        let request = named("/full", "", &format!("t-{sent}"));
        let request = if by_time { request.header("x-deadline-ms", "0") } else { request };
        assert_eq!(clients.send(request).await.status, if by_time { 504 } else { 503 });
        sent += 1;
        full.look();
        late.look();
        tokio::time::sleep(TICK / 5).await;
    }
    tokio::join!(full.account(), late.account());
    assert_eq!(full.refusals() + late.refusals(), sent);
    assert!(full.lines.len() >= 2 && late.lines.len() >= 2, "{:#?}{:#?}", full.lines, late.lines);
    let first = [(&full, "in_flight=1 waiting=0 limit=1", 1), (&late, "total_ms=60000 margin_ms=20", 0)];
    for (watched, numbers, id) in first {
        let Watched { reason, lines, .. } = watched;
        let expected = format!("warning refused reason={reason} {numbers} held_back=0 request_id=t-{id}");
        assert_eq!(lines[0].text, expected);
    }
    held.abandon();
}

/// By one worker after the other, and by one alone.
async fn in_turns(edge: &Edge) {
    let mut clients = edge.clients(Protocol::Http1).await;
    let mut needy = Watched::new(edge, "needy", "dependency_open");
    let mut alone = Watched::new(edge, "alone", "circuit_open");
    for number in 0..3 * WORKERS {
        let id = format!("n-{number}");
        assert_eq!(clients.send(named("/needy", "", &id)).await.status, 503);
        assert_eq!(clients.worker(1).send(named("/alone", "", &id)).await.unwrap().status, 503);
    }
    tokio::join!(needy.account(), alone.account());
    for (watched, numbers) in [(&needy, "dependency=shut"), (&alone, "breaker=open cause=mode")] {
        let Watched { reason, lines, .. } = watched;
        let expected = format!("warning refused reason={reason} {numbers} held_back=0 request_id=n-0");
        assert_eq!((&lines[0].text, watched.refusals()), (&expected, 3 * WORKERS as u64));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_has_one_line_and_all_are_accounted_for() {
    let upstream = Upstream::start().await;
    let forced = json!({"mode": "forced_open", "consecutive_failures": 1});
    let full = json!({
        "bulkhead": {"max_concurrent_calls": 1},
        "timeout": {"total": "60s", "deadline_header": "x-deadline-ms", "margin": "20ms"},
    });
    let policies = [
        policy("shut", forced.clone()),
        guarded("needy", &json!({"when_open": ["shut"]})),
        policy("alone", forced),
        guarded("full", &full),
    ];
    let mut document = document(&policies);
    document["trust_caller_headers"] = true.into();
    let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter(&document)]).await;
    tokio::join!(a_burst(&edge), a_trickle(&edge), in_turns(&edge));
    assert_eq!(edge.count("resilience_store_give_ups_total", &[]).await, 0);
    assert_eq!(traps(&edge.envoy), Vec::<String>::new());
}

/// What stood in the shared state: of breakers in each state, however they came there, and of queues.
#[tokio::test(flavor = "multi_thread")]
async fn a_line_says_what_the_limits_are_and_what_there_is() {
    let upstream = Upstream::start().await;
    let breaker = |wait: &str| {
        json!({
            "failure_rate_threshold": 50, "sliding_window_size": 4, "minimum_number_of_calls": 4,
            "wait_duration_in_open_state": wait, "permitted_number_of_calls_in_half_open_state": 1,
        })
    };
    let queue = json!({"max_concurrent_calls": 1, "max_wait_duration": FOR_EVER, "max_queue": 1});
    let policies = [
        policy("open", breaker("60s")),
        policy("half", breaker("300ms")),
        guarded("queued", &json!({"bulkhead": queue})),
    ];
    let edge = Edge::routed(upstream.addr(), &[patient_route()], &[filter(&document(&policies))]).await;
    let mut clients = edge.clients(Protocol::Http2).await;
    let trip = async |clients: &mut Clients, policy: &str| {
        for status in [200, 500, 200, 500] {
            assert_eq!(clients.get(&format!("/{policy}"), &format!("status={status}")).await, status);
        }
    };
    let refused = |edge: &Edge, policy: &str| {
        let lines = said(edge, policy).into_iter().filter(|line| line.contains("refused"));
        let lines: Vec<_> = lines.collect();
        let [line] = &lines[..] else { panic!("{lines:#?}") };
        line.clone()
    };
    let why = "cause=failure_rate_threshold failure_rate=50 threshold=50 calls=4 failed=2 slow=0 held_back=0";

    trip(&mut clients, "open").await;
    assert_eq!(clients.send(named("/open", "", "first")).await.status, 503);
    let line = refused(&edge, "open");
    let rest = line.strip_prefix("warning refused reason=circuit_open breaker=open wait_ms=").expect(&line);
    let (wait, rest) = rest.split_once(' ').expect(&line);
    assert!(wait.parse::<u32>().is_ok_and(|wait| wait > 0 && wait <= 60_000), "{line}");
    assert_eq!(rest, format!("{why} request_id=first"));

    trip(&mut clients, "half").await;
    pass(Instant::now(), Duration::from_millis(300)).await;
    let probe = clients.next_worker().start(named("/half", "hang", "probe")).await.unwrap();
    upstream.wait_in_flight(1).await;
    assert_eq!(clients.send(named("/half", "", "second")).await.status, 503);
    let words = "warning refused reason=circuit_open breaker=half_open probes=1 permitted=1";
    assert_eq!(refused(&edge, "half"), format!("{words} {why} request_id=second"));
    upstream.release();
    assert_eq!(probe.headers().await.unwrap().finish().await.status, 200);

    let held = clients.next_worker().start(named("/queued", "hang", "holder")).await.unwrap();
    upstream.wait_in_flight(1).await;
    let waiting = clients.next_worker().start(named("/queued", "", "waiter")).await.unwrap();
    edge.wait_count("resilience_bulkhead_waiting", &[("policy", "queued")], 1).await;
    assert_eq!(clients.send(named("/queued", "", "third")).await.status, 503);
    assert_eq!(
        refused(&edge, "queued"),
        "warning refused reason=bulkhead_full in_flight=1 waiting=1 limit=1 max_queue=1 held_back=0 request_id=third"
    );
    upstream.release();
    for pending in [held, waiting] {
        assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    }
}
