//! Run-time control: what an operator may say to a breaker over HTTP, on a listener of its own.
//!
//! | request | what it does |
//! |---|---|
//! | `POST /breakers/<policy>/open?for=<duration>` | refuses everything for so long, then probes |
//! | `POST /breakers/<policy>/closed?for=<duration>` | lets everything through for so long and counts nothing |
//! | `POST /breakers/<policy>/reset` | closes it, with nothing remembered |
//!
//! `key=<cluster>` means one breaker of a policy that keeps one for each upstream cluster; without it all are meant.

use crate::answer::Reply;
use crate::breaker::{Command, State};
use crate::config::{Policy, parse_duration};
use crate::time::Timestamp;
use crate::worker::{Port, Worker};
use std::borrow::Cow;
use std::time::Duration;

/// What is forced is forced for a limited time, lest it be forgotten.
const LONGEST: Duration = Duration::from_secs(24 * 3600);
const SHORTEST: Duration = Duration::from_secs(1);

/// What an operator wants.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Order<'a> {
    /// The policy's name.
    policy: &'a str,
    /// The upstream cluster, where not all are meant.
    key: Option<Cow<'a, [u8]>>,
    /// What to do.
    command: Command,
}

/// Why nothing was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Problem {
    /// There is no such path, or no such policy or key.
    NotFound,
    /// Only `POST` changes anything.
    Method,
    /// `for` is missing, no duration, or out of range.
    Span,
    /// A parameter that means nothing here.
    Parameter,
    /// The policy's breaker keeps no state: its mode says what it does.
    NoState,
    /// The shared state could not be changed.
    Store,
}

impl Problem {
    const fn status(self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::Method => 405,
            Self::Span | Self::Parameter => 400,
            Self::NoState => 409,
            Self::Store => 503,
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::NotFound => {
                "no such breaker; expected /breakers/<policy>/open?for=30s, /breakers/<policy>/closed?for=30s or \
                 /breakers/<policy>/reset, and a key that has a breaker of its own"
            }
            Self::Method => "expected POST",
            Self::Span => "expected for=<duration>, from 1s to 24h",
            Self::Parameter => {
                "unknown parameter; expected for=<duration> (not with reset) and key=<cluster>"
            }
            Self::NoState => "the policy has no breaker whose state could be forced",
            Self::Store => "the shared state could not be changed; try again",
        }
    }
}

/// What the path of every order begins with.
const ORDERS: &str = "/breakers/";

/// Whether a request with this `:path` is to be answered here, where other requests of operators are answered elsewhere.
#[must_use]
pub fn is_order(path: &[u8]) -> bool {
    path.starts_with(ORDERS.as_bytes())
}

/// Answers a request by its `:method` and `:path`, and does what it says to the breakers of `policies`.
pub fn answer<P: Port + ?Sized>(
    method: &[u8],
    path: &[u8],
    policies: &[Policy],
    worker: &mut Worker,
    port: &mut P,
    now: Timestamp,
) -> Reply {
    let obeyed = parse(method, path).and_then(|order| obey(&order, policies, worker, port, now));
    obeyed.unwrap_or_else(refused)
}

fn obey<P: Port + ?Sized>(
    order: &Order<'_>,
    policies: &[Policy],
    worker: &mut Worker,
    port: &mut P,
    now: Timestamp,
) -> Result<Reply, Problem> {
    let named = |policy: &Policy| policy.name == order.policy;
    let policy = policies.iter().position(named).ok_or(Problem::NotFound)?;
    if !worker.keeps_state(policy) {
        return Err(Problem::NoState);
    }
    let targets = worker.targets(port, policy, order.key.as_deref());
    let mut state = Err(Problem::NotFound);
    for target in &targets {
        state = Ok(worker.force(port, *target, order.command, now).ok_or(Problem::Store)?);
    }
    Ok(done(order.policy, state?, targets.len()))
}

/// Reads a request by its `:method` and `:path`.
///
/// # Errors
/// What is wrong with it.
fn parse<'a>(method: &[u8], path: &'a [u8]) -> Result<Order<'a>, Problem> {
    let path = std::str::from_utf8(path).map_err(|_| Problem::NotFound)?;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let rest = path.strip_prefix(ORDERS).ok_or(Problem::NotFound)?;
    let (policy, verb) = rest.split_once('/').ok_or(Problem::NotFound)?;
    if !matches!(verb, "open" | "closed" | "reset") {
        return Err(Problem::NotFound);
    }
    if method != b"POST" {
        return Err(Problem::Method);
    }
    let (mut span, mut key) = (None, None);
    for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
        match parameter.split_once('=') {
            Some(("for", text)) if verb != "reset" => span = Some(text),
            Some(("key", name)) => key = Some(percent_encoding::percent_decode_str(name).into()),
            _ => return Err(Problem::Parameter),
        }
    }
    let span = || {
        let span = span.and_then(parse_duration).ok_or(Problem::Span)?;
        if (SHORTEST..=LONGEST).contains(&span) { Ok(span) } else { Err(Problem::Span) }
    };
    let command = match verb {
        "open" => Command::Open(span()?),
        "closed" => Command::Close(span()?),
        _ => Command::Reset,
    };
    Ok(Order { policy, key, command })
}

/// Answers an order that was carried out on so many breakers.
fn done(policy: &str, state: State, breakers: usize) -> Reply {
    let body = serde_json::json!({ "policy": policy, "state": state.to_string(), "breakers": breakers });
    json(200, &body)
}

/// Answers an order that was not carried out.
fn refused(problem: Problem) -> Reply {
    let mut reply = json(problem.status(), &serde_json::json!({ "error": problem.text() }));
    if problem == Problem::Method {
        reply.headers.push(("allow".to_owned(), "POST".to_owned()));
    }
    reply
}

fn json(status: u16, body: &serde_json::Value) -> Reply {
    Reply::for_operator(status, "resilience:control", body)
}

#[cfg(test)]
mod tests {
    use super::*;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    fn command(path: &str) -> Result<Command, Problem> {
        parse(b"POST", path.as_bytes()).map(|order| order.command)
    }

    #[test]
    fn orders_are_read() {
        assert_eq!(command("/breakers/p/open?for=1m30s"), Ok(Command::Open(Duration::from_secs(90))));
        assert_eq!(command("/breakers/p/closed?for=24h"), Ok(Command::Close(LONGEST)));
        assert_eq!(command("/breakers/p/reset"), Ok(Command::Reset));
        let order = parse(b"POST", b"/breakers/p/open?key=outbound%7C80%7C%7Cshop&for=1s").unwrap();
        assert_eq!((order.policy, order.key.as_deref()), ("p", Some(b"outbound|80||shop".as_slice())));
    }

    #[test]
    fn what_is_no_order_is_told_apart() {
        for path in
            ["/", "/breakers", "/breakers/p", "/breakers/p/half_open", "/breakers/p/open/x", "/breakers/p/"]
        {
            assert_eq!(command(path), Err(Problem::NotFound), "{path}");
        }
        for path in
            ["open", "open?for=", "open?for=30", "open?for=999ms", "closed?for=24h1s", "closed?for=-1s"]
        {
            assert_eq!(command(&format!("/breakers/p/{path}")), Err(Problem::Span), "{path}");
        }
        for path in ["reset?for=30s", "open?for=30s&until=5", "open?for"] {
            assert_eq!(command(&format!("/breakers/p/{path}")), Err(Problem::Parameter), "{path}");
        }
        assert_eq!(parse(b"GET", b"/breakers/p/reset"), Err(Problem::Method));
        assert_eq!(parse(b"POST", b"/breakers/\xff/reset"), Err(Problem::NotFound));
    }

    #[test]
    fn answers_are_json() {
        let reply = done("p", State::Open, 3);
        assert_eq!(
            (reply.status, reply.body),
            (200, b"{\"breakers\":3,\"policy\":\"p\",\"state\":\"open\"}\n".to_vec())
        );
        let reply = refused(Problem::Method);
        assert_eq!((reply.status, reply.headers.last().unwrap().1.as_str()), (405, "POST"));
    }
}
