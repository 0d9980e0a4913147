//! Durations as operators write them: `"250ms"`, `"30s"`, `"1m30s"`.

use std::time::Duration;

/// Units from long to short, as they must follow each other.
const UNITS: [(&str, u64); 6] = [
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Reads a duration: whole numbers, each with a unit, longer units first. `None` for anything else.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total: u64 = 0;
    let mut units = UNITS.iter();
    while !rest.is_empty() {
        let (number, after) = split_where(rest, |letter| !letter.is_ascii_digit());
        let (unit, after) = split_where(after, |letter| letter.is_ascii_digit());
        let (_, nanos) = units.by_ref().find(|(name, _)| *name == unit)?;
        total = total.checked_add(number.parse::<u64>().ok()?.checked_mul(*nanos)?)?;
        rest = after;
    }
    (!text.is_empty()).then_some(Duration::from_nanos(total))
}

fn split_where(text: &str, stop: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at_checked(text.find(stop).unwrap_or(text.len())).unwrap_or((text, ""))
}

/// A duration as operators write it.
pub(super) fn display(duration: Duration) -> String {
    let mut rest = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let mut out = String::new();
    for (name, nanos) in UNITS {
        let count = rest.checked_div(nanos).unwrap_or(0);
        if count > 0 {
            out.push_str(&format!("{count}{name}"));
        }
        rest = rest.checked_rem(nanos).unwrap_or(0);
    }
    if out.is_empty() { "0s".to_owned() } else { out }
}

#[cfg(test)]
mod tests {
    use super::{display, parse};
    use std::time::Duration;
    #[cfg(target_arch = "wasm32")]
    use wasm_bindgen_test::wasm_bindgen_test as test;

    #[test]
    fn reads_every_unit_and_their_combinations() {
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse("2h5us7ns"), Some(Duration::from_nanos(7_200_000_005_007)));
        assert_eq!(parse("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn refuses_what_is_no_duration() {
        for text in
            ["", "30", "s", "1.5s", "-1s", "1 s", "1s1m", "1s1s", "5 minutes", "1d", "99999999999h", "1sé"]
        {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn writes_what_it_reads() {
        for text in ["250ms", "1m30s", "2h5us7ns", "1h"] {
            assert_eq!(display(parse(text).unwrap()), text);
        }
    }
}
