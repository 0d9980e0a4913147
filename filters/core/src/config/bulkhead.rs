//! `bulkhead`, and the `class` of a policy's requests.

use super::decode::{self, Errors, Object, all, duration, flip, integer, list, millionths, one_of, word};
use super::json::{Node, Value};
use super::matching::text;
use super::mode::{Mode, PATTERN_MODES, PatternMode};
use super::policy::name;
use crate::bulkhead::{Class, ClassSource, MOST_WAITING, Priority, Queue, Settings};
use std::collections::HashMap;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The pattern `bulkhead`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Bulkhead {
    /// How many calls may be in flight, who waits and whose turn it is. The policy's `class` is its default class.
    pub settings: Settings,
    /// What it does about it.
    pub mode: PatternMode,
}

const CALLS: RangeInclusive<u32> = 1..=1_000_000;
const QUEUE: RangeInclusive<u32> = 0..=MOST_WAITING as u32;
/// A request that waits costs memory, and its client patience.
const WAIT: RangeInclusive<Duration> = Duration::ZERO..=Duration::from_secs(600);
/// Each is a value of a label.
const CLASSES: RangeInclusive<usize> = 1..=16;
/// `max_share` is read in millionths of a percent: single precision would make 332 of 33.3 % of 1000.
const WHOLE: u64 = 100_000_000;

const SOURCES: [&str; 2] = ["header", "metadata"];
const LIST: &str = "a list of 1 to 16 classes, from the highest to the lowest";
const NAME: &str = "a name such as \"critical\" ([a-z][a-z0-9_-]{0,63})";

impl Bulkhead {
    /// As it is in a policy of the mode `outer`.
    pub(super) fn within(self, outer: Mode) -> Self {
        Self { mode: self.mode.within(outer), ..self }
    }
}

/// A whole section. `class` is what the policy says of the class of its requests: it goes before the section's own default.
pub(super) fn decode(node: &Node, class: Option<&Node>, errors: &mut Errors) -> Option<Bulkhead> {
    read(node, class, true, errors)
}

/// As [`decode`], for a section that a policy is going to complete.
pub(super) fn check_partial(node: &Node, errors: &mut Errors) {
    let _ = read(node, None, false, errors);
}

/// A `class` in a policy without classes.
pub(super) fn no_classes(class: &Node, errors: &mut Errors) {
    errors.expected(class, "a \"bulkhead\" with \"priority\" beside it");
}

/// What a policy inherits beneath its own section: not what its own words replace under another key.
pub(super) fn inherited(own: &Node, defaults: &Node) -> Node {
    let mut rest = defaults.clone();
    if own.get("max_wait_duration").is_some_and(is_zero) {
        rest.remove(&["max_queue"]);
    }
    let says = |source| own.get("priority").and_then(|priority| priority.get(source)).is_some();
    let [header, metadata] = SOURCES;
    for (one, other) in [(header, metadata), (metadata, header)] {
        if says(one) && !says(other) {
            rest.remove(&["priority", other]);
        }
    }
    rest
}

fn is_zero(node: &Node) -> bool {
    matches!(&node.value, Value::String(text) if super::parse_duration(text) == Some(Duration::ZERO))
}

fn read(node: &Node, class: Option<&Node>, complete: bool, errors: &mut Errors) -> Option<Bulkhead> {
    const REQUIRED: &str = "how many calls may be in flight";
    let mut object = Object::new(node, errors)?;
    let mode = object.get("mode").map(|node| word(node, &PATTERN_MODES, errors));
    let calls = match complete {
        true => object.require("max_concurrent_calls", REQUIRED, errors),
        false => object.get("max_concurrent_calls"),
    };
    let calls = calls.and_then(|node| integer(node, CALLS, errors));
    let wait = object.get("max_wait_duration").map(|node| duration(node, &WAIT, errors));
    let queue_node = object.get("max_queue");
    let queue = queue_node.map(|node| integer(node, QUEUE, errors));
    let priority = object.get("priority").map(|node| Shares::read(node, class, errors));
    // An unknown key may be `priority` that is misspelt, or `max_wait_duration`, and is told as that.
    let all_known = object.finish(errors);
    if let Some(class) = class.filter(|_| priority.is_none() && all_known) {
        no_classes(class, errors);
    }
    let wait = wait.unwrap_or(Some(Duration::ZERO));
    if let Some(node) = queue_node.filter(|_| complete && all_known && wait == Some(Duration::ZERO)) {
        errors.expected(node, "a \"max_wait_duration\" above \"0s\" beside it");
        return None;
    }
    let (calls, wait) = (calls?, wait?);
    let max_queue = u16::try_from(queue.unwrap_or(Some(calls.min(*QUEUE.end())))?).ok()?;
    let settings = Settings {
        max_concurrent_calls: calls,
        queue: (!wait.is_zero()).then_some(Queue { max_wait_duration: wait, max_queue }),
        priority: flip(priority)?.map(|shares| shares.of(calls)),
    };
    Some(Bulkhead { settings, mode: mode.unwrap_or(Some(PatternMode::Enforce))? })
}

/// `priority`, before it is known what the shares are shares of.
struct Shares {
    source: Option<ClassSource>,
    default: usize,
    /// Each class with its share in millionths of a percent.
    classes: Vec<(String, u32)>,
}

impl Shares {
    fn read(node: &Node, class: Option<&Node>, errors: &mut Errors) -> Option<Self> {
        let mut object = Object::new(node, errors)?;
        let source = source(&mut object, errors);
        let default = object.require("default", "the name of one of the classes", errors);
        let listed = object.require("classes", LIST, errors);
        let listed = listed.and_then(|node| classes(node, errors));
        object.finish(errors);
        let classes = listed?;
        let names = classes.iter().enumerate();
        let names: Vec<_> = names.map(|(index, (name, _))| (name.as_str(), index)).collect();
        let default = default.and_then(|node| word(node, &names, errors));
        let class = class.map_or(default, |node| word(node, &names, errors));
        default?;
        Some(Self { source: source?, default: class?, classes })
    }

    /// With the limits that the shares come to.
    fn of(self, calls: u32) -> Priority {
        let class = |(name, share)| Class { name, limit: limit(calls, share) };
        Priority {
            source: self.source,
            default: self.default,
            classes: self.classes.into_iter().map(class).collect(),
        }
    }
}

/// A share of the permits, rounded down, and at least one of them.
fn limit(calls: u32, share: u32) -> u32 {
    let product = u64::from(calls).saturating_mul(u64::from(share));
    let limit = product.checked_div(WHOLE).unwrap_or_default();
    u32::try_from(limit).unwrap_or(calls).max(1)
}

/// What tells the class of a request: one thing at most.
fn source(object: &mut Object<'_>, errors: &mut Errors) -> Option<Option<ClassSource>> {
    let [header_node, metadata_node] = SOURCES.map(|key| object.get(key));
    let header = header_node.map(|node| header(node, errors));
    let metadata = metadata_node.map(|node| metadata(node, errors));
    if let Some(second) = metadata_node.filter(|_| header.is_some()) {
        errors.at(second, format_args!("a second source of the class, expected {}", one_of(&SOURCES)));
        return None;
    }
    match header.or(metadata) {
        Some(source) => source.map(Some),
        None => Some(None),
    }
}

fn header(node: &Node, errors: &mut Errors) -> Option<ClassSource> {
    const EXPECTED: &str = "the name of a header such as \"x-priority\" (a token, RFC 9110)";
    decode::header(node, EXPECTED, errors).map(ClassSource::Header)
}

fn metadata(node: &Node, errors: &mut Errors) -> Option<ClassSource> {
    let mut object = Object::new(node, errors)?;
    let mut part =
        |key| object.require(key, "a string", errors).and_then(|node| text(node, "a string", errors));
    let (namespace, key) = (part("namespace"), part("key"));
    object.finish(errors);
    Some(ClassSource::Metadata { namespace: namespace?, key: key? })
}

fn classes(node: &Node, errors: &mut Errors) -> Option<Vec<(String, u32)>> {
    let items = list(node, LIST, errors)?;
    if !CLASSES.contains(&items.len()) {
        errors.expected(node, LIST);
        return None;
    }
    let mut taken = HashMap::new();
    all(items, |item| class(item, &mut taken, errors))
}

/// One class; `taken` holds where each name stands already.
fn class(node: &Node, taken: &mut HashMap<String, String>, errors: &mut Errors) -> Option<(String, u32)> {
    let mut object = Object::new(node, errors)?;
    let named = object.require("name", NAME, errors);
    let found = named.and_then(|node| name(node, NAME, errors));
    let share = object.require("max_share", "a percentage from 0 to 100", errors);
    let share = share.and_then(|node| millionths(node, errors));
    object.finish(errors);
    let (named, found) = (named?, found?);
    if let Some(first) = taken.get(&found) {
        errors.expected(named, format_args!("a name that is not yet taken by {first}"));
        return None;
    }
    taken.insert(found.clone(), named.path.clone());
    Some((found, share?))
}
