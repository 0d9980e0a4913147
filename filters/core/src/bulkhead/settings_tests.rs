//! What a class is worth, and which one a request is of.

use super::*;
use std::time::Duration;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn with_classes(classes: &[(&str, u32)]) -> Settings {
    let class = |&(name, limit): &(&str, u32)| Class { name: name.to_owned(), limit };
    let classes = classes.iter().map(class).collect();
    Settings {
        max_concurrent_calls: 10,
        queue: Some(Queue { max_wait_duration: Duration::from_secs(1), max_queue: 5 }),
        priority: Some(Priority { source: None, default: 1, classes }),
    }
}

#[test]
fn without_classes_all_are_alike_and_stand_under_the_limit() {
    let settings = Settings { priority: None, ..with_classes(&[]) };
    let all = Claim { rank: 0, limit: 10 };
    for class in [None, Some(0), Some(7)] {
        assert_eq!(settings.claim(class), all);
    }
}

#[test]
fn a_class_stands_by_its_place_and_its_share() {
    let settings = with_classes(&[("gold", 10), ("silver", 4), ("bronze", 1)]);
    let claims = [0, 1, 2].map(|class| settings.claim(Some(class)));
    assert_eq!(
        claims,
        [Claim { rank: 0, limit: 10 }, Claim { rank: 1, limit: 4 }, Claim { rank: 2, limit: 1 }]
    );
}

#[test]
fn a_class_is_known_by_its_very_name_and_else_is_the_default() {
    let settings = with_classes(&[("gold", 10), ("silver", 4), ("bronze", 1)]);
    let priority = settings.priority.unwrap();
    assert_eq!([b"gold".as_slice(), b"bronze"].map(|name| priority.class(Some(name))), [0, 2]);
    let unknown = [b"".as_slice(), b"Gold", b"gold ", b"gold,bronze", b"platinum", b"\xFF\x00"];
    for name in unknown {
        assert_eq!(priority.class(Some(name)), 1, "{name:?}");
    }
    assert_eq!(priority.class(None), 1);
}
