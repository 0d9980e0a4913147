//! Plays many workers over one store and judges every step.
//!
//! The workers are the real ones ([`resilience_core::worker::Worker`]), each on a stack of its own. A seed decides who takes
//! part, what is asked of them, in which order their calls to the store are answered, and what goes wrong. The same seed
//! is the same run, so a failure is found once and looked at as often as need be.

mod calls;
mod faults;
pub mod hot;
mod model;
mod oracle;
mod plan;
mod rng;
mod store;
mod streams;
mod trace;
mod view;
mod vm;
mod workload;
mod world;

pub use oracle::Reached;
use resilience_core::planted::{Bug, plant};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use trace::Trace;
use world::World;

/// The key of the table of members.
const MEMBERS: &[u8] = b"resilience/shop/#members";

/// A run that needs more has lost its way.
const MOST_STEPS: u64 = 200_000;

/// The upstream clusters that requests go to.
const CLUSTERS: [&str; 4] = ["cart", "mail", "pay", "search"];
/// A policy's breakers: its own, and one for each cluster.
const EACH: usize = CLUSTERS.len() + 1;

/// The breaker of a policy for a cluster, or its own, among all breakers of a run.
const fn breaker(policy: usize, cluster: Option<usize>) -> usize {
    policy * EACH
        + match cluster {
            Some(cluster) => cluster + 1,
            None => 0,
        }
}

/// The policy of a breaker.
const fn policy_of(breaker: usize) -> usize {
    breaker / EACH
}

/// The cluster of a breaker that is not the policy's own.
const fn cluster_of(breaker: usize) -> Option<usize> {
    (breaker % EACH).checked_sub(1)
}

/// Where a breaker stands in the store.
fn key(breaker: usize) -> String {
    let own = format!("resilience/shop/policy-{}", policy_of(breaker));
    cluster_of(breaker).map_or_else(|| own.clone(), |cluster| format!("{own}#key/{}", CLUSTERS[cluster]))
}

/// Where a policy's table of keys stands.
fn keys_key(policy: usize) -> String {
    format!("resilience/shop/policy-{policy}#keys")
}

/// What a run was like.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Summary {
    /// How many steps it took.
    pub steps: u64,
    /// Where it came to.
    pub reached: Reached,
    /// Whether it ended early because of what the host cannot tell apart.
    pub ambiguous: bool,
}

/// A run in which something was wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Failure {
    /// The run's seed.
    pub seed: u64,
    /// What was wrong.
    pub what: String,
    /// The steps that led there.
    pub trace: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, what, trace } = self;
        write!(
            f,
            "{trace}\nseed {seed}: {what}\n\nreplay: SEED={seed} cargo test --release -p resilience-simulator --test seeds\n    or: cargo run --release -p resilience-simulator -- --seed {seed}"
        )
    }
}

/// Plays a seed with workers that make one mistake on purpose, or none.
///
/// # Errors
/// The [`Failure`], with its trace.
pub fn play(seed: u64, bug: Option<Bug>) -> Result<Summary, Box<Failure>> {
    attempt(seed, bug, Trace::default()).map_err(|failure| {
        // Steps are written down only where somebody is going to read them.
        attempt(seed, bug, Trace::kept()).err().unwrap_or(failure)
    })
}

fn attempt(seed: u64, bug: Option<Bug>, trace: Trace) -> Result<Summary, Box<Failure>> {
    plant(bug);
    let mut world = World::new(seed, trace);
    let played = catch_unwind(AssertUnwindSafe(|| world.play())).unwrap_or_else(|panic| {
        let what = panic.downcast_ref::<String>().cloned();
        let what = what.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        Err(format!("a panic: {}", what.unwrap_or_default()))
    });
    let summary =
        Summary { steps: world.now.step, reached: world.oracle.reached, ambiguous: world.ambiguous };
    let trace = world.trace.text();
    drop(world);
    plant(None);
    match played {
        Ok(()) => Ok(summary),
        Err(_) if summary.ambiguous => Ok(summary),
        Err(what) => Err(Box::new(Failure { seed, what, trace })),
    }
}
