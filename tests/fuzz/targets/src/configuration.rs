//! Any bytes as the operator's document.

use crate::input::Input;
use resilience_core::answer::{Instead, Reason, instead};
use resilience_core::bulkhead::Settings;
use resilience_core::config::{Document, Policy};
use resilience_core::fallback::{Cause, Entries, MAX_ENTRIES, MAX_PLACES};
use resilience_core::matcher::{Facts, Matcher, Request};
use resilience_core::outcome::Status;
use std::collections::BTreeSet;

/// The longest message, in bytes: a place, what was found (cut) and what was expected.
const LONGEST_MESSAGE: usize = 2048;

/// A body as it is written, and what becomes of the ids that are put into it.
const LONGEST_BODY: usize = 256 * 1024 + MAX_PLACES * 256 * 6;
const MAX_NEEDED: usize = 16;

/// Parses the bytes. What is refused says why, in lines that a log can hold; what is accepted can be used.
///
/// # Panics
/// If that does not hold.
pub fn check(bytes: &[u8]) {
    match Document::parse(bytes) {
        Ok(document) => use_it(&document, bytes),
        Err(messages) => check_messages(&messages, bytes),
    }
}

fn check_messages(messages: &[String], bytes: &[u8]) {
    assert!(!messages.is_empty(), "refused without a reason");
    // A mistake takes at least a byte of the document, or of what each policy is made of.
    assert!(messages.len() <= bytes.len() * 8 + 8, "{} messages", messages.len());
    for message in messages {
        assert!(message.contains(": "), "no place: {message:?}");
        assert!(message.len() <= LONGEST_MESSAGE, "{} bytes: {message:?}", message.len());
        assert!(!message.contains(ends_a_line), "more than a line: {message:?}");
    }
}

fn ends_a_line(letter: char) -> bool {
    letter.is_control() || matches!(letter, '\u{2028}' | '\u{2029}')
}

/// Builds what a module builds of a document, and asks it about requests that know the document.
fn use_it(document: &Document, bytes: &[u8]) {
    let names: BTreeSet<_> = document.policies.iter().map(|policy| &policy.name).collect();
    assert_eq!(names.len(), document.policies.len(), "a name stands for one policy");
    for policy in &document.policies {
        assert!(!policy.matches.is_empty(), "a policy without a match: {policy:?}");
        let _ = policy.shared(0);
        check_fallback(document, policy, bytes);
        if let Some(bulkhead) = &policy.bulkhead {
            check_bulkhead(&bulkhead.settings);
        }
    }
    let alternatives = document.policies.iter().enumerate();
    let policies = Matcher::new(
        alternatives.flat_map(|(target, policy)| policy.matches.iter().map(move |found| (target, found))),
    );
    let exempt = Matcher::new(document.exempt.iter().map(|found| (0, found)));
    let words = words(bytes);
    // Requests whose facts are words of the document, at different distances from each other.
    for stride in 0..8 {
        let mut facts = HostileFacts { words: &words, next: stride, stride };
        let found = policies.find(&mut Request::new(&mut facts));
        assert!(found.is_none_or(|target| target < document.policies.len()), "{found:?}");
        let found = exempt.find(&mut Request::new(&mut facts));
        assert!(found.is_none() || !document.exempt.is_empty(), "exempt by nothing");
    }
    // And one whose facts are arbitrary.
    let mut facts = ArbitraryFacts(Input::new(bytes));
    let _ = policies.find(&mut Request::new(&mut facts));
}

/// Whatever class a request says it is of, it is one of the bulkhead's, and its limit lets something in.
fn check_bulkhead(settings: &Settings) {
    let whole = settings.max_concurrent_calls;
    assert!(settings.queue.is_none_or(|queue| !queue.max_wait_duration.is_zero()), "{settings:?}");
    let Some(priority) = &settings.priority else { return };
    let names: BTreeSet<_> = priority.classes.iter().map(|class| &class.name).collect();
    assert_eq!(names.len(), priority.classes.len(), "a name stands for one class");
    assert!(priority.default < names.len(), "{settings:?}");
    for (index, class) in priority.classes.iter().enumerate() {
        assert_eq!(priority.class(Some(class.name.as_bytes())), index);
        assert!((1..=whole).contains(&class.limit), "{settings:?}");
    }
}

/// Whom a policy names is another one, and whoever asks gets an answer that is bounded.
fn check_fallback(document: &Document, policy: &Policy, bytes: &[u8]) {
    let other = |index: usize| {
        let found = document.policies.get(index).expect("a policy of the document");
        assert_ne!(found.name, policy.name, "a policy names itself");
        found
    };
    assert!(policy.when_open.len() <= MAX_NEEDED, "{policy:?}");
    for needed in &*policy.when_open {
        let needed = other(*needed);
        assert!(needed.circuit_breaker.is_some() && needed.max_keys.is_none(), "{needed:?}");
    }
    assert!(policy.fallback.entries().len() <= MAX_ENTRIES, "{policy:?}");
    let headers = words(bytes).into_iter().map(|word| (b"x-request-id".as_slice(), word));
    let caller = policy.fallback.caller(headers.chain([(b"accept".as_slice(), bytes)]));
    for reason in Reason::ALL {
        let cause = match reason.is_refusal() {
            true => Cause::refusal(reason, Some(17)),
            false => Cause::failure(reason, Status { http: Some(503), grpc: None }),
        };
        match instead(policy, true, &cause, &caller, Entries::default()) {
            Instead::Answer(reply) => assert!(reply.body.len() <= LONGEST_BODY, "{}", reply.body.len()),
            Instead::Reroute { to, .. } => {
                assert!(reason.is_refusal(), "{reason}");
                other(to.guard);
            }
            Instead::Shadowed => assert!(policy.shadow, "{policy:?}"),
            Instead::Nothing => {}
        }
    }
}

/// What stands between quotes, and the whole.
fn words(bytes: &[u8]) -> Vec<&[u8]> {
    bytes.split(|byte| *byte == b'"').chain([bytes, b"", b":", b"]", b"?", b"/"]).collect()
}

struct HostileFacts<'a> {
    words: &'a [&'a [u8]],
    next: usize,
    stride: usize,
}

impl HostileFacts<'_> {
    fn word(&mut self) -> Option<Vec<u8>> {
        self.next += self.stride;
        let word = self.words[self.next % self.words.len()];
        (self.next % 11 != 10).then(|| word.to_vec())
    }
}

impl Facts for HostileFacts<'_> {
    fn metadata(&mut self, _: &str, _: &str) -> Option<Vec<u8>> {
        self.word()
    }

    fn route(&mut self) -> Option<Vec<u8>> {
        self.word()
    }

    fn host(&mut self) -> Option<Vec<u8>> {
        self.word()
    }

    fn path(&mut self) -> Option<Vec<u8>> {
        self.word()
    }

    fn method(&mut self) -> Option<Vec<u8>> {
        self.word()
    }
}

struct ArbitraryFacts<'a>(Input<'a>);

impl ArbitraryFacts<'_> {
    fn some(&mut self) -> Option<Vec<u8>> {
        Some(self.0.u64().to_le_bytes().to_vec())
    }
}

impl Facts for ArbitraryFacts<'_> {
    fn metadata(&mut self, _: &str, _: &str) -> Option<Vec<u8>> {
        self.some()
    }

    fn route(&mut self) -> Option<Vec<u8>> {
        self.some()
    }

    fn host(&mut self) -> Option<Vec<u8>> {
        self.some()
    }

    fn path(&mut self) -> Option<Vec<u8>> {
        self.some()
    }

    fn method(&mut self) -> Option<Vec<u8>> {
        self.some()
    }
}
