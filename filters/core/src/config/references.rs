//! Policies that name each other.

use super::decode::{Errors, list, nearest, string};
use super::json::{Node, Order, Value, quote, shown};
use super::policy::Policy;
use crate::fallback::Fallbacks;
use std::collections::HashMap;
use std::sync::Arc;

/// What stands for a policy's place in the list until all of it was read. No policy is there.
pub(super) const UNRESOLVED: usize = usize::MAX;

/// Each is asked about for every request.
const MAX_NEEDED: usize = 16;
/// Further names that do not exist are told without the nearest one that does: to find it takes a look at every policy.
const MAX_SUGGESTIONS: usize = 16;

/// What can be judged only over a whole document.
#[derive(Debug, Default)]
pub(super) struct Whole {
    /// Which policies name which.
    pub(super) references: References,
    /// How many bytes the bodies take that were read so far.
    pub(super) bodies: usize,
}

/// The policies by their names, and who names them. A document of ten thousand is read policy by policy: what is kept of a
/// name is little, and is looked up when all names are known.
#[derive(Debug, Default)]
pub(super) struct References {
    /// By name the place in the list; of several with one name the first.
    named: HashMap<String, usize>,
    /// Of each policy that was read.
    breakers: Vec<Breaker>,
    /// Who is read now.
    reader: Option<usize>,
    mentions: Vec<Mention>,
}

/// What another policy may depend on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Breaker {
    One,
    OnePerCluster,
    None,
    /// The policy has errors of its own.
    Unknown,
}

/// A name, and where it stands.
#[derive(Debug)]
struct Mention {
    /// Which policy says it; `None` for `defaults`.
    by: Option<usize>,
    role: Role,
    name: Box<str>,
    order: Order,
}

/// What the policy is named for.
#[derive(Clone, Copy, Debug)]
enum Role {
    /// It guards where this entry of a fallback leads.
    Guards { entry: usize },
    /// It is needed, the how manieth in the list.
    Needed { item: usize },
}

impl References {
    /// A policy is going to be read: takes its name in.
    pub(super) fn begin(&mut self, policy: &Node, errors: &mut Errors) {
        let place = self.breakers.len();
        self.reader = Some(place);
        let Some(name) = policy.get("name") else { return };
        let Value::String(text) = &name.value else { return };
        if policy.get("fallback").is_none() {
            self.check_inherited(policy, text, errors);
        }
        if let Some(first) = self.named.get(text) {
            errors.expected(name, format_args!("a name that is not yet taken by policies[{first}].name"));
            return;
        }
        self.named.insert(text.clone(), place);
    }

    /// A policy must not guard what it does instead of itself. (What `defaults` name is known first.)
    fn check_inherited(&self, policy: &Node, name: &str, errors: &mut Errors) {
        let inherited = self.mentions.iter().take_while(|mention| mention.by.is_none());
        for mention in inherited.filter(|mention| &*mention.name == name) {
            let place = mention.place();
            let message = format_args!(
                "inherits a fallback that it guards itself ({place}), expected \"fallback\": null or a list of its own"
            );
            errors.at(policy, message);
        }
    }

    /// A policy was read; `None` if it has errors.
    pub(super) fn end(&mut self, policy: Option<&Policy>) {
        self.reader = None;
        self.breakers.push(match policy {
            None => Breaker::Unknown,
            Some(Policy { circuit_breaker: None, .. }) => Breaker::None,
            Some(Policy { max_keys: Some(_), .. }) => Breaker::OnePerCluster,
            Some(_) => Breaker::One,
        });
    }

    /// The policy `name`, written at `node`, guards an entry of the fallback that is read now.
    pub(super) fn guard(&mut self, entry: usize, node: &Node, name: &str) {
        self.note(Role::Guards { entry }, node, name);
    }

    /// Reads `when_open`: as many places as there are names, none of them known yet.
    pub(super) fn needed(&mut self, node: &Node, errors: &mut Errors) -> Option<Box<[usize]>> {
        let expected = format!("a list of 1 to {MAX_NEEDED} names of other policies");
        let items = list(node, &expected, errors)?;
        if items.is_empty() || items.len() > MAX_NEEDED {
            errors.expected(node, expected);
            return None;
        }
        let mut names = Vec::new();
        for (item, node) in items.iter().enumerate() {
            let Some(name) = string(node, "the name of a policy", errors) else { continue };
            if names.contains(&name) {
                errors.expected(node, "a name that is not yet in the list");
                continue;
            }
            names.push(name);
            self.note(Role::Needed { item }, node, name);
        }
        (names.len() == items.len()).then(|| vec![UNRESOLVED; items.len()].into_boxed_slice())
    }

    fn note(&mut self, role: Role, node: &Node, name: &str) {
        self.mentions.push(Mention { by: self.reader, role, name: name.into(), order: node.order });
    }

    /// Puts the places of the policies where they are named. `inherited` is what `defaults` say of the fallback: it is there
    /// once, and stays so. Where a policy could not be read the places in `policies` are not those of the document, but such
    /// a document is refused.
    pub(super) fn resolve(
        self,
        policies: &mut [Policy],
        inherited: Option<&Arc<Fallbacks>>,
        errors: &mut Errors,
    ) {
        let mut guards = Vec::new();
        let mut suggestions = MAX_SUGGESTIONS;
        for mention in &self.mentions {
            let Some(target) = self.target(mention, &mut suggestions, errors) else { continue };
            let policy = mention.by.map(|by| policies.get_mut(by));
            match (mention.role, policy) {
                (Role::Guards { entry }, None) => guards.push((entry, target)),
                (Role::Guards { entry }, Some(Some(policy))) => {
                    if let Some(own) = Arc::get_mut(&mut policy.fallback) {
                        own.set_guard(entry, target);
                    }
                }
                (Role::Needed { item }, Some(Some(policy))) => {
                    if let Some(place) = policy.when_open.get_mut(item) {
                        *place = target;
                    }
                }
                (_, Some(None)) | (Role::Needed { .. }, None) => {}
            }
        }
        if let Some(inherited) = inherited.filter(|_| !guards.is_empty()) {
            share(policies, inherited, &guards);
        }
    }

    fn target(&self, mention: &Mention, suggestions: &mut usize, errors: &mut Errors) -> Option<usize> {
        let node = mention.node();
        let Some(target) = self.named.get(&*mention.name).copied() else {
            self.unknown(&node, mention.by, suggestions, errors);
            return None;
        };
        if mention.by == Some(target) {
            errors.expected(&node, "another policy than the one that it stands in");
            return None;
        }
        let breaker = self.breakers.get(target).copied().unwrap_or(Breaker::Unknown);
        match (mention.role, breaker) {
            (Role::Needed { .. }, Breaker::None) => {
                errors.expected(&node, "a policy that has a \"circuit_breaker\"");
                None
            }
            (Role::Needed { .. }, Breaker::OnePerCluster) => {
                errors.expected(
                    &node,
                    "a policy that has one breaker, not one for each cluster (\"key\": \"upstream_cluster\")",
                );
                None
            }
            _ => Some(target),
        }
    }

    fn unknown(&self, node: &Node, by: Option<usize>, suggestions: &mut usize, errors: &mut Errors) {
        let Value::String(name) = &node.value else { return };
        let others =
            self.named.iter().filter(|(_, place)| Some(**place) != by).map(|(name, _)| name.as_str());
        let near = if *suggestions > 0 { nearest(name, others) } else { None };
        *suggestions = suggestions.saturating_sub(1);
        match near {
            Some(known) => {
                let found = node.to_string();
                errors.at(
                    node,
                    format_args!("found {}; did you mean the policy {}?", shown(&found), quote(known)),
                );
            }
            None => errors.expected(node, "the name of another policy of this document"),
        }
    }
}

impl Mention {
    /// The JSON path of the name.
    fn place(&self) -> String {
        let by = self.by.map_or_else(|| "defaults".to_owned(), |policy| format!("policies[{policy}]"));
        match self.role {
            Role::Guards { entry } => format!("{by}.fallback[{entry}].reroute.policy"),
            Role::Needed { item } => format!("{by}.when_open[{item}]"),
        }
    }

    /// The name as it stands in the document.
    fn node(&self) -> Node {
        Node { value: Value::String(self.name.as_ref().to_owned()), path: self.place(), order: self.order }
    }
}

/// Gives those that share a fallback the same with its guards.
fn share(policies: &mut [Policy], inherited: &Arc<Fallbacks>, guards: &[(usize, usize)]) {
    let mut resolved = Fallbacks::clone(inherited);
    for (entry, guard) in guards {
        resolved.set_guard(*entry, *guard);
    }
    let resolved = Arc::new(resolved);
    for policy in policies.iter_mut().filter(|policy| Arc::ptr_eq(&policy.fallback, inherited)) {
        policy.fallback = Arc::clone(&resolved);
    }
}
