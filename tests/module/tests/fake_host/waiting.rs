//! What callbacks of others do to a request that is held, as the host contract shows it of Envoy.

use crate::Test;
use resilience_module_tests::{Action, FakeStream, Map, headers, status};

const ROOT: u32 = 1;

/// A held request whose only header has a name of five letters, which stands at 0.
fn held(test: &Test) -> FakeStream {
    assert!(test.vm.configure(ROOT, "{\"a\": 1}").unwrap());
    test.call("answer_with", &[1]);
    test.name(b"x-one");
    let stream = test.vm.stream(ROOT);
    stream.set_request_headers(headers(&[("x-one", "held")]));
    assert_eq!(stream.request_headers(false).unwrap(), Action::Pause);
    stream
}

#[test]
fn it_is_read_and_goes_on() {
    let test = Test::new();
    let stream = held(&test);
    assert_eq!(test.call("read_other", &[ROOT, stream.id()]), status::OK);
    assert_eq!((test.word(24), test.handed()), (status::OK, b"held".to_vec()));
    assert_eq!(test.call("continue_other", &[ROOT, stream.id(), 0]), status::OK);
    assert_eq!(stream.continued(), [0]);
    assert_eq!(test.call("continue_other", &[ROOT, stream.id(), 5]), status::BAD_ARGUMENT);
    // Its headers are not there any more.
    assert_eq!(test.call("read_other", &[ROOT, stream.id()]), status::BAD_ARGUMENT);
    // A callback begins with its own context again.
    assert_eq!(test.call("read_other", &[ROOT, ROOT]), status::BAD_ARGUMENT);
}

#[test]
fn it_is_answered_and_does_not_go_on() {
    let test = Test::new();
    let stream = held(&test);
    assert_eq!(test.call("reply_to_other", &[ROOT, stream.id()]), status::OK);
    let reply = stream.local_response().unwrap();
    assert_eq!((reply.status, reply.callback.as_str()), (429, "reply_to_other"));
    assert_eq!(test.call("continue_other", &[ROOT, stream.id(), 0]), status::OK);
    assert_eq!(stream.continued(), []);
    stream.deliver_local_response().unwrap();
    assert_eq!(stream.header(Map::ResponseHeaders, ":status").as_deref(), Some("429"));
}

#[test]
fn one_that_is_gone_is_not_had_and_what_follows_does_nothing() {
    let test = Test::new();
    let stream = held(&test);
    stream.finish().unwrap();
    for id in [stream.id(), 4242] {
        assert_eq!(test.call("continue_other", &[ROOT, id, 0]), status::OK);
        assert_eq!(test.word(24), status::BAD_ARGUMENT);
        assert_eq!(test.call("reply_to_other", &[ROOT, id]), status::OK);
        assert_eq!(test.call("read_other", &[ROOT, id]), status::BAD_ARGUMENT);
    }
    assert_eq!((stream.continued(), stream.local_response()), (vec![], None));
}

#[test]
fn every_callback_sets_the_timer_of_its_root() {
    let test = Test::new();
    let stream = held(&test);
    assert_eq!(test.call("period_of", &[stream.id(), 20]), status::OK);
    assert_eq!(test.vm.tick_period(ROOT), Some(20));
    assert_eq!(test.call("period_of", &[ROOT, 30]), status::OK);
    assert_eq!(test.vm.tick_period(ROOT), Some(30));
    stream.finish().unwrap();
}
