//! What a request wants of a retry budget, and what it gets: in an operator's words, and in numbers.

use crate::view;
use resilience_core::retry::{Denied, Wanted, Wish};
use resilience_core::timeout::Allowance;
use std::time::Duration;

/// What a request pays of a retry is counted in thousandths of what it pays.
pub const PAYS: i128 = 1000;
/// What happened so many slices ago does not count any more.
pub const SLICES: i64 = view::budget::SLICES as i64;

/// What an operator says of a budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Rates {
    /// In millionths of a percent.
    pub percent: u32,
    pub min_retries_per_second: u32,
    pub ttl: Duration,
    pub max_balance: Option<u32>,
    /// Whether it only looks on.
    pub shadow: bool,
}

impl Rates {
    /// What a retry costs.
    pub fn cost(&self) -> i128 {
        if self.percent == 0 { 1 } else { PAYS * 100_000_000 / i128::from(self.percent) }
    }

    /// Retries that nobody need have paid for.
    pub fn floor(&self) -> i128 {
        let floor = i128::from(self.min_retries_per_second) * i128::from(self.ttl.as_secs());
        self.max_balance.map_or(floor, |most| floor.min(most.into()))
    }

    pub fn slice(&self) -> u64 {
        self.ttl.as_nanos() as u64 / SLICES as u64
    }
}

impl From<&Rates> for resilience_core::budget::Settings {
    fn from(rates: &Rates) -> Self {
        Self::new(rates.percent, rates.min_retries_per_second, rates.ttl, rates.max_balance)
    }
}

/// What is kept for a request: whose, of which time, how many, and whether it tells what a route does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reserve {
    pub owner: u64,
    pub epoch: u64,
    pub retries: u8,
    pub telling: bool,
}

/// What a request gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    pub retries: u8,
    pub uncapped: bool,
    pub denied: Option<Denied>,
    pub reserve: Option<Reserve>,
    pub on_paper: bool,
}

impl Grant {
    pub const NONE: Self = Self { retries: 0, uncapped: false, denied: None, reserve: None, on_paper: false };

    /// What nobody bounds.
    pub const fn open(wanted: Wanted) -> Self {
        let denied = wanted.denied;
        match wanted.wish {
            Wish::Retries(retries) => Self { retries, denied, ..Self::NONE },
            Wish::Route => Self { uncapped: true, denied, ..Self::NONE },
            Wish::Spent => Self { denied, ..Self::NONE },
        }
    }

    /// What there is where the store does not answer.
    pub fn blind(wanted: Wanted, rates: Option<Rates>) -> Self {
        let wants = wanted.wish != Wish::Retries(0);
        match rates {
            Some(Rates { shadow: false, .. }) => {
                let denied = wanted.denied.or(wants.then_some(Denied::Budget));
                Self { denied, ..Self::NONE }
            }
            _ => Self::open(wanted),
        }
    }

    /// Whether this is what a worker granted.
    pub fn is(&self, granted: &resilience_core::budget::Grant) -> bool {
        let kept = granted.reserve.map(|reserve| (reserve.owner().0, reserve.retries()));
        (granted.retries, granted.uncapped, granted.denied, granted.on_paper)
            == (self.retries, self.uncapped, self.denied, self.on_paper)
            && kept == self.reserve.map(|reserve| (reserve.owner, reserve.retries))
    }
}

/// How many retries a request takes out of the budget at its end: those that were `made`, or all that were kept where
/// nobody can tell. What a budget that only looks on would have denied it does not count.
pub fn taken(granted: &resilience_core::budget::Grant, made: Option<u32>) -> Option<u32> {
    let kept = u32::from(granted.reserve?.retries());
    let made = made.unwrap_or(kept);
    Some(if granted.on_paper { made.min(kept) } else { made })
}

/// What a request wants that is let in now: a probe is not retried, and neither is what does not fit.
pub fn wanted(wanted: Wanted, is_probe: bool, time: &Allowance, now: u64) -> Wanted {
    let (wish, denied) = match wanted.wish {
        Wish::Spent | Wish::Retries(0) => return wanted,
        _ if is_probe => (Wish::Retries(0), Denied::Breaker),
        wish @ (Wish::Route | Wish::Retries(_)) => {
            let most = if let Wish::Retries(most) = wish { most } else { 3 };
            let (Some(deadline), Some(per_try)) = (time.deadline, time.per_try) else { return wanted };
            let rest = u128::from(deadline.as_nanos().saturating_sub(now));
            // Envoy waits for at most so long before its n-th retry.
            let wait = |nth: u32| u128::from((25 * ((1 << nth) - 1)).min(250_u64)) * 1_000_000;
            let needed = |count: u8| {
                u128::from(count) * per_try.as_nanos()
                    + per_try.as_nanos()
                    + (1..=u32::from(count)).map(wait).sum::<u128>()
            };
            let fitting = (1..=most).take_while(|count| needed(*count) <= rest).count() as u8;
            if fitting == most {
                return wanted;
            }
            // No number above one is safe to be said of a route.
            let fitting = if wish == Wish::Route { fitting.min(1) } else { fitting };
            (Wish::Retries(fitting), Denied::Deadline)
        }
    };
    Wanted { wish, denied: Some(denied) }
}
