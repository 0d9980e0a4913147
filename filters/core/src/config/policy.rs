//! `policies[]`.

use super::decode::{Errors, Object, boolean, flip, integer, string, word};
use super::fallback;
use super::json::{Node, Value};
use super::matching::{self, Match};
use super::mode::{BreakerMode, MODES, Mode, PatternMode};
use super::references::Whole;
use super::{
    Bulkhead, Defaults, Retry, RetryBudget, SECTIONS, Timeout, breaker, bulkhead, outcome, retry,
    retry_budget, timeout,
};
use crate::answer::Reason;
use crate::breaker::Settings;
use crate::bulkhead::Priority;
use crate::fallback::Fallbacks;
use crate::outcome::Rules;
use crate::retry::Safety;
use crate::timeout as time;
use crate::worker::{Pattern, Patterns, Shared};
use std::ops::RangeInclusive;
use std::sync::Arc;

const MAX_NAME: usize = 64;

/// A named set of patterns that guards a set of requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Which requests are its own: the alternatives.
    pub matches: Vec<Match>,
    /// Whether the policy is switched off: its requests pass as if it were not there.
    pub disabled: bool,
    /// Whether the policy only looks on: what would be answered instead is counted, and the failed answer passes.
    pub shadow: bool,
    /// The policies, by index, whose open breaker has this one's requests refused.
    pub when_open: Box<[usize]>,
    /// How many upstream clusters have a breaker of their own; `None` where all requests share one.
    pub max_keys: Option<u16>,
    /// What is evidence; `None` for the built-in rules.
    pub outcome: Option<Arc<Rules>>,
    /// The circuit breaker, if there is one.
    pub circuit_breaker: Option<CircuitBreaker>,
    /// The bulkhead, if there is one.
    pub bulkhead: Option<Bulkhead>,
    /// The timeouts, if there are any.
    pub timeout: Option<Timeout>,
    /// The retries that the filter has Envoy's router make, if it is in charge of them.
    pub retry: Option<Retry>,
    /// The retry budget, if there is one: retries that nobody set one for have the default one.
    pub retry_budget: Option<RetryBudget>,
    /// What answers instead, in order.
    pub fallback: Arc<Fallbacks>,
    /// Whether answers tell an Envoy in front not to retry.
    pub discourage_retries: bool,
    /// What its document says of whether callers are hurt while its breaker is open; `None` where it says nothing.
    critical: Option<bool>,
}

impl Policy {
    /// By which rules answers are judged.
    #[must_use]
    pub fn rules(&self) -> &Rules {
        static BUILT_IN: Rules = Rules::DEFAULT;
        self.outcome.as_deref().unwrap_or(&BUILT_IN)
    }

    /// What the policy keeps in shared state: a breaker that is forced open has nothing to keep. `offset` is how much is to
    /// be added to a moment, in nanoseconds, so that its whole seconds are the wall clock's.
    #[must_use]
    pub fn shared(&self, offset: u32) -> Option<Shared> {
        let breaker = self.circuit_breaker.as_ref().and_then(|breaker| {
            let shadow = match breaker.mode {
                BreakerMode::Enforce => false,
                BreakerMode::Shadow => true,
                BreakerMode::ForcedOpen | BreakerMode::ShadowForcedOpen | BreakerMode::Disabled => {
                    return None;
                }
            };
            Some(Pattern { settings: breaker.settings.clone().aligned(offset), shadow })
        });
        let bulkhead = self.bulkhead.as_ref();
        let bulkhead = bulkhead.and_then(|bulkhead| pattern(bulkhead.mode, &bulkhead.settings));
        let budget = self.retry_budget.as_ref().and_then(|budget| pattern(budget.mode, &budget.settings));
        let keeps = breaker.is_some() || bulkhead.is_some() || budget.is_some();
        let patterns = Patterns { breaker, bulkhead, budget };
        keeps.then_some(Shared { patterns, max_keys: self.max_keys })
    }

    /// Whether callers are hurt while its breaker is open. Where its document does not say, that is so unless its fallback
    /// answers all of them.
    #[must_use]
    pub fn is_critical(&self) -> bool {
        self.critical.unwrap_or_else(|| !self.fallback.spares_everybody(Reason::CircuitOpen))
    }

    /// The timeouts that bound its requests, if any do.
    #[must_use]
    pub fn enforced_timeout(&self) -> Option<&time::Settings> {
        let timeout = self.timeout.as_ref().filter(|timeout| timeout.mode == PatternMode::Enforce);
        timeout.map(|timeout| &timeout.settings)
    }

    /// The retries of its requests, if we are in charge of them.
    #[must_use]
    pub fn enforced_retry(&self) -> Option<&Retry> {
        self.retry.as_ref().filter(|retry| retry.mode == PatternMode::Enforce)
    }

    /// Which of its requests can be repeated without harm.
    #[must_use]
    pub fn safety(&self) -> &Safety {
        static DEFAULT: Safety = Safety::DEFAULT;
        self.retry.as_ref().map_or(&DEFAULT, |retry| &retry.safety)
    }

    /// Whether it has a say in the retries or the timeouts of its requests.
    #[must_use]
    pub fn steers(&self) -> bool {
        let budget = self.retry_budget.as_ref().map(|budget| budget.mode);
        budget == Some(PatternMode::Enforce)
            || self.enforced_retry().is_some()
            || self.enforced_timeout().is_some()
    }

    /// Whether it has to know what headers say of the time and the retries of its requests.
    #[must_use]
    pub fn heeds_headers(&self) -> bool {
        let modes = [self.retry_budget.as_ref().map(|it| it.mode), self.timeout.as_ref().map(|it| it.mode)];
        self.enforced_retry().is_some()
            || modes.into_iter().flatten().any(|mode| mode != PatternMode::Disabled)
    }

    /// The classes of its requests, where its bulkhead tells them apart.
    #[must_use]
    pub fn priority(&self) -> Option<&Priority> {
        let bulkhead = self.bulkhead.as_ref().filter(|bulkhead| bulkhead.mode != PatternMode::Disabled)?;
        bulkhead.settings.priority.as_ref()
    }
}

/// A pattern as workers know it.
fn pattern<S: Clone>(mode: PatternMode, settings: &S) -> Option<Pattern<S>> {
    let shadow = match mode {
        PatternMode::Enforce => false,
        PatternMode::Shadow => true,
        PatternMode::Disabled => return None,
    };
    Some(Pattern { settings: settings.clone(), shadow })
}

/// The pattern `circuit_breaker`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CircuitBreaker {
    /// When it trips and comes back.
    pub settings: Settings,
    /// What it does about it.
    pub mode: BreakerMode,
}

const KEYS: [(&str, bool); 2] = [("policy", false), ("upstream_cluster", true)];
/// Each costs two metrics and a value in shared data.
const MAX_KEYS: RangeInclusive<u32> = 1..=1024;
const DEFAULT_MAX_KEYS: u32 = 64;

pub(super) fn decode(
    node: Node,
    defaults: Option<&Defaults<'_>>,
    whole: &mut Whole,
    errors: &mut Errors,
) -> Option<Policy> {
    let inherits = |section| defaults.filter(|_| node.get(section).is_none());
    let shared_rules = inherits("outcome").and_then(|it| it.outcome.clone());
    let shared_fallback = inherits(FALLBACK).and_then(|it| it.fallback.clone());
    let merged = merge(node, defaults.map(|it| it.node));
    let mut object = Object::new(&merged, errors)?;
    let name = object.require("name", NAME, errors).and_then(|node| name(node, NAME, errors));
    let modes = MODES.get(..3).unwrap_or_default();
    let mode = object.get("mode").map(|node| word(node, modes, errors)).unwrap_or(Some(Mode::Enforce));
    let matches =
        object.require("match", "a list of matches", errors).and_then(|node| matching::some(node, errors));
    let outcome = section(&mut object, "outcome")
        .map(|node| shared_rules.or_else(|| outcome::decode(node, errors).map(Arc::new)));
    let breaker = section(&mut object, "circuit_breaker").map(|node| breaker::decode(node, errors));
    let limits = bulkhead(&mut object, errors);
    let timeout = section(&mut object, "timeout").map(|node| timeout::decode(node, errors));
    let retry = section(&mut object, "retry").map(|node| retry::decode(node, errors));
    let budget = object.get("retry_budget").map(|node| budget(node, errors));
    let fallback = section(&mut object, FALLBACK).map(|node| fallback::decode(node, whole, errors));
    let when_open = object.get("when_open").map(|node| whole.references.needed(node, errors));
    let max_keys = key(&mut object, errors);
    let discourage = object.get("discourage_retries").map(|node| boolean(node, errors));
    let critical = object.get("critical").map(|node| boolean(node, errors));
    object.finish(errors);
    let mode = mode?;
    let breaker = flip(breaker)?;
    let retry = flip(retry)?.map(|own| own.within(mode));
    let retry_budget = match budget {
        Some(decoded) => decoded?.map(|own| own.within(mode)),
        // It belongs to the retries, and does no more than they do.
        None => retry.as_ref().map(|retry| RetryBudget::unsaid(retry.mode)),
    };
    let disabled = mode == Mode::Disabled;
    let when_open = when_open.unwrap_or_else(|| Some(Box::default()))?;
    let fallback = fallback.unwrap_or_else(|| Some(shared_fallback.unwrap_or_default()))?;
    Some(Policy {
        name: name?,
        matches: matches?,
        disabled,
        shadow: mode == Mode::Shadow,
        // Requests also come to it by way of others' fallbacks.
        when_open: if disabled { Box::default() } else { when_open },
        max_keys: max_keys?,
        outcome: flip(outcome)?,
        circuit_breaker: breaker.map(|(own, settings)| CircuitBreaker { settings, mode: own.within(mode) }),
        bulkhead: limits?.map(|own| own.within(mode)),
        timeout: flip(timeout)?.map(|own| own.within(mode)),
        retry,
        retry_budget,
        fallback: if disabled { Arc::default() } else { fallback },
        discourage_retries: discourage.unwrap_or(Some(true))?,
        critical: flip(critical)?,
    })
}

/// `bulkhead`, and `class`, which is one of its classes.
fn bulkhead(object: &mut Object<'_>, errors: &mut Errors) -> Option<Option<Bulkhead>> {
    let limits = section(object, "bulkhead");
    let class = object.get("class");
    match (limits, class) {
        (Some(node), class) => bulkhead::decode(node, class, errors).map(Some),
        (None, Some(class)) => {
            bulkhead::no_classes(class, errors);
            None
        }
        (None, None) => Some(None),
    }
}

/// `retry_budget`; `null` is no budget, not even for retries.
fn budget(node: &Node, errors: &mut Errors) -> Option<Option<RetryBudget>> {
    match node.value {
        Value::Null => Some(None),
        _ => retry_budget::decode(node, errors).map(Some),
    }
}

/// `key` and `max_keys`: how many upstream clusters have a breaker of their own, if each is to have one.
fn key(object: &mut Object<'_>, errors: &mut Errors) -> Option<Option<u16>> {
    let by_cluster = object.get("key").map_or(Some(false), |node| word(node, &KEYS, errors));
    let max_node = object.get("max_keys");
    let max = max_node.map_or(Some(DEFAULT_MAX_KEYS), |node| integer(node, MAX_KEYS, errors));
    if let Some(node) = max_node.filter(|_| by_cluster == Some(false)) {
        errors.expected(node, "\"key\": \"upstream_cluster\" beside it");
        return None;
    }
    let max = u16::try_from(max?).ok()?;
    Some(by_cluster?.then_some(max))
}

/// The policy with the sections it inherits.
fn merge(mut node: Node, defaults: Option<&Node>) -> Node {
    let Some(defaults) = defaults else { return node };
    let rest: Vec<_> = SECTIONS
        .iter()
        // What is inherited whole is there already, and may be large.
        .filter(|section| **section != FALLBACK && node.get(section).is_none())
        .filter_map(|section| Some(((*section).to_owned(), defaults.get(section)?.clone())))
        .collect();
    let Value::Object(entries) = &mut node.value else { return node };
    for (key, mine) in entries.iter_mut().filter(|(key, _)| SECTIONS.contains(&key.as_str())) {
        let Some(inherited) = defaults.get(key) else { continue };
        let own = std::mem::take(mine);
        *mine = match key.as_str() {
            "bulkhead" => {
                let inherited = bulkhead::inherited(&own, inherited);
                own.over(&inherited)
            }
            "retry" => {
                let inherited = retry::inherited(&own, inherited);
                own.over(&inherited)
            }
            _ => own.over(inherited),
        };
    }
    entries.extend(rest);
    node
}

/// A section; `null` switches it off.
fn section<'a>(object: &mut Object<'a>, key: &'static str) -> Option<&'a Node> {
    object.get(key).filter(|node| !matches!(node.value, Value::Null))
}

const FALLBACK: &str = "fallback";
const NAME: &str = "a name such as \"checkout\" ([a-z][a-z0-9_-]{0,63})";

/// A name of the form `[a-z][a-z0-9_-]{0,63}`, that `expected` tells of.
pub(super) fn name(node: &Node, expected: &str, errors: &mut Errors) -> Option<String> {
    let text = string(node, expected, errors)?;
    let begins = text.starts_with(|letter: char| letter.is_ascii_lowercase());
    let letters =
        text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-');
    if !begins || !letters || text.len() > MAX_NAME {
        errors.expected(node, expected);
        return None;
    }
    Some(text.to_owned())
}
