//! Pieces of an answer's body, and what a client gets of it.

use crate::Test;
use resilience_module_tests::{Action, FakeStream, headers, status};

const BODY: u32 = 1;
const ALL: u32 = u32::MAX;

/// Has the module set a buffer to these bytes in whatever callback of a body comes next.
fn sets(test: &Test, kind: u32, start: u32, length: u32, bytes: &[u8]) {
    test.vm.write_memory(0, bytes);
    for (at, word) in [(3100, kind), (3104, start), (3108, length), (3112, bytes.len() as u32)] {
        test.vm.write_memory(at, &word.to_le_bytes());
    }
}

/// An answer whose headers have gone on.
fn answered(test: &Test) -> FakeStream {
    let stream = test.vm.stream(1);
    test.call("answer_with", &[0]);
    stream.set_response_headers(headers(&[(":status", "200")]));
    assert_eq!(stream.response_headers(false).unwrap(), Action::Continue);
    stream
}

#[test]
fn a_piece_is_changed_as_envoy_changes_it_and_only_while_it_is_shown() {
    for (kind, start, length, expected, body) in [
        (BODY, 0, ALL, status::OK, "new"),
        (BODY, 0, 5, status::OK, "new"),
        (BODY, 0, 0, status::OK, "newpiece"),
        (BODY, 5, 0, status::OK, "piecenew"),
        (BODY, ALL, 0, status::OK, "piecenew"),
        (BODY, 0, 4, status::BAD_ARGUMENT, "piece"),
        (BODY, 1, 4, status::BAD_ARGUMENT, "piece"),
        (0, 0, ALL, status::BAD_ARGUMENT, "piece"),
        (7, 0, ALL, status::BAD_ARGUMENT, "piece"),
        (99, 0, ALL, status::BAD_ARGUMENT, "piece"),
    ] {
        let test = Test::new();
        let stream = answered(&test);
        sets(&test, kind, start, length, b"new");
        assert_eq!(stream.response_body("piece", true).unwrap(), Action::Continue);
        assert_eq!(test.word(24), expected, "{kind} {start} {length}");
        assert_eq!(stream.received().body(), body.as_bytes(), "{kind} {start} {length}");
        test.call("set_buffer_of", &[stream.id()]);
        assert_eq!(test.word(24), status::BAD_ARGUMENT, "it has gone on");
    }
}

#[test]
fn a_piece_that_is_dropped_does_not_go_on() {
    let test = Test::new();
    let stream = answered(&test);
    sets(&test, BODY, ALL, 0, b"");
    for (action, expected) in
        [(0, Action::Continue), (3, Action::Drop), (1, Action::Pause), (9, Action::Other(9))]
    {
        test.call("answer_with", &[action]);
        assert_eq!(stream.response_body(action.to_string(), false).unwrap(), expected);
    }
    test.call("answer_with", &[0]);
    let received = stream.received();
    assert_eq!((received.body(), received.ended), (b"0".to_vec(), false));
    assert_eq!(received.is_well_formed("GET"), Err("it does not end".to_owned()));
    stream.set_response_trailers(headers(&[("a", "b")]));
    stream.trailers().unwrap();
    let received = stream.received();
    assert_eq!((received.trailers.clone(), received.ended), (Some(headers(&[("a", "b")])), true));
    assert_eq!(received.is_well_formed("GET"), Ok(()));
}

#[test]
fn what_no_client_makes_sense_of_is_called_so() {
    for (method, answer, pieces, expected) in [
        ("GET", vec![(":status", "200")], vec!["a"], true),
        ("GET", vec![(":status", "200")], vec!["a", ""], true),
        ("GET", vec![(":status", "200")], vec!["", "a"], false),
        ("GET", vec![(":status", "200"), ("content-length", "2")], vec!["a", "b"], true),
        ("GET", vec![(":status", "200"), ("content-length", "2")], vec!["a"], false),
        ("GET", vec![(":status", "200"), ("content-length", "2")], vec!["abc"], false),
        ("GET", vec![(":status", "200"), ("content-length", "2")], vec![], false),
        ("GET", vec![(":status", "200"), ("content-length", "x")], vec!["a"], false),
        ("HEAD", vec![(":status", "200"), ("content-length", "2")], vec![], true),
        ("HEAD", vec![(":status", "200"), ("content-length", "2")], vec!["ab"], false),
        ("GET", vec![(":status", "204")], vec![""], true),
        ("GET", vec![(":status", "204")], vec!["a"], false),
        ("GET", vec![(":status", "204"), ("content-length", "0")], vec![], false),
        ("GET", vec![(":status", "304"), ("content-length", "9")], vec![], true),
        ("GET", vec![("content-length", "0")], vec![], false),
    ] {
        let test = Test::new();
        let stream = test.vm.stream(1);
        stream.set_response_headers(headers(&answer));
        stream.response_headers(pieces.is_empty()).unwrap();
        sets(&test, BODY, ALL, 0, b"");
        for (number, piece) in pieces.iter().enumerate() {
            stream.response_body(piece, number + 1 == pieces.len()).unwrap();
        }
        let received = stream.received();
        assert_eq!(received.is_well_formed(method).is_ok(), expected, "{method} {answer:?} {pieces:?}");
    }
}

#[test]
fn a_reply_to_an_answer_that_has_begun_is_a_mistake_and_before_that_it_is_none() {
    let test = Test::new();
    let stream = answered(&test);
    let late = test.vm.call("reply_of", &[stream.id(), 512, 0]).unwrap_err();
    assert!(late.to_string().contains("whose answer has begun"), "{late}");

    let stream = test.vm.stream(1);
    stream.request_headers(true).unwrap();
    assert_eq!(test.call("reply_of", &[stream.id(), 512, 0]), status::OK);
    stream.deliver_local_response().unwrap();
    assert_eq!(stream.received().headers, None, "it is no answer of the upstream's");
    // What Envoy was answering meanwhile goes through the filters still.
    stream.response_body("rest", true).unwrap();
    assert_eq!(stream.received().body(), b"");
}
