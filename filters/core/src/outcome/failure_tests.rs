//! Why an answer is a failure to its caller.

use super::tests::{grpc, http, info};
use super::*;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn of(status: Status, details: &str, flags: &[&str]) -> Option<Reason> {
    failure(&Rules::DEFAULT, status.into(), true, &info(details, flags))
}

#[test]
fn what_the_upstreams_headers_leave_open_is_no_failure_yet() {
    let of =
        |details, flags: &[&str]| failure(&Rules::DEFAULT, http(503).into(), false, &info(details, flags));
    assert_eq!(of("via_upstream", &[]), None);
    assert_eq!(of("no_healthy_upstream", &["UH"]), Some(Reason::ConnectFailure), "Envoy's own is all there");
}

#[test]
fn what_the_upstream_says_is_judged_by_the_rules() {
    for status in [http(500), http(503), http(599), grpc(14), grpc(2)] {
        assert_eq!(of(status, "via_upstream", &[]), Some(Reason::UpstreamFailure));
        assert_eq!(of(status, "via_upstream", &["URX"]), Some(Reason::UpstreamFailure), "retried in vain");
    }
    for status in [http(200), http(404), http(429), grpc(0), grpc(5)] {
        assert_eq!(of(status, "via_upstream", &[]), None);
    }
    let unavailable = Criteria { status: vec![503..=503].into(), ..Criteria::NONE };
    let rules = Rules { failure: Criteria::FAILURE, ignore: unavailable };
    let judge = |status| failure(&rules, http(status).into(), true, &info("via_upstream", &[]));
    assert_eq!((judge(503), judge(500)), (None, Some(Reason::UpstreamFailure)));
}

#[test]
fn what_envoy_says_instead_has_a_reason_of_its_own() {
    use Reason::{ConnectFailure, Reset, Timeout, UpstreamFailure};
    for (reason, status, details, flags) in [
        (ConnectFailure, 503, "no_healthy_upstream", &["UH"][..]),
        (ConnectFailure, 503, "upstream_reset_before_response_started{connection_refused}", &["UF"]),
        (ConnectFailure, 503, "upstream_reset_before_response_started{connection_timeout}", &["UF", "URX"]),
        (ConnectFailure, 503, "upstream_reset_before_response_started{overflow}", &["UO"]),
        (ConnectFailure, 503, "drop_overload", &["DO"]),
        (ConnectFailure, 503, "unconditional_drop_overload", &["UDO"]),
        (Reset, 503, "upstream_reset_before_response_started{remote_reset}", &["UR"]),
        // A limit that forbids the retry does not undo what there was to retry.
        (Reset, 503, "upstream_reset_before_response_started{remote_reset}", &["UR", "UO"]),
        (Reset, 503, "upstream_reset_before_response_started{local_reset}", &["LR"]),
        (Reset, 503, "upstream_reset_before_response_started{connection_termination}", &["UC"]),
        (Reset, 502, "upstream_reset_before_response_started{protocol_error}", &["UPE"]),
        (Timeout, 504, "response_timeout", &["UT"]),
        (Timeout, 504, "upstream_per_try_timeout", &["UT", "URX"]),
        (Timeout, 504, "upstream_max_stream_duration_reached", &["UMSDR"]),
        (Timeout, 504, "stream_idle_timeout", &["SI"]),
        (Timeout, 504, "max_duration_timeout", &[]),
        (UpstreamFailure, 507, "request_payload_exceeded_retry_buffer_limit", &[]),
    ] {
        assert_eq!(of(http(status), details, flags), Some(reason), "{details} {flags:?}");
    }
    // Whatever status an operator gives Envoy's own answers.
    assert_eq!(of(http(418), "no_healthy_upstream", &["UH"]), Some(ConnectFailure));
    assert_eq!(of(grpc(14), "response_timeout", &["UT"]), Some(Timeout));
}

#[test]
fn what_nobody_behind_us_is_to_blame_for_is_no_failure() {
    for (status, details, flags) in [
        (404, "route_not_found", &["NR"][..]),
        (503, "cluster_not_found", &["NC"]),
        (503, "fault_filter_abort", &["FI"]),
        (403, "ext_authz_denied", &["UAEX"]),
        (429, "request_rate_limited", &["RL"]),
        (503, "direct_response", &[]),
        // The client's own part was missing.
        (408, "stream_idle_timeout", &["SI"]),
        (408, "request_overall_timeout", &[]),
        (503, "resilience:p:circuit_open", &[]),
    ] {
        assert_eq!(of(http(status), details, flags), None, "{details}");
    }
}

#[test]
fn time_that_went_by_in_our_queue_is_no_evidence_and_no_answer_either() {
    let second = Duration::from_secs(1);
    let info = StreamInfo { waited: second, hurried: true, ..info("response_timeout", &["UT"]) };
    assert_eq!(super::of_answer(&Rules::DEFAULT, http(504).into(), &info), Outcome::Ignored);
    assert_eq!(failure(&Rules::DEFAULT, http(504).into(), true, &info), Some(Reason::Timeout));
}

#[test]
fn only_an_answer_that_the_router_timed_is_surely_the_upstreams() {
    let read = |headers: &[(&'static [u8], &'static [u8])]| Rules::DEFAULT.read(headers.iter().copied());
    assert!(read(&[(b":status", b"200")]).may_be_envoys());
    assert!(!read(&[(b":status", b"200"), (b"x-envoy-upstream-service-time", b"3")]).may_be_envoys());
}
