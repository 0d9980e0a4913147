//! What must hold of every budget, whatever happens to it: it is held against a plain list of what is in flight, and its
//! retries against what requests have paid for.

use super::*;
use crate::testing::ms;
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

type Index = prop::sample::Index;

#[derive(Clone, Debug)]
enum Step {
    /// A newcomer.
    Enter {
        vm: u64,
        wish: Wish,
    },
    /// One ends, after so large a part of what it was granted; `None` where nobody could tell.
    End {
        which: Index,
        used: Option<Index>,
    },
    /// One ends that has ended, or that was reclaimed.
    EndAgain(Index),
    Die {
        vm: u64,
    },
    /// Time passes, in milliseconds.
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let wish = prop_oneof![
        6 => (0..5_u8).prop_map(Wish::Retries),
        3 => Just(Wish::Route),
        1 => Just(Wish::Spent),
    ];
    let index = any::<Index>;
    prop_oneof![
        8 => (0..3_u64, wish).prop_map(|(vm, wish)| Step::Enter { vm, wish }),
        6 => (index(), prop::option::weighted(0.9, index())).prop_map(|(which, used)| Step::End { which, used }),
        1 => index().prop_map(Step::EndAgain),
        1 => (0..3_u64).prop_map(|vm| Step::Die { vm }),
        // Within a slice, about one, and as long as all of them.
        3 => prop_oneof![4 => 1..50_u64, 3 => 90..200_u64, 1 => 900..2000_u64].prop_map(Step::Pass),
    ]
}

fn any_settings() -> impl Strategy<Value = Settings> {
    let percents = [0, 1, 10, 20, 50, 75, 100];
    let most = prop::option::of(1..12_u32);
    (prop::sample::select(percents.to_vec()), 0..8_u32, most).prop_map(|(percent, floor, most)| {
        Settings::new(percent * 1_000_000, floor, Duration::from_secs(1), most)
    })
}

/// A retry that was made or kept, or a request that paid: when, and how many.
type Log = Vec<(Timestamp, u32)>;

/// A budget, and what should be in it.
struct Model {
    budget: Budget,
    settings: Settings,
    began: Timestamp,
    now: Timestamp,
    in_flight: Vec<Grant>,
    gone: Vec<Grant>,
    paid: Log,
    /// By when they were settled, with those of callers.
    spent: Log,
}

fn between(log: &Log, from: Timestamp, to: Timestamp) -> i64 {
    log.iter().filter(|(at, _)| (from..=to).contains(at)).map(|(_, count)| i64::from(*count)).sum()
}

impl Model {
    fn new(settings: Settings) -> Self {
        let began = ms(10_000);
        Self {
            budget: Budget::default(),
            settings,
            began,
            now: began,
            in_flight: Vec::new(),
            gone: Vec::new(),
            paid: Log::new(),
            spent: Log::new(),
        }
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Enter { vm, wish } => self.enter(*vm, *wish),
            Step::End { which, used } if !self.in_flight.is_empty() => {
                let grant = self.in_flight.swap_remove(which.index(self.in_flight.len()));
                let kept = u32::from(grant.retries);
                let used = used.map(|used| u32::try_from(used.index(kept as usize + 1)).unwrap());
                assert!(self.budget.settle(grant.end(used).spent.unwrap(), self.now));
                self.spent.push((self.now, used.unwrap_or(kept)));
                self.gone.push(grant);
            }
            Step::EndAgain(which) if !self.gone.is_empty() => {
                let grant = self.gone[which.index(self.gone.len())];
                let others = |other: &Grant| {
                    grant.reserve.is_some_and(|reserve| {
                        other
                            .reserve
                            .is_some_and(|other| (other.owner, other.epoch) == (reserve.owner, reserve.epoch))
                    })
                };
                // Once per reservation: what its VM holds meanwhile under the same epoch is not told from it.
                if !self.in_flight.iter().any(others) {
                    assert!(!self.budget.settle(grant.end(None).spent.unwrap(), self.now));
                }
            }
            Step::Die { vm } => {
                let (dead, alive) =
                    self.in_flight.drain(..).partition(|it| it.reserve.is_some_and(|it| it.owner.0 == *vm));
                self.in_flight = alive;
                let dead: Vec<Grant> = dead;
                let lost = dead.iter().map(|grant| u32::from(grant.retries)).sum();
                assert_eq!(self.budget.reclaim(|owner| owner.0 == *vm, self.now), lost);
                self.spent.push((self.now, lost));
                self.gone.extend(dead);
            }
            Step::Pass(millis) => self.now = self.now.after(Duration::from_millis(*millis)),
            Step::End { .. } | Step::EndAgain(_) => {}
        }
    }

    fn enter(&mut self, vm: u64, wish: Wish) {
        let available = self.budget.available(&self.settings, self.now);
        let grant = self.budget.enter(&self.settings, Owner(vm), Wanted { wish, denied: None }, self.now);
        match wish {
            Wish::Spent => self.spent.push((self.now, u32::from(available > 0))),
            Wish::Retries(_) | Wish::Route => self.paid.push((self.now, 1)),
        }
        if let Wish::Retries(most) = wish {
            assert!(grant.retries <= most && (grant.retries == most) == grant.denied.is_none());
        }
        assert_eq!(grant.retries, grant.reserve.map_or(0, |reserve| reserve.retries));
        assert!(wish != Wish::Spent || grant.retries == 0);
        // Nobody goes away with nothing while there is something.
        let left = self.budget.available(&self.settings, self.now);
        let wants = !matches!(wish, Wish::Retries(0) | Wish::Spent);
        assert!(left >= 0 || left >= available.min(0), "{left} of {available}");
        assert!(!wants || grant.retries > 0 || left <= 0, "{left} left");
        self.in_flight.extend(grant.reserve.map(|_| grant));
    }

    fn check(&mut self) {
        let kept: i64 = self.in_flight.iter().map(|grant| i64::from(grant.retries)).sum();
        assert_eq!(self.budget.reserved(), kept);
        let of = |vm: u64| self.in_flight.iter().any(|it| it.reserve.is_some_and(|it| it.owner.0 == vm));
        assert!(self.budget.owners().map(|owner| owner.0).eq((0..3).filter(|vm| of(*vm))));
        if let Some(most) = self.settings.max_balance {
            assert!(self.budget.balance(&self.settings, self.now) <= most);
        }
        let mut bytes = Vec::new();
        self.budget.encode(&mut bytes);
        if !bytes.is_empty() {
            let read = Budget::decode(&bytes).expect("what was written");
            assert_eq!(read, self.budget);
            self.budget = read;
        }
    }

    /// What may have been retried of what was paid in a time, as tokens: the floor comes once, and again with every window.
    fn bound(&self, from: Timestamp, to: Timestamp) -> i64 {
        let slice = self.settings.slice.as_nanos();
        let renewals = (to.since(from).as_nanos() + slice).div_ceil(10 * slice);
        let floor = self.settings.at_birth() * i64::try_from(renewals).unwrap();
        between(&self.paid, from, to) * self.settings.deposit + floor * self.settings.cost
    }

    /// The bound of every prefix, over what was made, and over what was made or is kept.
    fn check_prefix(&self) {
        let most = self.bound(self.began, self.now);
        let cost = self.settings.cost;
        let kept: i64 = self.in_flight.iter().map(|grant| i64::from(grant.retries)).sum();
        let spent = between(&self.spent, self.began, self.now) + kept;
        assert!(spent * cost <= most, "{spent} retries at {cost}, of {most}");
    }

    /// With a cap no time has more than what there can be at its start, and what comes while it lasts.
    fn check_windows(&self) {
        let Some(cap) = self.settings.cap() else { return };
        for (from, _) in &self.spent {
            let (retries, most) = (between(&self.spent, *from, self.now), cap + self.bound(*from, self.now));
            assert!(retries * self.settings.cost <= most, "{retries} since {from:?}, of {most}");
        }
    }
}

proptest! {
    #[test]
    fn retries_are_paid_for(settings in any_settings(), steps in prop::collection::vec(step(), 1..150)) {
        let mut model = Model::new(settings);
        for step in &steps {
            model.play(step);
            model.check();
            model.check_prefix();
            if matches!(step, Step::End { .. } | Step::Die { .. }) {
                model.check_windows();
            }
        }
    }
}
