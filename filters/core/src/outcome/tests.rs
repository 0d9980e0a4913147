//! The table of what each way a request can end proves, by the words Envoy has for it.

use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

/// `%RESPONSE_FLAGS%` by Envoy's short names, in the order of `CoreResponseFlag`.
const FLAGS: [&str; 30] = [
    "LH", "UH", "UT", "LR", "UR", "UF", "UC", "UO", "NR", "DI", "FI", "RL", "UAEX", "RLSE", "DC", "URX",
    "SI", "IH", "DPE", "UMSDR", "RFCF", "NFCF", "DT", "UPE", "NC", "OM", "DF", "DO", "DR", "UDO",
];

pub(super) fn info(details: &str, flags: &[&str]) -> StreamInfo {
    let bit = |flag: &&str| 1 << FLAGS.iter().position(|known| known == flag).unwrap();
    StreamInfo {
        details: details.as_bytes().to_vec(),
        flags: flags.iter().map(bit).sum(),
        ..StreamInfo::default()
    }
}

pub(super) fn http(status: u16) -> Status {
    Status { http: Some(status), grpc: None }
}

pub(super) fn grpc(status: u16) -> Status {
    Status { http: Some(200), grpc: Some(status) }
}

const NO_ANSWER: Status = Status { http: None, grpc: None };

/// By the default rules, as everything here.
fn of_answer(status: Status, info: &StreamInfo) -> Outcome {
    super::of_answer(&Rules::DEFAULT, status.into(), info)
}

fn of_end(status: Status, info: &StreamInfo, upstream_answered: impl FnOnce() -> bool) -> Outcome {
    super::of_end(&Rules::DEFAULT, status.into(), info, upstream_answered)
}

/// The end of a stream of which nobody has to ask whether the upstream answered.
fn end(status: Status, info: &StreamInfo) -> Outcome {
    of_end(status, info, || panic!("asked for nothing"))
}

#[test]
fn an_answer_of_the_upstream_is_judged_by_its_status() {
    let info = info("via_upstream", &[]);
    for status in [200, 204, 301, 304, 400, 401, 404, 408, 429, 499, 600] {
        assert_eq!(of_answer(http(status), &info), Outcome::Success, "{status}");
        assert_eq!(end(http(status), &info), Outcome::Success, "{status}");
    }
    for status in [500, 501, 502, 503, 504, 599] {
        assert_eq!(of_answer(http(status), &info), Outcome::Failure, "{status}");
        assert_eq!(end(http(status), &info), Outcome::Failure, "{status}");
    }
}

#[test]
fn an_answer_of_the_upstream_is_judged_by_its_grpc_status() {
    let info = info("via_upstream", &[]);
    // UNKNOWN, DEADLINE_EXCEEDED, INTERNAL, UNAVAILABLE, DATA_LOSS.
    let failed = [2, 4, 13, 14, 15];
    for status in 0..=17 {
        let expected = if failed.contains(&status) { Outcome::Failure } else { Outcome::Success };
        assert_eq!(of_answer(grpc(status), &info), expected, "{status}");
        assert_eq!(end(grpc(status), &info), expected, "{status} in trailers");
    }
    assert_eq!(of_answer(Status { http: Some(503), grpc: Some(0) }, &info), Outcome::Failure);
}

#[test]
fn what_the_router_retried_is_one_outcome_by_its_last_answer() {
    let exhausted = info("via_upstream", &["URX"]);
    assert_eq!(of_answer(http(503), &exhausted), Outcome::Failure);
    assert_eq!(of_answer(http(200), &info("via_upstream", &[])), Outcome::Success);
    let never_connected = info("upstream_reset_before_response_started{connection_timeout}", &["UF", "URX"]);
    assert_eq!(of_answer(http(503), &never_connected), Outcome::Failure);
}

#[test]
fn what_ended_without_an_answer_because_of_the_upstream_is_a_failure() {
    for (status, details, flag) in [
        (503, "no_healthy_upstream", "UH"),
        (503, "upstream_reset_before_response_started{connection_refused}", "UF"),
        (503, "upstream_reset_before_response_started{remote_reset}", "UR"),
        (503, "upstream_reset_before_response_started{local_reset}", "LR"),
        (503, "upstream_reset_before_response_started{connection_termination}", "UC"),
        (502, "upstream_reset_before_response_started{protocol_error}", "UPE"),
        (504, "response_timeout", "UT"),
        (504, "upstream_per_try_timeout", "UT"),
        (504, "upstream_max_stream_duration_reached", "UMSDR"),
        (504, "stream_idle_timeout", "SI"),
    ] {
        assert_eq!(of_answer(http(status), &info(details, &[flag])), Outcome::Failure, "{details}");
        assert_eq!(end(http(status), &info(details, &[flag])), Outcome::Failure, "{details}");
    }
}

#[test]
fn a_reset_in_mid_body_is_a_failure_whatever_the_headers_said() {
    for (details, flag) in [
        ("upstream_reset_after_response_started{connection_termination}", "UC"),
        ("upstream_reset_after_response_started{remote_reset}", "UR"),
        ("upstream_reset_after_response_started{protocol_error}", "UPE"),
        ("upstream_max_stream_duration_reached", "UMSDR"),
    ] {
        for status in [http(200), grpc(0), NO_ANSWER] {
            assert_eq!(end(status, &info(details, &[flag])), Outcome::Failure, "{details}");
        }
    }
}

#[test]
fn what_says_nothing_of_the_upstream_is_ignored() {
    for (status, details, flags) in [
        (503, "upstream_reset_before_response_started{overflow}", ["UO"].as_slice()),
        (503, "overload", &["OM"]),
        (404, "route_not_found", &["NR"]),
        (503, "cluster_not_found", &["NC"]),
        (503, "direct_response", &[]),
        (301, "direct_response", &[]),
        (403, "rbac_access_denied_matched_policy[none]", &[]),
        (403, "ext_authz_denied", &["UAEX"]),
        (429, "request_rate_limited", &["RL"]),
        (500, "rate_limiter_error", &["RLSE"]),
        (503, "fault_filter_abort", &["FI"]),
        (503, "fault_filter_abort", &["DI", "FI"]),
        (503, "resilience:checkout:circuit_open", &[]),
        (503, "drop_overload", &["DO"]),
        (503, "unconditional_drop_overload", &["UDO"]),
        (503, "filter_added_by_somebody_else", &[]),
        (500, "", &[]),
        (408, "stream_idle_timeout", &["SI"]),
        (408, "request_overall_timeout", &[]),
        (400, "request_headers_failed_strict_check", &["IH"]),
        (503, "health_check_failed", &["LH"]),
    ] {
        assert_eq!(of_answer(http(status), &info(details, flags)), Outcome::Ignored, "{details} {flags:?}");
        assert_eq!(end(http(status), &info(details, flags)), Outcome::Ignored, "{details} {flags:?}");
    }
}

#[test]
fn overflow_does_not_excuse_what_the_upstream_has_failed() {
    // Envoy's limit on retries at once is flagged beside what was not retried because of it.
    for other in ["UF", "UR", "UC", "UPE", "UT"] {
        let both = info("upstream_reset_before_response_started{}", &["UO", other]);
        assert_eq!(of_answer(http(503), &both), Outcome::Failure, "{other}");
    }
    assert_eq!(of_answer(http(503), &info("via_upstream", &["UO"])), Outcome::Failure);
    let alone = info("upstream_reset_before_response_started{overflow}", &["UO", "URX"]);
    assert_eq!(of_answer(http(503), &alone), Outcome::Ignored);
    assert_eq!(of_answer(grpc(14), &alone), Outcome::Ignored);
}

#[test]
fn time_that_ran_out_is_the_upstreams_failure_once_it_had_the_whole_request() {
    for info in [info("stream_idle_timeout", &["SI"]), info("max_duration_timeout", &[])] {
        for (status, expected) in [
            (http(504), Outcome::Failure),
            (grpc(14), Outcome::Failure),
            (grpc(4), Outcome::Failure),
            (http(408), Outcome::Ignored),
            (grpc(2), Outcome::Ignored),
            // In the middle of an answer nobody can tell who kept silent.
            (http(200), Outcome::Ignored),
            (grpc(0), Outcome::Ignored),
            (NO_ANSWER, Outcome::Ignored),
        ] {
            assert_eq!(end(status, &info), expected, "{status:?} {info:?}");
        }
    }
    assert_eq!(end(http(504), &info("request_overall_timeout", &[])), Outcome::Ignored);
    let given_up = info("request_payload_exceeded_retry_buffer_limit", &[]);
    assert_eq!(end(http(507), &given_up), Outcome::Failure, "a retry was due: the upstream has failed");
    assert_eq!(end(grpc(14), &info("local_rate_limited", &["RL"])), Outcome::Ignored);
}

#[test]
fn time_that_ran_out_in_the_queue_is_not_the_upstreams() {
    for (details, flags) in [("stream_idle_timeout", &["SI"][..]), ("max_duration_timeout", &[])] {
        let waited = StreamInfo {
            waited: Duration::from_secs(3),
            called: Duration::from_secs(2),
            ..info(details, flags)
        };
        assert_eq!(end(http(504), &waited), Outcome::Ignored, "{details}");
    }
    // What was with the upstream for as long as it waited is judged like one that did not wait.
    let both = Duration::from_secs(2);
    let waited = StreamInfo { waited: both, called: both, ..info("stream_idle_timeout", &["SI"]) };
    assert_eq!(end(http(504), &waited), Outcome::Failure);
    // The router's clock begins when the wait is over, and an answer is an answer.
    let waited = StreamInfo {
        waited: Duration::from_secs(3),
        called: Duration::from_secs(2),
        ..info("response_timeout", &["UT"])
    };
    assert_eq!(end(http(504), &waited), Outcome::Failure);
    // Unless a deadline left the upstream only what the wait had not used up.
    let hurried = StreamInfo { hurried: true, ..waited };
    assert_eq!(end(http(504), &hurried), Outcome::Ignored);
    let longer = StreamInfo { called: Duration::from_secs(3), ..hurried };
    assert_eq!(end(http(504), &longer), Outcome::Failure);
    let per_try = StreamInfo { hurried: true, ..info("upstream_per_try_timeout", &["UT"]) };
    assert_eq!(end(http(504), &per_try), Outcome::Failure);
    let waited = StreamInfo {
        waited: Duration::from_secs(3),
        called: Duration::from_secs(2),
        ..info("via_upstream", &[])
    };
    assert_eq!(end(http(504), &waited), Outcome::Failure);
}

#[test]
fn a_request_that_we_ended_blames_an_upstream_that_had_it_whole_and_for_most_of_the_time() {
    let seconds = Duration::from_secs;
    assert_eq!(of_our_timeout(seconds(0), Some(seconds(3))), Outcome::Failure);
    assert_eq!(of_our_timeout(seconds(2), Some(seconds(2))), Outcome::Failure);
    assert_eq!(of_our_timeout(seconds(3), Some(seconds(2))), Outcome::Ignored);
    assert_eq!(of_our_timeout(seconds(0), None), Outcome::Ignored);
}

#[test]
fn a_client_that_left_before_any_answer_proves_nothing() {
    for (details, flag) in [("downstream_remote_disconnect", "DC"), ("http2.remote_reset", "DR"), ("", "DC")]
    {
        assert_eq!(end(NO_ANSWER, &info(details, &[flag])), Outcome::Ignored, "{flag}");
    }
}

#[test]
fn a_client_that_left_during_the_answer_takes_nothing_back() {
    // HTTP/1 clients close the connection, HTTP/2 clients reset the stream.
    for (details, flag) in [("downstream_remote_disconnect", "DC"), ("http2.remote_reset", "DR")] {
        let info = info(details, &[flag]);
        assert_eq!(of_end(http(200), &info, || true), Outcome::Success, "{flag}");
        assert_eq!(of_end(http(404), &info, || true), Outcome::Success, "{flag}");
        assert_eq!(of_end(http(503), &info, || true), Outcome::Failure, "{flag}");
        assert_eq!(of_end(http(200), &info, || false), Outcome::Ignored, "{flag}: a direct response");
    }
}

#[test]
fn a_client_that_leaves_does_not_excuse_the_upstream() {
    let both = info("upstream_reset_after_response_started{remote_reset}", &["UR", "DC"]);
    assert_eq!(end(http(200), &both), Outcome::Failure);
}

#[test]
fn a_stream_of_which_nothing_is_known_is_ignored() {
    assert_eq!(of_answer(NO_ANSWER, &StreamInfo::default()), Outcome::Ignored);
    assert_eq!(end(NO_ANSWER, &StreamInfo::default()), Outcome::Ignored);
    // The upstream's answer without a status is one that began well.
    assert_eq!(end(NO_ANSWER, &info("via_upstream", &[])), Outcome::Success);
}

#[test]
fn only_the_exact_details_are_the_upstreams() {
    assert!(is_via_upstream(b"via_upstream"));
    for details in [b"".as_slice(), b"via_upstream2", b"VIA_UPSTREAM", b"via_upstrea", b" via_upstream"] {
        assert!(!is_via_upstream(details));
    }
}

#[test]
fn statuses_are_read_as_headers_carry_them() {
    for (value, expected) in [
        (b"200".as_slice(), Some(200)),
        (b"0", Some(0)),
        (b" 14 ", Some(14)),
        (b"65535", Some(65535)),
        (b"65536", None),
        (b"-1", None),
        (b"", None),
        (b"2e2", None),
        (b"14, 0", None),
        (b"\xff\xfe", None),
        (&[b'9'; 60_000], None),
    ] {
        assert_eq!(parse_status(value), expected, "{:?}", &value[..value.len().min(10)]);
    }
}
