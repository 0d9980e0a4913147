//! What callers say that they accept, well or badly written.

use super::{Accept, Takes, Type};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// How a caller with these lines of `Accept` takes a type.
fn takes(lines: &[&str], wanted: &str) -> Takes {
    let wanted = Type::parse(wanted).unwrap();
    Accept::read(lines.iter().map(|line| line.as_bytes())).takes(&wanted)
}

#[test]
fn a_type_is_named_by_itself_or_by_its_group() {
    for (line, expected) in [
        ("text/html", Takes::Named),
        ("TEXT/HTML", Takes::Named),
        ("text/*", Takes::Named),
        ("text/html;level=1", Takes::Named),
        ("text/html; charset=\"a,b\"; q=0.1", Takes::Named),
        ("application/json, text/html", Takes::Named),
        ("application/json ,\ttext/html ; q=0.001", Takes::Named),
        ("*/*", Takes::Any),
        ("*/*;q=0.1", Takes::Any),
        ("application/json, */*", Takes::Any),
        ("application/json", Takes::Not),
        ("text/plain", Takes::Not),
        ("application/*", Takes::Not),
        ("text/htm", Takes::Not),
        ("text/html+xml", Takes::Not),
    ] {
        assert_eq!(takes(&[line], "text/html"), expected, "{line}");
        assert_eq!(takes(&[line], "Text/Html"), expected, "{line}");
    }
    assert_eq!(takes(&["application/vnd.shop.v2+json"], "application/vnd.shop.v2+json"), Takes::Named);
    assert_eq!(takes(&["application/vnd.shop.v2+json"], "application/json"), Takes::Not);
}

#[test]
fn what_browsers_and_clients_send_is_told_apart() {
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";
    assert_eq!(takes(&[browser], "text/html"), Takes::Named);
    assert_eq!(takes(&[browser], "application/json"), Takes::Any);
    assert_eq!(takes(&["*/*"], "text/html"), Takes::Any);
    assert_eq!(takes(&["application/json, text/plain, */*"], "text/html"), Takes::Any);
    // An old Java client, of whose list not all can be read.
    let java = "text/html, image/gif, image/jpeg, *; q=.2, */*; q=.2";
    assert_eq!(takes(&[java], "text/html"), Takes::Named);
    assert_eq!(takes(&[java], "application/json"), Takes::Any);
}

#[test]
fn who_says_nothing_takes_anything() {
    for lines in [[].as_slice(), &[""], &["", "  "], &[",,,"], &["garbage"], &["text/html;q"], &["/", "*"]] {
        assert_eq!(takes(lines, "text/html"), Takes::Any, "{lines:?}");
    }
    let no_text = Accept::read([b"text/html\xff".as_slice()].into_iter());
    assert_eq!(no_text.takes(&Type::parse("text/html").unwrap()), Takes::Any);
    // What can be read counts, whatever stands beside it.
    assert_eq!(takes(&["garbage, application/json"], "text/html"), Takes::Not);
    assert_eq!(takes(&["garbage, text/html"], "text/html"), Takes::Named);
}

#[test]
fn what_names_a_type_most_closely_decides() {
    for (line, expected) in [
        ("text/html;q=0", Takes::Not),
        ("text/html;q=0, */*", Takes::Not),
        ("text/html;q=0, text/*", Takes::Not),
        ("text/*;q=0, */*", Takes::Not),
        ("text/*;q=0, text/html", Takes::Named),
        ("*/*;q=0, text/*", Takes::Named),
        ("*/*;q=0", Takes::Not),
        ("application/json, */*;q=0", Takes::Not),
        // Said twice: one that wants it is enough.
        ("text/html;q=0, text/html;level=1", Takes::Named),
        ("text/html;level=1, text/html;q=0", Takes::Named),
        ("*/*;q=0, */*", Takes::Any),
    ] {
        assert_eq!(takes(&[line], "text/html"), expected, "{line}");
        let lines: Vec<_> = line.split(", ").collect();
        assert_eq!(takes(&lines, "text/html"), expected, "in lines of their own: {line}");
    }
}

#[test]
fn only_a_quality_of_zero_says_no() {
    for (quality, expected) in [
        ("0", Takes::Not),
        ("0.0", Takes::Not),
        ("0.000", Takes::Not),
        (".0", Takes::Not),
        ("-1", Takes::Not),
        ("0.001", Takes::Named),
        ("1", Takes::Named),
        ("1.000", Takes::Named),
        ("7", Takes::Named),
        (".5", Takes::Named),
        // What is no number.
        ("", Takes::Named),
        ("low", Takes::Named),
        ("nan", Takes::Named),
        ("NaN", Takes::Named),
    ] {
        for name in ["q", "Q"] {
            assert_eq!(
                takes(&[&format!("text/html;{name}={quality}")], "text/html"),
                expected,
                "{quality:?}"
            );
        }
    }
}

#[test]
fn of_what_is_too_long_the_beginning_counts() {
    let filler = |length: usize| format!("a/{}, ", "b".repeat(length - 4));
    let many = filler(96).repeat(42);
    assert_eq!(many.len(), 4032);
    // Within the limit, at it, and beyond.
    let padded =
        |length: usize, last: &str| format!("{many}{}{last}", " ".repeat(length - many.len() - last.len()));
    assert_eq!(takes(&[&padded(4095, "text/html")], "text/html"), Takes::Named);
    assert_eq!(takes(&[&padded(4096, "text/html")], "text/html"), Takes::Named);
    assert_eq!(takes(&[&padded(4097, "text/html")], "text/html"), Takes::Not);
    // What is cut through might say the opposite of what is left of it.
    assert_eq!(takes(&[&padded(4098, "text/html;q=0.5")], "text/html"), Takes::Not);
    assert_eq!(takes(&[&padded(4096, "text/html;q=0.5")], "text/html"), Takes::Named);
    assert_eq!(takes(&[&padded(4098, "*/*;q=0.5")], "text/html"), Takes::Not);
    assert_eq!(takes(&[&padded(4098, "*/*, text/html;q=0.5")], "text/html"), Takes::Any);
    assert_eq!(takes(&[&padded(4097, "text/htmlx")], "text/html"), Takes::Not);
    // All lines together.
    assert_eq!(takes(&[&padded(4087, "x/y"), "text/html"], "text/html"), Takes::Named);
    assert_eq!(takes(&[&padded(4088, "x/y"), "text/html"], "text/html"), Takes::Not);
    assert_eq!(takes(&[&"a".repeat(100_000)], "text/html"), Takes::Any);
}

#[test]
fn a_type_is_written_by_itself() {
    for text in ["text/html", "a/b", "APPLICATION/PROBLEM+JSON", "application/vnd.a.b-c_d+json", "x/1"] {
        assert!(Type::parse(text).is_some(), "{text}");
    }
    let long = format!("text/{}", "h".repeat(1000));
    for text in [
        "",
        "/",
        "text",
        "text/",
        "/html",
        "*/*",
        "text/*",
        "*/html",
        "text/*+json",
        "te*t/html",
        "text/html;q=1",
        "text/html;",
        "text/html ",
        " text/html",
        "text/html, a/b",
        "text/ht ml",
        "text/html\n",
        "té/xt",
        &long,
    ] {
        assert_eq!(Type::parse(text), None, "{text:?}");
    }
    assert_eq!(Type::parse("Text/HTML"), Type::parse("text/html"));
}

/// A range with its parts, and whether it is wanted.
#[derive(Clone, Debug)]
struct Range {
    main: &'static str,
    sub: &'static str,
    quality: Option<u16>,
}

impl Range {
    fn written(&self) -> String {
        let quality = self.quality.map(|quality| format!(";q=0.{quality:03}")).unwrap_or_default();
        format!("{}/{}{quality}", self.main, self.sub)
    }

    fn is_wanted(&self) -> bool {
        self.quality != Some(0)
    }
}

fn range() -> impl Strategy<Value = Range> {
    let names =
        prop::sample::select(vec![("a", "x"), ("a", "y"), ("b", "x"), ("a", "*"), ("b", "*"), ("*", "*")]);
    (names, prop::option::of(0_u16..3)).prop_map(|((main, sub), quality)| Range { main, sub, quality })
}

/// What lists are made of, in any order.
fn letters() -> impl Strategy<Value = String> {
    let letter =
        prop::sample::select(vec!['a', '*', '/', ';', '=', 'q', '0', '.', ',', '"', ' ', '\\', '+', 'é']);
    prop::collection::vec(letter, 0..40).prop_map(String::from_iter)
}

/// Whether a list holds these letters, in any case.
fn holds(lines: &[Vec<u8>], letters: &str) -> bool {
    lines
        .iter()
        .any(|line| line.to_ascii_lowercase().windows(letters.len()).any(|found| found == letters.as_bytes()))
}

proptest! {
    #[test]
    fn no_bytes_name_what_is_not_there(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..60), 0..4)) {
        let accept = Accept::read(lines.iter().map(Vec::as_slice));
        prop_assert_ne!(accept.takes(&Type::parse("text/html").unwrap()), Takes::Named);
    }

    #[test]
    fn no_letters_name_what_is_not_there(lines in prop::collection::vec(letters(), 0..4)) {
        let lines: Vec<_> = lines.into_iter().map(String::into_bytes).collect();
        let accept = Accept::read(lines.iter().map(Vec::as_slice));
        let named = accept.takes(&Type::parse("a/a").unwrap()) == Takes::Named;
        prop_assert!(!named || holds(&lines, "a/a") || holds(&lines, "a/*"));
    }

    #[test]
    fn a_type_is_two_words(text in letters()) {
        let is_type = Type::parse(&text).is_some();
        let two = text.split('/').count() == 2 && !text.starts_with('/') && !text.ends_with('/');
        prop_assert!(!is_type || two && !text.contains(['*', ';', ',', '"', ' ', '=', '\\', 'é']), "{}", text);
    }

    /// Three questions one after the other, asked of a list that was never written.
    #[test]
    fn a_list_means_what_its_ranges_say(ranges in prop::collection::vec(range(), 0..6)) {
        let said = |main: &str, sub: &str| {
            let of: Vec<_> = ranges.iter().filter(|range| (range.main, range.sub) == (main, sub)).collect();
            (!of.is_empty()).then(|| of.iter().any(|range| range.is_wanted()))
        };
        let expected = match (said("a", "x"), said("a", "*"), said("*", "*")) {
            (Some(wanted), ..) | (None, Some(wanted), _) => if wanted { Takes::Named } else { Takes::Not },
            (None, None, Some(wanted)) => if wanted { Takes::Any } else { Takes::Not },
            (None, None, None) => if ranges.is_empty() { Takes::Any } else { Takes::Not },
        };
        let written: Vec<_> = ranges.iter().map(Range::written).collect();
        prop_assert_eq!(takes(&[&written.join(", ")], "a/x"), expected);
        let lines: Vec<_> = written.iter().map(String::as_str).collect();
        prop_assert_eq!(takes(&lines, "a/x"), expected);
    }
}
