//! How long an open breaker waits, and how traffic comes back after it has closed.

use super::settings::{Growth, RampUp, Settings};
use crate::planted::{Bug, active};
use crate::time::Timestamp;
use std::time::Duration;

/// No wait is shorter, whatever the jitter.
const SHORTEST: Duration = Duration::from_millis(1);

impl Settings {
    /// The wait of a breaker that opens for the `trips`th time in succession, with a `chance` from 0 to 1.
    pub(super) fn wait(&self, trips: u32, chance: f64) -> Duration {
        let base = self.wait_duration_in_open_state;
        let Some(growth) = self.wait_duration_growth else { return base };
        let grown = base.as_secs_f64() * growth.multiplier().powf(f64::from(trips.saturating_sub(1)));
        let spread = (chance * 2.0 - 1.0).mul_add(growth.jitter.share(), 1.0);
        let max = growth.max.as_secs_f64();
        // The jitter is of the wait as it is capped, so that the longest waits differ too; nothing is longer than the cap.
        let wait = (grown.min(max) * spread).min(max);
        Duration::try_from_secs_f64(wait).unwrap_or(growth.max).max(SHORTEST)
    }

    /// Whether a breaker that was closed for this long has been healthy long enough for its next trip to be the first.
    pub(super) fn starts_over(&self, healthy: Duration) -> bool {
        let over = |growth: Growth| healthy >= growth.reset_after && !active(Bug::NeverStartsOver);
        self.wait_duration_growth.is_none_or(over)
    }
}

impl Growth {
    fn multiplier(&self) -> f64 {
        f64::from(self.multiplier_thousandths) / 1000.0
    }
}

impl RampUp {
    /// The share of requests to let in, from 0 to 1, by a breaker that closed at `since`; `None` once it is over.
    #[must_use]
    pub fn share(&self, since: Timestamp, now: Timestamp) -> Option<f64> {
        let passed = now.since(since);
        let done = passed.as_secs_f64() / self.duration.as_secs_f64();
        let initial = self.initial.share();
        (passed < self.duration).then(|| (1.0 - initial).mul_add(done, initial))
    }
}

/// A number from 0 to 1 that cannot be foreseen, and is the same for whoever knows the breaker's generation and the moment:
/// core has no other source of chance. The mix is SplitMix64's (Steele, Lea and Flood, "Fast splittable pseudorandom number
/// generators", 2014).
pub(super) fn chance(generation: u64, at: Timestamp) -> f64 {
    let mut mixed = at.as_nanos() ^ generation.rotate_left(32);
    mixed = mixed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^= mixed >> 31;
    let high = u32::try_from(mixed >> 32).unwrap_or(u32::MAX);
    f64::from(high) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::super::Percentage;
    use super::*;
    use crate::testing::{ms, settings};
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    /// 2 s, doubled up to 10 s.
    fn doubling(jitter: f32) -> Settings {
        Settings {
            wait_duration_in_open_state: Duration::from_secs(2),
            wait_duration_growth: Some(Growth {
                multiplier_thousandths: 2000,
                max: Duration::from_secs(10),
                jitter: Percentage::new(jitter).unwrap(),
                reset_after: Duration::from_secs(60),
            }),
            ..settings()
        }
    }

    #[test]
    fn a_wait_grows_up_to_its_cap() {
        let settings = doubling(0.0);
        let waits: Vec<_> =
            [0, 1, 2, 3, 4, 5, u32::MAX].map(|trips| settings.wait(trips, 0.9).as_secs()).into();
        assert_eq!(waits, [2, 2, 4, 8, 10, 10, 10]);
    }

    #[test]
    fn jitter_is_of_every_wait_and_never_beyond_the_cap() {
        let settings = doubling(25.0);
        let millis = |trips, chance| settings.wait(trips, chance).as_millis();
        assert_eq!([0.0, 0.5, 1.0].map(|chance| millis(1, chance)), [1500, 2000, 2500]);
        assert_eq!([0.0, 0.5, 1.0].map(|chance| millis(9, chance)), [7500, 10_000, 10_000]);
        assert_eq!(doubling(100.0).wait(1, 0.0), SHORTEST);
    }

    #[test]
    fn without_growth_every_wait_is_the_same() {
        assert_eq!(settings().wait(7, 0.3), settings().wait_duration_in_open_state);
    }

    #[test]
    fn chances_differ_and_stay_within_zero_and_one() {
        let chances: Vec<_> = (0..1000).map(|n| chance(n >> 3, ms(n & 7))).collect();
        assert!(chances.iter().all(|chance| (0.0..=1.0).contains(chance)));
        let mean = chances.iter().sum::<f64>() / 1000.0;
        assert!((0.45..0.55).contains(&mean), "{mean}");
        assert!(chance(1, ms(5)) != chance(2, ms(5)));
    }

    #[test]
    fn a_ramp_begins_at_its_first_share_and_ends_with_its_duration() {
        let ramp = RampUp { duration: Duration::from_secs(10), initial: Percentage::new(20.0).unwrap() };
        let share = |at| ramp.share(ms(1000), ms(at)).map(|share| (share * 1000.0).round());
        assert_eq!([0, 1000, 6000, 10_999].map(share), [Some(200.0), Some(200.0), Some(600.0), Some(1000.0)]);
        assert_eq!(share(11_000), None);
    }
}
