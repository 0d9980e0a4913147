//! What a seed decides before a run begins: who takes part, with which settings, and what goes wrong how often.

mod policies;

pub use policies::{Terms, Wishes};

use crate::rng::Rng;
use crate::vm::Guarded;
use policies::{MIXTURES, guarded};
use resilience_core::breaker::Settings;
use resilience_core::worker::Patterns;
use std::time::Duration;

/// A millisecond, in the clock's unit.
pub const MS: u64 = 1_000_000;
/// A second, in the clock's unit.
pub const SECOND: u64 = 1000 * MS;

/// What can go wrong at a random moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Fault {
    /// The whole process stands still, and time goes on.
    Stop,
    /// Time jumps far ahead.
    Jump,
    /// One worker stands still.
    Stall,
    /// The store takes nothing for a while.
    Outage,
    /// A VM dies between two tasks.
    Death,
    /// A VM ends in order, and maybe another comes.
    Departure,
    /// A VM of any configuration joins.
    Arrival,
    /// A policy's value is damaged, or removed.
    Damage,
    /// The table of members is damaged.
    MembersDamage,
    /// Another version of the module leaves its own sections in a value.
    Foreign,
    /// An older module, without rates and recovery, moves a breaker on.
    MovedOn,
    /// An operator says something.
    Force,
}

/// The longest that a request waits for a permit.
const LONGEST_WAIT: u64 = 8 * SECOND;

/// The longest span for which an operator holds a breaker.
pub const HELD: u64 = 6 * SECOND;

const FAULTS: [Fault; 12] = [
    Fault::Stop,
    Fault::Jump,
    Fault::Stall,
    Fault::Outage,
    Fault::Death,
    Fault::Departure,
    Fault::Arrival,
    Fault::Damage,
    Fault::MembersDamage,
    Fault::Foreign,
    Fault::MovedOn,
    Fault::Force,
];

/// A run's plan.
#[derive(Clone, Debug)]
pub struct Plan {
    /// By configuration: its fingerprint and its policies.
    pub configurations: Vec<(u64, Vec<Guarded>)>,
    /// What each of them says of the retries of each policy.
    pub terms: Vec<Vec<Terms>>,
    /// How often the route of each policy retries by itself.
    pub routes: Vec<u8>,
    /// How often a request has a deadline, per mille.
    pub hurried: u64,
    /// How often nobody can tell how many retries were made, per mille.
    pub unreadable: u64,
    /// How many policies there are.
    pub policies: usize,
    /// The configuration of each VM at the start.
    pub vms: Vec<usize>,
    /// How long things may go wrong.
    pub length: u64,
    /// The number of the store's first value.
    pub first_version: u32,
    /// How far apart requests are, at most.
    pub pace: u64,
    /// How often a request comes with many others, per mille.
    pub bursts: u64,
    /// How often a request comes at the very moment at which something ends, per mille.
    pub aimed: u64,
    /// How often a client leaves, per mille.
    pub impatient: u64,
    /// How often a message to another VM is lost, per mille.
    pub lossy: u64,
    /// How often a VM gets a message that is meant for nobody when a request arrives, per mille.
    pub stray: u64,
    /// How long a message takes at most.
    pub post: u64,
    /// How often a request never answers, per mille.
    pub silent: u64,
    /// The shortest and the longest latency.
    pub latency: (u64, u64),
    /// The shortest and the longest time for which a worker stands still.
    pub stall: (u64, u64),
    /// How often the scheduler goes on with the same VM, per mille.
    pub sticky: u64,
    /// How often a write loses against nobody, per mille.
    pub conflicts: u64,
    /// How often a VM dies at a call, per 100 000.
    pub deaths: u64,
    /// How often a worker, or the whole process, stands still at a call, per 100 000.
    pub freezes: u64,
    /// How often a VM dies right after a write, per mille.
    pub deaths_after_write: u64,
    /// How often a call of an outage fails, per mille.
    pub outage: u64,
    /// What else can go wrong.
    pub faults: Vec<Fault>,
    /// How far apart faults are, at most.
    pub fault_pace: u64,
}

impl Plan {
    /// The plan of a seed.
    pub fn new(rng: &mut Rng) -> Self {
        let policies = rng.between(1, 2) as usize;
        // Probes that are out for longer than a lease, in stays that last, with workers that stand still meanwhile: what it
        // takes for a place to be given away under somebody who comes back. By chance alone this is too rare.
        let slow = rng.chance(250);
        let stay = if slow { (10 * SECOND, 40 * SECOND) } else { (500 * MS, 20 * SECOND) };
        let latency = if slow { (SECOND, 15 * SECOND) } else { (1, rng.spread(MS, 8 * SECOND)) };
        let stall = if slow { (5 * SECOND, 12 * SECOND) } else { (MS, 25 * SECOND) };
        let offset = rng.below(SECOND) as u32;
        // What a policy is mostly about is the same in all configurations.
        let which: Vec<_> = (0..policies).map(|_| rng.pick(&MIXTURES)).collect();
        let (configurations, terms): (Vec<_>, Vec<_>) = (0..rng.between(1, 3))
            .map(|index| {
                let each = (0..policies).map(|policy| guarded(rng, policy, which[policy], stay, offset));
                let (policies, terms): (Vec<_>, Vec<_>) = each.unzip();
                ((0xc0_ffee + index, policies), terms)
            })
            .unzip();
        // Later configurations join in the middle of the run.
        let present = rng.between(1, configurations.len() as u64);
        let vms = (0..rng.between(2, 6)).map(|_| rng.below(present) as usize).collect();
        let mut faults: Vec<_> = FAULTS.into_iter().filter(|_| rng.chance(400)).collect();
        if slow {
            faults = vec![Fault::Stall];
        }
        if configurations.len() as u64 > present {
            faults.push(Fault::Arrival);
        }
        let first_version =
            if rng.chance(300) { u32::MAX - rng.below(300) as u32 } else { rng.between(1, 1000) as u32 };
        Self {
            configurations,
            terms,
            routes: (0..policies).map(|_| rng.pick(&[0, 1, 2, 3, 4, 6])).collect(),
            hurried: rng.pick(&[0, 0, 200, 600]),
            unreadable: rng.pick(&[0, 0, 30]),
            policies,
            vms,
            length: rng.between(5, 30) * SECOND,
            first_version,
            pace: rng.spread(20 * MS, 500 * MS),
            bursts: rng.pick(&[0, 50, 200]),
            aimed: rng.pick(&[0, 100, 300]),
            impatient: rng.pick(&[0, 50, 300]),
            lossy: rng.pick(&[0, 0, 20, 300]),
            stray: rng.pick(&[0, 0, 100]),
            post: rng.spread(MS / 10, 50 * MS),
            silent: rng.pick(&[0, 20, 100]),
            latency,
            stall,
            sticky: rng.pick(&[0, 500, 900]),
            conflicts: rng.pick(&[0, 0, 50, 850]),
            deaths: rng.pick(&[0, 0, 20, 200]),
            freezes: rng.pick(&[0, 0, 30, 200]),
            deaths_after_write: rng.pick(&[0, 0, 5, 40]),
            outage: rng.pick(&[300, 900, 1000]),
            faults,
            fault_pace: if slow { 3 * SECOND } else { rng.spread(300 * MS, 10 * SECOND) },
        }
    }

    /// How many breakers there can be.
    #[must_use]
    pub const fn breakers(&self) -> usize {
        self.policies * crate::EACH
    }

    /// The most probes that any configuration permits.
    #[must_use]
    pub fn most_permitted(&self) -> u64 {
        self.most(|settings| u64::from(settings.permitted_number_of_calls_in_half_open_state))
    }

    /// Within this time, with a healthy upstream and without faults, everything must have come to rest: an open wait, a stay
    /// that requests without an answer use up, another wait and stay, and the time it takes to forget the dead.
    #[must_use]
    pub fn patience(&self) -> u64 {
        let wait = self.most(|settings| {
            let grown = settings.wait_duration_growth.map_or(Duration::ZERO, |growth| growth.max);
            settings.wait_duration_in_open_state.max(grown).as_nanos() as u64
        });
        let stay = self.most(|settings| settings.max_wait_duration_in_half_open_state.as_nanos() as u64);
        2 * (wait + stay) + HELD + LONGEST_WAIT + 30 * SECOND
    }

    fn most(&self, of: impl Fn(&Settings) -> u64) -> u64 {
        let all = self.configurations.iter().flat_map(|(_, policies)| policies);
        let breakers = all.filter_map(|(_, shared)| shared.as_ref()?.patterns.breaker.as_ref());
        breakers.map(|breaker| of(&breaker.settings)).max().unwrap_or(0)
    }

    /// What a configuration keeps for a breaker's policy.
    #[must_use]
    pub fn patterns(&self, configuration: usize, breaker: usize) -> Option<&Patterns> {
        let shared = self.configurations[configuration].1[crate::policy_of(breaker)].1.as_ref();
        shared.map(|shared| &shared.patterns)
    }

    /// Whether nothing can go wrong that makes a VM that lives look dead.
    #[must_use]
    pub fn is_steady(&self) -> bool {
        let stops = [Fault::Stop, Fault::Jump, Fault::Stall, Fault::Outage, Fault::MembersDamage];
        self.freezes == 0 && self.conflicts == 0 && !self.faults.iter().any(|fault| stops.contains(fault))
    }
}
