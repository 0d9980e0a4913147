//! What rules of an operator's own make of answers, and what is none of their business.

use super::*;
use std::borrow::Cow;
use std::ops::RangeInclusive;
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

fn via_upstream() -> StreamInfo {
    StreamInfo { details: VIA_UPSTREAM.to_vec(), flags: 0, ..StreamInfo::default() }
}

fn status(ranges: &[RangeInclusive<u16>]) -> Criteria {
    Criteria { status: Cow::Owned(ranges.to_vec()), ..Criteria::NONE }
}

fn grpc_status(codes: &[u16]) -> Criteria {
    Criteria { grpc_status: Cow::Owned(codes.to_vec()), ..Criteria::NONE }
}

fn header(name: &str, value: &str) -> Criteria {
    Criteria { headers: vec![(name.to_owned(), value.to_owned())], ..Criteria::NONE }
}

fn failing(failure: Criteria) -> Rules {
    Rules { failure, ..Rules::DEFAULT }
}

fn ignoring(ignore: Criteria) -> Rules {
    Rules { ignore, ..Rules::DEFAULT }
}

fn read(rules: &Rules, headers: &[(&str, &str)]) -> Answer {
    rules.read(headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())))
}

fn judged(rules: &Rules, headers: &[(&str, &str)]) -> Outcome {
    let outcome = rules.judge(read(rules, headers));
    let answer = read(rules, headers);
    assert_eq!(of_answer(rules, answer, &via_upstream()), outcome);
    assert_eq!(of_end(rules, answer, &via_upstream(), || panic!("asked for nothing")), outcome);
    outcome
}

#[test]
fn a_status_of_the_failures_is_one_and_no_other_is() {
    let rules = failing(status(&[429..=429, 500..=503]));
    for (code, expected) in [
        ("428", Outcome::Success),
        ("429", Outcome::Failure),
        ("430", Outcome::Success),
        ("499", Outcome::Success),
        ("500", Outcome::Failure),
        ("503", Outcome::Failure),
        ("504", Outcome::Success),
    ] {
        assert_eq!(judged(&rules, &[(":status", code)]), expected, "{code}");
    }
    let never = failing(status(&[]));
    assert_eq!(judged(&never, &[(":status", "500")]), Outcome::Success);
}

#[test]
fn what_is_ignored_is_so_whatever_else_it_is() {
    let answer = [(":status", "503"), ("grpc-status", "14"), ("x-degraded", "true")];
    let failure = Criteria { headers: header("x-degraded", "true").headers, ..Criteria::FAILURE };
    for ignore in [status(&[503..=503]), grpc_status(&[14]), header("x-degraded", "true")] {
        let rules = Rules { failure: failure.clone(), ignore };
        assert_eq!(judged(&rules, &answer), Outcome::Ignored, "{rules:?}");
        assert_eq!(judged(&rules, &[(":status", "500")]), Outcome::Failure, "{rules:?}");
        assert_eq!(judged(&rules, &[(":status", "200")]), Outcome::Success, "{rules:?}");
    }
}

#[test]
fn a_header_decides_by_its_whole_value() {
    let rules = failing(header("x-degraded", "true"));
    for (headers, expected) in [
        ([(":status", "200"), ("x-degraded", "true")].as_slice(), Outcome::Failure),
        (&[("x-degraded", "true"), (":status", "200")], Outcome::Failure),
        // One of several is enough, wherever it stands.
        (&[("x-degraded", "false"), (":status", "200"), ("x-degraded", "true")], Outcome::Failure),
        (&[("x-degraded", "true"), (":status", "200"), ("x-degraded", "false")], Outcome::Failure),
        (&[(":status", "200"), ("x-degraded", "True")], Outcome::Success),
        (&[(":status", "200"), ("x-degraded", "true, false")], Outcome::Success),
        (&[(":status", "200"), ("x-degraded", "")], Outcome::Success),
        (&[(":status", "200"), ("x-degrade", "true")], Outcome::Success),
        (&[(":status", "200"), ("x-degraded-by", "true")], Outcome::Success),
        (&[(":status", "200"), ("true", "x-degraded")], Outcome::Success),
        (&[(":status", "200")], Outcome::Success),
    ] {
        assert_eq!(judged(&rules, headers), expected, "{headers:?}");
    }
    assert_eq!(judged(&failing(header("x-empty", "")), &[("x-empty", "")]), Outcome::Failure);
}

#[test]
fn of_a_status_that_stands_twice_the_first_counts() {
    let rules = Rules::DEFAULT;
    let answer =
        read(&rules, &[(":status", "200"), (":status", "500"), ("grpc-status", "0"), ("grpc-status", "14")]);
    assert_eq!(answer.status, Status { http: Some(200), grpc: Some(0) });
    assert_eq!(read(&rules, &[]), Answer::default());
    assert_eq!(read(&rules, &[(":status", "\u{0}"), ("grpc-status", "x")]), Answer::default());
}

#[test]
fn a_grpc_call_that_its_client_leaves_before_the_status_proves_nothing() {
    let left =
        StreamInfo { details: b"http2.remote_reset".to_vec(), flags: 1 << 28, ..StreamInfo::default() };
    let end = |content_type, more: &[(&'static str, &'static str)]| {
        let headers = [&[(":status", "200"), ("content-type", content_type)], more].concat();
        of_end(&Rules::DEFAULT, read(&Rules::DEFAULT, &headers), &left, || true)
    };
    for grpc in ["application/grpc", "application/grpc+proto"] {
        assert_eq!(end(grpc, &[]), Outcome::Ignored, "{grpc}");
        assert_eq!(end(grpc, &[("grpc-status", "5")]), Outcome::Success, "{grpc}");
    }
    for other in ["text/plain", "application/grpc-web", "application/grpcx", ""] {
        assert_eq!(end(other, &[]), Outcome::Success, "{other}");
    }
    assert_eq!(
        end("text/plain", &[("content-type", "application/grpc")]),
        Outcome::Success,
        "the first counts"
    );
}

#[test]
fn no_rule_touches_what_ended_without_an_answer_of_the_upstream() {
    let everything = || Criteria {
        status: Cow::Owned(vec![100..=599]),
        grpc_status: Cow::Owned((0..=16).collect()),
        headers: vec![("x-degraded".to_owned(), "true".to_owned())],
    };
    let refused = StreamInfo {
        details: b"upstream_reset_before_response_started{connection_refused}".to_vec(),
        flags: 1 << 5,
        ..StreamInfo::default()
    };
    let limited =
        StreamInfo { details: b"local_rate_limited".to_vec(), flags: 1 << 11, ..StreamInfo::default() };
    for rules in [
        Rules { failure: Criteria::NONE, ignore: Criteria::NONE },
        Rules { failure: everything(), ignore: Criteria::NONE },
        Rules { failure: Criteria::NONE, ignore: everything() },
    ] {
        for headers in
            [[(":status", "503"), ("x-degraded", "true")], [(":status", "200"), ("grpc-status", "14")]]
        {
            let answer = read(&rules, &headers);
            for (info, expected) in [(&refused, Outcome::Failure), (&limited, Outcome::Ignored)] {
                assert_eq!(of_answer(&rules, answer, info), expected, "{rules:?}");
                assert_eq!(
                    of_end(&rules, answer, info, || panic!("asked for nothing")),
                    expected,
                    "{rules:?}"
                );
            }
        }
        let broken = StreamInfo {
            details: b"upstream_reset_after_response_started{remote_reset}".to_vec(),
            flags: 1 << 4,
            ..StreamInfo::default()
        };
        let answer = read(&rules, &[(":status", "200")]);
        assert_eq!(of_end(&rules, answer, &broken, || panic!("asked for nothing")), Outcome::Failure);
        let silent =
            StreamInfo { details: b"stream_idle_timeout".to_vec(), flags: 1 << 16, ..StreamInfo::default() };
        let answer = read(&rules, &[(":status", "504")]);
        assert_eq!(of_end(&rules, answer, &silent, || panic!("asked for nothing")), Outcome::Failure);
    }
}

#[test]
fn a_client_that_leaves_during_the_answer_leaves_what_the_rules_say() {
    let left = StreamInfo {
        details: b"downstream_remote_disconnect".to_vec(),
        flags: 1 << 14,
        ..StreamInfo::default()
    };
    let rules = Rules { failure: status(&[404..=404]), ignore: status(&[503..=503]) };
    for (code, expected) in [("200", Outcome::Success), ("404", Outcome::Failure), ("503", Outcome::Ignored)]
    {
        assert_eq!(of_end(&rules, read(&rules, &[(":status", code)]), &left, || true), expected, "{code}");
    }
}

#[test]
fn headers_settle_what_nothing_can_change_any_more() {
    use Standing::{Provisional, Settled, SettledUnlessGrpc};
    let plain = Rules::DEFAULT;
    let by_status = ignoring(status(&[503..=503]));
    let by_grpc = ignoring(grpc_status(&[14]));
    for (rules, headers, others, probes) in [
        (&plain, [(":status", "200")].as_slice(), Provisional, SettledUnlessGrpc),
        (&plain, &[(":status", "200"), ("grpc-status", "0")], Provisional, Settled),
        (&plain, &[(":status", "200"), ("grpc-status", "14")], Settled, Settled),
        (&plain, &[(":status", "503")], Settled, Settled),
        (&by_status, &[(":status", "503")], Settled, Settled),
        (&by_status, &[(":status", "500")], Settled, Settled),
        (&by_status, &[(":status", "200")], Provisional, SettledUnlessGrpc),
        // The status that would have it ignored may still come.
        (&by_grpc, &[(":status", "503")], SettledUnlessGrpc, SettledUnlessGrpc),
        (&by_grpc, &[(":status", "503"), ("grpc-status", "13")], Settled, Settled),
        (&by_grpc, &[(":status", "503"), ("grpc-status", "14")], Settled, Settled),
    ] {
        let answer = read(rules, headers);
        assert_eq!(rules.standing(answer, false), others, "{rules:?} {headers:?}");
        assert_eq!(rules.standing(answer, true), probes, "{rules:?} {headers:?}, a probe");
    }
}
