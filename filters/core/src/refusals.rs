//! Which refusals have a line in the log: the first of a burst, over all workers, and then what was held back.
//!
//! A policy that sheds load refuses thousands a second. Of each policy and reason there is at most one line in [`INTERVAL`],
//! whichever worker it comes from, and it says how many have had none since the one before. To agree on that, workers keep
//! one small value for each policy that ever refused; they look at it once in an interval each, not at every refusal.

mod line;
#[cfg(test)]
mod tests;

pub use line::{Line, Numbers, numbers, request_id};

use crate::answer::Reason;
use crate::codec::{Reader, put_list};
use crate::store::{Change, Versioned, update};
use crate::time::Timestamp;
use crate::worker::{Event, Operation, Port, Target};
use std::collections::BTreeMap;
use std::time::Duration;

/// How much time there is at least between two lines of one policy and reason.
pub const INTERVAL: Duration = Duration::from_secs(10);
/// How many lines a VM writes in each interval at most, over all policies: of thousands that refuse, the others have theirs later.
const LINES: u32 = 100;
/// More entries than there are reasons are damage.
const MOST: usize = 16;

/// What a VM knows of refusals that have no line yet.
#[derive(Debug)]
pub struct Refusals {
    namespace: String,
    /// Since when lines are counted, and how many there were.
    lines: (Timestamp, u32),
    /// By policy and reason.
    quiet: BTreeMap<(usize, Reason), Quiet>,
}

/// A time without lines.
#[derive(Clone, Copy, Debug)]
struct Quiet {
    /// When it ends.
    until: Timestamp,
    /// How many refusals of this VM nobody else knows of.
    held_back: u64,
    /// Whether there are some that all know of: at the end of this time somebody must say so.
    owed: bool,
    /// Whose the last one was.
    target: Target,
}

/// What is to be said.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Due {
    /// Whose.
    pub target: Target,
    /// Why they are refused.
    pub reason: Reason,
    /// How many refusals have had no line since the one before.
    pub held_back: u64,
}

/// What all know of one policy and reason.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    reason: u8,
    /// When there was a line.
    last: Timestamp,
    held_back: u64,
}

impl Refusals {
    /// For the policies of one namespace.
    #[must_use]
    pub fn new(namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), lines: (Timestamp::default(), 0), quiet: BTreeMap::new() }
    }

    /// A request of a policy of this name was refused. `Some` where the log is to say so.
    pub fn refused<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        name: &str,
        target: Target,
        reason: Reason,
        now: Timestamp,
    ) -> Option<Due> {
        let at = (target.policy, reason);
        if let Some(quiet) = self.quiet.get_mut(&at).filter(|quiet| now < quiet.until) {
            quiet.held_back = quiet.held_back.saturating_add(1);
            quiet.target = target;
            return None;
        }
        let held_back = self.quiet.get(&at).map_or(0, |quiet| quiet.held_back);
        self.look(port, name, Due { target, reason, held_back }, true, now)
    }

    /// With a sign of life: what was held back, where the time without a line is over. `name` tells a policy's.
    pub fn overdue<'n, P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        name: impl Fn(usize) -> Option<&'n str>,
        now: Timestamp,
    ) -> Vec<Due> {
        let mut over = Vec::new();
        self.quiet.retain(|at, quiet| {
            let is_over = quiet.until <= now;
            if is_over && (quiet.held_back > 0 || quiet.owed) {
                over.push((*at, *quiet));
            }
            !is_over
        });
        // Whose line was put off comes first, or it would be for ever.
        over.sort_by_key(|(_, quiet)| (quiet.until, !quiet.owed));
        let mut due = Vec::new();
        for ((policy, reason), Quiet { held_back, target, .. }) in over {
            let Some(name) = name(policy) else { continue };
            due.extend(self.look(port, name, Due { target, reason, held_back }, false, now));
        }
        due
    }

    /// Changes what all know of a policy.
    fn update<P: Port + ?Sized, T>(
        &self,
        port: &mut P,
        name: &str,
        change: impl FnMut(Option<&Versioned>) -> Change<T>,
    ) -> Option<T> {
        // No policy has a name like this.
        let key = format!("resilience/{}/{name}#refusals", self.namespace);
        let updated = update(port, key.as_bytes(), change);
        if updated.conflicts > 0 {
            port.report(Event::Conflicts { operation: Operation::Log, count: updated.conflicts });
        }
        if updated.answer.is_none() {
            port.report(Event::GaveUp { operation: Operation::Log });
        }
        updated.answer
    }

    /// Until when there are no more lines, if there were enough.
    fn exhausted(&mut self, now: Timestamp) -> Option<Timestamp> {
        let (since, lines) = self.lines;
        if now.since(since) >= INTERVAL {
            self.lines = (now, 0);
            return None;
        }
        (lines >= LINES).then(|| since.after(INTERVAL))
    }

    /// At its end, this VM leaves to the others what it has held back: the next line says so.
    pub fn leave<'n, P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        name: impl Fn(usize) -> Option<&'n str>,
        now: Timestamp,
    ) {
        for ((policy, reason), quiet) in std::mem::take(&mut self.quiet) {
            if let Some(name) = name(policy).filter(|_| quiet.held_back > 0) {
                self.update(port, name, |found| leave_behind(found, reason, quiet.held_back, now));
            }
        }
    }

    /// Finds out whether it is time for a line, of what this VM knows; `anew` says that one more was refused just now, which it
    /// would be about.
    fn look<P: Port + ?Sized>(
        &mut self,
        port: &mut P,
        name: &str,
        due: Due,
        anew: bool,
        now: Timestamp,
    ) -> Option<Due> {
        let Due { target, reason, held_back } = due;
        if let Some(until) = self.exhausted(now) {
            let held_back = held_back.saturating_add(u64::from(anew));
            self.quiet.insert((target.policy, reason), Quiet { until, held_back, owed: true, target });
            return None;
        }
        let agreed = self.update(port, name, |found| agree(found, reason, held_back, anew, now));
        // Where nobody can be asked, each says what it knows.
        let (last, said) = agreed.unwrap_or((now, Some(held_back)));
        let quiet = Quiet { until: last.after(INTERVAL), held_back: 0, owed: said.is_none(), target };
        self.quiet.insert((target.policy, reason), quiet);
        let held_back = said.filter(|held_back| anew || *held_back > 0)?;
        self.lines.1 = self.lines.1.saturating_add(1);
        Some(Due { held_back, ..due })
    }
}

/// Adds what one VM knows to what all know, for somebody else to say.
fn leave_behind(found: Option<&Versioned>, reason: Reason, held_back: u64, now: Timestamp) -> Change<()> {
    let reason = reason as u8;
    let mut all = found.and_then(|found| decode(&found.bytes)).unwrap_or_default();
    match all.iter_mut().find(|known| known.reason == reason) {
        Some(known) => known.held_back = known.held_back.saturating_add(held_back),
        None => all.push(Known { reason, last: now, held_back }),
    }
    Change::Write(encode(&all), ())
}

/// Adds what one VM knows to what all know. Answers with the moment of the last line, and with how many were held back before
/// it, if it is the one that is written now.
fn agree(
    found: Option<&Versioned>,
    reason: Reason,
    held_back: u64,
    anew: bool,
    now: Timestamp,
) -> Change<(Timestamp, Option<u64>)> {
    let reason = reason as u8;
    let mut all = found.and_then(|found| decode(&found.bytes)).unwrap_or_default();
    all.retain(|known| known.reason != reason || known.last <= now.after(INTERVAL));
    let Some(known) = all.iter_mut().find(|known| known.reason == reason) else {
        if !anew && held_back == 0 {
            return Change::Keep((now, Some(0)));
        }
        all.push(Known { reason, last: now, held_back: 0 });
        return Change::Write(encode(&all), (now, Some(held_back)));
    };
    let sum = known.held_back.saturating_add(held_back);
    if now.since(known.last) >= INTERVAL && (anew || sum > 0) {
        (known.last, known.held_back) = (now, 0);
        return Change::Write(encode(&all), (now, Some(sum)));
    }
    let sum = sum.saturating_add(u64::from(anew));
    let last = known.last;
    if sum == known.held_back {
        // Somebody else has said it.
        return Change::Keep((last, (sum == 0).then_some(0)));
    }
    known.held_back = sum;
    Change::Write(encode(&all), (last, None))
}

/// `n u16`, then by reason `reason u8, last u64, held_back u64`.
fn encode(all: &[Known]) -> Vec<u8> {
    let mut out = Vec::new();
    put_list(&mut out, all, |out, known| {
        out.push(known.reason);
        out.extend(known.last.as_nanos().to_le_bytes());
        out.extend(known.held_back.to_le_bytes());
    });
    out
}

fn decode(bytes: &[u8]) -> Option<Vec<Known>> {
    let mut input = Reader::new(bytes);
    let known = |input: &mut Reader<'_>| {
        Some(Known { reason: input.u8()?, last: input.timestamp()?, held_back: input.u64()? })
    };
    let all = input.list(known)?;
    (input.is_empty() && all.len() <= MOST).then_some(all)
}
