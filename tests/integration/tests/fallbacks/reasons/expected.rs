//! What of each answer is promised.

use super::table::{Again, Asked, PROBLEM, Prepared, RATELIMITED, is_refusal};
use super::{Caller, How, Play};
use crate::*;

/// What `Retry-After` may say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetryAfter {
    Nothing,
    Seconds(u64),
    /// The rest of a long wait.
    Rest,
}

impl RetryAfter {
    fn allows(self, said: &str) -> bool {
        match self {
            Self::Nothing => said.is_empty(),
            Self::Seconds(seconds) => said == seconds.to_string(),
            Self::Rest => said.parse::<u64>().is_ok_and(|seconds| (300..=600).contains(&seconds)),
        }
    }
}

/// An answer as it must be.
pub struct Expected {
    /// `None` where it is not ours to say.
    status: Option<u16>,
    /// All headers but `content-length` and `retry-after`; `None` where they are not ours to say.
    headers: Option<Vec<String>>,
    /// With `%AGAIN%` where it has what `Retry-After` says.
    body: Option<String>,
    retry_after: RetryAfter,
    mark: String,
    logged: String,
}

impl Expected {
    pub fn of(play: &Play, caller: Caller) -> Self {
        let (policy, reason) = (play.policy.as_str(), play.situation.reason);
        let (plain_status, plain_details) = play.situation.plain;
        let is_ours = plain_details == "ours";
        let answered = match play.how {
            How::Elsewhere => return Self::elsewhere(play, caller),
            How::Plainly if !is_ours => return Self::untouched(play, caller),
            How::Plainly => None,
            How::Instead(answer) => Some(answer),
        };
        let status = answered.map_or(plain_status, |it| it.status);
        let mut headers: Vec<String> = match answered {
            Some(answer) => answer.headers.iter().map(|&line| line.to_owned()).collect(),
            None => vec![PROBLEM.to_owned(), RATELIMITED.to_owned()],
        };
        let mark = mark(policy, reason, play.source());
        headers.push(format!("x-resilience: {mark}"));
        let retry_after = match answered.map(|it| it.again) {
            Some(Again::Never) => RetryAfter::Nothing,
            Some(Again::Seconds(seconds)) => RetryAfter::Seconds(seconds),
            Some(Again::AsTheRefusal) | None => of_refusal(play),
        };
        let is_direct = is_ours || (caller == Caller::Grpc && has_a_body(play));
        let details = if is_direct { format!("resilience:{policy}:{reason}") } else { plain_details.into() };
        let mut expected = Self {
            status: Some(status),
            headers: Some(headers),
            body: Some(answered.map_or_else(|| problem(status, reason), |it| body(it.name, play))),
            retry_after,
            mark,
            logged: format!("{status} {details}"),
        };
        if caller == Caller::Grpc {
            expected.become_grpc(reason, &details);
        }
        expected
    }

    /// It is never the body of the HTTP answer.
    fn become_grpc(&mut self, reason: &str, details: &str) {
        let code = match reason {
            "bulkhead_full" => 8,
            "deadline_exceeded" | "timeout" => 4,
            _ => 14,
        };
        self.status = Some(200);
        self.body = Some(String::new());
        let headers = self.headers.get_or_insert_default();
        headers.retain(|line| !line.starts_with("content-type") && line != RATELIMITED);
        headers.extend(
            ["content-type: application/grpc", RATELIMITED]
                .map(str::to_owned)
                .into_iter()
                .chain([format!("grpc-status: {code}"), format!("grpc-message: {reason}")]),
        );
        self.logged = format!("200 {details}");
    }

    /// By another route.
    fn elsewhere(play: &Play, caller: Caller) -> Self {
        let mark = mark(&play.policy, play.situation.reason, "reroute");
        let body = if caller == Caller::Grpc { "\0\0\0\0\0" } else { "upstream\n" };
        Self {
            status: Some(200),
            headers: None,
            body: Some(body.to_owned()),
            retry_after: RetryAfter::Nothing,
            mark,
            logged: "200 via_upstream".to_owned(),
        }
    }

    /// The upstream's answer, or Envoy's.
    fn untouched(play: &Play, caller: Caller) -> Self {
        let (status, details) = play.situation.plain;
        let is_made_grpc = caller == Caller::Grpc && !has_a_body(play);
        let status = if is_made_grpc { 200 } else { status };
        Self {
            status: Some(status),
            headers: None,
            body: None,
            retry_after: RetryAfter::Nothing,
            mark: String::new(),
            logged: format!("{status} {details}"),
        }
    }

    /// What is not as it must be.
    pub fn differences(mut self, answer: &Answer, logged: &str) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: &str, expected: String, seen: String| {
            if expected != seen {
                differences.push(format!("{what}: {seen}, not {expected}"));
            }
        };
        let said = answer.header("retry-after");
        if !self.retry_after.allows(&said) {
            differ("retry-after", format!("{:?}", self.retry_after), said.clone());
        }
        if let Some(status) = self.status {
            differ("status", status.to_string(), answer.status.to_string());
        }
        if let Some(mut expected) = self.headers.take() {
            expected.sort();
            let varying = ["content-length: ", "retry-after: ", "connection: "];
            let seen = headers(answer).into_iter();
            let seen: Vec<String> =
                seen.filter(|line| !varying.iter().any(|name| line.starts_with(name))).collect();
            differ("headers", format!("{expected:?}"), format!("{seen:?}"));
        }
        if let Some(body) = &self.body {
            differ("body", body.replace("%AGAIN%", &said), answer.text());
        }
        let length = answer.header("content-length");
        if !length.is_empty() {
            differ("content-length", answer.body.len().to_string(), length);
        }
        differ("marks", format!("{:?}", self.marks()), format!("{:?}", all(&answer.headers, "x-resilience")));
        differ("broken", "None".to_owned(), format!("{:?}", answer.broken));
        let fits =
            self.logged.split_once('*').map_or(logged == self.logged, |(begin, _)| logged.starts_with(begin));
        if !fits {
            differ("logged", self.logged, logged.to_owned());
        }
        differences
    }

    fn marks(&self) -> Vec<&str> {
        if self.mark.is_empty() { Vec::new() } else { vec![&self.mark] }
    }
}

/// Whether the failed answer is the upstream's, and more than headers.
fn has_a_body(play: &Play) -> bool {
    play.situation.plain.1 == "via_upstream" && !matches!(play.situation.asked, Asked::GrpcOnly(_))
}

/// When the refused may come back.
fn of_refusal(play: &Play) -> RetryAfter {
    match (play.situation.reason, play.situation.prepared) {
        ("circuit_open", Prepared::Nothing) => RetryAfter::Nothing,
        ("circuit_open", Prepared::Probing) | ("bulkhead_full", _) => RetryAfter::Seconds(1),
        ("circuit_open" | "dependency_open", _) => RetryAfter::Rest,
        _ => RetryAfter::Nothing,
    }
}

fn body(name: &str, play: &Play) -> String {
    let reason = play.situation.reason;
    match name {
        "page" => format!("{}: {reason}", play.policy),
        "busy" if is_refusal(reason) => format!(r#"{{"again":"%AGAIN%","reason":"{reason}"}}"#),
        "busy" => format!(r#"{{"again":"","reason":"{reason}"}}"#),
        "empty" => String::new(),
        "loud" => problem(502, reason),
        _ => problem(429, reason),
    }
}

/// RFC 9457's problem details.
fn problem(status: u16, reason: &str) -> String {
    let title = match status {
        429 => "Too Many Requests",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        _ => "Gateway Timeout",
    };
    format!(r#"{{"title":"{title}","status":{status},"detail":"{reason}"}}"#)
}
