//! What a client's headers do, and what of them goes on to the upstream.

use crate::*;
use resilience_module_tests::Random;
use resilience_module_tests::shop::OrFail;

const STEERING: [&str; 16] = [
    "x-envoy-max-retries",
    "x-envoy-retry-on",
    "x-envoy-retry-grpc-on",
    "x-envoy-retriable-status-codes",
    "x-envoy-retriable-header-names",
    "x-envoy-hedge-on-per-try-timeout",
    "x-envoy-upstream-rq-timeout-ms",
    "x-envoy-upstream-rq-per-try-timeout-ms",
    "x-envoy-upstream-rq-per-try-idle-timeout-ms",
    "x-envoy-upstream-stream-duration-ms",
    "x-envoy-upstream-rq-timeout-alt-response",
    "x-envoy-expected-rq-timeout-ms",
    "x-envoy-attempt-count",
    "grpc-previous-rpc-attempts",
    "grpc-timeout",
    "x-deadline-ms",
];

const TIMEOUT: &str = r#""timeout": {"total": "1s", "deadline_header": "x-deadline-ms"}"#;

fn trusting(config: &str) -> String {
    config.replacen("\"namespace\"", "\"trust_caller_headers\": true, \"namespace\"", 1)
}

#[test]
fn nothing_that_a_stranger_says_steers_or_goes_on() {
    let config = shop_of(&format!(r#""retry": {{"max_retries": 2}}, {TIMEOUT}"#));
    let shop = Shop::with(&config, 1);
    let plain = hold(shop.vm());
    let mut ours = plain.headers(Map::RequestHeaders);
    ours.sort();
    leave(&plain, 1, End::Status(200));
    for name in STEERING {
        for value in ["0", "1", "7", "1m", "5xx", "true"] {
            let stream = arrive_with(shop.vm(), &[(name, value)]);
            assert_eq!(enter(&stream).unwrap(), None, "{name}: {value}");
            let mut headers = stream.headers(Map::RequestHeaders);
            // The rest of the time goes on under the name that the request has for it.
            headers.retain(|(name, _)| name != b"grpc-timeout");
            headers.sort();
            assert_eq!(headers, ours, "{name}: {value}");
            leave(&stream, 1, End::Status(200));
        }
    }
}

/// A map of thousands of them is read once; each is removed once.
#[test]
fn what_comes_more_than_once_is_removed_with_one_write() {
    let shop = Shop::with(&capped(), 1);
    let stream = arrive(shop.vm());
    let mut request = stream.headers(Map::RequestHeaders);
    for number in 0..3000 {
        let name = STEERING[number % 14];
        request.push((name.as_bytes().to_vec(), number.to_string().into_bytes()));
    }
    stream.set_request_headers(request);
    assert_eq!(enter(&stream).unwrap(), None);
    assert_eq!(written(&stream).len(), 14);
    assert!(STEERING[..14].iter().all(|name| steering(&stream, name).is_none()));
}

#[test]
fn a_caller_that_is_believed_may_ask_for_fewer_and_for_less_time() {
    let config = trusting(&shop_of(&format!(r#""retry": {{"max_retries": 2}}, {TIMEOUT}"#)));
    let shop = Shop::with(&config, 1);
    for (name, value, retries, timeout) in [
        ("x-envoy-max-retries", "1", 1, "1000"),
        ("x-envoy-max-retries", "9", 2, "1000"),
        ("x-deadline-ms", "300", 2, "290"),
        ("x-deadline-ms", "30000", 2, "1000"),
        ("grpc-timeout", "300m", 2, "290"),
        ("x-envoy-expected-rq-timeout-ms", "300", 2, "290"),
    ] {
        let stream = arrive_with(shop.vm(), &[(name, value)]);
        assert_eq!(enter(&stream).unwrap(), None, "{name}: {value}");
        assert_eq!(told(&stream), Some(retries), "{name}: {value}");
        let said = steering(&stream, "x-envoy-upstream-rq-timeout-ms");
        assert_eq!(said.as_deref(), Some(timeout), "{name}: {value}");
        attempted(&stream, 1);
        stream.finish().unwrap();
        assert_eq!(balance(&shop, &config), (FLOOR, 0), "{name}: {value}");
    }
}

#[test]
fn a_callers_retry_is_not_retried_and_costs_one() {
    let config = trusting(&charged(2));
    let shop = Shop::with(&config, 1);
    for (spent, (name, value)) in
        (1..).zip([("x-envoy-attempt-count", "2"), ("grpc-previous-rpc-attempts", "1")])
    {
        let stream = arrive_with(shop.vm(), &[(name, value)]);
        assert_eq!(enter(&stream).unwrap(), None);
        assert_eq!((told(&stream), balance(&shop, &config)), (Some(0), (FLOOR - spent, 0)), "{name}");
        leave(&stream, 1, End::Status(200));
        assert_eq!(balance(&shop, &config), (FLOOR - spent, 0), "{name}");
    }
}

/// The fake host itself refuses a value that splits headers.
#[test]
fn no_value_traps_or_is_passed_on_as_it_came() {
    let mut random = Random::new(17);
    let mut values: Vec<Vec<u8>> = [
        "",
        " ",
        "-1",
        "+1",
        "1 ",
        "0",
        "00000001",
        "99999999m",
        "999999999m",
        "1H",
        "24H",
        "25H",
        "4294967296",
        "18446744073709551616",
        "1e3",
        "0x10",
        "NaN",
        "1,2",
        "\u{661}",
    ]
    .iter()
    .map(|value| value.as_bytes().to_vec())
    .collect();
    values.extend([vec![0xff; 60_000], vec![b'9'; 60_000], b"a\0b".to_vec(), b"\r\nx-injected: 1".to_vec()]);
    values.extend((0..20).map(|len| random.bytes(len)));
    let config = shop_of(&format!(r#""retry": {{"max_retries": 2}}, {TIMEOUT}"#));
    for config in [config.clone(), trusting(&config)] {
        let shop = Shop::with(&config, 1);
        for name in STEERING.into_iter().chain(["idempotency-key", ":method", "content-type"]) {
            for value in &values {
                let about = format!("{name}: {value:.40?}");
                let stream = arrive(shop.vm());
                let mut headers = with(request("/checkout"), &[(name, "")]);
                headers.retain(|(other, _)| other != name.as_bytes());
                headers.push((name.as_bytes().to_vec(), value.clone()));
                stream.set_request_headers(headers);
                stream.request_headers(true).or_fail(&about);
                assert!(told(&stream).is_none_or(|retries| retries <= 2), "{about}");
                let timeout = steering(&stream, "x-envoy-upstream-rq-timeout-ms");
                let timeout = timeout.map(|value| value.parse::<u32>().expect("a number"));
                assert!(timeout.is_none_or(|timeout| (1..=1000).contains(&timeout)), "{about}");
                attempted(&stream, 1);
                stream.finish().or_fail(&about);
                assert_eq!(balance(&shop, &config).1, 0, "{about}");
            }
        }
    }
}
