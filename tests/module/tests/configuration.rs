//! What a bad document says, and what it must not do.

use resilience_module_tests::shop::{CONFIG, End, ROOT, Shop, TICK, arrive, enter, serve};
use resilience_module_tests::{FakeVm, Guest, Random, SharedHost};
use std::time::Duration;

/// The error lines of a document that must be refused, by a VM that touched nothing.
fn refuse(document: &str) -> Vec<String> {
    let host = SharedHost::new();
    let vm = FakeVm::load(&Guest::under_test(), &host).unwrap();
    let accepted =
        vm.configure(ROOT, document).unwrap_or_else(|failure| panic!("{document:.200}: {failure}"));
    assert!(!accepted, "accepted: {document:.200}");
    assert_eq!(host.data_writes(), 0, "shared data was written for {document:.200}");
    assert_eq!(vm.tick_period(ROOT), None, "a timer was started for {document:.200}");
    let logs = vm.logs();
    assert!(logs.iter().all(|line| line.level == 4), "not all are errors: {logs:?}");
    assert!(!logs.is_empty(), "refused without a word: {document:.200}");
    // What was refused guards nothing: should a request come all the same, it passes.
    let stream = arrive(&vm);
    assert_eq!(enter(&stream).unwrap(), None);
    stream.finish().unwrap();
    vm.tick(ROOT).unwrap();
    assert_eq!(host.data_writes(), 0);
    logs.into_iter().map(|line| line.message).collect()
}

#[test]
fn errors_name_the_place_and_the_remedy_all_at_once_in_the_documents_order() {
    let errors = refuse(
        r#"{
          "policies": [
            {"name": "a", "match": [{"route": "a"}],
             "circuit_breaker": {"consecutive_failure": 5, "wait_duration_in_open_state": 30}},
            {"name": "a", "match": [], "mode": "forced_open"},
            {"name": "B", "match": [{"path": {"prefix": "c"}}],
             "fallback": [{"static": {"status": 42, "text": "x", "json": 1}}]}
          ],
          "namespace": ""
        }"#,
    );
    let expected = [
        r#"policies[0].circuit_breaker.consecutive_failure: unknown key; did you mean "consecutive_failures"?"#,
        r#"policies[0].circuit_breaker.wait_duration_in_open_state: found 30, expected a duration such as "30s""#,
        r#"policies[1].name: found "a", expected a name that is not yet taken by policies[0].name"#,
        r#"policies[1].match: found [], expected a list of matches such as [{"route": "checkout"}]"#,
        r#"policies[1].mode: found "forced_open", expected one of "enforce", "shadow", "disabled""#,
        r#"policies[2].name: found "B", expected a name such as "checkout" ([a-z][a-z0-9_-]{0,63})"#,
        r#"policies[2].match[0].path.prefix: found "c", expected a path that begins with "/", without a query"#,
        r#"policies[2].fallback[0].static.status: found 42, expected a whole number from 200 to 599"#,
        r#"policies[2].fallback[0].static.json: a second body, expected one of "text", "json", "base64""#,
        r#"namespace: found "", expected a string of 1 to 128 bytes"#,
    ];
    assert_eq!(errors, expected);
}

#[test]
fn sections_that_do_not_exist_are_unknown_keys_and_those_that_do_are_read() {
    let errors = refuse(
        r#"{"policies": [{"name": "a", "match": [{"any": true}], "rate_limit": {"total": "10s"}}],
            "defaults": {"retry_budget": {"percent_can_retry": 140}}}"#,
    );
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert!(errors[0].starts_with("policies[0].rate_limit: unknown key"), "{errors:?}");
    assert!(errors[1].starts_with("defaults.retry_budget.percent_can_retry: found 140"), "{errors:?}");
}

#[test]
fn what_is_not_a_document_is_refused() {
    let deep = |brackets: usize| format!("{}{}", "[".repeat(brackets), "]".repeat(brackets));
    let documents = [
        String::new(),
        " ".to_owned(),
        "null".to_owned(),
        "[]".to_owned(),
        "\"text\"".to_owned(),
        "{".to_owned(),
        "{}".to_owned(),
        r#"{"policies": {}}"#.to_owned(),
        r#"{"policies": [null, 1, "x", [], {}]}"#.to_owned(),
        r#"{"policies": [], "policies": []}"#.to_owned(),
        r#"{"policies": []} x"#.to_owned(),
        r#"{"policies": [], "x": 1e999}"#.to_owned(),
        r#"{"policies": [], "\ud800": 1}"#.to_owned(),
        deep(100),
        deep(100_000),
        format!(r#"{{"policies": {}}}"#, deep(120)),
        format!(r#"{{"policies": [], "{}": 1}}"#, "k".repeat(100_000)),
        format!(r#"{{"policies": [{}]}}"#, vec!["{}"; 2000].join(",")),
    ];
    for document in &documents {
        refuse(document);
    }
}

#[test]
fn bytes_that_are_no_text_are_refused() {
    let host = SharedHost::new();
    let vm = FakeVm::load(&Guest::under_test(), &host).unwrap();
    let mut random = Random::new(21);
    for len in 0..200 {
        assert!(!vm.configure(ROOT, random.bytes(len)).unwrap());
    }
    // One byte of a good document changed: whatever comes of it, it is not a trap.
    let good = CONFIG.as_bytes();
    for at in 0..good.len() {
        let mut bad = good.to_vec();
        bad[at] = random.bits() as u8;
        // Each document has a root of its own, as in Envoy.
        vm.configure(ROOT + 1 + at as u32, &bad)
            .unwrap_or_else(|failure| panic!("byte {at} is {}: {failure}", bad[at]));
    }
    for len in 0..good.len() {
        assert!(!vm.configure(ROOT, &good[..len]).unwrap(), "cut at {len}");
    }
    assert!(vm.configure(ROOT, CONFIG).unwrap());
}

#[test]
fn configuring_writes_no_shared_data_even_when_it_succeeds() {
    let host = SharedHost::new();
    let vm = FakeVm::load(&Guest::under_test(), &host).unwrap();
    assert!(vm.configure(ROOT, CONFIG).unwrap());
    assert!(vm.configure(ROOT, CONFIG).unwrap());
    assert_eq!((host.data_writes(), host.keys().len()), (0, 0));
    assert_eq!(vm.tick_period(ROOT), Some(500));
    assert_eq!(vm.logs(), []);
}

#[test]
fn an_update_that_is_bad_leaves_the_old_one_serving() {
    let shop = Shop::open(1);
    shop.trip();
    // As Envoy does it: a root of its own that is refused and deleted.
    assert!(!shop.vm().configure(2, "{}").unwrap());
    shop.vm().delete_root(2).unwrap();
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "still open");
    // And in place.
    assert!(!shop.vm().configure(ROOT, "{}").unwrap());
    assert!(serve(shop.vm(), End::Status(200)).unwrap().is_some(), "still open");
}

#[test]
fn ten_thousand_policies_are_served_and_keep_house() {
    let policies: Vec<String> = (0..10_000)
        .map(|index| {
            format!(
                r#"{{"name": "p{index}", "match": [{{"route": "r{index}"}}], "circuit_breaker": {{"consecutive_failures": 3}}}}"#
            )
        })
        .collect();
    let config = CONFIG.replacen("\"policies\": [", &format!("\"policies\": [{},", policies.join(",")), 1);
    let shop = Shop::with(&config, 1);
    println!("{} KiB of linear memory", shop.vm().memory_size() / 1024);
    shop.trip();
    shop.vm().take_calls();
    shop.pass(TICK).unwrap();
    let one_tick = shop.vm().counts().total();
    assert!(one_tick < 5000, "{one_tick} host calls in one tick stall the worker");
    shop.pass(Duration::from_secs(10)).unwrap();
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "the probe");
    // The table of VMs, the policy that was used, and what the log said of it.
    assert!(shop.host.keys().len() <= 3, "no state where no traffic is: {}", shop.host.keys().len());
}
