//! What becomes of the headers and the body of a failed answer.

use super::{Failed, Replacement, Reply, Rewrite, Source, replace};
use crate::fallback::{Caller, Fallbacks};
#[cfg(target_arch = "wasm32")]
use wasm_bindgen_test::wasm_bindgen_test as test;

type Headers = [(&'static str, &'static str)];

/// Who asks, if that is known.
fn caller(method: Option<&str>) -> Caller {
    match method {
        Some(method) => {
            let headers: [(&[u8], &[u8]); 1] = [(b":method", method.as_bytes())];
            Fallbacks::default().caller(headers.into_iter())
        }
        None => Fallbacks::default().stranger(false),
    }
}

fn reply(status: u16, body: &str) -> Reply {
    let headers =
        [("content-type", "text/plain"), ("x-a", "ours"), ("x-resilience", "p;reason=reset;source=static")];
    Reply {
        status,
        details: "resilience:p:reset".to_owned(),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec(),
        body: body.as_bytes().to_vec(),
        grpc_status: None,
        source: Source::Static,
    }
}

fn grpc_reply() -> Reply {
    let mut reply = reply(503, "reset");
    reply.headers.remove(0);
    Reply { grpc_status: Some(14), ..reply }
}

fn put(reply: Reply, headers: &Headers, ends: bool, caller: &Caller) -> Replacement {
    let headers = headers.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes())).collect();
    replace(reply, &Failed { headers, ends }, caller, None)
}

fn in_place(replacement: Replacement) -> Rewrite {
    match replacement {
        Replacement::InPlace(rewrite) => rewrite,
        Replacement::Direct(reply) => panic!("direct: {reply:?}"),
    }
}

fn set<'r>(rewrite: &'r Rewrite, name: &str) -> Vec<&'r str> {
    rewrite.set.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_str()).collect()
}

const LENGTH: &Headers = &[(":status", "503"), ("content-length", "7"), ("content-type", "text/html")];
const CHUNKED: &Headers = &[(":status", "503"), ("transfer-encoding", "chunked")];
const FRAMES: &Headers = &[(":status", "503")];

#[test]
fn headers_that_tell_of_the_failed_answer_go() {
    let headers = [
        (":status", "503"),
        ("content-length", "7"),
        ("content-encoding", "gzip"),
        ("etag", "\"1\""),
        ("cache-control", "max-age=60"),
        ("retry-after", "9"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-a", "theirs"),
        ("x-envoy-overloaded", "true"),
        ("access-control-allow-origin", "*"),
        ("vary", "origin"),
        ("x-envoy-upstream-service-time", "3"),
        ("x-envoy-attempt-count", "2"),
        ("x-request-id", "id"),
    ];
    let rewrite = in_place(put(reply(200, "sorry"), &headers, false, &caller(None)));
    let gone =
        ["cache-control", "content-encoding", "etag", "retry-after", "set-cookie", "x-envoy-overloaded"];
    assert_eq!(rewrite.remove, gone);
    let names: Vec<_> = rewrite.set.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, [":status", "content-type", "x-a", "x-resilience", "content-length"]);
    assert_eq!((set(&rewrite, ":status"), set(&rewrite, "content-length")), (vec!["200"], vec!["5"]));
    assert_eq!(rewrite.body, b"sorry");
}

#[test]
fn a_length_is_told_only_where_bytes_come_for_certain() {
    let length = |headers: &Headers| {
        let rewrite = in_place(put(reply(200, "sorry"), headers, false, &caller(Some("GET"))));
        let told = set(&rewrite, "content-length").concat();
        (told, rewrite.remove.contains(&"content-length".to_owned()), rewrite.body == b"sorry")
    };
    assert_eq!(length(LENGTH), ("5".to_owned(), false, true));
    assert_eq!(length(CHUNKED), (String::new(), false, true));
    assert_eq!(length(FRAMES), (String::new(), false, true));
    assert_eq!(length(&[("content-length", "0")]), (String::new(), true, true));
    assert_eq!(length(&[("content-length", "-1")]), (String::new(), true, true));
}

#[test]
fn what_may_turn_out_to_be_empty_is_not_written_over_where_nobody_knows_the_method() {
    for headers in [FRAMES, &[("content-length", "0")]] {
        assert_eq!(
            put(reply(200, "sorry"), headers, false, &caller(None)),
            Replacement::Direct(reply(200, "sorry"))
        );
        let nothing = in_place(put(reply(200, ""), headers, false, &caller(None)));
        assert!(nothing.body.is_empty() && set(&nothing, "content-length").is_empty());
    }
}

#[test]
fn an_empty_body_is_filled_where_this_cannot_be_the_answer_to_a_head() {
    let fills = |headers: &Headers, method| {
        in_place(put(reply(200, "sorry"), headers, false, &caller(method))).fills_empty
    };
    assert!(fills(FRAMES, Some("GET")) && fills(CHUNKED, Some("GET")) && fills(CHUNKED, None));
    assert!(!fills(LENGTH, None) && !fills(FRAMES, Some("HEAD")));
}

#[test]
fn a_head_gets_the_headers_of_a_body_that_does_not_come() {
    // A length without a body is only told to a HEAD.
    for (headers, ends, method) in [
        (FRAMES, true, Some("HEAD")),
        (FRAMES, false, Some("HEAD")),
        (LENGTH, true, None),
        (LENGTH, true, Some("HEAD")),
    ] {
        let rewrite = in_place(put(reply(200, "sorry"), headers, ends, &caller(method)));
        assert_eq!(
            (set(&rewrite, "content-length"), rewrite.body.len()),
            (vec!["5"], 0),
            "{headers:?} {ends}"
        );
        assert!(!rewrite.fills_empty);
    }
}

#[test]
fn without_a_body_to_write_over_only_another_answer_helps() {
    for method in [None, Some("GET")] {
        let sent = put(reply(200, "sorry"), FRAMES, true, &caller(method));
        assert_eq!(sent, Replacement::Direct(reply(200, "sorry")));
        // A 304 tells of the length that its 200 would have.
        let unmodified = &[(":status", "304"), ("content-length", "7")];
        let sent = put(reply(200, "sorry"), unmodified, true, &caller(method));
        assert_eq!(sent, Replacement::Direct(reply(200, "sorry")));
    }
    // A GET that is told of bytes and gets none: whatever that is, it waits for none of ours.
    let sent = put(reply(200, "sorry"), LENGTH, true, &caller(Some("GET")));
    assert_eq!(sent, Replacement::Direct(reply(200, "sorry")));
}

#[test]
fn an_answer_without_a_body_needs_none_to_write_over() {
    let rewrite = in_place(put(reply(200, ""), FRAMES, true, &caller(None)));
    assert_eq!((set(&rewrite, "content-length"), rewrite.body.len()), (vec!["0"], 0));
    for status in [204, 304] {
        for ends in [true, false] {
            let rewrite = in_place(put(reply(status, ""), LENGTH, ends, &caller(Some("GET"))));
            let gone = rewrite.remove.contains(&"content-length".to_owned());
            assert!(
                gone && set(&rewrite, "content-length").is_empty() && rewrite.body.is_empty(),
                "{status}"
            );
        }
    }
}

#[test]
fn a_grpc_status_is_written_over_where_it_stands_alone() {
    let failed = [
        (":status", "200"),
        ("content-type", "application/grpc+proto"),
        ("grpc-status", "13"),
        ("grpc-message", "boom"),
        ("grpc-status-details-bin", "AAAA"),
    ];
    let rewrite = in_place(put(grpc_reply(), &failed, true, &caller(None)));
    assert_eq!(rewrite.remove, ["grpc-status-details-bin"]);
    for (name, value) in [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", "14"),
        ("grpc-message", "reset"),
        ("x-resilience", "p;reason=reset;source=static"),
    ] {
        assert_eq!(set(&rewrite, name), [value], "{name}");
    }
    assert!(rewrite.body.is_empty() && set(&rewrite, "content-length").is_empty());
    for (headers, ends) in [(&failed[..], false), (LENGTH, false), (FRAMES, true)] {
        assert_eq!(put(grpc_reply(), headers, ends, &caller(None)), Replacement::Direct(grpc_reply()));
    }
}

#[test]
fn what_others_said_before_comes_first() {
    let headers: [(&[u8], &[u8]); 2] = [
        (b"x-resilience", b"far;reason=reset;source=none"),
        (b"x-resilience", b"near;reason=reset;source=fail"),
    ];
    let failed = |ends| Failed { headers: headers.to_vec(), ends };
    let mark = |replacement| match replacement {
        Replacement::InPlace(rewrite) => set(&rewrite, "x-resilience").concat(),
        Replacement::Direct(reply) => reply.headers.last().unwrap().1.clone(),
    };
    let ours = "p;reason=reset;source=static";
    let theirs = "far;reason=reset;source=none, near;reason=reset;source=fail";
    for ends in [false, true] {
        let alone = replace(reply(200, "sorry"), &failed(ends), &caller(Some("GET")), None);
        assert_eq!(mark(alone), format!("{theirs}, {ours}"));
        let led = replace(
            reply(200, "sorry"),
            &failed(ends),
            &caller(Some("GET")),
            Some("q;reason=circuit_open;source=reroute"),
        );
        assert_eq!(mark(led), format!("{theirs}, q;reason=circuit_open;source=reroute, {ours}"));
    }
    // An edge that tells nothing has nothing to put them before, and takes them away.
    let mut silent = reply(200, "sorry");
    silent.headers.pop();
    let rewrite = in_place(replace(silent, &failed(false), &caller(Some("GET")), None));
    assert_eq!((set(&rewrite, "x-resilience").len(), rewrite.remove), (0, vec!["x-resilience".to_owned()]));
}
