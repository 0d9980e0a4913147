//! The retry budget: retries are paid for by requests, so that they cannot multiply a load that is failing.
//!
//! The rules are those of Finagle's `RetryBudget` (`com.twitter.finagle.service.RetryBudget`): every request pays a share of
//! a retry, which counts for a while, and beyond what was paid there is a floor. Envoy's router retries without asking, so
//! what a request may retry is reserved for it when it is let in; what it has really retried is spent when it ends, and the
//! rest is free again.
//!
//! Plain data. Each request brings its own configuration's rates along, so that two configurations can serve side by side
//! over one window.

mod codec;
#[cfg(test)]
mod codec_tests;
#[cfg(test)]
mod finagle_tests;
#[cfg(test)]
mod grant_tests;
#[cfg(test)]
mod properties;
mod settings;
#[cfg(test)]
mod tests;
mod window;

pub use settings::Settings;

use crate::breaker::Owner;
use crate::ledger::{Entry, Ledger};
use crate::planted::{Bug, active};
use crate::retry::{Denied, USUAL, Wanted, Wish};
use crate::time::Timestamp;
use std::time::Duration;
use window::Window;

/// A request is granted a second retry only while so many times what is in flight could have as many: an outage fills the
/// house, and those who are still to come want one, too.
const PREPARED: i64 = 4;

/// What a request gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// How often it may be retried.
    pub retries: u8,
    /// Whether nobody need be told: its route may retry it as often as it does.
    pub uncapped: bool,
    /// Why it is not retried more often, where others of its policy are.
    pub denied: Option<Denied>,
    /// What it has to settle at its end, if anything is kept for it.
    pub reserve: Option<Reserve>,
    /// It was granted more than the budget had for it, because the budget is in shadow mode.
    pub on_paper: bool,
}

impl Grant {
    /// No retry at all.
    pub const NONE: Self = Self { retries: 0, uncapped: false, denied: None, reserve: None, on_paper: false };

    /// What a request gets where no budget has a say.
    #[must_use]
    pub const fn unbounded(wanted: Wanted) -> Self {
        let Wanted { wish, denied } = wanted;
        match wish {
            Wish::Retries(retries) => Self { retries, denied, ..Self::NONE },
            Wish::Route => Self { uncapped: true, denied, ..Self::NONE },
            Wish::Spent => Self { denied, ..Self::NONE },
        }
    }

    /// What becomes of it where the budget is in shadow mode: the request gets all that it `wanted`.
    #[must_use]
    pub fn on_paper(self, wanted: Wanted) -> Self {
        let short = match wanted.wish {
            Wish::Route => !self.uncapped,
            Wish::Retries(most) => self.retries < most,
            // Whoever is in charge makes none of it.
            Wish::Spent => false,
        };
        Self { reserve: self.reserve, on_paper: short, ..Self::unbounded(wanted) }
    }

    /// Whether there may be retries to count.
    #[must_use]
    pub const fn may_retry(&self) -> bool {
        self.uncapped || self.retries > 0 || self.on_paper
    }

    /// What the end of the request means for its budget, `made` retries later. Where nobody could tell how many these were
    /// all that was kept counts as made.
    #[must_use]
    pub fn end(&self, made: Option<u32>) -> Ended {
        let kept = self.reserve.map_or(0, |reserve| u32::from(reserve.retries));
        let made = made.unwrap_or(kept);
        // What a budget in shadow mode would have denied it would not have been spent, either.
        let counted = if self.on_paper && !active(Bug::SpentOnPaper) { made.min(kept) } else { made };
        Ended {
            spent: self.reserve.map(|reserve| Spent { reserve, retries: counted }),
            made,
            beyond: self.on_paper && made > kept,
            exhausted: !self.uncapped && !self.on_paper && made >= u32::from(self.retries),
        }
    }
}

/// A request's end, as its budget sees it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Ended {
    /// What there is to settle.
    pub spent: Option<Spent>,
    /// How many retries were made.
    pub made: u32,
    /// Whether that is more than the budget would have granted, which is in shadow mode.
    pub beyond: bool,
    /// Whether it had used up what it was granted.
    pub exhausted: bool,
}

impl Ended {
    /// Why a request that `failed` was not retried once more, if its `grant` is why.
    #[must_use]
    pub fn missed(&self, grant: &Grant, failed: bool) -> Option<Denied> {
        grant.denied.filter(|_| failed && self.exhausted)
    }
}

/// Retries that are kept for a request. Settled exactly once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserve {
    owner: Owner,
    epoch: u64,
    retries: u8,
    /// Whether how often it is retried tells what its route does.
    telling: bool,
}

impl Reserve {
    /// Whose it is.
    #[must_use]
    pub const fn owner(&self) -> Owner {
        self.owner
    }

    /// How many retries are kept.
    #[must_use]
    pub const fn retries(&self) -> u8 {
        self.retries
    }
}

/// What a request has to settle.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Spent {
    /// What was kept for it.
    pub reserve: Reserve,
    /// How often it was retried.
    pub retries: u32,
}

/// What is kept for the requests of a VM.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Kept {
    requests: u32,
    retries: u32,
}

/// A budget's shared state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Budget {
    /// `None` before the first request.
    window: Option<Window>,
    ledger: Ledger<Kept>,
    /// The most retries that a route of its own was seen to make of one request.
    seen: u8,
}

impl Budget {
    /// A budget in place of one that was lost: nothing that was kept of that is taken for what is kept of this,
    /// where `epoch` is above all that were given out.
    #[must_use]
    pub const fn in_place_of_lost(now: Timestamp, epoch: u64) -> Self {
        // The newest configuration gives it its length.
        let window = Window::new(Duration::from_secs(1), now);
        Self { window: Some(window), ledger: Ledger::new(epoch), seen: 0 }
    }

    /// What there is to go by at `now`: a window that begins far ahead would forget nothing until then, and retries that were
    /// made would not come back. What is kept for requests in flight is theirs all the same, or nobody would ever give it
    /// back.
    #[must_use]
    pub fn believed(mut self, now: Timestamp) -> Self {
        if let Some(window) = self.window.as_mut().filter(|window| !window.is_plausible(now)) {
            window.begin_again(now);
        }
        self
    }

    /// Has the window go by a configuration's `ttl`.
    pub const fn adopt(&mut self, settings: &Settings) {
        if let Some(window) = &mut self.window {
            window.reshape(settings.slice);
        }
    }

    /// How many retries there are, those included that are kept for requests in flight. Below zero where more was spent
    /// than what is still counted has paid for.
    pub fn balance(&mut self, settings: &Settings, now: Timestamp) -> i64 {
        let count = self.count(settings, now);
        count.checked_div(settings.cost).unwrap_or(0)
    }

    /// How many retries there are that are kept for nobody.
    pub fn available(&mut self, settings: &Settings, now: Timestamp) -> i64 {
        self.balance(settings, now).saturating_sub(self.reserved())
    }

    /// How many retries are kept for requests in flight.
    #[must_use]
    pub fn reserved(&self) -> i64 {
        self.ledger.entries().iter().fold(0, |sum: i64, entry| sum.saturating_add(entry.held.retries.into()))
    }

    /// Every VM that something is kept for.
    pub fn owners(&self) -> impl Iterator<Item = Owner> {
        self.ledger.owners()
    }

    /// Takes in what a request pays.
    pub fn deposit(&mut self, settings: &Settings, now: Timestamp) {
        let count = self.count(settings, now);
        let room = settings.cap().map_or(i64::MAX, |cap| cap.saturating_sub(count).max(0));
        self.window(settings, now).pay(settings.deposit.min(room));
    }

    /// Spends a retry if there is one. Returns whether there was.
    pub fn withdraw(&mut self, settings: &Settings, now: Timestamp) -> bool {
        let enough = self.available(settings, now) > 0;
        if enough {
            self.window(settings, now).spend(1);
        }
        enough
    }

    /// Lets a request in: it pays, and is granted retries. In a fair share of what there is: a retry for each is better than
    /// three for a few.
    pub fn enter(&mut self, settings: &Settings, owner: Owner, wanted: Wanted, now: Timestamp) -> Grant {
        let Wanted { wish, denied } = wanted;
        let most = match wish {
            Wish::Retries(most) => most,
            // In shadow mode a route also repeats what it should not.
            Wish::Route if denied.is_some() => 0,
            Wish::Route => self.seen.max(USUAL),
            Wish::Spent => {
                if active(Bug::CallersRetryPays) {
                    self.deposit(settings, now);
                }
                self.withdraw(settings, now);
                return Grant { denied, ..Grant::NONE };
            }
        };
        self.deposit(settings, now);
        let telling = wish == Wish::Route;
        // Less than the whole would have to be said to the router, at every request: not for those who may come.
        let prepared = if telling { 1 } else { PREPARED };
        let fair = self.fair(settings, prepared, now).min(most.into());
        let retries = match u8::try_from(fair).unwrap_or(0) {
            // What is said of less than the whole must not be more than the route makes: one is safe to say.
            some if telling && some < most => some.min(1),
            some => some,
        };
        let reserve = self.reserve(owner, retries, telling);
        let retries = reserve.map_or(0, |reserve| reserve.retries);
        // Of a route it is only known what it was seen to make.
        let makes = if telling { self.seen } else { most };
        let denied = if retries < makes { Some(Denied::Budget) } else { denied };
        Grant {
            retries,
            uncapped: telling && retries >= most && denied.is_none(),
            denied,
            reserve,
            on_paper: false,
        }
    }

    /// What a newcomer may have.
    fn fair(&mut self, settings: &Settings, prepared: i64, now: Timestamp) -> i64 {
        let balance = self.balance(settings, now);
        let available = balance.saturating_sub(self.reserved()).max(0);
        let requests = self.ledger.entries().iter().map(|entry| i64::from(entry.held.requests));
        let requests = requests.fold(1, i64::saturating_add);
        let share = balance.checked_div(prepared.saturating_mul(requests)).unwrap_or(0);
        if active(Bug::GreedyGrant) { available } else { available.min(share.max(1)) }
    }

    fn reserve(&mut self, owner: Owner, retries: u8, telling: bool) -> Option<Reserve> {
        if retries == 0 {
            return None;
        }
        let entry = self.ledger.entry(owner)?;
        entry.held.requests = entry.held.requests.saturating_add(1);
        entry.held.retries = entry.held.retries.saturating_add(retries.into());
        Some(Reserve { owner, epoch: entry.epoch, retries, telling })
    }

    /// Ends a request: what it has retried is spent, and the rest of what was kept for it is free. Returns false where that
    /// was reclaimed: then it counts as spent already.
    pub fn settle(&mut self, spent: Spent, now: Timestamp) -> bool {
        let Spent { reserve, retries } = spent;
        let entry = self.ledger.get_mut(reserve.owner);
        let current =
            |entry: &&mut Entry<Kept>| entry.epoch == reserve.epoch || active(Bug::ReserveEpochIgnored);
        let Some(entry) = entry.filter(current) else { return false };
        let kept = &mut entry.held;
        let times = if active(Bug::RefundedTwice) { 2 } else { 1 };
        kept.requests = kept.requests.saturating_sub(1);
        kept.retries = kept.retries.saturating_sub(u32::from(reserve.retries).saturating_mul(times));
        self.ledger.tidy(reserve.owner, |kept| kept.requests == 0);
        self.spend(if active(Bug::RetriesForgotten) { 0 } else { retries }, now);
        if reserve.telling && !active(Bug::SeenForgotten) {
            self.seen = self.seen.max(u8::try_from(retries).unwrap_or(u8::MAX));
        }
        true
    }

    /// Takes back what is kept for requests of VMs that are dead. Nobody can tell how often Envoy has retried them: all
    /// that was kept counts as spent. Returns how many retries that were.
    pub fn reclaim(&mut self, mut is_dead: impl FnMut(Owner) -> bool, now: Timestamp) -> u32 {
        let mut lost: u32 = 0;
        self.ledger.retain(|entry| {
            let dead = is_dead(entry.owner);
            lost = lost.saturating_add(if dead { entry.held.retries } else { 0 });
            !dead
        });
        if !active(Bug::ReserveRefundedToTheDead) {
            self.spend(lost, now);
        }
        lost
    }

    fn spend(&mut self, retries: u32, now: Timestamp) {
        if let Some(window) = self.window.as_mut().filter(|_| retries > 0) {
            window.roll(now);
            window.spend(retries);
        }
    }

    /// What there is, in what a request pays a thousand of.
    fn count(&mut self, settings: &Settings, now: Timestamp) -> i64 {
        let floor = settings.at_birth().saturating_mul(settings.cost);
        let window = self.window(settings, now);
        window.roll(now);
        if settings.max_balance.is_some() && settings.deposit > 0 && !active(Bug::DebtReturned) {
            // Elsewhere a retry comes back when it leaves the window, also where it was what had paid for it that was gone
            // first: a balance that grows without a request, which a cap must not.
            window.cancel(settings.cost);
        }
        // Where nothing is paid a retry has no price, and what others paid would be read as a thousand times as many.
        let pays = settings.deposit > 0 || active(Bug::PaidByOthers);
        let paid = if pays { window.paid() } else { 0 };
        let count = paid.saturating_sub(window.spent(settings.cost)).saturating_add(floor);
        let cap = settings.cap().filter(|_| !active(Bug::CapForgotten));
        let excess = cap.map_or(0, |cap| count.saturating_sub(cap).max(0));
        window.burn(excess);
        count.saturating_sub(excess)
    }

    fn window(&mut self, settings: &Settings, now: Timestamp) -> &mut Window {
        self.window.get_or_insert_with(|| Window::new(settings.slice, now))
    }
}
