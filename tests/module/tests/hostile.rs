//! Input that no client should send, no Envoy should say and no neighbour should leave in shared data.

use resilience_module_tests::shop::{
    CONFIG, End, FAILURES, KEY, OrFail, ROOT, ROUTE, Shop, TICK, VIA_UPSTREAM, WAIT, answer, arrive,
    arrive_at, config_and, describe, enter, policy_and, request, run, serve,
};
use resilience_module_tests::{Action, Headers, Map, Random, headers};
use std::time::Duration;

/// Values that a header may have on its way into a filter, and some that it may not.
fn hostile_values() -> Vec<Vec<u8>> {
    let mut random = Random::new(11);
    vec![
        Vec::new(),
        vec![0xff, 0xfe, 0x80],
        b"caf\xe9".to_vec(),
        vec![0],
        b"a\0b".to_vec(),
        b"\r\nx-injected: 1".to_vec(),
        vec![b'x'; 60 * 1024],
        vec![0xff; 60 * 1024],
        random.bytes(1000),
        b"%s%n%x${jndi:ldap://x}".to_vec(),
        b"-1".to_vec(),
        b"99999999999999999999".to_vec(),
        b" ".to_vec(),
        "\u{202e}\u{0}\u{1F4A5}".as_bytes().to_vec(),
    ]
}

const NAMES: [&str; 12] = [
    ":path",
    ":authority",
    ":method",
    ":scheme",
    "content-type",
    "grpc-status",
    "x-request-id",
    "x-resilience",
    "x-envoy-ratelimited",
    "x-envoy-upstream-rq-timeout-ms",
    "retry-after",
    "x-anything",
];

fn with(mut headers: Headers, name: &str, value: &[u8]) -> Headers {
    headers.retain(|(other, _)| other != name.as_bytes());
    headers.push((name.as_bytes().to_vec(), value.to_vec()));
    headers
}

/// Matches by everything that a request can be asked for, so that everything is read.
fn curious() -> String {
    policy_and(r#""fallback": [{"static": {"status": 503, "text": "%POLICY% %REASON% %RETRY_AFTER% %REQUEST_ID%"}}]"#)
        .replace(
            r#"[{"route": "checkout"}]"#,
            r#"[{"metadata": {"namespace": "shop", "key": "policy", "value": "x"}},
                {"route": "checkout", "host": "*.example", "methods": ["GET"]},
                {"path": {"exact": "/one"}}, {"path": {"prefix": "/two"}}, {"host": "shop.example"}, {"any": true}]"#,
        )
}

#[test]
fn no_request_header_traps_and_none_keeps_a_request_out() {
    let shop = Shop::with(&curious(), 1);
    for name in NAMES {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_request_headers(with(request("/checkout"), name, &value));
            run(&stream, End::Status(200)).or_fail(&format!("{name}: {value:.40?}"));
            assert_eq!(stream.local_response(), None, "{name}: {value:.40?}");
        }
    }
    for missing in NAMES.iter().take(4) {
        let stream = arrive(shop.vm());
        let mut headers = request("/checkout");
        headers.retain(|(name, _)| name != missing.as_bytes());
        stream.set_request_headers(headers);
        run(&stream, End::Status(200)).unwrap();
        assert_eq!(stream.local_response(), None, "without {missing}");
    }
    let bare = shop.vm().stream(ROOT);
    run(&bare, End::Status(200)).unwrap();
    assert_eq!(bare.local_response(), None, "no header and no property at all");
}

#[test]
fn refusals_of_hostile_requests_are_well_formed() {
    // The fake host itself refuses a local response whose headers are malformed or split.
    let shop = Shop::with(&curious(), 1);
    shop.trip();
    for name in NAMES {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_request_headers(with(request("/checkout"), name, &value));
            run(&stream, End::Status(200)).or_fail(&format!("{name}: {value:.40?}"));
            let reply = stream.local_response().expect("open");
            assert_eq!(reply.status, 503);
            assert_eq!(reply.details, b"resilience:checkout:circuit_open");
            assert!(std::str::from_utf8(&reply.body).is_ok(), "{name}: {:?}", reply.body);
            for (name, value) in &reply.headers {
                let clean = value.iter().chain(name).all(|byte| (0x20..0x7f).contains(byte));
                assert!(clean, "{name:?}: {value:?}");
            }
        }
    }
}

#[test]
fn the_mark_on_a_request_means_nothing_and_is_passed_on() {
    let shop = Shop::open(1);
    let stream = arrive(shop.vm());
    let forged = "checkout;reason=circuit_open;source=static";
    stream.set_request_headers(with(request("/checkout"), "x-resilience", forged.as_bytes()));
    run(&stream, End::Status(200)).unwrap();
    assert_eq!(stream.header(Map::RequestHeaders, "x-resilience").as_deref(), Some(forged));
    assert_eq!(stream.mutations(), []);
}

#[test]
fn the_mark_on_an_answer_is_passed_on_unless_nothing_is_exposed() {
    for (config, kept) in [(CONFIG.to_owned(), true), (config_and(r#""expose": false"#), false)] {
        let shop = Shop::with(&config, 1);
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        describe(&stream, VIA_UPSTREAM, 0);
        stream.set_response_headers(headers(&[
            (":status", "200"),
            ("x-resilience", "a"),
            ("x-resilience", "b"),
        ]));
        stream.response_headers(true).unwrap();
        assert_eq!(stream.header(Map::ResponseHeaders, "x-resilience").is_some(), kept);
        stream.finish().unwrap();
    }
}

#[test]
fn a_forged_reroute_is_refused_wherever_it_arrives() {
    let shop = Shop::open(1);
    for route in [ROUTE, "other"] {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            stream.set_property(b"xds\0route_name", route);
            stream.set_request_headers(with(request("/"), "x-resilience-reroute", &value));
            run(&stream, End::Status(200)).unwrap();
            let reply =
                stream.local_response().unwrap_or_else(|| panic!("{route}: {value:.40?} is let through"));
            assert_eq!((reply.status, reply.body.as_slice()), (400, &b""[..]));
            assert_eq!(reply.header("x-resilience"), None);
        }
    }
    assert_eq!(shop.host.data(KEY), None, "it is no evidence");
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
}

#[test]
fn content_types_that_look_like_grpc() {
    let shop = Shop::open(1);
    shop.trip();
    for (content_type, grpc) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc-web", false),
        ("application/grpcx", false),
        ("application/json", false),
        ("", false),
    ] {
        let stream = arrive(shop.vm());
        stream.set_request_headers(with(request("/checkout"), "content-type", content_type.as_bytes()));
        run(&stream, End::Status(200)).unwrap();
        let reply = stream.local_response().unwrap();
        assert_eq!(reply.grpc_status, if grpc { 14 } else { -1 }, "{content_type}");
        assert_eq!(reply.body.starts_with(b"{"), !grpc, "{content_type}");
    }
}

#[test]
fn no_answer_of_the_upstream_traps() {
    let shop = Shop::open(1);
    for name in [":status", "grpc-status", "content-type", "x-resilience", "grpc-message"] {
        for value in hostile_values() {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            describe(&stream, VIA_UPSTREAM, 0);
            stream.set_response_headers(with(headers(&[(":status", "200")]), name, &value));
            stream.response_headers(false).or_fail(&format!("{name}: {value:.40?}"));
            stream.set_response_trailers(with(Headers::new(), name, &value));
            stream.trailers().or_fail(&format!("{name} in trailers: {value:.40?}"));
            stream.finish().unwrap();
        }
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "none of it was a failure");
}

#[test]
fn no_property_traps() {
    let shop = Shop::with(&curious(), 1);
    let paths: [&[u8]; 6] = [
        b"xds\0route_name",
        b"xds\0route_metadata\0filter_metadata\0shop\0policy",
        b"response\0code_details",
        b"response\0flags",
        b"upstream\0address",
        b"response\0code",
    ];
    let lengths = [0, 1, 3, 7, 9, 16].map(|len| vec![0xff; len]);
    for path in paths {
        for value in hostile_values().iter().chain(&lengths) {
            let stream = arrive(shop.vm());
            stream.set_property(path, value);
            let name = String::from_utf8_lossy(path);
            let about = format!("{name}: {value:.40?}");
            assert_eq!(enter(&stream).or_fail(&about), None);
            // As the upstream's answer, which then is told otherwise by what Envoy says.
            answer(&stream, End::Status(200)).or_fail(&about);
            stream.set_property(path, value);
            stream.finish().or_fail(&about);
        }
    }
    for path in paths {
        let stream = arrive(shop.vm());
        enter(&stream).unwrap();
        answer(&stream, End::Status(500)).unwrap();
        stream.remove_property(path);
        stream.finish().unwrap();
        serve(shop.vm(), End::Status(200)).unwrap();
    }
}

#[test]
fn a_flag_of_the_wrong_length_is_no_evidence() {
    let shop = Shop::open(1);
    for len in [0, 1, 7, 9, 4096] {
        for _ in 0..FAILURES {
            let stream = arrive(shop.vm());
            enter(&stream).unwrap();
            describe(&stream, "something_of_envoys_own", 0);
            stream.set_property(b"response\0flags", vec![0xff; len]);
            stream.set_response_headers(headers(&[(":status", "503")]));
            stream.response_headers(true).unwrap();
            stream.finish().unwrap();
        }
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None);
}

/// What may lie under a policy's key when a worker looks at it for the first time.
fn hostile_states() -> Vec<(String, Vec<u8>)> {
    let mut random = Random::new(5);
    let mut states: Vec<(String, Vec<u8>)> = [0, 1, 2, 3, 4, 5, 6, 7, 8, 20, 64, 500, 70_000]
        .into_iter()
        .map(|len| (format!("{len} random bytes"), random.bytes(len)))
        .collect();
    states.extend((0..64).map(|index| {
        let len = random.below(200);
        let bytes = [b"RS\x01\x01".to_vec(), random.bytes(len)].concat();
        (format!("random bytes {index} behind a good beginning"), bytes)
    }));
    for (what, good) in good_states() {
        states.extend((0..good.len()).map(|len| (format!("{what}, cut to {len}"), good[..len].to_vec())));
        states.push((format!("{what}, one byte too long"), [good.as_slice(), &[0]].concat()));
    }
    states
}

/// What a breaker leaves in its key when it is closed with failures, open, and half-open.
fn good_states() -> Vec<(&'static str, Vec<u8>)> {
    let state = |shop: &Shop| shop.host.data(KEY).expect("a state").0;
    let shop = Shop::with(
        &policy_and("\"discourage_retries\": true")
            .replace("\"wait", r#""failures_in_window": {"failures": 5, "window": "10s"}, "wait"#),
        1,
    );
    serve(shop.vm(), End::Status(500)).unwrap();
    let closed = state(&shop);
    let shop = Shop::open(1);
    shop.trip();
    let open = state(&shop);
    shop.pass(WAIT + TICK).unwrap();
    enter(&arrive(shop.vm())).unwrap();
    vec![("closed", closed), ("open", open), ("half-open", state(&shop))]
}

#[test]
fn what_cannot_be_read_in_shared_data_is_a_fresh_start() {
    for (what, bytes) in hostile_states() {
        let shop = Shop::open(1);
        shop.host.set_data(KEY, &bytes, 0).unwrap();
        let about = what.clone();
        let refused = serve(shop.vm(), End::Status(200)).or_fail(&about);
        assert_eq!(refused, None, "{what}: refused");
        shop.pass(TICK * 2).or_fail(&about);
        shop.trip();
        shop.pass(WAIT + TICK).or_fail(&about);
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(&about), None, "{what}: no probe");
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(&about), None, "{what}: not closed");
    }
}

#[test]
fn sections_of_another_version_are_carried_along() {
    let future_section = [&[9u8, 1, 5, 0][..], b"hello"].concat();
    let future_breaker = [&[1u8, 200, 3, 0][..], b"new"].concat();
    let shop = Shop::open(1);
    let bytes = [&b"RS"[..], &future_section, &future_breaker].concat();
    shop.host.set_data(KEY, &bytes, 0).unwrap();
    shop.trip();
    let state = shop.host.data(KEY).unwrap().0;
    for section in [future_section, future_breaker] {
        assert!(state.windows(section.len()).any(|part| part == section), "{section:?} is lost in {state:?}");
    }
}

#[test]
fn an_outcome_from_before_the_damage_is_dropped() {
    let shop = Shop::open(1);
    serve(shop.vm(), End::Status(500)).unwrap();
    let before: Vec<_> = (0..FAILURES).map(|_| arrive(shop.vm())).collect();
    before.iter().for_each(|stream| assert_eq!(enter(stream).unwrap(), None));
    shop.host.set_data(KEY, "garbage", 0).unwrap();
    shop.host.advance(Duration::from_secs(1));
    for stream in &before {
        answer(stream, End::Status(500)).unwrap();
        stream.finish().unwrap();
    }
    assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "they knew another breaker");
}

/// Layout as the module writes it, with numbers that no breaker reaches.
#[test]
fn numbers_that_no_breaker_reaches_do_not_last_for_ever() {
    let breaker = |generation: u64, state: u8, rest: &[u8]| {
        let section = [&generation.to_le_bytes()[..], &u32::MAX.to_le_bytes(), &[state], rest].concat();
        [b"RS\x01\x01", &(section.len() as u16).to_le_bytes()[..], &section].concat()
    };
    let half_open = |until: u64, permitted: u32, succeeded: u32, probes: &[(u64, u32)]| {
        let mut rest = until.to_le_bytes().to_vec();
        rest.extend(permitted.to_le_bytes());
        rest.extend(succeeded.to_le_bytes());
        rest.extend((probes.len() as u16).to_le_bytes());
        for (owner, id) in probes {
            rest.extend(owner.to_le_bytes());
            rest.extend(id.to_le_bytes());
        }
        rest
    };
    let now = Shop::open(1).host.now();
    let soon = now + 1_000_000_000;
    let strangers: Vec<_> = (0..2000).map(|id| (u64::MAX - 7, id)).collect();
    let states = [
        ("closed, the last generation", breaker(u64::MAX, 0, &[0; 8])),
        ("closed, all counts full", breaker(1, 0, &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0])),
        ("open, the last generation", breaker(u64::MAX, 2, &soon.to_le_bytes())),
        ("half-open, nothing permitted", breaker(5, 1, &half_open(soon, 0, 0, &[]))),
        ("half-open, more answered than permitted", breaker(5, 1, &half_open(soon, 1, u32::MAX, &[]))),
        (
            "half-open, thousands of probes of a stranger",
            breaker(5, 1, &half_open(soon, u32::MAX, 0, &strangers)),
        ),
        ("half-open, everything permitted", breaker(5, 1, &half_open(soon, u32::MAX, 0, &[(0, 0)]))),
    ];
    for (what, bytes) in states {
        let shop = Shop::open(1);
        shop.host.set_data(KEY, &bytes, 0).unwrap();
        let about = what;
        serve(shop.vm(), End::Status(200)).or_fail(about);
        shop.pass(WAIT * 3).or_fail(about);
        serve(shop.vm(), End::Status(200)).or_fail(about);
        assert_eq!(serve(shop.vm(), End::Status(200)).or_fail(about), None, "{what}: still refused");
    }
}

#[test]
fn a_damaged_table_of_members_starts_afresh() {
    const MEMBERS: &str = "resilience/shop/#members";
    let shop = Shop::open(2);
    shop.pass(TICK * 3).unwrap();
    let good = shop.host.data(MEMBERS).expect("a table").0;
    let mut random = Random::new(3);
    let cut = (0..good.len()).map(|len| good[..len].to_vec());
    let random = (0..40).map(|_| {
        let len = random.below(300);
        [vec![1], random.bytes(len)].concat()
    });
    let full = [&[1][..], &[0xff; 8], &4097u16.to_le_bytes(), &[7; 4097 * 24]].concat();
    for bytes in cut.chain(random).chain([full]) {
        shop.host.set_data(MEMBERS, &bytes, 0).unwrap();
        shop.pass(TICK * 2).unwrap();
        shop.trip();
        shop.pass(WAIT + TICK).unwrap();
        assert_eq!(serve(&shop.vms[1], End::Status(200)).unwrap(), None, "{bytes:?}: no probe");
        assert_eq!(serve(shop.vm(), End::Status(200)).unwrap(), None, "{bytes:?}: not closed");
    }
    shop.pass(Duration::from_secs(30)).unwrap();
    let table = shop.host.data(MEMBERS).unwrap().0;
    assert_eq!(table.len(), good.len(), "both workers are in it again, and nobody else");
}

#[test]
fn callbacks_for_contexts_that_do_not_exist_do_nothing() {
    let shop = Shop::open(1);
    let vm = shop.vm();
    for id in [0, 999, u32::MAX] {
        for (export, arguments) in [
            ("proxy_on_request_headers", vec![id, 5, 1]),
            ("proxy_on_response_headers", vec![id, 5, 1]),
            ("proxy_on_response_trailers", vec![id, 5]),
            ("proxy_on_tick", vec![id]),
            ("proxy_on_delete", vec![id]),
            ("proxy_on_done", vec![id]),
            ("proxy_on_log", vec![id]),
            ("proxy_on_queue_ready", vec![id, 1]),
        ] {
            vm.call(export, &arguments).or_fail(export);
        }
    }
    assert_eq!(serve(vm, End::Status(200)).unwrap(), None);
    // A stream of a root that was never configured, or is gone.
    let orphan = arrive_at(vm, 77);
    assert_eq!(orphan.request_headers(true).unwrap(), Action::Continue);
    orphan.finish().unwrap();
}

#[test]
fn callbacks_in_an_order_that_envoy_never_uses() {
    let shop = Shop::open(1);
    let vm = shop.vm();
    let stream = arrive(vm);
    stream.response_headers(false).unwrap();
    stream.trailers().unwrap();
    stream.request_headers(true).unwrap();
    stream.request_headers(true).unwrap();
    answer(&stream, End::Status(500)).unwrap();
    answer(&stream, End::Status(500)).unwrap();
    stream.finish().unwrap();
    stream.delete().unwrap();
    stream.trailers().unwrap();
    vm.call("proxy_on_context_create", &[stream.id(), ROOT]).unwrap();
    vm.call("proxy_on_context_create", &[stream.id(), stream.id()]).unwrap();
    vm.call("proxy_on_context_create", &[ROOT, 0]).unwrap();
    assert_eq!(serve(vm, End::Status(200)).unwrap(), None, "one request is one outcome");
}

#[test]
fn a_clock_that_jumps() {
    let shop = Shop::open(2);
    let start = shop.host.now();
    for now in [0, u64::MAX, start, 1, u64::MAX - 1, start] {
        shop.host.set_clock(now);
        for vm in &shop.vms {
            vm.tick(ROOT).unwrap();
            for end in [End::Status(500), End::Status(200), End::ClientLeft] {
                serve(vm, end).unwrap();
            }
        }
    }
}
