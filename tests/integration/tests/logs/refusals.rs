//! Of refusals there is a line for the first of a burst, over all workers, and for what was held back.

use crate::*;

/// How much time there is at least between two lines of one policy and reason.
const INTERVAL: Duration = Duration::from_secs(10);

/// A line of a refusal, and when it was first seen.
#[derive(Debug, Clone)]
struct Line {
    seen: Instant,
    text: String,
    held_back: u64,
    of_a_request: bool,
}

impl Line {
    /// How many refusals it speaks of.
    fn refusals(&self) -> u64 {
        self.held_back + u64::from(self.of_a_request)
    }
}

/// Adds the lines of a policy and reason that are new.
fn look(edge: &Edge, policy: &str, reason: &str, lines: &mut Vec<Line>) {
    let said =
        said(edge, policy).into_iter().filter(|line| line.contains(&format!("refused reason={reason} ")));
    for text in said.skip(lines.len()) {
        let (_, held_back) = text.split_once("held_back=").expect("a number");
        let number = held_back.split(' ').next().expect("a word");
        let held_back_of_request = held_back.contains(" request_id=");
        let held_back = number.parse().expect("a number");
        lines.push(Line { seen: Instant::now(), held_back, of_a_request: held_back_of_request, text });
    }
}

/// Watches until all refusals are spoken of; returns the lines.
async fn account(edge: &Edge, policy: &str, reason: &str, mut lines: Vec<Line>) -> Vec<Line> {
    let refused = [("policy", policy), ("reason", reason)];
    let refused = edge.count("resilience_rejections_total", &refused).await;
    let started = Instant::now();
    while lines.iter().map(Line::refusals).sum::<u64>() < refused {
        assert!(started.elapsed() < 3 * INTERVAL + PATIENCE, "{refused} refusals, but {lines:#?}");
        tokio::time::sleep(TICK / 5).await;
        look(edge, policy, reason, &mut lines);
    }
    lines
}

fn spaced(lines: &[Line]) {
    for pair in lines.windows(2) {
        let between = pair[1].seen - pair[0].seen;
        // It is seen a little after it is written.
        assert!(between > INTERVAL - TICK, "{between:?} between {pair:#?}");
    }
}

/// Each worker refuses hundreds at once.
async fn a_burst(edge: &Edge) {
    const REQUESTS: usize = 2000;
    let ask = |number: usize| named("/shut", "", &number.to_string());
    let answers = burst(edge.address, Protocol::Http1, REQUESTS, 16, ask).await;
    assert!(answers.iter().all(|answer| answer.as_ref().is_ok_and(|it| it.status == 503)));
    let mut lines = Vec::new();
    look(edge, "shut", "circuit_open", &mut lines);
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert_eq!(lines[0].refusals(), 1);
    let lines = account(edge, "shut", "circuit_open", lines).await;
    spaced(&lines);
    assert_eq!(lines.iter().map(Line::refusals).sum::<u64>(), REQUESTS as u64);
    assert!(lines.iter().skip(1).all(|line| !line.of_a_request), "{lines:#?}");
    // And nothing after that.
    let count = lines.len();
    let mut later = lines;
    tokio::time::sleep(INTERVAL + 2 * TICK).await;
    look(edge, "shut", "circuit_open", &mut later);
    assert_eq!(later.len(), count, "{later:#?}");
}

/// A policy that refuses for two reasons, now and then, for longer than a line keeps others back.
async fn a_trickle(edge: &Edge) {
    let mut clients = edge.clients(Protocol::Http2).await;
    let held = clients.next_worker().start(named("/full", "hang", "holder")).await.unwrap();
    edge.wait_count("resilience_bulkhead_in_flight", &[("policy", "full")], 1).await;
    let (mut full, mut late) = (Vec::new(), Vec::new());
    let (mut sent, started) = (0, Instant::now());
    while started.elapsed() < INTERVAL + 4 * TICK {
        let by_time = sent % 2 == 0;
        let request = named("/full", "", &format!("t-{sent}"));
        let request = if by_time { request.header("x-deadline-ms", "0") } else { request };
        assert_eq!(clients.send(request).await.status, if by_time { 504 } else { 503 });
        sent += 1;
        look(edge, "full", "bulkhead_full", &mut full);
        look(edge, "full", "deadline_exceeded", &mut late);
        tokio::time::sleep(TICK / 5).await;
    }
    assert_eq!((full[0].held_back, late[0].held_back), (0, 0));
    let (full, late) = tokio::join!(
        account(edge, "full", "bulkhead_full", full),
        account(edge, "full", "deadline_exceeded", late)
    );
    for lines in [&full, &late] {
        spaced(lines);
        assert!((2..=4).contains(&lines.len()), "{lines:#?}");
    }
    let counted = full.iter().chain(&late).map(Line::refusals).sum::<u64>();
    assert_eq!(counted, sent, "{full:#?} {late:#?}");
    let words =
        "warning refused reason=bulkhead_full in_flight=1 waiting=0 limit=1 held_back=0 request_id=t-1";
    assert_eq!(full[0].text, words);
    assert_eq!(
        late[0].text,
        "warning refused reason=deadline_exceeded total_ms=60000 margin_ms=20 held_back=0 request_id=t-0"
    );
    held.abandon();
}

/// By one worker alone, and by one after the other.
async fn in_turns(edge: &Edge) {
    let mut clients = edge.clients(Protocol::Http1).await;
    for number in 0..3 * WORKERS {
        let id = format!("n-{number}");
        assert_eq!(clients.send(named("/needy", "", &id)).await.status, 503);
        assert_eq!(clients.worker(1).send(named("/alone", "", &id)).await.unwrap().status, 503);
    }
    let first = [
        ("needy", "dependency_open", "dependency=shut"),
        ("alone", "circuit_open", "breaker=open cause=mode"),
    ];
    for (policy, reason, numbers) in first {
        let expected = format!("warning refused reason={reason} {numbers} held_back=0 request_id=n-0");
        assert_eq!(said(edge, policy), [expected]);
    }
    for (policy, reason, _) in first {
        let lines = account(edge, policy, reason, Vec::new()).await;
        spaced(&lines[1..]);
        assert_eq!(lines.iter().map(Line::refusals).sum::<u64>(), 3 * WORKERS as u64);
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
