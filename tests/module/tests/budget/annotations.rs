//! What it costs to leave what was decided where access logs find it: nothing where nobody asked for it, else a write for each
//! thing that there is to say, once it is decided.

use crate::Kind;
use crate::bulkhead::{BULKHEAD, FALLBACK, arrive_all, warmed};
use crate::fallback::told;
use resilience_module_tests::Call;
use resilience_module_tests::shop::{CONFIG, End, answer, arrive, enter, policy_and, run};

fn annotated(config: &str) -> String {
    config.replacen('{', r#"{"annotate": true, "#, 1)
}

fn written(calls: &[Call]) -> Vec<String> {
    let property = |call: &&Call| call.kind() == Kind::PropertyWrite;
    told(&calls.iter().filter(property).cloned().collect::<Vec<_>>())
}

const POLICY: &str = "set_property resilience.policy";
const DECISION: &str = "set_property resilience.decision";
const REASON: &str = "set_property resilience.reason";
const BREAKER: &str = "set_property resilience.breaker";

#[test]
fn a_healthy_request_is_annotated_when_it_is_let_in() {
    let without_breaker = {
        let breaker = CONFIG.find("\"circuit_breaker\"").map(|at| &CONFIG[at..]).unwrap();
        CONFIG.replace(breaker, &format!("{BULKHEAD}}}]}}"))
    };
    for (config, expected) in [
        (CONFIG.to_owned(), vec![POLICY, DECISION, BREAKER]),
        (policy_and(&format!("{BULKHEAD}, {FALLBACK}")), vec![POLICY, DECISION, BREAKER]),
        (without_breaker, vec![POLICY, DECISION]),
    ] {
        let shop = warmed(&annotated(&config));
        let stream = arrive_all(&shop);
        assert_eq!(enter(&stream).unwrap(), None);
        assert_eq!(written(&stream.calls()), expected);
        answer(&stream, End::Status(200)).unwrap();
        stream.finish().unwrap();
        assert_eq!(written(&stream.calls()), expected, "nothing more to its end");

        // All that it costs is that: without it the calls are the same but for these.
        let mut rest = stream.calls();
        rest.retain(|call| call.kind() != Kind::PropertyWrite);
        let plain = warmed(&config);
        let stream = arrive_all(&plain);
        run(&stream, End::Status(200)).unwrap();
        assert_eq!(told(&rest), told(&stream.calls()));
    }
}

#[test]
fn a_refused_request_has_its_reason_too() {
    let shop = warmed(&annotated(CONFIG));
    shop.trip();
    let stream = arrive(shop.vm());
    assert!(enter(&stream).unwrap().is_some());
    assert_eq!(written(&stream.calls()), [POLICY, DECISION, REASON, BREAKER]);
}
