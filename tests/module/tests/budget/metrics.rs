//! What a healthy request writes into metrics, by their names, whatever its policy has: one count of a call. All else is
//! counted where something happens, and gauges are set at the leader's tick.

use crate::Kind;
use crate::bulkhead::{BULKHEAD, FALLBACK, arrive_all, warmed};
use crate::fallback::told;
use resilience_module_tests::Call;
use resilience_module_tests::shop::{CONFIG, End, enter, policy_and, run};

const CALL: &str = "increment_metric resilience_calls_total;policy=checkout;outcome=success;slow=false";
const CHANGE: &str = "increment_metric resilience_store_changes_total;policy=checkout;key=_";

const WAITING: &str = r#""bulkhead": {"max_concurrent_calls": 1, "max_wait_duration": "10s"}"#;
const BUDGET: &str = r#""retry_budget": {}"#;
const RETRY: &str = r#""retry": {"max_retries": 2, "retry_on": ["5xx"]}"#;
const TIMEOUT: &str = r#""timeout": {"total": "5s", "per_try": "1s"}"#;

/// What was written into metrics, or looked up to be.
fn written(calls: Vec<Call>) -> Vec<String> {
    let metric = |call: &Call| {
        matches!(call.kind(), Kind::MetricIncrement | Kind::MetricRecord)
            || call.function == "proxy_define_metric"
    };
    told(&calls.into_iter().filter(metric).collect::<Vec<_>>())
}

/// What a request writes that comes when all have been defined.
fn of_a_healthy_request(config: &str) -> Vec<String> {
    let shop = warmed(config);
    let stream = arrive_all(&shop);
    run(&stream, End::Status(200)).unwrap();
    written(stream.calls())
}

/// The shop with another trigger.
fn triggered_by(triggers: &str) -> String {
    CONFIG.replacen(r#""consecutive_failures": 3"#, triggers, 1)
}

#[test]
fn a_healthy_request_counts_one_call() {
    let alone = |sections: &str| {
        let breaker = CONFIG.find("\"circuit_breaker\"").map(|at| &CONFIG[at..]).unwrap();
        CONFIG.replace(breaker, &format!("{sections}}}]}}"))
    };
    let rates = |window: &str| {
        triggered_by(&format!(r#""failure_rate_threshold": 50, {window}, "minimum_number_of_calls": 5"#))
    };
    for (title, config) in [
        ("breaker", CONFIG.to_owned()),
        (
            "breaker that counts slow calls",
            triggered_by(r#""consecutive_failures": 3, "slow_call_duration_threshold": "1s""#),
        ),
        ("breaker with a full window", rates(r#""sliding_window_size": 10"#)),
        (
            "breaker with a window over time",
            rates(r#""sliding_window_type": "time", "sliding_window_size": 10"#),
        ),
        ("breaker for each cluster", policy_and(r#""key": "upstream_cluster""#)),
        ("bulkhead", alone(BULKHEAD)),
        ("bulkhead that lets wait", alone(WAITING)),
        ("retry budget", alone(BUDGET)),
        ("retries", alone(RETRY)),
        ("timeouts", alone(TIMEOUT)),
        ("breaker and bulkhead", policy_and(BULKHEAD)),
        ("breaker and fallback", policy_and(FALLBACK)),
        ("breaker, bulkhead and budget", policy_and(&format!("{BULKHEAD}, {BUDGET}"))),
        ("all of them", policy_and(&format!("{WAITING}, {FALLBACK}, {BUDGET}, {RETRY}, {TIMEOUT}"))),
        (
            "all of them in shadow mode",
            policy_and(&format!(r#""mode": "shadow", {WAITING}, {FALLBACK}, {BUDGET}, {RETRY}, {TIMEOUT}"#)),
        ),
        ("none of them", alone(r#""outcome": {"failure": {"status": ["5xx"]}}"#)),
    ] {
        assert_eq!(of_a_healthy_request(&config), [CALL], "{title}");
    }
}

/// With the call that fills a window the others have news: from there on successes need not be told.
#[test]
fn a_call_that_fills_a_window_is_a_change_too() {
    for (size, expected) in [(14, vec![CALL]), (13, vec![CHANGE, CALL]), (12, vec![CALL])] {
        let window = format!(
            r#""failure_rate_threshold": 50, "sliding_window_size": {size}, "minimum_number_of_calls": 5"#
        );
        assert_eq!(of_a_healthy_request(&triggered_by(&window)), expected, "{size}");
    }
}

#[test]
fn a_request_on_its_way_counts_nothing() {
    let shop = warmed(&policy_and(&format!("{WAITING}, {FALLBACK}, {BUDGET}, {RETRY}, {TIMEOUT}")));
    let stream = arrive_all(&shop);
    assert_eq!(enter(&stream).unwrap(), None);
    assert_eq!(written(stream.calls()), [""; 0]);
}
