//! A run: VMs, requests, faults and a clock, all at the mercy of one seed.

use crate::calls::{shown, shown_answer};
use crate::oracle::{Moment, Oracle, Verdict, VmId};
use crate::plan::{MS, Plan, SECOND};
use crate::rng::Rng;
use crate::store::SharedData;
use crate::streams::Stream;
use crate::trace::Trace;
use crate::vm::{Answer, Call, Finished, Task, Vm};
use resilience_core::bulkhead::Wake;
use resilience_core::members::TICK;
use resilience_core::time::Timestamp;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};

/// What happens at a moment.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) enum Event {
    /// Requests arrive, as the workload has it.
    Requests,
    /// So many requests at once.
    Burst { policy: usize, cluster: Option<usize>, count: u64 },
    /// A VM is to see to something.
    Later { errand: usize },
    /// A request is retried, if it is still in flight.
    Retry { vm: VmId, call: u32 },
    /// Messages in a shared queue are read.
    Post { queue: u32 },
    /// A VM's timer for the end of a wait.
    Timer { vm: VmId, at: u64 },
    /// A VM's timer.
    Tick { vm: VmId },
    /// A VM starts.
    Start { configuration: usize },
    /// A worker goes on.
    Resume { vm: VmId },
    /// The store takes writes again.
    Recovery,
    /// An upstream changes its mind.
    Weather,
    /// Something goes wrong.
    Fault,
}

/// A worker's thread.
#[derive(Debug)]
pub(crate) struct Slot {
    pub(crate) id: VmId,
    pub(crate) configuration: usize,
    pub(crate) vm: Vm,
    pub(crate) tasks: Vec<Task>,
    pub(crate) stalled: bool,
    /// The number of its next request.
    pub(crate) next_call: u32,
    /// For when its timer is set.
    timer: Option<u64>,
}

/// A shared queue.
#[derive(Clone, Debug)]
pub(crate) struct Mailbox {
    pub(crate) name: String,
    pub(crate) listener: VmId,
    pub(crate) messages: Vec<Wake>,
}

/// A run.
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) plan: Plan,
    pub(crate) now: Moment,
    pub(crate) store: SharedData,
    pub(crate) changes: Vec<u64>,
    /// Where each breaker stands in the store.
    pub(crate) keys: Vec<String>,
    pub(crate) slots: Vec<Slot>,
    pub(crate) oracle: Oracle,
    pub(crate) trace: Trace,
    pub(crate) outage: bool,
    /// From now on nothing goes wrong.
    pub(crate) calm: bool,
    /// How often each policy's upstream fails, per mille.
    pub(crate) weather: Vec<u64>,
    /// How often they are slow, per mille.
    pub(crate) haste: Vec<u64>,
    /// The host could not tell an absent value from one with the number that stands for it: the run proves nothing.
    pub(crate) ambiguous: bool,
    /// Whether the table of members was damaged.
    pub(crate) members_damaged: bool,
    pub(crate) agenda: BinaryHeap<Reverse<(u64, u64, Event)>>,
    entries: u64,
    errands: Vec<(VmId, Task)>,
    /// Requests that wait or are in flight.
    pub(crate) streams: BTreeMap<(VmId, u32), Stream>,
    /// Requests whose VM is no more; Envoy sees to them all the same.
    pub(crate) orphans: BTreeSet<(VmId, u32)>,
    /// By number, less one.
    pub(crate) mail: Vec<Mailbox>,
    next_vm: VmId,
    last: VmId,
}

impl World {
    pub(crate) fn new(seed: u64, trace: Trace) -> Self {
        let mut rng = Rng::new(seed);
        let plan = Plan::new(&mut rng);
        let mut world = Self {
            now: Moment { step: 0, now: rng.between(1, 3600) * SECOND, awake: 0 },
            store: SharedData::new(plan.first_version),
            changes: vec![0; plan.breakers()],
            keys: (0..plan.breakers()).map(crate::key).collect(),
            slots: Vec::new(),
            oracle: Oracle::new(plan.policies, plan.configurations.clone(), plan.terms.clone()),
            trace,
            outage: false,
            calm: false,
            weather: vec![0; plan.policies],
            haste: vec![0; plan.policies],
            ambiguous: false,
            members_damaged: false,
            agenda: BinaryHeap::new(),
            entries: 0,
            errands: Vec::new(),
            streams: BTreeMap::new(),
            orphans: BTreeSet::new(),
            mail: Vec::new(),
            next_vm: 0,
            last: 0,
            rng,
            plan,
        };
        for configuration in world.plan.vms.clone() {
            world.start(configuration);
        }
        world.after(0, Event::Requests);
        world.after(0, Event::Weather);
        let first = world.rng.below(world.plan.fault_pace);
        world.after(first, Event::Fault);
        world
    }

    pub(crate) fn after(&mut self, span: u64, event: Event) {
        self.entries += 1;
        self.agenda.push(Reverse((self.now.now.saturating_add(span), self.entries, event)));
    }

    /// A VM is to see to something after a while.
    pub(crate) fn later(&mut self, span: u64, vm: VmId, task: Task) {
        self.errands.push((vm, task));
        self.after(span, Event::Later { errand: self.errands.len() - 1 });
    }

    pub(crate) fn start(&mut self, configuration: usize) {
        let id = self.next_vm;
        self.next_vm += 1;
        let (fingerprint, policies) = &self.plan.configurations[configuration];
        let vm = Vm::start("shop", *fingerprint, policies);
        self.trace.note(self.now, || format!("VM {id} starts with configuration {configuration}"));
        let (tasks, stalled, next_call, timer) = (Vec::new(), false, 0, None);
        self.slots.push(Slot { id, configuration, vm, tasks, stalled, next_call, timer });
        self.oracle.started(id, configuration);
        let first = self.rng.below(TICK.as_nanos() as u64);
        self.after(first, Event::Tick { vm: id });
    }

    pub(crate) fn slot(&mut self, id: VmId) -> Option<&mut Slot> {
        self.slots.iter_mut().find(|slot| slot.id == id)
    }

    /// Ends a VM at once: what it holds and what it was about to do is gone with it.
    pub(crate) fn end(&mut self, id: VmId, how: &str) {
        self.trace.note(self.now, || format!("VM {id} {how}"));
        self.slots.retain(|slot| slot.id != id);
        let (gone, streams) =
            std::mem::take(&mut self.streams).into_iter().partition(|((vm, _), _)| *vm == id);
        self.streams = streams;
        self.orphans.extend(BTreeMap::into_keys(gone));
        self.oracle.ended(id);
    }

    /// One step: something happens, or one VM makes its next call.
    pub(crate) fn step(&mut self) -> Verdict {
        self.now.step += 1;
        self.oracle.at(self.now);
        let ready = |slot: &Slot| !slot.stalled && (!slot.vm.is_idle() || !slot.tasks.is_empty());
        let count = self.slots.iter().filter(|slot| ready(slot)).count();
        let due = self.agenda.peek().map(|Reverse((at, ..))| at.saturating_sub(self.now.now));
        // VMs need no time to speak of: events come in between only where they are near.
        if count == 0 || (due.is_some_and(|due| due < MS / 5) && self.rng.chance(100)) {
            return self.happen();
        }
        let last = self.slots.iter().position(|slot| slot.id == self.last && ready(slot));
        let index = match last {
            Some(index) if self.rng.chance(self.plan.sticky) => index,
            _ => {
                let nth = self.rng.index(count);
                self.slots.iter().enumerate().filter(|(_, slot)| ready(slot)).nth(nth).map_or(0, |(i, _)| i)
            }
        };
        if self.rng.chance(50) {
            let span = self.rng.below(10_000);
            self.pass(span);
        }
        self.last = self.slots[index].id;
        self.advance(index)
    }

    /// Lets time go by in which the process runs.
    pub(crate) fn pass(&mut self, span: u64) {
        self.now.now = self.now.now.saturating_add(span);
        self.now.awake += span;
        self.oracle.at(self.now);
    }

    /// The next event. Of those that are overdue, because the process stood still, any may be first.
    fn happen(&mut self) -> Verdict {
        let Some(Reverse(first)) = self.agenda.pop() else { return Err("nothing is left to happen".into()) };
        let mut due = vec![first];
        while let Some(Reverse(next)) = self.agenda.peek()
            && next.0 < self.now.now
            && due.len() < 64
        {
            due.push(*next);
            self.agenda.pop();
        }
        let (at, _, event) = due.swap_remove(self.rng.index(due.len()));
        self.agenda.extend(due.into_iter().map(Reverse));
        self.pass(at.saturating_sub(self.now.now));
        match event {
            Event::Requests => self.requests_arrive(),
            Event::Burst { policy, cluster, count } => self.burst(policy, cluster, count),
            Event::Later { errand } => {
                let (vm, task) = self.errands[errand];
                if let Some(slot) = self.slot(vm) {
                    slot.tasks.push(task);
                }
            }
            Event::Retry { vm, call } => self.retry(vm, call)?,
            Event::Post { queue } => self.deliver(queue),
            Event::Timer { vm, at } => {
                if let Some(slot) = self.slot(vm).filter(|slot| slot.timer == Some(at)) {
                    slot.timer = None;
                    slot.tasks.push(Task::Timer);
                }
            }
            Event::Tick { vm } => {
                if let Some(slot) = self.slot(vm) {
                    slot.tasks.push(Task::Tick);
                }
            }
            Event::Start { configuration } => self.start(configuration),
            Event::Resume { vm } => {
                self.trace.note(self.now, || format!("VM {vm} goes on"));
                if let Some(slot) = self.slot(vm) {
                    slot.stalled = false;
                }
            }
            Event::Recovery => self.outage = false,
            Event::Weather => self.change_weather(),
            Event::Fault => self.something_goes_wrong(),
        }
        Ok(())
    }

    /// A VM begins with its next task, or has its call answered and runs up to the next one.
    fn advance(&mut self, index: usize) -> Verdict {
        let (moment, slot) = (self.now, &mut self.slots[index]);
        let id = slot.id;
        if slot.vm.is_idle() {
            let task = slot.tasks.swap_remove(self.rng.index(slot.tasks.len()));
            let Some(task) = self.find_out(id, task) else { return Ok(()) };
            let slot = &mut self.slots[index];
            self.trace.note(moment, || format!("VM {id} begins {task:?}"));
            slot.vm.answer(Answer::Task(task, Timestamp::from_nanos(moment.now)));
            self.oracle.begins(id, task);
            return self.notes(id);
        }
        if !self.calm && self.rng.below(100_000) < self.plan.deaths {
            self.die(id, "dies");
            return Ok(());
        }
        if !self.calm && self.rng.below(100_000) < self.plan.freezes {
            // In the middle of a task, what it goes by grows old.
            self.freeze(index);
            return Ok(());
        }
        let call = self.slots[index].vm.waits_for.clone();
        let answer = self.perform(id, &call)?;
        self.trace.note(moment, || format!("VM {id} {} -> {}", shown(&call), shown_answer(&answer)));
        let wrote = matches!((&call, &answer), (Call::Put(..), Answer::Written(Ok(()))));
        if wrote && !self.calm && self.rng.chance(self.plan.deaths_after_write) {
            self.die(id, "dies right after its write");
            return Ok(());
        }
        self.slots[index].vm.answer(answer);
        self.notes(id)
    }

    pub(crate) fn die(&mut self, id: VmId, how: &str) {
        let configuration = self.slot(id).map_or(0, |slot| slot.configuration);
        self.end(id, how);
        self.oracle.reached.died += 1;
        let (again, span) = (self.rng.chance(900), self.rng.spread(MS, 3 * SECOND));
        if again {
            self.after(span, Event::Start { configuration });
        }
    }

    /// Takes what a VM reports: nobody else can see it, so nothing can come in between that would matter.
    fn notes(&mut self, id: VmId) -> Verdict {
        loop {
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == id) else { return Ok(()) };
            match slot.vm.waits_for.clone() {
                Call::Report(event, breaker) => {
                    self.trace.note(self.now, || format!("VM {id} tells {event:?}"));
                    self.oracle.told(id, event, breaker)?;
                    slot.vm.answer(Answer::Noted);
                }
                Call::Idle(finished) => return self.finished(id, finished),
                _ => return Ok(()),
            }
        }
    }

    fn finished(&mut self, id: VmId, finished: Finished) -> Verdict {
        let task = self.oracle.task(id);
        self.trace.note(self.now, || format!("VM {id} has done {task:?}: {finished:?}"));
        self.oracle.finished(id, &finished)?;
        let Finished { done, resumed, due } = finished;
        if let Some(Task::Admit { arrival, .. }) = task {
            self.decided(id, arrival.call, &done);
        }
        for (breaker, resumed) in resumed {
            self.resumed(id, breaker, resumed);
        }
        self.set_timer(id, due.map(Timestamp::as_nanos));
        match task {
            Some(Task::Tick) => {
                let jitter = self.rng.below(30 * MS);
                self.after(TICK.as_nanos() as u64 + jitter, Event::Tick { vm: id });
            }
            Some(Task::Leave) => self.end(id, "has left"),
            _ => {}
        }
        if self.slots.iter().all(|slot| slot.vm.is_idle()) { self.oracle.quiet() } else { Ok(()) }
    }

    fn set_timer(&mut self, id: VmId, due: Option<u64>) {
        let late = self.rng.below(2 * MS);
        let now = self.now.now;
        let Some(slot) = self.slot(id) else { return };
        if slot.timer == due {
            return;
        }
        slot.timer = due;
        if let Some(at) = due {
            self.after(at.saturating_sub(now) + late, Event::Timer { vm: id, at });
        }
    }
}
