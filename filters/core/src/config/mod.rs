//! The operator's JSON document.
//!
//! Everything an operator wrote is either understood or refused, with its place, what was found and what was expected;
//! all errors of a document come at once, in its order.

#[cfg(test)]
mod accepted_tests;
mod breaker;
#[cfg(test)]
mod breaker_tests;
mod bulkhead;
#[cfg(test)]
mod bulkhead_mistakes_tests;
#[cfg(test)]
mod bulkhead_tests;
mod decode;
mod duration;
mod fallback;
#[cfg(test)]
mod fallback_mistakes_tests;
#[cfg(test)]
mod fallback_tests;
#[cfg(test)]
mod hostile_tests;
mod json;
#[cfg(test)]
mod large_tests;
mod matching;
mod mode;
mod outcome;
#[cfg(test)]
mod outcome_tests;
mod policy;
mod references;
#[cfg(test)]
mod references_tests;
mod retry;
mod retry_budget;
#[cfg(test)]
mod retry_mistakes_tests;
#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod tests;
mod timeout;

pub use bulkhead::Bulkhead;
pub use duration::parse as parse_duration;
pub use matching::{HostPattern, Match, PathPattern};
pub use mode::{BreakerMode, PatternMode};
pub use policy::{CircuitBreaker, Policy};
pub use retry::Retry;
pub use retry_budget::RetryBudget;
pub use timeout::Timeout;

use crate::fallback::Fallbacks;
use crate::outcome::Rules;
use decode::{Errors, Object};
use json::{Node, Policies};
use references::Whole;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

/// The sections that `defaults` may hold.
const SECTIONS: [&str; 7] =
    ["outcome", "circuit_breaker", "bulkhead", "timeout", "retry", "retry_budget", "fallback"];
/// A namespace longer than this would make every key of the shared state long.
const MAX_NAMESPACE: usize = 128;
/// How many metrics a VM defines at most, where nobody says otherwise: each takes Envoy some hundred bytes, for ever.
const MAX_METRICS: u32 = 50_000;
const METRICS: RangeInclusive<u32> = 100..=1_000_000;
/// Metadata that policies are matched by is read one by one.
const MAX_METADATA: usize = 16;

/// A whole configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Document {
    /// The prefix of all shared state.
    pub namespace: String,
    /// The policies, in the order of the document.
    pub policies: Vec<Policy>,
    /// What no policy touches.
    pub exempt: Vec<Match>,
    /// Whether callers are believed what they say of their deadline and of attempts.
    pub trust_caller_headers: bool,
    /// Whether answers tell outsiders the policy and the reason.
    pub expose: bool,
    /// Whether this configuration obeys operators, and guards nothing.
    pub control: bool,
    /// Whether this configuration shows operators the state of its policies, and guards nothing.
    pub state: bool,
    /// Whether what is decided over each request is left in Envoy's filter state, for access logs and traces.
    pub annotate: bool,
    /// How many metrics a VM defines at most.
    pub max_metrics: u32,
}

impl Document {
    /// Reads a document.
    ///
    /// # Errors
    /// Every mistake in it, one message each, in the order of the document.
    pub fn parse(text: &[u8]) -> Result<Self, Vec<String>> {
        let mut errors = Errors::default();
        let document =
            decode(text, &mut errors).map_err(|error| vec![format!("document: not JSON: {error}")])?;
        match (document, errors.into_messages()) {
            (Some(document), messages) if messages.is_empty() => Ok(document),
            (_, messages) => Err(messages),
        }
    }
}

/// Reads the document twice: what policies inherit may stand behind them.
fn decode(text: &[u8], errors: &mut Errors) -> Result<Option<Document>, String> {
    let root = Node::outline(text)?;
    let Some(mut object) = Object::new(&root, errors) else { return Ok(None) };
    let mut whole = Whole::default();
    let namespace = object.get("namespace").map(|node| namespace(node, errors));
    let defaults = object.get("defaults").and_then(|node| Defaults::read(node, &mut whole, errors));
    let policies = object.require("policies", "a list of policies", errors);
    let exempt = object.get("exempt").and_then(|node| matching::alternatives(node, errors));
    let trust = object.get("trust_caller_headers").map(|node| decode::boolean(node, errors));
    let expose = object.get("expose").map(|node| decode::boolean(node, errors));
    let control = object.get("control").map(|node| decode::boolean(node, errors));
    let state = object.get("state").map(|node| decode::boolean(node, errors));
    let annotate = object.get("annotate").map(|node| decode::boolean(node, errors));
    let max_metrics = object.get("max_metrics").map(|node| decode::integer(node, METRICS, errors));
    object.finish(errors);
    let Some(list) = policies.filter(|node| decode::list(node, "a list of policies", errors).is_some())
    else {
        return Ok(None);
    };
    let policies = read_policies(text, list, defaults.as_ref(), whole, errors)?;
    let document = || {
        Some(Document {
            namespace: namespace.unwrap_or_else(|| Some("default".to_owned()))?,
            policies,
            exempt: exempt.unwrap_or_default(),
            trust_caller_headers: trust.unwrap_or(Some(false))?,
            expose: expose.unwrap_or(Some(true))?,
            control: control.unwrap_or(Some(false))?,
            state: state.unwrap_or(Some(false))?,
            annotate: annotate.unwrap_or(Some(false))?,
            max_metrics: max_metrics.unwrap_or(Some(MAX_METRICS))?,
        })
    };
    Ok(document())
}

fn read_policies(
    text: &[u8],
    list: &Node,
    defaults: Option<&Defaults<'_>>,
    mut whole: Whole,
    errors: &mut Errors,
) -> Result<Vec<Policy>, String> {
    let mut policies = Vec::new();
    let mut pairs = MetadataPairs::default();
    Policies::read(text, list, |node| {
        whole.references.begin(&node, errors);
        pairs.check(&node, errors);
        let policy = policy::decode(node, defaults, &mut whole, errors);
        whole.references.end(policy.as_ref());
        policies.extend(policy);
    })?;
    let inherited = defaults.and_then(|defaults| defaults.fallback.as_ref());
    whole.references.resolve(&mut policies, inherited, errors);
    policies.shrink_to_fit();
    Ok(policies)
}

fn namespace(node: &Node, errors: &mut Errors) -> Option<String> {
    let expected = format!("a string of 1 to {MAX_NAMESPACE} bytes");
    let text = decode::string(node, &expected, errors)?;
    if text.is_empty() || text.len() > MAX_NAMESPACE {
        errors.expected(node, expected);
        return None;
    }
    Some(text.to_owned())
}

/// What policies inherit.
struct Defaults<'a> {
    node: &'a Node,
    outcome: Option<Arc<Rules>>,
    /// Read once, like the rules, and shared by all that inherit it whole: ten thousand policies must not hold a page each.
    fallback: Option<Arc<Fallbacks>>,
}

impl<'a> Defaults<'a> {
    /// Checks what stands in `defaults` by itself, so that a mistake there shows even if no policy inherits it.
    fn read(node: &'a Node, whole: &mut Whole, errors: &mut Errors) -> Option<Self> {
        let mut object = Object::new(node, errors)?;
        let (mut outcome, mut fallback) = (None, None);
        for section in SECTIONS {
            let Some(node) = object.get(section) else { continue };
            match section {
                "outcome" => outcome = outcome::decode(node, errors).map(Arc::new),
                "circuit_breaker" => breaker::check_partial(node, errors),
                "bulkhead" => bulkhead::check_partial(node, errors),
                "timeout" => drop(timeout::decode(node, errors)),
                "retry" => drop(retry::decode(node, errors)),
                "retry_budget" => drop(retry_budget::decode(node, errors)),
                _ => fallback = fallback::decode(node, whole, errors),
            }
        }
        object.finish(errors);
        Some(Self { node, outcome, fallback })
    }
}

/// The pairs of namespace and key that policies are matched by: every request pays for a look at each.
#[derive(Default)]
struct MetadataPairs(BTreeSet<[Option<String>; 2]>);

impl MetadataPairs {
    fn check(&mut self, policy: &Node, errors: &mut Errors) {
        for metadata in matching::metadata_of(policy) {
            if self.0.len() > MAX_METADATA {
                return;
            }
            self.0.insert(["namespace", "key"].map(|key| metadata.get(key).map(ToString::to_string)));
            if self.0.len() > MAX_METADATA {
                let expected = format!("at most {MAX_METADATA} pairs of namespace and key in a document");
                errors.expected(metadata, expected);
            }
        }
    }
}
