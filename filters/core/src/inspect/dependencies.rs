//! `/dependencies`: how well each dependency is that a policy guards, as far as its breaker and its bulkhead know.

use super::question::Page;
use super::{Clock, Inspection, Problem, json};
use crate::answer::Reply;
use crate::breaker::Phase;
use crate::config::{BreakerMode, PatternMode, Policy};
use crate::worker::Reading;
use serde::Serialize;

/// How well a dependency is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Health {
    /// Nothing is known.
    Unknown,
    /// Nothing speaks against it.
    Healthy,
    /// Some of its calls are refused, or may be.
    Degraded,
    /// All of its calls are refused.
    Down,
}

#[derive(Serialize)]
struct All {
    #[serde(skip_serializing_if = "Option::is_none")]
    at: Option<String>,
    overall: Health,
    dependencies: Vec<One>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

#[derive(Serialize)]
struct One {
    policy: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    health: Health,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    enforced: bool,
    critical: bool,
    /// What those say that enforce: nobody is hurt by what stands on paper.
    #[serde(skip)]
    counts: Health,
}

/// What a pattern says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Finding {
    health: Health,
    reason: Option<&'static str>,
    enforced: bool,
}

impl Inspection<'_> {
    pub(super) fn dependencies(&mut self, page: &Page<'_>) -> Result<Reply, Problem> {
        let mut dependencies = Vec::new();
        let next = self.page(page, |it, index, keys| it.dependencies_of(index, keys, &mut dependencies))?;
        let at = self.clock.utc(self.clock.now);
        let overall = overall(&dependencies);
        Ok(json(200, &All { at, overall, dependencies, next }))
    }

    /// What a policy guards: one dependency, or each of its upstream clusters.
    fn dependencies_of(
        &mut self,
        index: usize,
        keys: Option<&[Vec<u8>]>,
        all: &mut Vec<One>,
    ) -> Result<(), Problem> {
        let policies = self.policies;
        let policy = policies.get(index).ok_or(Problem::NotFound)?;
        if policy.circuit_breaker.is_none() && policy.bulkhead.is_none() {
            return Ok(());
        }
        let keys = keys.unwrap_or_default();
        for name in keys {
            let reading = self.worker.read_state(self.read, index, Some(name), self.clock.now)?;
            let key = Some(String::from_utf8_lossy(name).into_owned());
            // Whoever has a name here was called.
            all.push(One::new(policy, key, reading.as_ref(), true, self.clock));
        }
        let reading = self.worker.read_state(self.read, index, None, self.clock.now)?;
        // Those for whom there is no key left share this one; mostly there are none.
        let written = reading.as_ref().is_some_and(|reading| reading.written);
        if keys.is_empty() || written {
            let known = written || writes_only_failures(policy);
            all.push(One::new(policy, None, reading.as_ref(), known, self.clock));
        }
        Ok(())
    }
}

impl One {
    /// `known` where silence of the state is a good sign.
    fn new(
        policy: &Policy,
        key: Option<String>,
        reading: Option<&Reading>,
        known: bool,
        clock: Clock,
    ) -> Self {
        let damaged = reading.is_some_and(|reading| reading.state.repaired);
        let findings = [of_breaker(policy, reading, known, clock), of_bulkhead(policy, reading, known)]
            .map(|found| found.map(|finding| if damaged { finding.doubted() } else { finding }));
        let found = worst(findings).unwrap_or_else(|| nothing(policy));
        let counts = worst(findings.map(|it| it.filter(|finding| finding.enforced)));
        Self {
            policy: policy.name.clone(),
            key,
            health: found.health,
            reason: found.reason,
            enforced: found.enforced,
            critical: policy.is_critical(),
            counts: counts.map_or(Health::Unknown, |finding| finding.health),
        }
    }
}

/// Whatever is worse than healthy; else the breaker's word goes before the bulkhead's, which only tells of room.
fn worst(findings: [Option<Finding>; 2]) -> Option<Finding> {
    let [breaker, bulkhead] = findings;
    let worse = |finding: &Finding| finding.health > Health::Healthy;
    let Some((breaker, bulkhead)) = breaker.zip(bulkhead) else { return breaker.or(bulkhead) };
    let is_bulkheads = worse(&bulkhead)
        && (bulkhead.health > breaker.health
            // Of two that are as bad the one counts that refuses.
            || (bulkhead.health == breaker.health && bulkhead.enforced && !breaker.enforced));
    Some(if is_bulkheads { bulkhead } else { breaker })
}

fn of_breaker(policy: &Policy, reading: Option<&Reading>, known: bool, clock: Clock) -> Option<Finding> {
    let breaker = policy.circuit_breaker.as_ref()?;
    let enforced = match breaker.mode {
        BreakerMode::ForcedOpen => return Some(Finding::new(Health::Down, "forced_open", true)),
        // It says nothing of what it guards.
        BreakerMode::ShadowForcedOpen | BreakerMode::Disabled => return None,
        BreakerMode::Enforce => true,
        BreakerMode::Shadow => false,
    };
    let reading = reading?;
    let settings = &breaker.settings;
    Some(match reading.state.breaker.phase() {
        Phase::Open { until } if clock.now > *until => Finding::new(Health::Down, "awaiting_probe", enforced),
        Phase::Open { .. } => Finding::new(Health::Down, "circuit_open", enforced),
        Phase::HalfOpen(_) => Finding::new(Health::Degraded, "half_open", enforced),
        Phase::Closed(closed) if closed.is_held(clock.now) => {
            Finding::new(Health::Unknown, "held_closed", enforced)
        }
        Phase::Closed(closed) if closed.ramp_share(settings, clock.now).is_some() => {
            Finding::new(Health::Degraded, "ramping_up", enforced)
        }
        Phase::Closed(_) => Finding::good_or_unknown(known, enforced),
    })
}

fn of_bulkhead(policy: &Policy, reading: Option<&Reading>, known: bool) -> Option<Finding> {
    let bulkhead = policy.bulkhead.as_ref().filter(|it| it.mode != PatternMode::Disabled)?;
    let (reading, enforced) = (reading?, bulkhead.mode == PatternMode::Enforce);
    Some(if reading.state.bulkhead.in_flight() >= bulkhead.settings.max_concurrent_calls {
        Finding::new(Health::Degraded, "bulkhead_full", enforced)
    } else {
        Finding::good_or_unknown(known, enforced)
    })
}

/// Whether a policy leaves no trace of requests that do not fail, so that one that nobody has written may well be in use.
fn writes_only_failures(policy: &Policy) -> bool {
    let modes = [policy.bulkhead.as_ref().map(|it| it.mode), policy.retry_budget.as_ref().map(|it| it.mode)];
    let others = modes.into_iter().flatten().any(|mode| mode != PatternMode::Disabled);
    let rates = policy.circuit_breaker.as_ref().is_some_and(|breaker| breaker.settings.rates.is_some());
    // A cluster has a state of its own only once it was called.
    !others && !rates && policy.max_keys.is_none()
}

/// A policy that guards nothing, because of its modes.
fn nothing(policy: &Policy) -> Finding {
    let forced = policy.circuit_breaker.as_ref().is_some_and(|it| it.mode == BreakerMode::ShadowForcedOpen);
    Finding::new(Health::Unknown, if forced { "shadow_forced_open" } else { "disabled" }, false)
}

impl Finding {
    const fn new(health: Health, reason: &'static str, enforced: bool) -> Self {
        Self { health, reason: Some(reason), enforced }
    }

    /// What can be said where a state could not be read and begins afresh.
    fn doubted(self) -> Self {
        match self.health {
            Health::Healthy => Self::new(Health::Unknown, "damaged", self.enforced),
            _ => self,
        }
    }

    const fn good_or_unknown(known: bool, enforced: bool) -> Self {
        match known {
            true => Self { health: Health::Healthy, reason: None, enforced },
            false => Self::new(Health::Unknown, "never_used", enforced),
        }
    }
}

/// One word for all of them.
fn overall(dependencies: &[One]) -> Health {
    let worst = dependencies.iter().map(|it| match it.counts {
        // Its callers have something instead.
        Health::Down if !it.critical => Health::Degraded,
        health => health,
    });
    worst.max().unwrap_or(Health::Unknown)
}
