//! What windows hold, beyond what Resilience4j's own traces show: rounding, gaps, late calls, other shapes, bytes.

use super::*;
use crate::testing::ms;
use proptest::prelude::*;
use std::collections::VecDeque;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const BY_TIME: Shape = Shape::Time { seconds: 3, offset: 0 };

fn tally(calls: u32, failed: u32, slow: u32) -> Tally {
    Tally { calls, failed, slow }
}

fn round_trip(window: &Window) -> Option<Window> {
    let mut bytes = Vec::new();
    window.encode(&mut bytes);
    let mut input = Reader::new(&bytes);
    Window::decode(&mut input).filter(|_| input.is_empty())
}

#[test]
fn a_rate_is_rounded_as_a_float_is() {
    let rate = tally(6, 5, 1).failure_rate(6).unwrap();
    assert_eq!(rate.to_bits(), 83.333_336_f32.to_bits());
    assert!(f64::from(rate) > 500.0 / 6.0, "the exact rate is below it");
    assert_eq!(tally(6, 5, 1).slow_rate(7), None);
    assert_eq!(Tally::default().failure_rate(0), None);
}

#[test]
fn a_window_of_calls_lets_go_of_the_oldest() {
    let mut window = Window::new(Shape::Count(3));
    for outcome in [Outcome::SlowFailure, Outcome::Failure, Outcome::Ignored, Outcome::SlowSuccess] {
        window.record(outcome, ms(0));
    }
    assert_eq!(window.tally(ms(0)), tally(3, 2, 2));
    window.record(Outcome::Success, ms(0));
    assert_eq!(window.tally(ms(0)), tally(3, 1, 1));
}

#[test]
fn only_a_full_window_of_fast_successes_is_saturated_and_one_more_leaves_it_as_it_is() {
    let mut window = Window::new(Shape::Count(5));
    window.record(Outcome::SlowSuccess, ms(0));
    for _ in 0..5 {
        assert!(!window.is_saturated());
        window.record(Outcome::Success, ms(0));
    }
    assert!(window.is_saturated());
    let before = window.clone();
    window.record(Outcome::Success, ms(0));
    assert_eq!(window, before);
    let mut by_time = Window::new(BY_TIME);
    by_time.record(Outcome::Success, ms(0));
    assert!(!by_time.is_saturated(), "each success counts");
}

#[test]
fn a_window_over_time_is_cut_at_whole_seconds_of_the_wall_clock() {
    for (offset, edge) in [(0, 1000), (400_000_000, 600)] {
        let mut window = Window::new(Shape::Time { seconds: 1, offset });
        window.record(Outcome::Failure, ms(edge - 1));
        assert_eq!(window.tally(ms(edge - 1)), tally(1, 1, 0));
        assert_eq!(window.tally(ms(edge)), tally(0, 0, 0));
        window.record(Outcome::Success, ms(edge));
        assert_eq!(window.tally(ms(edge)), tally(1, 0, 0), "nothing is shared");
    }
}

#[test]
fn a_window_over_time_ages_second_by_second_and_outlives_no_gap() {
    let mut window = Window::new(BY_TIME);
    window.record(Outcome::Failure, ms(500));
    window.record(Outcome::Success, ms(1500));
    window.record(Outcome::SlowSuccess, ms(2500));
    assert_eq!(window.tally(ms(2999)), tally(3, 1, 1));
    assert_eq!(window.tally(ms(3000)), tally(2, 0, 1));
    assert_eq!(window.tally(ms(5000)), tally(0, 0, 0));
    window.record(Outcome::Failure, ms(9_000_000_000_000));
    assert_eq!(window.tally(ms(9_000_000_000_000)), tally(1, 1, 0));
}

#[test]
fn a_call_that_comes_late_counts_in_its_own_second_or_not_at_all() {
    let mut window = Window::new(BY_TIME);
    window.record(Outcome::Success, ms(5000));
    window.record(Outcome::Failure, ms(3000));
    assert_eq!(window.tally(ms(5000)), tally(2, 1, 0));
    assert_eq!(window.tally(ms(6000)), tally(1, 0, 0), "it leaves with its second");
    window.record(Outcome::Failure, ms(2999));
    assert_eq!(window.tally(ms(5000)), tally(2, 1, 0));
}

#[test]
fn another_size_keeps_the_latest_calls_and_another_kind_none() {
    let mut window = Window::new(Shape::Count(4));
    for outcome in [Outcome::Failure, Outcome::Failure, Outcome::Success, Outcome::SlowSuccess] {
        window.record(outcome, ms(0));
    }
    window.reshape(Shape::Count(3));
    assert_eq!(window.tally(ms(0)), tally(3, 1, 1));
    window.reshape(Shape::Count(10));
    assert_eq!(window.tally(ms(0)), tally(3, 1, 1));
    window.reshape(BY_TIME);
    assert_eq!(window.tally(ms(0)), tally(0, 0, 0));
    for second in 0..3 {
        window.record(Outcome::Failure, ms(second * 1000));
    }
    window.reshape(Shape::Time { seconds: 2, offset: 7 });
    assert_eq!(window.tally(ms(2000)), tally(2, 2, 0));
    assert_eq!(window.shape(), Shape::Time { seconds: 2, offset: 0 }, "its seconds stay where they were");
}

#[test]
fn the_largest_windows_fit_in_a_section() {
    for shape in [Shape::Count(10_000), Shape::Time { seconds: 3600, offset: 0 }] {
        let mut window = Window::new(shape);
        for call in 0..20_000 {
            window.record(Outcome::SlowFailure, ms(call * 300));
        }
        let mut bytes = Vec::new();
        window.encode(&mut bytes);
        assert!(bytes.len() < 64 * 1024 - 64, "{}", bytes.len());
        assert_eq!(round_trip(&window), Some(window));
    }
}

fn outcome() -> impl Strategy<Value = Outcome> {
    prop_oneof![
        3 => Just(Outcome::Success),
        1 => Just(Outcome::SlowSuccess),
        1 => Just(Outcome::Failure),
        1 => Just(Outcome::SlowFailure),
        1 => Just(Outcome::Ignored),
    ]
}

proptest! {
    #[test]
    fn a_window_of_calls_is_the_latest_calls(
        size in 1..=12_u16,
        calls in prop::collection::vec(outcome(), 0..60),
        other in 1..=12_u16,
    ) {
        let mut window = Window::new(Shape::Count(size));
        let mut latest = VecDeque::new();
        for outcome in calls {
            window.record(outcome, ms(0));
            if outcome != Outcome::Ignored {
                latest.push_back(outcome);
            }
            latest.drain(..latest.len().saturating_sub(usize::from(size)));
            let mut expected = Tally::default();
            latest.iter().for_each(|outcome| expected.add(*outcome));
            prop_assert_eq!(window.tally(ms(0)), expected);
            prop_assert_eq!(round_trip(&window), Some(window.clone()));
        }
        window.reshape(Shape::Count(other));
        latest.drain(..latest.len().saturating_sub(usize::from(other)));
        let mut expected = Tally::default();
        latest.iter().for_each(|outcome| expected.add(*outcome));
        prop_assert_eq!(window.tally(ms(0)), expected);
    }

    #[test]
    fn a_window_over_time_is_the_calls_of_its_seconds(
        seconds in 1..=6_u16,
        offset in 0..1_000_000_000_u32,
        calls in prop::collection::vec((outcome(), 0..3000_u64), 0..60),
    ) {
        let mut window = Window::new(Shape::Time { seconds, offset });
        let (mut now, mut all) = (0, Vec::new());
        for (outcome, later) in calls {
            now += later;
            window.record(outcome, ms(now));
            all.push((outcome, now));
            let second = |moment: u64| ms(moment).after(std::time::Duration::from_nanos(offset.into())).since(ms(0)).as_secs();
            let mut expected = Tally::default();
            let inside = all.iter().filter(|(_, at)| second(now) - second(*at) < u64::from(seconds));
            inside.for_each(|(outcome, _)| expected.add(*outcome));
            prop_assert_eq!(window.tally(ms(now)), expected);
            prop_assert_eq!(round_trip(&window), Some(window.clone()));
        }
    }

    #[test]
    fn any_bytes_are_a_window_or_none(bytes in prop::collection::vec(any::<u8>(), 0..80), kind in 0..4_u8) {
        let bytes = [vec![kind, bytes.first().copied().unwrap_or(0) % 8, 0], bytes].concat();
        let mut input = Reader::new(&bytes);
        if let Some(mut window) = Window::decode(&mut input) {
            let mut again = Vec::new();
            window.encode(&mut again);
            prop_assert_eq!(again.as_slice(), &bytes[..again.len()]);
            window.record(Outcome::Failure, ms(5));
            let tally = window.tally(ms(5));
            prop_assert!(tally.failed <= tally.calls && tally.slow <= tally.calls);
        }
    }
}
