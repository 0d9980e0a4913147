//! Requests as the host knows them: which wait, which are in flight, with what, and how they end.

use crate::oracle::VmId;
use crate::plan::{MS, SECOND};
use crate::vm::{Answer, Done, Task};
use crate::world::{Event, Mailbox, World};
use resilience_core::breaker::{Outcome, Ticket};
use resilience_core::bulkhead::{Permit, Wake};
use resilience_core::worker::{Pass, Resumed, Verdict};

/// A request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stream {
    breaker: usize,
    /// Whether it is held back.
    held: bool,
    /// What it has not told yet.
    ticket: Option<Ticket>,
    permit: Option<Permit>,
    /// Whether it waits in name only.
    waits: bool,
}

impl Stream {
    /// Whether it would keep others out if it never ended.
    pub(crate) const fn ends_in_time(&self) -> bool {
        self.permit.is_some() || self.waits
    }
}

impl World {
    /// A VM has decided over a request.
    pub(crate) fn decided(&mut self, id: VmId, call: u32, done: &Done) {
        let Done::Decided(breaker, verdict) = done else { return };
        match verdict {
            Verdict::Admitted(pass) => self.send(id, call, *breaker, pass),
            Verdict::Waits => {
                let (ticket, permit, waits) = (None, None, false);
                self.streams
                    .insert((id, call), Stream { breaker: *breaker, held: true, ticket, permit, waits });
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
        let (ticket, permit, outcome) = (pass.ticket, pass.permit, Outcome::Ignored);
        let (waits, abandoned) = (false, true);
        if let Some(slot) = self.slot(id) {
            slot.tasks.push(Task::Complete { breaker, call, ticket, outcome, permit, waits, abandoned });
        }
    }

    /// A request has reached the upstream: what it will prove, and when.
    fn send(&mut self, id: VmId, call: u32, breaker: usize, pass: &Pass) {
        let policy = crate::policy_of(breaker);
        let waits = self.oracle.waits(id, call);
        let (ticket, permit) = (pass.ticket, pass.permit);
        self.streams.insert((id, call), Stream { breaker, held: false, ticket, permit, waits });
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
        if self.calm || !self.rng.chance(self.plan.silent) {
            self.later(latency, id, Task::Answered { call, outcome });
        }
    }

    /// What a task takes, now that it begins: what it is about may have gone on, or ended.
    pub(crate) fn find_out(&mut self, id: VmId, task: Task) -> Option<Task> {
        let (Task::Answered { call, .. } | Task::Over { call }) = task else { return Some(task) };
        let Stream { breaker, held, ticket, permit, waits } = *self.streams.get(&(id, call))?;
        if held {
            self.streams.remove(&(id, call));
            return Some(Task::Withdraw { call });
        }
        let abandoned = false;
        let Task::Answered { outcome, .. } = task else {
            self.streams.remove(&(id, call));
            let outcome = Outcome::Ignored;
            return match permit {
                _ if ticket.is_some() => {
                    Some(Task::Complete { breaker, call, ticket, outcome, permit, waits, abandoned })
                }
                Some(permit) => Some(Task::Release { breaker, call, permit }),
                None => waits.then_some(Task::Withdraw { call }),
            };
        };
        // A failure, and what a probe proves, counts at once; the body may take its time.
        let at_once = ticket.is_some_and(|ticket| ticket.probe.is_some() || outcome.is_failure());
        if at_once && (permit.is_some() || waits) && self.rng.chance(500) {
            let longest = if self.calm { 4 * MS } else { 2 * SECOND };
            let span = self.rng.spread(1, longest);
            self.later(span, id, Task::Over { call });
            self.streams.entry((id, call)).and_modify(|stream| stream.ticket = None);
            return Some(Task::Complete {
                breaker,
                call,
                ticket,
                outcome,
                permit: None,
                waits: false,
                abandoned,
            });
        }
        self.streams.remove(&(id, call));
        let nothing = ticket.is_none() && permit.is_none() && !waits;
        (!nothing).then_some(Task::Complete { breaker, call, ticket, outcome, permit, waits, abandoned })
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
