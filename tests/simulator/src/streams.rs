//! Requests as the host knows them: which wait, which are in flight, with what, and how they end.

use crate::model::grant::taken;
use crate::oracle::{Verdict as Verdict_, VmId};
use crate::plan::{MS, SECOND};
use crate::vm::{Answer, Done, Task};
use crate::world::{Event, Mailbox, World};
use resilience_core::breaker::{Outcome, Ticket};
use resilience_core::budget::Grant;
use resilience_core::bulkhead::{Permit, Wake};
use resilience_core::worker::{Pass, Resumed, Returned, Verdict};

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    breaker: usize,
    /// Whether it is held back.
    held: bool,
    /// What it has not told yet.
    ticket: Option<Ticket>,
    permit: Option<Permit>,
    /// How often it may be retried.
    grant: Option<Grant>,
    /// How often it was.
    retried: u32,
    /// Whether it waits in name only.
    waits: bool,
}

impl Stream {
    const fn new(breaker: usize, held: bool) -> Self {
        Self { breaker, held, ticket: None, permit: None, grant: None, retried: 0, waits: false }
    }

    /// Whether it would keep others out if it never ended.
    pub(crate) fn ends_in_time(&self) -> bool {
        self.permit.is_some() || self.waits || self.grant.is_some_and(|grant| grant.reserve.is_some())
    }
}

impl World {
    /// A VM has decided over a request.
    pub(crate) fn decided(&mut self, id: VmId, call: u32, done: &Done) {
        let Done::Decided(breaker, verdict) = done else { return };
        match verdict {
            Verdict::Admitted(pass) => self.send(id, call, *breaker, pass),
            Verdict::Waits => {
                self.streams.insert((id, call), Stream::new(*breaker, true));
                if !self.calm && self.rng.chance(self.plan.impatient + 50) {
                    let span = self.rng.spread(1, 3 * SECOND);
                    self.later(span, id, Task::Over { call });
                }
            }
            Verdict::Refused(_) => {}
        }
    }

    /// A request waits no more.
    pub(crate) fn resumed(&mut self, id: VmId, breaker: usize, resumed: Resumed) {
        let call = resumed.call;
        let Some(stream) = self.streams.get_mut(&(id, call)) else { return };
        let was_held = stream.held;
        match resumed.verdict {
            Verdict::Admitted(pass) if was_held && !self.calm && self.rng.chance(self.plan.impatient / 4) => {
                self.abandon(id, call, breaker, &pass);
            }
            Verdict::Admitted(pass) if was_held => self.send(id, call, breaker, &pass),
            Verdict::Admitted(pass) => (stream.permit, stream.waits) = (pass.permit, false),
            _ if was_held => {
                self.streams.remove(&(id, call));
            }
            _ => stream.waits = false,
        }
    }

    /// A request is let in after a wait, and its stream is gone.
    fn abandon(&mut self, id: VmId, call: u32, breaker: usize, pass: &Pass) {
        self.streams.remove(&(id, call));
        self.oracle.reached.abandoned += 1;
        let Pass { ticket, permit, grant, .. } = *pass;
        if let Some(slot) = self.slot(id) {
            slot.tasks.push(Task::Abandon { breaker, call, ticket, permit, grant });
        }
    }

    /// A request has reached the upstream: what it will prove, and when.
    fn send(&mut self, id: VmId, call: u32, breaker: usize, pass: &Pass) {
        let policy = crate::policy_of(breaker);
        let waits = self.oracle.waits(id, call);
        let Pass { ticket, permit, grant, .. } = *pass;
        let stream = Stream { ticket, permit, grant, waits, ..Stream::new(breaker, false) };
        self.streams.insert((id, call), stream);
        let impatient = !self.calm && self.rng.chance(self.plan.impatient);
        let slow = self.rng.chance(self.haste[policy]);
        let outcome = match self.rng.chance(self.weather[policy]) {
            _ if impatient => Outcome::Ignored,
            true if slow => Outcome::SlowFailure,
            true => Outcome::Failure,
            false if slow => Outcome::SlowSuccess,
            false => Outcome::Success,
        };
        let (least, most) = if self.calm { (0, 4 * MS) } else { self.plan.latency };
        let latency = self.rng.spread(least, most);
        if let Some(grant) = grant {
            self.will_be_retried((id, call), policy, grant, latency, outcome.is_failure());
        }
        if self.calm || !self.rng.chance(self.plan.silent) {
            self.later(latency, id, Task::Answered { call, outcome });
        }
    }

    /// What a task takes, now that it begins: what it is about may have gone on, or ended.
    pub(crate) fn find_out(&mut self, id: VmId, task: Task) -> Option<Task> {
        if let Task::Admit { policy, cluster, arrival } = task {
            let configuration = self.slot(id)?.configuration;
            let arrival = self.arrives(configuration, policy, arrival);
            return Some(Task::Admit { policy, cluster, arrival });
        }
        let (Task::Answered { call, .. } | Task::Over { call }) = task else { return Some(task) };
        let stream @ Stream { breaker, held, ticket, waits, .. } = *self.streams.get(&(id, call))?;
        if held {
            self.streams.remove(&(id, call));
            return Some(Task::Withdraw { call });
        }
        let Task::Answered { outcome, .. } = task else {
            let returned = self.ends(id, call, &stream);
            let outcome = Outcome::Ignored;
            return match returned.is_empty() {
                true if ticket.is_none() => waits.then_some(Task::Withdraw { call }),
                false if ticket.is_none() && !waits => Some(Task::Release { breaker, call, returned }),
                _ => Some(Task::Complete { breaker, call, ticket, outcome, returned, waits }),
            };
        };
        // A failure, and what a probe proves, counts at once; the body may take its time.
        let at_once = ticket.is_some_and(|ticket| ticket.probe.is_some() || outcome.is_failure());
        if at_once && stream.ends_in_time() && self.rng.chance(500) {
            let longest = if self.calm { 4 * MS } else { 2 * SECOND };
            let span = self.rng.spread(1, longest);
            self.later(span, id, Task::Over { call });
            self.streams.entry((id, call)).and_modify(|stream| stream.ticket = None);
            let (returned, waits) = (Returned::default(), false);
            return Some(Task::Complete { breaker, call, ticket, outcome, returned, waits });
        }
        let returned = self.ends(id, call, &stream);
        let nothing = ticket.is_none() && returned.is_empty() && !waits;
        (!nothing).then_some(Task::Complete { breaker, call, ticket, outcome, returned, waits })
    }

    /// A request is over: what it gives back.
    fn ends(&mut self, id: VmId, call: u32, stream: &Stream) -> Returned {
        self.streams.remove(&(id, call));
        let made = Some(stream.retried).filter(|_| !self.rng.chance(self.plan.unreadable));
        // Where nothing depends on it nobody looks.
        let ended = stream.grant.map(|grant| grant.end(if grant.may_retry() { made } else { Some(0) }));
        let spent = ended.and_then(|ended| ended.spent);
        let right = stream.grant.and_then(|grant| taken(&grant, made));
        assert_eq!(
            spent.map(|spent| spent.retries),
            right,
            "{:?}, and {made:?} retries were made",
            stream.grant
        );
        Returned { permit: stream.permit, spent }
    }

    /// Envoy retries a request at some moments before it ends, as often as it is told, or as its route says.
    fn will_be_retried(&mut self, at: (VmId, u32), policy: usize, grant: Grant, latency: u64, fails: bool) {
        let most = if grant.uncapped { self.plan.routes[policy] } else { grant.retries };
        let retries = match self.rng.below(3) {
            0 if fails => self.rng.below(u64::from(most) + 1),
            _ if fails => u64::from(most),
            0 => self.rng.below(u64::from(most) + 1),
            _ => 0,
        };
        for _ in 0..retries {
            let span = self.rng.below(latency + 1);
            self.after(span, Event::Retry { vm: at.0, call: at.1 });
        }
    }

    /// Envoy retries a request that is still in flight; its VM may have died meanwhile.
    pub(crate) fn retry(&mut self, vm: VmId, call: u32) -> Verdict_ {
        match self.streams.get_mut(&(vm, call)) {
            Some(stream) => stream.retried += 1,
            None if self.orphans.contains(&(vm, call)) => {}
            None => return Ok(()),
        }
        self.trace.note(self.now, || format!("request {call} of VM {vm} is retried"));
        self.oracle.retried(vm, call)
    }

    /// A VM opens a shared queue: one name is one queue, and whoever came last is woken.
    pub(crate) fn listens(&mut self, id: VmId, name: Option<&str>) -> Result<Answer, String> {
        let queue = name.map(|name| {
            let known = self.mail.iter().position(|mailbox| mailbox.name == name);
            let index = known.unwrap_or_else(|| {
                self.mail.push(Mailbox { name: name.to_owned(), listener: id, messages: Vec::new() });
                self.mail.len() - 1
            });
            self.mail[index].listener = id;
            index as u32 + 1
        });
        self.oracle.listens(id, name, queue)?;
        Ok(Answer::Queue(queue))
    }

    pub(crate) fn post(&mut self, wake: Wake) -> Result<(), String> {
        let Some(mailbox) = self.mail.get_mut((wake.queue as usize).wrapping_sub(1)) else {
            return Err(format!("a message for a queue that is not there: {wake:?}"));
        };
        if !self.calm && self.rng.chance(self.plan.lossy) {
            self.trace.note(self.now, || format!("{wake:?} is lost"));
            self.oracle.reached.lost += 1;
            return Ok(());
        }
        mailbox.messages.push(wake);
        let span = self.rng.below(self.plan.post);
        self.after(span, Event::Post { queue: wake.queue });
        Ok(())
    }

    /// What stands in a queue is read, if anybody is there to read it.
    pub(crate) fn deliver(&mut self, queue: u32) {
        let mailbox = &mut self.mail[queue as usize - 1];
        let listener = mailbox.listener;
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.id == listener) else { return };
        for wake in mailbox.messages.drain(..) {
            slot.tasks.push(Task::Woken { call: wake.id });
        }
    }
}
