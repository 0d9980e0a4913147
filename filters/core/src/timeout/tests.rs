use super::*;
use crate::testing::ms;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const fn millis(count: u64) -> Duration {
    Duration::from_millis(count)
}

fn allowance(rest: u64, per_try: u64) -> Allowance {
    Allowance { deadline: Some(ms(1000 + rest)), per_try: Some(millis(per_try)) }
}

#[test]
fn the_shorter_of_the_total_and_a_callers_deadline_counts() {
    let settings =
        Settings { total: Some(millis(500)), per_try: None, deadline_header: None, margin: millis(20) };
    let deadline = |patience: Option<u64>| settings.allow(patience.map(millis), ms(1000)).deadline;
    assert_eq!(deadline(None), Some(ms(1500)), "the margin is for what others wait for");
    assert_eq!(deadline(Some(300)), Some(ms(1280)));
    assert_eq!(deadline(Some(519)), Some(ms(1499)));
    assert_eq!(deadline(Some(600)), Some(ms(1500)));
    assert_eq!(deadline(Some(20)), Some(ms(1000)));
    let none = Settings { total: None, ..settings };
    assert_eq!(none.allow(None, ms(1000)).deadline, None);
    assert_eq!(none.allow(Some(millis(300)), ms(1000)).deadline, Some(ms(1280)));
}

#[test]
fn time_is_over_at_the_deadline() {
    let allowance = allowance(100, 10);
    assert!(!allowance.is_over(ms(1099)));
    assert!(allowance.is_over(ms(1100)));
    assert_eq!(allowance.rest(ms(1040)), Some(millis(60)));
    assert_eq!(allowance.rest(ms(1200)), Some(Duration::ZERO));
    assert!(!Allowance::default().is_over(ms(u64::from(u32::MAX))));
}

#[test]
fn retries_are_fitted_with_the_longest_back_off() {
    // Two attempts and 25 ms between them; three, and 75 ms more.
    for (rest, fitting) in [(200, 0), (424, 0), (425, 1), (699, 1), (700, 2), (1074, 2), (1075, 3), (9000, 5)]
    {
        assert_eq!(allowance(rest, 200).fitting(5, ms(1000)), fitting, "{rest}");
    }
    assert_eq!(allowance(300, 200).fitting(3, ms(1000)), 0);
    assert_eq!(allowance(100, 200).fitting(3, ms(1000)), 0);
    let open = Allowance { deadline: None, per_try: Some(millis(200)) };
    assert_eq!(open.fitting(3, ms(1000)), 3);
    let whole = Allowance { deadline: Some(ms(1001)), per_try: None };
    assert_eq!(whole.fitting(3, ms(1000)), 3, "the total ends whichever attempt there is");
}

#[test]
fn what_is_waited_for_does_not_fit_any_more() {
    assert_eq!(allowance(700, 200).fitting(2, ms(1000)), 2);
    assert_eq!(allowance(700, 200).fitting(2, ms(1001)), 1);
    assert_eq!(allowance(700, 200).fitting(2, ms(2000)), 0);
}

#[test]
fn what_took_less_than_five_milliseconds_came_at_once() {
    for (took, expected) in [(0, true), (4, true), (5, false), (9000, false)] {
        assert_eq!(came_at_once(ms(1000), ms(1000 + took)), expected, "{took}");
    }
}

#[test]
fn grpc_timeouts_are_read() {
    let good = [
        ("1H", 3_600_000),
        ("2M", 120_000),
        ("3S", 3000),
        ("250m", 250),
        ("0m", 0),
        ("86400S", 86_400_000),
        ("00000001S", 1000),
    ];
    for (text, count) in good {
        assert_eq!(parse_grpc_timeout(text.as_bytes()), Some(millis(count)), "{text}");
    }
    assert_eq!(parse_grpc_timeout(b"1500u"), Some(Duration::from_micros(1500)));
    assert_eq!(parse_grpc_timeout(b"7n"), Some(Duration::from_nanos(7)));
    for text in [
        "",
        "S",
        "1",
        "1s",
        "-1S",
        "+1S",
        "1.5S",
        " 1S",
        "1S ",
        "123456789n",
        "86401S",
        "99999999H",
        "\u{ff}S",
    ] {
        assert_eq!(parse_grpc_timeout(text.as_bytes()), None, "{text}");
    }
}

#[test]
fn milliseconds_are_read() {
    assert_eq!(parse_millis(b"300"), Some(millis(300)));
    assert_eq!(parse_millis(b"0"), Some(Duration::ZERO));
    for text in ["", "-1", "+1", "1.5", "300ms", " 300", "86400001", "99999999999999999999"] {
        assert_eq!(parse_millis(text.as_bytes()), None, "{text}");
    }
}
