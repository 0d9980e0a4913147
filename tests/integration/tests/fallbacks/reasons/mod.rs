//! Each reason by each source, over HTTP/1.1, HTTP/2 and gRPC: what the caller sees, what the access log and the metrics have,
//! and what the breaker learned.

mod expected;
mod table;
mod untouched;

use crate::*;
use expected::Expected;
use std::time::{Duration, Instant};
use table::{ANSWERS, Answering, Asked, Prepared, SITUATIONS, Situation, is_refusal};

/// Who answers.
#[derive(Clone, Copy)]
enum How {
    /// Whoever would without a fallback.
    Plainly,
    /// An entry.
    Instead(&'static Answering),
    /// Another route.
    Elsewhere,
}

/// How a caller speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Caller {
    Http1,
    Http2,
    Grpc,
}

impl Caller {
    const ALL: [Self; 3] = [Self::Http1, Self::Http2, Self::Grpc];

    fn protocol(self) -> Protocol {
        if self == Self::Http1 { Protocol::Http1 } else { Protocol::Http2 }
    }
}

/// A policy for a situation and an answer.
struct Play {
    situation: &'static Situation,
    how: How,
    policy: String,
}

impl Play {
    fn all() -> Vec<Self> {
        SITUATIONS.iter().flat_map(Self::of).collect()
    }

    fn of(situation: &'static Situation) -> Vec<Self> {
        let mut ways = vec![("plain", How::Plainly)];
        ways.extend(ANSWERS.iter().map(|it| (it.name, How::Instead(it))));
        if is_refusal(situation.reason) {
            ways.push(("elsewhere", How::Elsewhere));
        }
        let play = |(name, how)| Self { situation, how, policy: format!("{}-{name}", situation.name) };
        ways.into_iter().map(play).collect()
    }

    fn path(&self) -> String {
        format!("/{}", self.policy)
    }

    /// For the situation's reason only: what leads to the situation is not answered by it.
    fn policy(&self) -> Value {
        let entry = match self.how {
            How::Plainly => None,
            How::Instead(answer) => Some((answer.entry)()),
            How::Elsewhere => Some(json!({"reroute": {"cluster": SPARE, "policy": "guard"}})),
        };
        let on = json!({"on": [self.situation.reason]});
        let fallback: Vec<Value> = entry.into_iter().map(|entry| with(entry, on.clone())).collect();
        with(fragile(&self.policy, self.callers().len() as u32, fallback.into()), (self.situation.sections)())
    }

    fn source(&self) -> &'static str {
        match self.how {
            How::Plainly => "none",
            How::Instead(answer) => answer.source,
            How::Elsewhere => "reroute",
        }
    }

    /// Who asks.
    fn callers(&self) -> &'static [Caller] {
        match self.situation.asked {
            Asked::GrpcOnly(_) => &[Caller::Grpc],
            Asked::WithoutBody(_) => &[Caller::Http1, Caller::Http2],
            _ => &Caller::ALL,
        }
    }

    fn request(&self, caller: Caller) -> Request {
        let mut request = match (caller, self.situation.asked) {
            (Caller::Grpc, _) => Request::grpc(&self.path()),
            (_, Asked::Unfinished) => Request::post(&self.path(), "half"),
            _ => Request::get(&self.path()),
        };
        let words = match self.situation.asked {
            Asked::Told(words) | Asked::GrpcOnly(words) | Asked::WithoutBody(words) => words,
            Asked::Hurried => {
                request = request.header("x-deadline-ms", "30000");
                ""
            }
            Asked::Unfinished => {
                request = request.unfinished();
                "whole"
            }
        };
        // Of a refused request only the spare upstream hears.
        let is_elsewhere = is_refusal(self.situation.reason) && caller == Caller::Grpc;
        told(request, if is_elsewhere { "grpc=0" } else { words })
    }

    async fn prepare(&self, scene: &mut Scene) -> Option<Pending> {
        match self.situation.prepared {
            Prepared::Nothing => None,
            Prepared::Tripped => {
                assert_eq!(scene.get(&self.path(), "status=500").await.status, 500);
                None
            }
            Prepared::Probing => {
                assert_eq!(scene.get(&self.path(), "status=500").await.status, 500);
                pass(Instant::now(), Duration::from_millis(50)).await;
                Some(scene.hold(&self.path()).await)
            }
            Prepared::Held => Some(scene.hold(&self.path()).await),
        }
    }

    /// What its calls are counted as, those that were made before included.
    fn calls(&self) -> Calls {
        let Calls { success, failure, ignored } = self.situation.counts;
        let asked = self.callers().len() as u64;
        let before = match self.situation.prepared {
            Prepared::Nothing => calls(0, 0, 0),
            Prepared::Tripped => calls(0, 1, 0),
            Prepared::Probing => calls(1, 1, 0),
            Prepared::Held => calls(1, 0, 0),
        };
        calls(before.success + asked * success, before.failure + asked * failure, asked * ignored)
    }

    /// What the metrics do not have as they should.
    fn miscounted(&self, metrics: &Metrics) -> Option<String> {
        let (policy, reason) = (self.policy.as_str(), self.situation.reason);
        let sum = |metric: &str, labels: &[(&str, &str)]| {
            metrics.sum(metric, &[&[("policy", policy)], labels].concat()) as u64
        };
        let calls = |outcome| sum("resilience_calls_total", &[("outcome", outcome)]);
        let seen = [
            [calls("success"), calls("failure"), calls("ignored")],
            [sum(REJECTIONS, &[("reason", reason)]), sum(REJECTIONS, &[]), sum(OPENED, &[("to", "open")])],
            [sum(FALLBACKS, &[("reason", reason), ("source", self.source())]), sum(FALLBACKS, &[]), 0],
        ];
        let Calls { success, failure, ignored } = self.calls();
        let asked = self.callers().len() as u64;
        let refused = if is_refusal(reason) { asked } else { 0 };
        let answered = if matches!(self.how, How::Plainly) { 0 } else { asked };
        // The breaker saw failures, whatever the callers saw.
        let opened = u64::from(failure > 0);
        let expected = [[success, failure, ignored], [refused, refused, opened], [answered, answered, 0]];
        (seen != expected).then(|| format!("{policy}: {seen:?}, not {expected:?}"))
    }
}

fn documented(plays: &[Play]) -> Value {
    let mut policies: Vec<Value> = plays.iter().map(Play::policy).collect();
    policies.push(fragile("down", 1, json!([])));
    policies.push(fragile("guard", 1, json!([])));
    let mut document = document(&policies);
    document["trust_caller_headers"] = true.into();
    document
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reason_by_every_source() {
    let plays = Play::all();
    let routes = plays.iter().filter_map(|play| route_of(play.situation.route, &play.path()));
    let mut scene = Scene::routed(&documented(&plays), &routes.collect::<Vec<_>>()).await;
    assert_eq!(scene.get("/down", "status=500").await.status, 500);
    let mut held = Vec::new();
    for play in &plays {
        held.extend(play.prepare(&mut scene).await);
    }

    // All at once: they meet on all workers, and those that wait for a timer wait together.
    let address = scene.edge.address;
    let mut playing = Vec::new();
    for play in &plays {
        for &caller in play.callers() {
            let case = scene.case();
            let request = play.request(caller).header("x-case", &case);
            let task = tokio::spawn(send_once(address, caller.protocol(), request));
            playing.push((play, caller, case, task));
        }
    }
    let mut wrong = Vec::new();
    for (play, caller, case, task) in playing {
        let what = format!("{} by {caller:?}", play.policy);
        let answer = task.await.expect("no panic").unwrap_or_else(|error| panic!("{what}: {error}"));
        let logged = scene.logged(&case).await;
        let differences = Expected::of(play, caller).differences(&answer, &logged);
        if !differences.is_empty() {
            wrong.push(format!("{what}:\n    {}\n    {answer:?}", differences.join("\n    ")));
        }
    }
    assert!(wrong.is_empty(), "{} are wrong:\n{}", wrong.len(), wrong.join("\n"));

    scene.world.upstream.release();
    for pending in held {
        assert_eq!(pending.headers().await.expect("an answer").finish().await.status, 200);
    }
    let rerouted = plays.iter().filter(|play| matches!(play.how, How::Elsewhere)).count() * Caller::ALL.len();
    assert_eq!(scene.spare.requests(), rerouted);
    scene.edge.wait_calls("guard", calls(rerouted as u64, 0, 0)).await;
    let mut wrong = Vec::new();
    let counted = tokio::time::timeout(PATIENCE, async {
        loop {
            let metrics = scene.edge.envoy.prometheus().await;
            wrong = plays.iter().filter_map(|play| play.miscounted(&metrics)).collect();
            if wrong.is_empty() {
                break;
            }
        }
    });
    let _ = counted.await;
    assert!(wrong.is_empty(), "{} are counted wrong:\n{}", wrong.len(), wrong.join("\n"));
    for play in plays.iter().filter(|play| play.calls().failure > 0 && play.situation.name != "probed") {
        // And refuses now, which no entry here answers for, if that is not the reason itself.
        let answer = scene.get(&play.path(), "status=200").await;
        assert!(answer.header("x-resilience").contains("reason=circuit_open"), "{}: {answer:?}", play.policy);
    }
    scene.sound();
}
