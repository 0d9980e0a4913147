//! Watches every call of every VM and says what must not be.
//!
//! It knows the exact order of what was committed, feeds it to the reference model, and keeps the whole history: an answer
//! that a VM gave without writing must have been right at some moment it may still go by.

mod answers;
mod budgets;
mod commits;
mod explain;
mod history;
mod keys;
mod members;
mod queue;
mod reached;
mod rooms;
mod shares;
mod told;
mod waiters;

pub use history::History;
pub use members::Members;
pub use reached::Reached;

use crate::model::ask::{Rules, Said};
use crate::model::grant::Reserve;
use crate::model::room::{Permit, Wake};
use crate::plan::Terms;
use crate::vm::{Guarded, Task};
use budgets::{Account, Flight, Kept};
use queue::Waiting;
use resilience_core::breaker::{Admission, Outcome, Owner, Settings, State, Ticket, Transition};
use resilience_core::budget;
use resilience_core::bulkhead;
use resilience_core::members::Standing;
use resilience_core::worker::{Operation, Patterns};
use rooms::Held;
use std::collections::{BTreeMap, BTreeSet};

/// What is wrong, or nothing.
pub type Verdict = Result<(), String>;

/// The name of a VM in a run. Never reused.
pub type VmId = usize;

/// A moment of a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Moment {
    /// The number of the scheduler's step.
    pub step: u64,
    /// The workers' clock.
    pub now: u64,
    /// The same without the time in which the whole process stood still for so long that its workers notice.
    pub awake: u64,
}

/// An outcome that a VM has been told, and that may not have been counted yet.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Report {
    breaker: usize,
    call: u32,
    ticket: Option<Ticket>,
    outcome: Outcome,
    frees: Option<Frees>,
    /// What was kept for it of a budget, and how many retries it takes.
    spent: Option<(Reserve, u32)>,
}

/// What a request gives back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Frees {
    /// A permit.
    Permit(Permit),
    /// The place of this owner's waiter.
    Place(u64),
}

impl Report {
    const fn probe(&self) -> Option<resilience_core::breaker::Probe> {
        match &self.ticket {
            Some(ticket) => ticket.probe,
            None => None,
        }
    }

    const fn gives_back(&self) -> bool {
        self.frees.is_some() || self.spent.is_some()
    }
}

/// A transition that is committed and not yet told, and what else the same write may have been.
#[derive(Clone, Debug)]
struct Untold {
    breaker: usize,
    transition: Transition,
    others: Vec<Transition>,
}

/// What a VM is doing.
#[derive(Clone, Debug)]
struct Deed {
    task: Task,
    begun: Moment,
    /// What a committed admission said.
    promised: Option<Admission>,
    /// What committed writes said of requests where a bulkhead has a say: one of these.
    promises: Vec<(u32, Vec<Said>)>,
    /// What others were told, if it was one of them that a promise was about.
    instead: BTreeMap<u32, Vec<Said>>,
    /// Messages that are owed.
    unsent: Vec<Wake>,
    /// Outcomes that were written and found their place given away.
    late: usize,
    /// The queues, each under one identity, that an update has looked through: it does so once.
    looked: BTreeSet<(usize, u64)>,
    /// The breakers, or bulkheads, to which something was still to be told or given back before it.
    left_over: BTreeSet<usize>,
    /// How often the store gave no answer, by what it was asked about.
    unanswered: BTreeMap<usize, usize>,
    /// Whether the outcome this is about was counted.
    counted: bool,
    /// Whether what an operator says was done.
    forced: bool,
    /// Transitions that are committed and not yet told.
    untold: Vec<Untold>,
    /// Writes that are not yet announced.
    unannounced: Vec<usize>,
    /// Policies written in a way that changes nobody's belief. It may be announced: a trip may have come near.
    announceable: Vec<usize>,
    /// Probes reclaimed and not yet told.
    reclaimed: usize,
    /// Permits reclaimed and not yet told.
    regained: u32,
    /// Retries reclaimed and not yet told.
    forfeited: u32,
    conflicts: u32,
    exhausted: bool,
    gave_up: Vec<Operation>,
}

impl Deed {
    fn times(&self, operation: Operation) -> usize {
        self.gave_up.iter().filter(|gave_up| **gave_up == operation).count()
    }

    /// Whether some outcome could not be written in it.
    fn lost_an_outcome(&self) -> bool {
        self.lost() > 0
    }

    /// How often something could not be given back or told.
    fn lost(&self) -> usize {
        let lost = [Operation::Record, Operation::HandBack, Operation::Release];
        lost.into_iter().map(|operation| self.times(operation)).sum()
    }
}

/// A living VM.
#[derive(Clone, Debug)]
struct Vm {
    configuration: usize,
    me: Option<Owner>,
    deed: Option<Deed>,
    unsettled: Vec<Report>,
    /// The shared queue that wakes it.
    queue: u32,
    /// It has beaten without a queue, and has not tried to open one since.
    deaf: bool,
    /// Its requests that wait.
    waiting: BTreeMap<u32, Waiting>,
    /// Which states it has read or written, by policy.
    seen: Vec<Vec<State>>,
    /// Whether it has read for a request: what a leader sees on its rounds does not stand in for an answer.
    asked: Vec<bool>,
    /// How its configuration may stand to the others.
    standings: Vec<Standing>,
    /// How much of a request each ramp may have let in and not used: the least and the most.
    credits: BTreeMap<usize, (f64, f64)>,
}

/// The judge of a run.
#[derive(Debug)]
pub struct Oracle {
    configurations: Vec<(u64, Vec<Guarded>)>,
    terms: Vec<Vec<Terms>>,
    /// By breaker.
    pub policies: Vec<History>,
    /// By policy, the clusters that have a key, in the order of the table.
    keys: Vec<Vec<usize>>,
    /// The table of members.
    pub members: Members,
    vms: BTreeMap<VmId, Vm>,
    now: Moment,
    /// Every call that has a permit, as seen from outside.
    held: BTreeMap<(VmId, u32), Held>,
    /// What the workers' permits are to the model.
    permits: Vec<(bulkhead::Permit, Permit)>,
    /// What is kept of budgets for each call, as seen from outside.
    kept: BTreeMap<(VmId, u32), Kept>,
    /// What the workers' reservations are to the model.
    reserves: Vec<(budget::Reserve, Reserve)>,
    /// Requests that may be retried, whoever sees to them.
    flights: BTreeMap<(VmId, u32), Flight>,
    /// By breaker, what was paid and made.
    accounts: Vec<Account>,
    /// Since when something is kept for each VM of each budget.
    purses: BTreeMap<(usize, u64), Moment>,
    /// Since when each VM stands in each bulkhead.
    homes: BTreeMap<(usize, u64), Moment>,
    /// Bulkheads whose epochs began again, because somebody removed them.
    spoiled: BTreeSet<usize>,
    /// Budgets of which the same is true.
    emptied: BTreeSet<usize>,
    /// How much of what matters has happened.
    pub reached: Reached,
}

impl Oracle {
    /// A judge of an empty store.
    #[must_use]
    pub fn new(policies: usize, configurations: Vec<(u64, Vec<Guarded>)>, terms: Vec<Vec<Terms>>) -> Self {
        let most = |count: fn(&Settings) -> u32| {
            let settings = configurations.iter().flat_map(|(_, policies)| policies);
            let breakers = settings.filter_map(|(_, shared)| shared.as_ref()?.patterns.breaker.as_ref());
            breakers.map(|breaker| count(&breaker.settings)).max().unwrap_or(0)
        };
        let permitted = most(|settings| settings.permitted_number_of_calls_in_half_open_state);
        let moments = most(|settings| settings.failures_in_window.map_or(0, |window| window.failures.into()));
        Self {
            policies: (0..policies * crate::EACH).map(|_| History::new(permitted, moments)).collect(),
            keys: vec![Vec::new(); policies],
            accounts: Account::all(&terms),
            configurations,
            terms,
            members: Members::default(),
            vms: BTreeMap::new(),
            now: Moment::default(),
            held: BTreeMap::new(),
            permits: Vec::new(),
            kept: BTreeMap::new(),
            reserves: Vec::new(),
            flights: BTreeMap::new(),
            purses: BTreeMap::new(),
            homes: BTreeMap::new(),
            spoiled: BTreeSet::new(),
            emptied: BTreeSet::new(),
            reached: Reached::default(),
        }
    }

    /// Time goes on.
    pub const fn at(&mut self, now: Moment) {
        self.now = now;
    }

    /// A VM starts.
    pub fn started(&mut self, vm: VmId, configuration: usize) {
        let seen = vec![Vec::new(); self.policies.len()];
        let asked = vec![false; self.policies.len()];
        let (standings, credits) = (vec![Standing::Superseded], BTreeMap::new());
        let (me, deed, unsettled) = (None, None, Vec::new());
        let (queue, deaf, waiting) = (0, false, BTreeMap::new());
        self.vms.insert(
            vm,
            Vm { configuration, me, deed, unsettled, queue, deaf, waiting, seen, asked, standings, credits },
        );
    }

    /// A VM is no more, in whatever way.
    pub fn ended(&mut self, vm: VmId) {
        self.vms.remove(&vm);
    }

    /// A VM begins with something.
    pub fn begins(&mut self, vm: VmId, task: Task) {
        let begun = self.now;
        let unsettled = self.vms.get(&vm).map_or(&[][..], |vm| &vm.unsettled);
        let left_over = unsettled.iter().map(|report| report.breaker).collect();
        self.ends(vm, task);
        let Some(found) = self.vms.get_mut(&vm) else { return };
        found.deed = Some(Deed {
            task,
            begun,
            promised: None,
            promises: Vec::new(),
            instead: BTreeMap::new(),
            unsent: Vec::new(),
            late: 0,
            looked: BTreeSet::new(),
            left_over,
            unanswered: BTreeMap::new(),
            regained: 0,
            forfeited: 0,
            counted: false,
            forced: false,
            exhausted: false,
            untold: Vec::new(),
            unannounced: Vec::new(),
            announceable: Vec::new(),
            reclaimed: 0,
            conflicts: 0,
            gave_up: Vec::new(),
        });
    }

    /// What a VM is doing.
    #[must_use]
    pub fn task(&self, vm: VmId) -> Option<Task> {
        self.vms.get(&vm)?.deed.as_ref().map(|deed| deed.task)
    }

    fn deed(&mut self, vm: VmId) -> Result<&mut Deed, String> {
        let found = self.vms.get_mut(&vm).and_then(|vm| vm.deed.as_mut());
        found.ok_or_else(|| format!("VM {vm} does something while it has nothing to do"))
    }

    fn patterns(&self, vm: &Vm, breaker: usize) -> Option<&Patterns> {
        self.rules(vm, breaker).map(|rules| rules.patterns)
    }

    fn rules(&self, vm: &Vm, breaker: usize) -> Option<Rules<'_>> {
        let policy = crate::policy_of(breaker);
        let shared = self.configurations[vm.configuration].1.get(policy)?.1.as_ref();
        let rates = self.terms[vm.configuration][policy].rates;
        shared.map(|shared| Rules { patterns: &shared.patterns, rates })
    }

    fn settings(&self, vm: &Vm, breaker: usize) -> Option<&Settings> {
        self.patterns(vm, breaker)?.breaker.as_ref().map(|breaker| &breaker.settings)
    }

    /// A VM has read a policy's value, or written it.
    pub fn knows(&mut self, vm: VmId, policy: usize) {
        let state = self.policies[policy].latest().state();
        let Some(vm) = self.vms.get_mut(&vm) else { return };
        vm.asked[policy] |= vm.deed.as_ref().is_some_and(|deed| deed.task != Task::Tick);
        if !vm.seen[policy].contains(&state) {
            vm.seen[policy].push(state);
        }
    }

    /// A VM was refused a write because somebody else wrote first.
    ///
    /// # Errors
    /// What is wrong.
    pub fn conflicted(&mut self, vm: VmId) -> Verdict {
        self.deed(vm)?.conflicts += 1;
        Ok(())
    }

    /// A VM was given no answer.
    pub fn unanswered(&mut self, vm: VmId, breaker: usize) {
        if let Ok(deed) = self.deed(vm) {
            *deed.unanswered.entry(breaker).or_default() += 1;
        }
    }

    /// A VM makes a policy's change counter grow.
    ///
    /// # Errors
    /// What is wrong.
    pub fn announced(&mut self, vm: VmId, policy: usize) -> Verdict {
        let step = self.now.step;
        let deed = self.deed(vm)?;
        let of = |writes: &[usize]| writes.iter().position(|write| *write == policy);
        match (of(&deed.unannounced), of(&deed.announceable)) {
            (Some(place), _) => deed.unannounced.remove(place),
            (None, Some(place)) => deed.announceable.remove(place),
            (None, None) => {
                return Err(format!("VM {vm} announced a change of policy {policy} that it had not written"));
            }
        };
        self.policies[policy].announced(step);
        Ok(())
    }
}
