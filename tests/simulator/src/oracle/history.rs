//! Everything a policy's value ever was.

use super::{Moment, Verdict};
use crate::model::Model;
use crate::model::ask::Whole;
use crate::model::budget::Budget;
use crate::model::room::Room;
use crate::view;
use resilience_core::breaker::{Outcome, Probe, REMEMBERED, State, Transition};
use resilience_core::state::State as Value;
use resilience_core::store::Expected;
use resilience_core::time::Timestamp;
use std::collections::BTreeSet;
use std::rc::Rc;

/// For how long a VM may go by what it read while the change counter stands still.
const BELIEF: u64 = 100_000_000;

/// What the value was from a step on.
#[derive(Clone, Debug)]
pub struct Entry {
    step: u64,
    now: u64,
    /// `None` for a value that cannot be read: a fresh start for whoever writes next.
    model: Option<Rc<Model>>,
    /// The same of the bulkhead.
    room: Option<Rc<Room>>,
    /// And of the retry budget.
    budget: Option<Rc<Budget>>,
}

impl Entry {
    /// The breaker's state; what cannot be read starts afresh, closed.
    #[must_use]
    pub fn state(&self) -> State {
        self.model.as_ref().map_or(State::Closed, |model| model.state())
    }

    /// Whether nobody has ever written it.
    #[must_use]
    pub const fn is_untouched(&self) -> bool {
        self.step == 0
    }

    /// Whether the value cannot be read.
    #[must_use]
    pub const fn is_damaged(&self) -> bool {
        self.model.is_none()
    }

    /// The bulkhead, if it can be read.
    #[must_use]
    pub fn room(&self) -> Option<&Room> {
        self.room.as_deref()
    }

    /// The bulkhead as somebody reads it at `now`.
    #[must_use]
    pub fn room_at(&self, now: u64) -> Room {
        self.room().cloned().unwrap_or_else(|| Room::new(now))
    }

    /// The budget, if it can be read.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.budget.as_deref()
    }

    /// The budget as somebody reads it at `now`.
    #[must_use]
    pub fn budget_at(&self, now: u64) -> Budget {
        self.budget().map_or_else(|| Budget::lost(now, now), |budget| budget.read(now))
    }

    /// All of it as somebody reads it at `now`.
    #[must_use]
    pub fn whole_at(&self, now: u64) -> Whole {
        self.beginning_with(now, now)
    }

    /// All of it as somebody reads it at `now` who then writes over it: what is lost gets numbers that nothing had before, not
    /// even where it was lost before at the same time.
    #[must_use]
    pub fn written_over(&self, over: Expected, now: u64) -> Whole {
        let writes = match over {
            Expected::Version(version) => u64::from(version),
            Expected::Absent => 0,
        };
        self.beginning_with(now.saturating_add(4 * writes), now)
    }

    fn beginning_with(&self, first: u64, now: u64) -> Whole {
        let model = self.model().map_or_else(|| Model::fresh(first), |model| model.read(now));
        let room = self.room().cloned().unwrap_or_else(|| Room::new(first));
        let budget = self.budget().map_or_else(|| Budget::lost(now, first), |budget| budget.read(now));
        Whole { model, room, budget }
    }

    /// The bulkhead as it stands there.
    #[must_use]
    pub fn shown_room(&self) -> view::Room {
        self.room().map(Room::shape).unwrap_or_default()
    }

    /// The breaker, if the value can be read.
    #[must_use]
    pub fn model(&self) -> Option<&Model> {
        self.model.as_deref()
    }
}

/// What reached the upstream in one stay in half-open, counted from outside.
#[derive(Clone, Debug, Default)]
struct Outside {
    generation: u64,
    probes: BTreeSet<(u64, u32)>,
}

/// A policy's past and present.
#[derive(Clone, Debug)]
pub struct History {
    entries: Vec<Entry>,
    /// The steps at which the change counter grew.
    announced: Vec<u64>,
    outside: Outside,
    /// Probes that were taken back, by generation, owner and number.
    given_away: BTreeSet<(u64, u64, u32)>,
    /// An older module was the last that wrote: what rates and recovery need is of a generation that is gone.
    pub outdated: bool,
    /// Sections that the core does not know and must carry.
    pub foreign: Vec<view::Foreign>,
    /// The latest changes that stand in the value.
    remembered: Vec<Transition>,
    most_permitted: u32,
    most_bytes: usize,
}

impl History {
    pub(super) fn new(most_permitted: u32, most_moments: u32) -> Self {
        let (model, room) = (Some(Rc::new(Model::fresh(0))), Some(Rc::default()));
        let first = Entry { step: 0, now: 0, model, room, budget: Some(Rc::default()) };
        // By the layout: the head of the value, then whichever state needs most.
        // Windows are of 14 calls or 6 seconds at most, besides which there is what all of them need.
        let most_bytes = 64 + 128 + (8 * most_moments as usize).max(12 * most_permitted as usize);
        Self {
            entries: vec![first],
            announced: Vec::new(),
            outside: Outside::default(),
            given_away: BTreeSet::new(),
            outdated: false,
            foreign: Vec::new(),
            remembered: Vec::new(),
            most_permitted,
            most_bytes,
        }
    }

    /// What the value is.
    ///
    /// # Panics
    /// Never: a history begins with an entry.
    #[must_use]
    pub fn latest(&self) -> &Entry {
        self.entries.last().expect("a first entry")
    }

    /// What the value was at a step.
    #[must_use]
    pub fn as_of(&self, step: u64) -> &Entry {
        self.entries.iter().rev().find(|entry| entry.step <= step).unwrap_or_else(|| self.latest())
    }

    pub(super) fn announced(&mut self, step: u64) {
        self.announced.push(step);
    }

    pub(super) fn becomes(
        &mut self,
        at: Moment,
        model: Option<Model>,
        room: Option<Room>,
        budget: Option<Budget>,
    ) {
        let (model, room, budget) = (model.map(Rc::new), room.map(Rc::new), budget.map(Rc::new));
        self.entries.push(Entry { step: at.step, now: at.now, model, room, budget });
    }

    /// Everything that somebody could see who began at `begun`.
    pub fn since(&self, begun: Moment) -> impl Iterator<Item = &Entry> {
        let first = self.entries.iter().rposition(|entry| entry.step <= begun.step).unwrap_or(0);
        self.entries[first..].iter()
    }

    /// Whether somebody who began at `begun` and ends now could have seen a value that passes the `test`: it was there in
    /// the meantime, or, where old `belief` counts, it was there shortly before and nobody had announced the change.
    pub fn could_see(&self, begun: Moment, belief: bool, test: impl Fn(&Entry) -> bool) -> bool {
        let told = belief.then(|| self.announced.iter().rev().find(|step| **step <= begun.step)).flatten();
        let mut superseded: Option<&Entry> = None;
        for entry in self.entries.iter().rev() {
            let meanwhile = superseded.is_none_or(|next| next.step > begun.step);
            let believed = belief
                && superseded.is_some_and(|next| {
                    next.now.saturating_add(BELIEF) >= begun.now && told.is_none_or(|step| *step <= next.step)
                });
            if !meanwhile && !believed {
                return false;
            }
            if test(entry) {
                return true;
            }
            superseded = Some(entry);
        }
        false
    }

    /// A probe has reached the upstream.
    pub(super) fn reached(&mut self, generation: u64, probe: Probe) -> Verdict {
        if self.outside.generation != generation {
            let newest = self.latest().model().map(Model::generation);
            if newest != Some(generation) {
                return Ok(());
            }
            self.outside = Outside { generation, probes: BTreeSet::new() };
        }
        if self.given_away.contains(&(generation, probe.owner.0, probe.id)) {
            return Ok(());
        }
        self.outside.probes.insert((probe.owner.0, probe.id));
        let present = self.latest().model().filter(|model| model.generation() == generation);
        let permitted = present.and_then(Model::permitted).unwrap_or(self.most_permitted);
        if self.outside.probes.len() > permitted as usize {
            return Err(format!(
                "{} probes of generation {generation} are out or answered, and {permitted} are permitted",
                self.outside.probes.len()
            ));
        }
        Ok(())
    }

    /// A client has its answer, or left. A place is free again only if nothing was proved.
    pub(super) fn answered(&mut self, generation: u64, probe: Probe, outcome: Outcome) {
        if outcome == Outcome::Ignored {
            self.free(generation, &[probe]);
        }
    }

    /// Probes were taken back.
    pub(super) fn reclaimed(&mut self, generation: u64, probes: &[Probe]) {
        self.given_away.extend(probes.iter().map(|probe| (generation, probe.owner.0, probe.id)));
        self.free(generation, probes);
    }

    fn free(&mut self, generation: u64, probes: &[Probe]) {
        if self.outside.generation == generation {
            for probe in probes {
                self.outside.probes.remove(&(probe.owner.0, probe.id));
            }
        }
    }

    /// What is remembered must be what was, and what this write did.
    pub(super) fn remembers(
        &mut self,
        bytes: &[u8],
        told: &[Transition],
        others: &[Vec<Transition>],
    ) -> Verdict {
        let found = remembered(bytes);
        let right = [told].into_iter().chain(others.iter().map(Vec::as_slice)).any(|told| {
            let all = [&self.remembered, told].concat();
            found == all[all.len().saturating_sub(REMEMBERED)..]
        });
        if !right {
            let before = &self.remembered;
            return Err(format!("of {told:?} after {before:?} it is remembered: {found:?}"));
        }
        self.remembered = found;
        Ok(())
    }

    /// Something that is not one of our workers has written the value.
    pub(super) fn remembers_instead(&mut self, bytes: &[u8]) {
        self.remembered = remembered(bytes);
    }

    /// What holds of every value, whoever wrote it.
    pub(super) fn check_bounds(&self, bytes: &[u8], shape: &view::Breaker) -> Verdict {
        let foreign: usize = self.foreign.iter().map(|(.., bytes)| bytes.len() + 4).sum();
        let rooms = view::sections(bytes).into_iter().flatten();
        let rooms = rooms.filter(|(id, version, _)| {
            [view::BULKHEAD, view::BUDGET, view::HISTORY].contains(&(*id, *version))
        });
        let room: usize = rooms.map(|(.., bytes)| bytes.len() + 4).sum();
        if bytes.len() > self.most_bytes + foreign + room {
            return Err(format!("the value has grown to {} bytes", bytes.len()));
        }
        if let view::Phase::HalfOpen { permitted, answers: [answered, ..], probes, .. } = &shape.phase {
            let used = *answered as usize + probes.len();
            if used > *permitted as usize || *permitted > self.most_permitted {
                return Err(format!("{used} probes are used of {permitted}: {shape:?}"));
            }
        }
        Ok(())
    }
}

fn remembered(bytes: &[u8]) -> Vec<Transition> {
    Value::decode(Some(bytes), Timestamp::default()).history.transitions()
}
