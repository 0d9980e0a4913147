//! `/policies`: what each policy keeps.

mod breaker;
mod transitions;

use super::question::Page;
use super::{Inspection, Problem, json};
use crate::answer::Reply;
use crate::config::{PatternMode, Policy};
use crate::time::Timestamp;
use crate::worker::Reading;
use breaker::Breaker;
use serde::Serialize;

#[derive(Serialize)]
struct All<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    namespace: &'a str,
    total: usize,
    policies: Vec<One<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// A policy.
#[derive(Serialize)]
pub(super) struct One<'a> {
    name: &'a str,
    mode: &'static str,
    /// With a breaker for each upstream cluster: here is what those share for whom there is no key left.
    #[serde(flatten)]
    own: Sections,
    #[serde(skip_serializing_if = "Option::is_none")]
    keys: Option<Vec<Key>>,
}

/// An upstream cluster of a policy that keeps a state for each.
#[derive(Serialize)]
struct Key {
    key: String,
    #[serde(flatten)]
    sections: Sections,
}

/// The patterns that keep a state.
#[derive(Serialize, Default)]
struct Sections {
    /// What stood there could not be read: this is what the next request begins with.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    damaged: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    circuit_breaker: Option<Breaker>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bulkhead: Option<Bulkhead>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_budget: Option<RetryBudget>,
}

#[derive(Serialize)]
struct Bulkhead {
    mode: &'static str,
    in_flight: u32,
    limit: u32,
    waiting: u32,
    max_queue: u16,
}

#[derive(Serialize)]
struct RetryBudget {
    mode: &'static str,
    /// Retries that are kept for nobody; never below zero, like the gauge.
    balance: i64,
    /// Retries that are kept for requests in flight.
    reserved: i64,
}

impl<'a> Inspection<'a> {
    pub(super) fn policies(&mut self, page: &Page<'_>) -> Result<Reply, Problem> {
        let mut policies = Vec::new();
        let next = self.page(page, |it, index, keys| {
            policies.push(it.policy(index, keys)?);
            Ok(())
        })?;
        let (at, total) = (self.clock.utc(self.clock.now), self.policies.len());
        Ok(json(200, &All { at, namespace: self.namespace, total, policies, next }))
    }

    /// A policy, with the upstream clusters that have a state of their own.
    pub(super) fn policy(&mut self, index: usize, keys: Option<&[Vec<u8>]>) -> Result<One<'a>, Problem> {
        let policies = self.policies;
        let policy = policies.get(index).ok_or(Problem::NotFound)?;
        let own = self.sections(index, policy, None)?;
        let of_key = |name: &Vec<u8>| {
            let key = String::from_utf8_lossy(name).into_owned();
            Ok(Key { key, sections: self.sections(index, policy, Some(name))? })
        };
        let keys = keys.map(|keys| keys.iter().map(of_key).collect::<Result<_, Problem>>());
        let mode = match (policy.disabled, policy.shadow) {
            (true, _) => "disabled",
            (_, true) => "shadow",
            _ => "enforce",
        };
        Ok(One { name: &policy.name, mode, own, keys: keys.transpose()? })
    }

    fn sections(&mut self, index: usize, policy: &Policy, key: Option<&[u8]>) -> Result<Sections, Problem> {
        let now = self.clock.now;
        let reading = self.worker.read_state(self.read, index, key, now)?;
        let breaker = policy.circuit_breaker.as_ref();
        let budget = |reading| retry_budget(policy, reading, now);
        Ok(Sections {
            damaged: reading.as_ref().is_some_and(|reading| reading.state.repaired),
            circuit_breaker: breaker.map(|breaker| Breaker::new(breaker, reading.as_ref(), self.clock)),
            bulkhead: reading.as_ref().and_then(|reading| bulkhead(policy, reading)),
            retry_budget: reading.and_then(budget),
        })
    }
}

fn bulkhead(policy: &Policy, reading: &Reading) -> Option<Bulkhead> {
    let bulkhead = policy.bulkhead.as_ref().filter(|it| it.mode != PatternMode::Disabled)?;
    Some(Bulkhead {
        mode: bulkhead.mode.name(),
        in_flight: reading.state.bulkhead.in_flight(),
        limit: bulkhead.settings.max_concurrent_calls,
        waiting: reading.state.bulkhead.waiting(),
        max_queue: bulkhead.settings.queue.map_or(0, |queue| queue.max_queue),
    })
}

fn retry_budget(policy: &Policy, mut reading: Reading, now: Timestamp) -> Option<RetryBudget> {
    let budget = policy.retry_budget.as_ref().filter(|it| it.mode != PatternMode::Disabled)?;
    let (settings, kept) = (&budget.settings, &mut reading.state.budget);
    kept.adopt(settings);
    Some(RetryBudget {
        mode: budget.mode.name(),
        balance: kept.available(settings, now).max(0),
        reserved: kept.reserved(),
    })
}
