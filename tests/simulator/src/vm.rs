//! One worker's VM: the real [`Worker`] on a stack of its own, which stands still before each call to the world.
//!
//! The world answers a call when its scheduler says so, so every interleaving of calls can happen, and none by itself.

mod talk;

use corosensei::stack::DefaultStack;
use corosensei::{Coroutine, CoroutineResult, Yielder};
use resilience_core::bulkhead::Wake;
use resilience_core::store::{Expected, PutError, Store, Unavailable, Versioned};
use resilience_core::time::Timestamp;
use resilience_core::worker::{Completion, Event, Pass, Port, Resumed, Shared, Target, Verdict, Worker};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::Duration;
pub use talk::{Answer, Call, Done, Finished, Task};

/// Deep enough for an unoptimized worker.
const STACK: usize = 256 * 1024;

thread_local! {
    // Mapping a stack costs more than a whole short run.
    static STACKS: RefCell<Vec<DefaultStack>> = const { RefCell::new(Vec::new()) };
}

/// A policy of a configuration, as a worker is told.
pub type Guarded = (String, Option<Shared>);

/// A VM.
pub struct Vm {
    routine: Option<Coroutine<Answer, Call, (), DefaultStack>>,
    /// What it waits for.
    pub waits_for: Call,
}

impl std::fmt::Debug for Vm {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.waits_for.fmt(f)
    }
}

impl Vm {
    /// Starts a VM with a configuration. It waits for something to do.
    #[must_use]
    pub fn start(namespace: &str, configuration: u64, policies: &[Guarded]) -> Self {
        let stack = STACKS.with_borrow_mut(Vec::pop);
        let stack = stack.unwrap_or_else(|| DefaultStack::new(STACK).expect("memory for a stack"));
        let mut worker = Worker::new(
            namespace,
            configuration,
            policies.iter().map(|(name, settings)| (name.as_str(), settings.clone())),
        );
        let routine = Coroutine::with_stack(stack, move |yielder: &Yielder<Answer, Call>, _: Answer| {
            let mut world = World { yielder, breakers: BTreeMap::new() };
            let mut finished = Finished::quietly();
            while let Answer::Task(task, now) = yielder.suspend(Call::Idle(finished)) {
                finished = Finished::quietly();
                finished.done = perform(&mut worker, &mut world, task, now, &mut finished.resumed);
                finished.due = worker.next_due();
            }
        });
        let mut vm = Self { routine: Some(routine), waits_for: Call::Idle(Finished::quietly()) };
        vm.answer(Answer::End);
        vm
    }

    /// Answers what the VM waits for, and lets it run up to its next call.
    pub fn answer(&mut self, answer: Answer) {
        let Some(routine) = &mut self.routine else { return };
        if let CoroutineResult::Yield(call) = routine.resume(answer) {
            self.waits_for = call;
        }
    }

    /// Whether the VM has nothing to do.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        matches!(self.waits_for, Call::Idle(_))
    }
}

/// A VM that dies does no more: what still runs on its stack runs to its end, talking to nobody. (Unwinding the stack
/// instead would need panics that unwind, and the release profile has none.)
impl Drop for Vm {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return;
        }
        while self.routine.as_ref().is_some_and(|routine| !routine.done()) {
            self.answer(match self.waits_for {
                Call::Get(_) => Answer::Value(Err(Unavailable)),
                Call::Put(..) => Answer::Written(Err(PutError::Unavailable)),
                Call::Changes(_) => Answer::Changes(None),
                Call::Listen(_) => Answer::Queue(None),
                Call::Changed(_) | Call::Wake(_) | Call::Report(..) => Answer::Noted,
                Call::Idle(_) => Answer::End,
            });
        }
        if let Some(routine) = self.routine.take() {
            STACKS.with_borrow_mut(|stacks| stacks.push(routine.into_stack()));
        }
    }
}

fn perform(
    worker: &mut Worker,
    world: &mut World<'_>,
    task: Task,
    now: Timestamp,
    resumed: &mut Vec<(usize, Resumed)>,
) -> Done {
    let woken = match task {
        Task::Admit { policy, cluster, arrival } => {
            let target = aim(worker, world, policy, cluster);
            let verdict = worker.admit(world, target, arrival, now);
            return Done::Decided(world.breaker(target), verdict);
        }
        Task::Force { policy, cluster, command } => {
            let target = aim(worker, world, policy, cluster);
            if worker.keeps_state(policy) {
                worker.force(world, target, command, now);
            }
            return Done::Forced(world.breaker(target));
        }
        Task::Abandon { breaker, call, ticket, permit, grant } => {
            let target = world.target(breaker);
            let verdict = Verdict::Admitted(Pass { ticket, permit, grant, ..Pass::default() });
            worker.abandon(world, Resumed { call, target, verdict, waited: Duration::ZERO }, now);
            Vec::new()
        }
        Task::Complete { breaker, call, ticket, outcome, returned, waits } => {
            let target = world.target(breaker);
            if waits {
                worker.withdraw(world, call, now);
            }
            worker.complete(world, Completion { target, ticket, outcome, returned }, now, || true);
            Vec::new()
        }
        Task::Release { breaker, returned, .. } => {
            let target = world.target(breaker);
            worker.release(world, target, returned, now);
            Vec::new()
        }
        Task::Withdraw { call } => {
            worker.withdraw(world, call, now);
            Vec::new()
        }
        Task::Woken { call } => worker.woken(world, call, now).into_iter().collect(),
        Task::Timer => worker.wait_over(world, now),
        Task::Tick => {
            worker.tick(world, now);
            worker.look_after_all(world, now)
        }
        Task::Leave => {
            worker.leave(world, now);
            Vec::new()
        }
        Task::Answered { .. } | Task::Over { .. } => panic!("nobody has found out what {task:?} takes"),
    };
    resumed.extend(woken.into_iter().map(|woken| (world.breaker(woken.target), woken)));
    Done::Quietly
}

fn aim(worker: &mut Worker, world: &mut World<'_>, policy: usize, cluster: Option<usize>) -> Target {
    let cluster = cluster.map(|cluster| crate::CLUSTERS[cluster].as_bytes());
    worker.target(world, policy, cluster)
}

/// A worker's port: each call waits for the world's answer.
struct World<'a> {
    yielder: &'a Yielder<Answer, Call>,
    /// Which breaker the worker means by a target that is not a policy's own.
    breakers: BTreeMap<Target, usize>,
}

impl World<'_> {
    fn ask(&self, call: Call) -> Answer {
        self.yielder.suspend(call)
    }

    fn breaker(&self, target: Target) -> usize {
        match target.key {
            0 => crate::breaker(target.policy, None),
            _ => self.breakers[&target],
        }
    }

    fn target(&self, breaker: usize) -> Target {
        let found = self.breakers.iter().find(|(_, known)| **known == breaker);
        found.map_or_else(|| Target::whole(crate::policy_of(breaker)), |(target, _)| *target)
    }
}

impl Store for World<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Versioned>, Unavailable> {
        match self.ask(Call::Get(key.to_vec())) {
            Answer::Value(value) => value,
            other => panic!("a read was answered with {other:?}"),
        }
    }

    fn put(&mut self, key: &[u8], bytes: &[u8], expected: Expected) -> Result<(), PutError> {
        match self.ask(Call::Put(key.to_vec(), bytes.to_vec(), expected)) {
            Answer::Written(written) => written,
            other => panic!("a write was answered with {other:?}"),
        }
    }
}

impl Port for World<'_> {
    fn changes(&mut self, target: Target) -> Option<u64> {
        match self.ask(Call::Changes(self.breaker(target))) {
            Answer::Changes(changes) => changes,
            other => panic!("a counter was answered with {other:?}"),
        }
    }

    fn changed(&mut self, target: Target) {
        self.ask(Call::Changed(self.breaker(target)));
    }

    fn introduce(&mut self, target: Target, key: &[u8]) {
        let cluster = crate::CLUSTERS.iter().position(|name| name.as_bytes() == key);
        let breaker = crate::breaker(target.policy, Some(cluster.expect("the name of a cluster")));
        let known = self.breakers.values().any(|known| *known == breaker);
        assert!(!known && target.key > 0, "{target:?} is introduced twice");
        self.breakers.insert(target, breaker);
    }

    fn listen(&mut self, name: &str) -> Option<u32> {
        match self.ask(Call::Listen(name.to_owned())) {
            Answer::Queue(queue) => queue,
            other => panic!("a name was answered with {other:?}"),
        }
    }

    fn wake(&mut self, wake: Wake) {
        self.ask(Call::Wake(wake));
    }

    fn report(&mut self, event: Event) {
        let breaker = match event {
            Event::Transition { target, .. }
            | Event::Observed { target, .. }
            | Event::Reclaimed { target, .. } => self.breaker(target),
            Event::KeysExhausted { policy } | Event::Crowd { policy, .. } | Event::Balance { policy, .. } => {
                crate::breaker(policy, None)
            }
            Event::Conflicts { .. } | Event::GaveUp { .. } | Event::Reigns { .. } | Event::Lost { .. } => 0,
        };
        self.ask(Call::Report(event, breaker));
    }
}
