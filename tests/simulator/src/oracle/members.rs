//! The table of members: who may join, beat, and be forgotten, and whose probes may be taken back.

use super::{Moment, Oracle, Verdict, VmId};
use crate::view::{self, Line};
use crate::vm::{Guarded, Task};
use resilience_core::breaker::{Owner, Probe};
use resilience_core::members::Standing;
use std::collections::BTreeMap;

const SECOND: u64 = 1_000_000_000;
/// A VM that beats at least this often ticks in time: half the lease, so that one short stop of the whole process, which
/// nobody notices, makes no difference.
const IN_TIME: u64 = 5 * SECOND / 2;
/// Nothing is taken back sooner than this after a sign of life: the lease, less what an observer that was held up in the
/// middle of its tick does not notice.
const LEASE_AT_LEAST: u64 = 3 * SECOND;

/// Whoever was silent for longer says that it is alive before it takes anything.
const SILENT: u64 = 2 * SECOND;

#[derive(Clone, Debug)]
struct Identity {
    vm: VmId,
    /// Its line was lost to damage, not to silence.
    orphaned: bool,
}

/// What is known of the table.
#[derive(Clone, Debug, Default)]
pub struct Members {
    lines: Vec<Line>,
    identities: BTreeMap<u64, Identity>,
    beats: BTreeMap<VmId, Vec<Moment>>,
    sent: BTreeMap<(u64, u32), Moment>,
}

impl Members {
    /// The owners that have a line.
    #[must_use]
    pub fn owners(&self) -> Vec<u64> {
        let mut owners: Vec<_> = self.lines.iter().map(|line| line.owner).collect();
        owners.sort_unstable();
        owners
    }

    /// The VM that has, or had, an identity.
    pub(super) fn vm_of(&self, owner: u64) -> Option<VmId> {
        self.identities.get(&owner).map(|identity| identity.vm)
    }

    /// Where the table says that a VM can be woken.
    pub(super) fn slot(&self, owner: u64) -> Option<u16> {
        self.lines.iter().find(|line| line.owner == owner)?.slot
    }

    pub(super) fn sent(&mut self, probe: Probe, at: Moment) {
        self.sent.insert((probe.owner.0, probe.id), at);
    }

    /// The table was damaged by something that is not ours.
    pub fn damaged(&mut self) {
        self.lines.clear();
        for identity in self.identities.values_mut() {
            identity.orphaned = true;
        }
    }

    fn beats_until(&self, vm: VmId, until: Moment) -> impl DoubleEndedIterator<Item = Moment> + '_ {
        let beats = self.beats.get(&vm).map(Vec::as_slice).unwrap_or_default();
        beats.iter().copied().filter(move |beat| beat.step <= until.step)
    }

    /// Whether an observer that began to look at `begun` may take this probe back.
    pub(super) fn may_reclaim(&self, probe: Probe, begun: Moment, alive: impl Fn(VmId) -> bool) -> Verdict {
        let owner = probe.owner.0;
        let sent = self.sent.get(&(owner, probe.id)).copied().unwrap_or_default();
        self.may_take(owner, sent, begun, alive)
            .map_err(|why| format!("the probe {probe:?} was taken back: {why}"))
    }

    /// Whether an observer that began to look at `begun` may take back what this owner has held since then.
    pub(super) fn may_take(
        &self,
        owner: u64,
        sent: Moment,
        begun: Moment,
        alive: impl Fn(VmId) -> bool,
    ) -> Verdict {
        let Some(identity) = self.identities.get(&owner) else {
            return Err(format!("nobody ever was {owner}"));
        };
        let beats: Vec<_> = self.beats_until(identity.vm, begun).collect();
        if identity.orphaned {
            return Ok(());
        }
        if !alive(identity.vm) {
            let last = beats.last().map_or(0, |beat| beat.now);
            return if begun.now.saturating_sub(last) >= LEASE_AT_LEAST {
                Ok(())
            } else {
                Err(format!("the lease of {owner} had not ended"))
            };
        }
        if sent.step > begun.step {
            return Ok(());
        }
        let starts = beats.iter().map(|beat| beat.awake.max(sent.awake));
        let ends = beats.iter().skip(1).map(|beat| beat.awake).chain([begun.awake]);
        if starts.zip(ends).any(|(start, end)| end.saturating_sub(start) >= IN_TIME) {
            return Ok(());
        }
        Err(format!("VM {} is alive and ticks in time", identity.vm))
    }

    /// Whether a VM that began at `begun` may take a probe or a permit: after a long silence it gives a sign of life first.
    pub(super) fn may_take_up(&self, vm: VmId, begun: Moment) -> Verdict {
        let last = self.beats.get(&vm).and_then(|beats| beats.last()).copied().unwrap_or_default();
        let silent = begun.now.saturating_sub(last.now);
        if silent <= SILENT {
            return Ok(());
        }
        Err(format!("VM {vm}, silent for {silent} ns, took something and gave no sign of life"))
    }

    fn may_forget(&self, owner: u64, begun: Moment, alive: impl Fn(VmId) -> bool) -> Verdict {
        let Some(identity) = self.identities.get(&owner) else { return Ok(()) };
        let last = self.beats_until(identity.vm, begun).next_back().unwrap_or_default();
        let (silent, least) = if alive(identity.vm) {
            (begun.awake.saturating_sub(last.awake), IN_TIME)
        } else {
            (begun.now.saturating_sub(last.now), LEASE_AT_LEAST)
        };
        if silent >= least {
            return Ok(());
        }
        Err(format!("the line of VM {}, silent for {silent} ns, was taken from the table", identity.vm))
    }
}

impl Oracle {
    /// A VM has written the table of members.
    ///
    /// # Errors
    /// What is wrong.
    pub fn wrote_members(&mut self, vm: VmId, bytes: &[u8]) -> Verdict {
        let Some(writer) = self.vms.get(&vm) else { return Err(format!("VM {vm} writes after its end")) };
        let Some(deed) = &writer.deed else { return Err(format!("VM {vm} writes with nothing to do")) };
        let Some((next, lines)) = view::members(bytes) else {
            return Err(format!("VM {vm} wrote a table that cannot be read: {bytes:?}"));
        };
        let begun = deed.begun;
        let mut me = writer.me;
        let fingerprint = self.configurations[writer.configuration].0;
        let before = std::mem::take(&mut self.members.lines);
        for line in &lines {
            if line.owner >= next || lines.iter().filter(|other| other.owner == line.owner).count() != 1 {
                return Err(format!("VM {vm} wrote identities that are not unique: {lines:?}, next {next}"));
            }
            if lines.iter().filter(|other| other.slot == line.slot).count() != 1 || line.slot.is_none() {
                return Err(format!("VM {vm} wrote slots that are not unique: {lines:?}"));
            }
            let old = before.iter().find(|old| old.owner == line.owner);
            let mine = Some(Owner(line.owner)) == me;
            match old {
                Some(old) if old == line => {}
                Some(old) if mine && view::Line { beat: begun.now, ..*old } == *line => {}
                None if line.configuration == fingerprint && line.beat == begun.now => {
                    if self.members.identities.contains_key(&line.owner) && !mine {
                        return Err(format!("VM {vm} joined as {}, which was somebody else", line.owner));
                    }
                    me = Some(Owner(line.owner));
                    self.members
                        .identities
                        .insert(line.owner, super::members::Identity { vm, orphaned: false });
                }
                _ => return Err(format!("VM {vm} wrote a line that is not its own: {old:?} -> {line:?}")),
            }
        }
        for old in &before {
            let kept = lines.iter().any(|line| line.owner == old.owner);
            let left = deed.task == Task::Leave && Some(Owner(old.owner)) == writer.me;
            if !kept && !left {
                self.members.may_forget(old.owner, begun, |vm| self.vms.contains_key(&vm))?;
            }
        }
        let left = deed.task == Task::Leave;
        if !left {
            if !lines.iter().any(|line| Some(Owner(line.owner)) == me) {
                return Err(format!("VM {vm} beat and has no line"));
            }
            self.members.beats.entry(vm).or_default().push(self.now);
        }
        let standings = self.standings(fingerprint, &lines, me, begun);
        self.members.lines = lines;
        let may_wait = |(_, shared): &Guarded| {
            let bulkhead = shared.as_ref().and_then(|shared| shared.patterns.bulkhead.as_ref());
            bulkhead.is_some_and(|bulkhead| bulkhead.settings.queue.is_some())
        };
        if let Some(writer) = self.vms.get_mut(&vm) {
            let may_wait = self.configurations[writer.configuration].1.iter().any(may_wait);
            writer.deaf |= may_wait && !left && (writer.me != me || writer.queue == 0);
            writer.me = me;
            writer.standings = standings;
        }
        Ok(())
    }

    /// How a configuration may stand to the others by these lines: who has been silent for long may count or not.
    fn standings(&self, mine: u64, lines: &[Line], me: Option<Owner>, begun: Moment) -> Vec<Standing> {
        let alive = |vm| self.vms.contains_key(&vm);
        let surely = |line: &&Line| {
            Some(Owner(line.owner)) == me || self.members.may_forget(line.owner, begun, alive).is_err()
        };
        // A configuration is as new as the oldest of its VMs that count.
        let mut least: BTreeMap<u64, u64> = BTreeMap::new();
        let mut most: BTreeMap<u64, (bool, u64)> = BTreeMap::new();
        for line in lines {
            let low = least.entry(line.configuration).or_insert(line.owner);
            *low = line.owner.min(*low);
            let (sure, high) = most.entry(line.configuration).or_insert((false, line.owner));
            (*sure, *high) = match (*sure, surely(&line)) {
                (false, true) => (true, line.owner),
                (true, true) => (true, line.owner.min(*high)),
                (true, false) => (true, *high),
                (false, false) => (false, line.owner.max(*high)),
            };
        }
        let others = || most.iter().filter(|(configuration, _)| **configuration != mine);
        let (low, high) = (least.get(&mine).copied(), most.get(&mine).map(|(_, high)| *high));
        let mut possible = Vec::new();
        if low.is_none() || others().any(|(_, (_, theirs))| Some(*theirs) > low) {
            possible.push(Standing::Superseded);
        }
        let older = |configuration| least.get(configuration).copied() < high;
        if others().any(|(configuration, _)| older(configuration))
            && others().filter(|(_, (sure, _))| *sure).all(|(configuration, _)| older(configuration))
        {
            possible.push(Standing::Newest);
        }
        if !others().any(|(_, (sure, _))| *sure) {
            possible.push(Standing::Alone);
        }
        possible
    }
}
