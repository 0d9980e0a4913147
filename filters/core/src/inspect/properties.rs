//! Whatever is asked, and whatever stands in the store: there is an answer, and it is JSON.

use super::tests::{Scene, said};
use proptest::prelude::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

const EVERYTHING: &str = r#""circuit_breaker": {"consecutive_failures": 2, "failure_rate_threshold": 50,
    "ramp_up": {"duration": "10s", "initial": 20}}, "bulkhead": {"max_concurrent_calls": 5, "max_wait_duration": "1s"},
    "retry_budget": {}, "key": "upstream_cluster", "max_keys": 4"#;
const PATHS: [&str; 5] = ["/policies", "/policies/p0", "/dependencies", "/ready", "/live"];
/// What a policy of that many keys can be told in, in bytes, however its values lie.
const LONGEST: usize = 64 * 1024;

/// Bytes that begin as values do, so that more than the first look is taken.
fn value() -> impl Strategy<Value = Vec<u8>> {
    let head =
        prop::sample::select(vec![&b""[..], b"RS", b"RS\x01\x01", b"RM", b"RK\x01\x00\x01\x00a", b"RK"]);
    (head, prop::collection::vec(any::<u8>(), 0..200)).prop_map(|(head, rest)| [head, &rest].concat())
}

proptest! {
    #[test]
    fn any_path_has_an_answer(path in prop::collection::vec(any::<u8>(), 0..60), beginning in prop::sample::select(PATHS.to_vec())) {
        for path in [path.clone(), [beginning.as_bytes(), &path].concat(), [beginning.as_bytes(), b"?limit=", &path].concat()] {
            let reply = Scene::new(&[EVERYTHING]).ask_at(b"GET", &path, Some(1));
            prop_assert!([200, 400, 404, 503].contains(&reply.status), "{}", reply.status);
            prop_assert_eq!(said(&reply)["error"].is_string(), [400, 404].contains(&reply.status));
        }
    }

    #[test]
    fn any_bytes_in_the_store_are_told_in_json(own in value(), keys in value(), key in value(), members in value(), wall in any::<Option<u64>>()) {
        let mut scene = Scene::new(&[EVERYTHING]);
        scene.put("p0", own);
        scene.put("p0#keys", keys);
        scene.put("p0#key/a", key);
        scene.put("#members", members);
        for path in PATHS {
            let reply = scene.ask_at(b"GET", path.as_bytes(), wall);
            prop_assert!(said(&reply).is_object());
            prop_assert!(reply.body.len() < LONGEST);
            prop_assert!(reply.status == 200 || (path == "/ready" && reply.status == 503));
        }
    }
}
