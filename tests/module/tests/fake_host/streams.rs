//! What a stream shows and takes: headers, properties and a reply of the module's own.

use crate::Test;
use resilience_module_tests::{Action, Map, MutationKind, headers, status};

#[test]
fn request_headers_can_be_read_only_in_their_phase_and_in_the_log() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.set_request_headers(headers(&[("X-One", "first"), ("x-one", "second")]));
    test.name(b"x-oNe");
    assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
    assert_eq!((test.word(24), test.handed()), (status::OK, b"first".to_vec()));
    assert_eq!(stream.response_headers(true).unwrap(), Action::Continue);
    assert_eq!(test.word(24), status::BAD_ARGUMENT);
    stream.log().unwrap();
    assert_eq!((test.word(24), test.handed()), (status::OK, b"first".to_vec()));
    stream.delete().unwrap();
    assert_eq!(test.word(24), status::BAD_ARGUMENT);
    assert_eq!(test.call("effective_of", &[1, stream.id()]), status::BAD_ARGUMENT, "it is gone");
    // A request that is held keeps its headers.
    let held = test.vm.stream(1);
    held.set_request_headers(headers(&[("x-one", "held")]));
    test.call("answer_with", &[1]);
    assert_eq!(held.request_headers(false).unwrap(), Action::Pause);
    assert_eq!(test.call("get_header_of", &[held.id(), 0, 0, 5, 16, 20]), status::OK);
    assert_eq!(test.handed(), b"held");
    test.call("answer_with", &[9]);
    assert_eq!(held.trailers().unwrap(), Action::Other(9));
    assert_eq!(test.word(24), status::NOT_FOUND);
    assert_eq!(test.call("get_header_of", &[held.id(), 9, 0, 5, 16, 20]), status::BAD_ARGUMENT);
}

#[test]
fn headers_of_any_bytes_arrive_and_changes_are_kept() {
    let test = Test::new();
    test.call("answer_with", &[1]);
    let stream = test.vm.stream(1);
    let value = vec![0xff; 60_000];
    stream.set_request_headers(vec![(b"x-one".to_vec(), value.clone()), (b"b".to_vec(), Vec::new())]);
    test.name(b"x-one");
    stream.request_headers(false).unwrap();
    assert_eq!(test.handed(), value);
    // An empty value is found, and costs no memory.
    assert_eq!(test.call("get_header_of", &[stream.id(), 0, test.name(b"b") - 1, 1, 16, 20]), status::OK);
    assert_eq!((test.word(16), test.word(20)), (0, 0));
    assert_eq!(test.call("get_headers_of", &[stream.id(), 0, 16, 20]), status::OK);
    assert_eq!(test.handed().len(), 4 + 2 * 8 + 5 + 1 + 60_000 + 1 + 1 + 1 + 1);
    test.name(b"x-oneV");
    for export in ["add_header_of", "replace_header_of"] {
        assert_eq!(test.call(export, &[stream.id(), 0, 0, 5, 5, 1]), status::OK);
    }
    assert_eq!(test.call("remove_header_of", &[stream.id(), 0, 100, 0]), status::OK);
    assert_eq!(test.call("add_header_of", &[stream.id(), 2, 0, 5, 5, 1]), status::BAD_ARGUMENT);
    let kinds: Vec<_> = stream.mutations().into_iter().map(|mutation| mutation.kind).collect();
    assert_eq!(kinds, [MutationKind::Add, MutationKind::Replace, MutationKind::Remove]);
    assert_eq!(stream.headers(Map::RequestHeaders), headers(&[("b", ""), ("x-one", "V")]));
    // What splits a header is never let through in silence.
    test.vm.write_memory(100, b"a\r\nb");
    assert!(test.vm.call("add_header_of", &[stream.id(), 0, 0, 5, 100, 4]).is_err());
}

#[test]
fn properties_belong_to_a_stream_or_to_all() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.request_headers(true).unwrap();
    stream.set_property(b"response\0flags", [1, 2, 3]);
    test.vm.set_property("plugin_name", "p");
    let get = |id: u32, path: &[u8]| {
        let len = test.name(path);
        match test.call("get_property_of", &[id, 0, len, 16, 20]) {
            status::OK => Ok(test.handed()),
            status => Err(status),
        }
    };
    assert_eq!(get(stream.id(), b"response\0flags"), Ok(vec![1, 2, 3]));
    assert_eq!(get(stream.id(), b"plugin_name"), Ok(b"p".to_vec()));
    assert_eq!(get(1, b"response\0flags"), Err(status::NOT_FOUND));
    let len = test.name(b"own");
    assert_eq!(test.call("set_property_of", &[stream.id(), 0, len, 0, 2]), status::OK);
    assert_eq!(stream.property_set("own").as_deref(), Some("ow"));
    assert_eq!(get(stream.id(), b"own"), Ok(b"ow".to_vec()));
    let len = test.name(b"own");
    assert_eq!(test.call("set_property_of", &[1, 0, len, 0, 2]), status::NOT_FOUND, "a root has no stream");
    stream.remove_property(b"response\0flags");
    assert_eq!(get(stream.id(), b"response\0flags"), Err(status::NOT_FOUND));
}

#[test]
fn a_local_response_is_captured_once_and_comes_back_as_a_response() {
    let test = Test::new();
    let stream = test.vm.stream(1);
    stream.request_headers(true).unwrap();
    test.name(b"abcde");
    let pairs = [&[1, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0][..], b"a\0bc\0"].concat();
    test.vm.write_memory(512, &pairs);
    assert_eq!(test.call("reply_of", &[stream.id(), 512, pairs.len() as u32]), status::OK);
    let reply = stream.local_response().unwrap();
    assert_eq!((reply.status, reply.grpc_status, reply.callback.as_str()), (503, -1, "reply_of"));
    assert_eq!((reply.details.as_slice(), reply.body.as_slice()), (&b"abcde"[..], &b"abc"[..]));
    assert_eq!(reply.header("a").as_deref(), Some("bc"));
    stream.deliver_local_response().unwrap();
    assert_eq!(stream.header(Map::ResponseHeaders, ":status").as_deref(), Some("503"));
    assert_eq!(stream.header(Map::ResponseHeaders, "content-length").as_deref(), Some("3"));
    let again = test.vm.call("reply_of", &[stream.id(), 512, pairs.len() as u32]).unwrap_err();
    assert!(again.to_string().contains("second local response"), "{again}");
    let other = test.vm.stream(1);
    other.request_headers(true).unwrap();
    let malformed = test.vm.call("reply_of", &[other.id(), 512, 7]).unwrap_err();
    assert!(malformed.to_string().contains("malformed headers"), "{malformed}");
}
