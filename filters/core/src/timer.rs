//! The one timer that a host gives a worker: it beats every [`TICK`], and earlier where a wait ends earlier.

use crate::members::TICK;
use crate::time::Timestamp;
use std::time::Duration;

/// The host's timers are as fine as this.
const FINEST: Duration = Duration::from_millis(1);

/// When it goes off next, and why.
#[derive(Clone, Copy, Debug)]
pub struct Timer {
    /// When the next sign of life is due.
    beat: Timestamp,
    /// When it goes off.
    alarm: Timestamp,
    /// It goes off again and again after as long as this.
    period: Duration,
    /// Whether it has just gone off, and nobody has set it since.
    fresh: bool,
}

impl Timer {
    /// A timer that is not set yet.
    #[must_use]
    pub fn new(now: Timestamp) -> Self {
        Self { beat: now.after(TICK), alarm: now, period: Duration::ZERO, fresh: true }
    }

    /// Takes note that it went off. Returns whether it is time for a sign of life; the next is due a [`TICK`] later.
    pub fn went_off(&mut self, now: Timestamp) -> bool {
        self.alarm = now.after(self.period);
        self.fresh = true;
        // It may go off a little early: the host counts in whole milliseconds.
        let beats = now.after(FINEST) >= self.beat;
        if beats {
            self.beat = now.after(TICK);
        }
        beats
    }

    /// Whether it would go off too late for what is due at `due`.
    #[must_use]
    pub fn is_later_than(&self, due: Timestamp) -> bool {
        due.after(FINEST) < self.alarm
    }

    /// Sets it to the next sign of life, or to `due`, whichever is first. Returns the period in milliseconds that the host
    /// must be told, where it would not go off then by itself.
    ///
    /// To set a host's timer starts it anew. So one that runs is only ever set to an earlier moment: waits that begin and end
    /// all the time must not keep it from going off. That it goes off for nothing now and then does no harm.
    pub fn set(&mut self, now: Timestamp, due: Option<Timestamp>) -> Option<u32> {
        let next = due.map_or(self.beat, |due| due.min(self.beat));
        let period = next.since(now).clamp(FINEST, TICK);
        let alarm = now.after(period);
        let fresh = std::mem::take(&mut self.fresh);
        let too_late = alarm.after(FINEST) < self.alarm;
        let too_early = self.alarm.after(FINEST) < alarm;
        if !(too_late || fresh && too_early) {
            return None;
        }
        // Rounded up: a timer that goes off before its time does so for nothing.
        let millis = period.as_nanos().div_ceil(FINEST.as_nanos());
        self.period = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        self.alarm = now.after(self.period);
        u32::try_from(millis).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ms;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn without_anybody_who_waits_the_host_is_told_once() {
        let mut timer = Timer::new(ms(0));
        assert_eq!(timer.set(ms(0), None), Some(500));
        let mut now = ms(0);
        // Now late, now a little early.
        for after in [500_200, 507_000, 499_100, 500_000, 499_900] {
            now = now.after(Duration::from_micros(after));
            assert!(timer.went_off(now), "{now:?}");
            assert_eq!(timer.set(now, None), None, "{now:?}");
        }
    }

    #[test]
    fn a_wait_that_ends_earlier_comes_first_and_the_beat_stays_where_it_was() {
        let mut timer = Timer::new(ms(0));
        timer.set(ms(0), None);
        assert_eq!(timer.set(ms(100), Some(ms(350))), Some(250));
        assert_eq!(timer.set(ms(110), Some(ms(350))), None, "it is set to that");
        assert_eq!(timer.set(ms(120), Some(ms(200))), Some(80));
        assert!(!timer.went_off(ms(200)));
        assert_eq!(timer.set(ms(200), Some(ms(350))), Some(150));
        assert!(!timer.went_off(ms(350)));
        assert_eq!(timer.set(ms(350), None), None, "its period happens to lead to the beat");
        assert!(timer.went_off(ms(500)));
        assert_eq!(timer.set(ms(500), None), Some(500));
    }

    #[test]
    fn waits_that_begin_and_end_all_the_time_do_not_keep_it_from_going_off() {
        let mut timer = Timer::new(ms(0));
        timer.set(ms(0), None);
        assert_eq!(timer.set(ms(100), Some(ms(350))), Some(250));
        // The first is served, then the next, and so on: there is always one that ends a little later.
        for moment in 101..600 {
            assert_eq!(timer.set(ms(moment), Some(ms(moment + 250))), None, "{moment}");
        }
        // It has gone off late, for a host that was busy.
        assert!(timer.went_off(ms(600)));
        assert_eq!(timer.set(ms(600), Some(ms(840))), Some(240));
    }

    #[test]
    fn what_is_overdue_is_due_at_once_and_no_wait_keeps_the_beat_away() {
        let mut timer = Timer::new(ms(0));
        timer.set(ms(0), None);
        assert_eq!(timer.set(ms(100), Some(ms(20))), Some(1));
        assert!(!timer.went_off(ms(101)));
        assert_eq!(timer.set(ms(101), Some(ms(100_000))), Some(399));
        assert!(timer.went_off(ms(500)));
    }
}
