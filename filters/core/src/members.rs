//! Which workers' VMs are alive: a table in shared data in which each beats on its tick, and the judgement over those that
//! no longer do.
//!
//! A VM that trapped never says so, and what it held must come back. But a process that was stopped looks dead to
//! itself: so a VM is judged only by an observer that has itself ticked all through the lease.

#[cfg(test)]
mod tests;

use crate::breaker::Owner;
use crate::codec::{Reader, put_list};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a VM ticks.
pub const TICK: Duration = Duration::from_millis(500);
/// How long a VM may be silent before what it holds is given back.
pub const LEASE: Duration = Duration::from_secs(5);
/// How long a VM may be silent before its line in the table goes. Longer than the lease, so that whoever gives back what
/// it held still finds it there.
const FORGOTTEN: Duration = Duration::from_secs(15);
/// Whoever did not tick for this long knows nothing of the time between, nor what others made of it.
pub(crate) const BLIND: Duration = Duration::from_secs(2);
/// More lines than any Envoy has VMs: beyond it the table is damage.
const MAX_MEMBERS: usize = 4096;
/// What another version of the module adds, to the lines and to the table, is carried up to this many bytes in all.
const MAX_MORE: usize = 64 * 1024;

/// One VM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its identity.
    pub owner: Owner,
    /// The fingerprint of its configuration: each configuration has a leader of its own.
    pub configuration: u64,
    /// When it last ticked.
    pub beat: Timestamp,
    /// Its place among those that wait to be woken: a number that no other line has, so that the names made of it are
    /// few and used again. `None` for one of the first version of the module.
    pub slot: Option<u16>,
    /// What a later version of the module says of it.
    more: Vec<u8>,
}

/// The table.
///
/// `"RM", next u64, n u16`, then `n` lines, each behind its length (u16): `owner u64, configuration u64, beat u64`, and since
/// there are bulkheads `slot u16`. Behind them, since there are generations, `generation u64, configuration u64`. Two versions of
/// the module share one table, so this layout is only ever extended: at the end of a line, and at the end of the table. What
/// stands there is carried along.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Members {
    next: u64,
    members: Vec<Member>,
    reign: Option<Reign>,
    more: Vec<u8>,
}

/// Which configuration has taken over last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Reign {
    /// The how manieth it is.
    generation: u64,
    /// Its fingerprint.
    configuration: u64,
}

impl Members {
    const MAGIC: &[u8] = b"RM";

    /// Reads the table; one that cannot be read starts afresh, with identities that no earlier one has given out.
    #[must_use]
    pub fn decode(bytes: Option<&[u8]>, now: Timestamp) -> Self {
        let Some(bytes) = bytes else { return Self::default() };
        Self::read(bytes).unwrap_or(Self { next: now.as_nanos(), ..Self::default() })
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut input = Reader::new(bytes.strip_prefix(Self::MAGIC)?);
        let next = input.u64()?;
        let members = input.list(|input| {
            let len = usize::from(input.u16()?);
            let mut line = Reader::new(input.bytes(len)?);
            Some(Member {
                owner: Owner(line.u64()?),
                configuration: line.u64()?,
                beat: line.timestamp()?,
                slot: line.u16(),
                more: line.rest().to_vec(),
            })
        })?;
        let rest = input.rest();
        let mut tail = Reader::new(rest);
        let reign =
            tail.u64().zip(tail.u64()).map(|(generation, configuration)| Reign { generation, configuration });
        let more = if reign.is_some() { tail.rest() } else { rest }.to_vec();
        let table = Self { next, members, reign, more };
        table.is_plausible().then_some(table)
    }

    /// Whether VMs can have made this table: each identity and each slot stands once, and there is an end to what is carried
    /// along.
    fn is_plausible(&self) -> bool {
        let owners: BTreeSet<_> = self.members.iter().map(|member| member.owner).collect();
        let mut slots = BTreeSet::new();
        let slots_differ =
            self.members.iter().filter_map(|member| member.slot).all(|slot| slots.insert(slot));
        let added = self.members.iter().map(|member| member.more.len()).sum::<usize>();
        self.members.len() <= MAX_MEMBERS
            && added.saturating_add(self.more.len()) <= MAX_MORE
            && owners.len() == self.members.len()
            && slots_differ
    }

    /// The table's bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Self::MAGIC.to_vec();
        out.extend(self.next.to_le_bytes());
        put_list(&mut out, &self.members, |out, member| {
            let mut line = Vec::new();
            line.extend(member.owner.0.to_le_bytes());
            line.extend(member.configuration.to_le_bytes());
            line.extend(member.beat.as_nanos().to_le_bytes());
            if let Some(slot) = member.slot {
                line.extend(slot.to_le_bytes());
            }
            line.extend(&member.more);
            put_list(out, &line, |out, byte| out.push(*byte));
        });
        if let Some(Reign { generation, configuration }) = self.reign {
            out.extend(generation.to_le_bytes());
            out.extend(configuration.to_le_bytes());
        }
        out.extend(&self.more);
        out
    }

    /// Drops the lines that `watch` has seen silent for long, other than that of `me`; returns how many.
    pub fn bury(&mut self, me: Option<Owner>, now: Timestamp, watch: &Watch) -> usize {
        let before = self.members.len();
        self.members.retain(|member| {
            Some(member.owner) == me
                || active(Bug::DeadRemembered)
                // It may have come back since `watch` was last brought up to date.
                || watch.last_beat(member.owner) != Some(member.beat)
                || watch.silence(member.owner, now).is_none_or(|for_| for_ < FORGOTTEN)
        });
        before.saturating_sub(self.members.len())
    }

    /// Beats for `me`, or joins under a new identity if there is none yet or its line is gone: then others have given
    /// back what it held. Lines that `watch` has seen silent for long go. Returns the identity.
    pub fn beat(&mut self, me: Option<Owner>, configuration: u64, now: Timestamp, watch: &Watch) -> Owner {
        self.bury(me, now, watch);
        if let Some(mine) = self.members.iter_mut().find(|member| Some(member.owner) == me) {
            mine.beat = now;
            return mine.owner;
        }
        let owner = self.give_out();
        if self.members.len() < MAX_MEMBERS {
            let slot = self.free_slot();
            self.members.push(Member { owner, configuration, beat: now, slot, more: Vec::new() });
        }
        owner
    }

    /// The slot of a VM; `None` for one that has no line.
    #[must_use]
    pub fn slot(&self, owner: Owner) -> Option<u16> {
        self.members.iter().find(|member| member.owner == owner)?.slot
    }

    /// The lowest number that no line has.
    fn free_slot(&self) -> Option<u16> {
        let taken: BTreeSet<_> = self.members.iter().filter_map(|member| member.slot).collect();
        (0..=u16::MAX).find(|slot| !taken.contains(slot))
    }

    /// The next identity. One that a line has already, which is possible only where the table was damaged, is left out:
    /// two VMs would speak for each other.
    fn give_out(&mut self) -> Owner {
        let taken: BTreeSet<_> = self.members.iter().map(|member| member.owner).collect();
        while taken.contains(&Owner(self.next)) {
            self.next = self.next.wrapping_add(1);
        }
        let owner = Owner(self.next);
        self.next = self.next.wrapping_add(1);
        owner
    }

    /// The VMs that have ticked within a span of `now`. A tick that lies further ahead than that is damage.
    pub fn seen_within(&self, span: Duration, now: Timestamp) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(move |it| now.since(it.beat) <= span && it.beat.since(now) <= span)
    }

    /// Takes the line of a VM that ends in order.
    pub fn leave(&mut self, me: Owner) {
        self.members.retain(|member| member.owner != me);
    }

    /// Takes note that `configuration` is the newest there is, and returns the how manieth that is, from 1.
    pub fn reigns(&mut self, configuration: u64) -> u64 {
        match self.reign {
            Some(reign) if reign.configuration == configuration => reign.generation,
            before => {
                let generation = before.map_or(0, |before| before.generation).wrapping_add(1);
                self.reign = Some(Reign { generation, configuration });
                generation
            }
        }
    }

    /// How `configuration` stands to the others whose VMs `watch` believes alive. Identities grow, so the
    /// newest is the one whose oldest VM joined last: a VM that comes back under a new identity makes no old one new.
    #[must_use]
    pub fn standing(&self, configuration: u64, now: Timestamp, watch: &Watch) -> Standing {
        // One that has come back since `watch` was last brought up to date is alive.
        let back = |member: &Member| watch.last_beat(member.owner) != Some(member.beat);
        let alive = || self.members.iter().filter(|member| back(member) || !watch.is_dead(member.owner, now));
        let mut first: BTreeMap<u64, Owner> = BTreeMap::new();
        for member in alive() {
            let owner = first.entry(member.configuration).or_insert(member.owner);
            *owner = member.owner.min(*owner);
        }
        let newest = first.iter().max_by_key(|(_, owner)| **owner).map(|(configuration, _)| *configuration);
        if newest != Some(configuration) {
            return Standing::Superseded;
        }
        let alone = alive().all(|member| member.configuration == configuration);
        if alone { Standing::Alone } else { Standing::Newest }
    }

    /// Whether `me` does what needs doing once per configuration: the oldest of its VMs that `watch` believes alive.
    #[must_use]
    pub fn is_leader(&self, me: Owner, configuration: u64, now: Timestamp, watch: &Watch) -> bool {
        self.members
            .iter()
            .filter(|member| member.configuration == configuration && !watch.is_dead(member.owner, now))
            .map(|member| member.owner)
            .min()
            == Some(me)
    }
}

/// How a configuration stands to the others that are in use.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Standing {
    /// Another is newer, or nothing is known.
    #[default]
    Superseded,
    /// The newest of several.
    Newest,
    /// No other is in use.
    Alone,
}

/// What one VM has seen of the others' beats, by its own ticks.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last_tick: Option<Timestamp>,
    seen: BTreeMap<Owner, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// The beat as last read; `None` for an owner that has no line.
    beat: Option<Timestamp>,
    /// Since which of the observer's own ticks it has been that.
    since: Timestamp,
}

impl Watch {
    /// Takes note of the table on the observer's tick at `now`, and of the `holders` who may have no line any more.
    pub fn observe(&mut self, members: &Members, holders: &[Owner], now: Timestamp) {
        let away = self.last_tick.is_some_and(|last| now.since(last) > BLIND);
        let blind = self.last_tick.is_none() || (away && !active(Bug::ReclaimedFromTheLiving));
        self.last_tick = Some(now);
        let mut seen = BTreeMap::new();
        let lines = members.members.iter().map(|member| (member.owner, Some(member.beat)));
        // A line speaks for its owner: holders come first so that it replaces them.
        for (owner, beat) in holders.iter().map(|owner| (*owner, None)).chain(lines) {
            let unchanged = self.seen.get(&owner).filter(|seen| seen.beat == beat && !blind);
            seen.insert(owner, Seen { beat, since: unchanged.map_or(now, |seen| seen.since) });
        }
        self.seen = seen;
    }

    /// Whether `owner` has shown no sign of life all through the lease.
    #[must_use]
    pub fn is_dead(&self, owner: Owner, now: Timestamp) -> bool {
        self.silence(owner, now).is_some_and(|silence| silence >= LEASE)
    }

    /// The beat of `owner` as last read.
    fn last_beat(&self, owner: Owner) -> Option<Timestamp> {
        self.seen.get(&owner)?.beat
    }

    /// For how long `owner` has been silent; `None` where the observer cannot say, having been away itself.
    fn silence(&self, owner: Owner, now: Timestamp) -> Option<Duration> {
        let seen = self.seen.get(&owner)?;
        let last_tick = self.last_tick?;
        (now.since(last_tick) <= BLIND).then(|| now.since(seen.since))
    }
}
