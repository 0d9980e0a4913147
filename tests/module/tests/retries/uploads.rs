//! A request whose body trickles in: the router's clock has not begun, so the filter's own ends it.

use crate::*;

const MARK: &str = "checkout;reason=timeout;source=none";
const IGNORED: &str = "resilience_calls_total;policy=checkout;outcome=ignored;slow=false";
const FAILURE: &str = "resilience_calls_total;policy=checkout;outcome=failure;slow=false";

fn timed() -> String {
    shop_of(r#""retry": {"max_retries": 1}, "timeout": {"total": "300ms"}"#)
}

/// A request whose body is still to come.
fn upload(vm: &FakeVm) -> FakeStream {
    let stream = arrive(vm);
    assert_eq!(stream.request_headers(false).unwrap(), Action::Continue);
    attempted(&stream, 1);
    stream
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// The timer goes off when Envoy's would.
fn ring(shop: &Shop, after: u64) {
    shop.host.advance(ms(after));
    shop.vm().tick(ROOT).unwrap();
}

#[test]
fn it_is_answered_when_its_time_is_over() {
    let config = timed();
    let shop = Shop::with(&config, 1);
    shop.host.advance(ms(100));
    let stream = upload(shop.vm());
    assert_eq!(shop.vm().tick_period(ROOT), Some(300));
    for _ in 0..2 {
        shop.host.advance(ms(100));
        assert_eq!(stream.request_body(false).unwrap(), Action::Continue);
    }
    ring(&shop, 99);
    assert_eq!(stream.local_response(), None, "a moment too early");
    ring(&shop, 1);
    let reply = refused(&stream);
    assert_eq!((reply.status, reply.callback.as_str()), (504, "proxy_on_tick"));
    assert_eq!(reply.header("x-resilience").unwrap(), MARK);
    assert_eq!(reply.header("x-envoy-ratelimited").unwrap(), "true");
    assert_eq!(reply.header("retry-after"), None);
    // Who does not get the whole request can not answer it.
    assert_eq!((shop.metric(IGNORED), shop.metric(FAILURE)), (1, 0));
    assert_eq!((balance(&shop, &config), shop.metric(LEASE_ENDED)), ((FLOOR, 0), 0));
    // And the sign of life as ever.
    shop.pass(TICK * 2).unwrap();
    assert_eq!(shop.vm().tick_period(ROOT), Some(500));
}

#[test]
fn a_grpc_call_is_answered_as_such() {
    let shop = Shop::with(&timed(), 1);
    let stream = arrive_with(shop.vm(), &[("content-type", "application/grpc")]);
    stream.request_headers(false).unwrap();
    ring(&shop, 300);
    assert_eq!(refused(&stream).grpc_status, 4);
}

/// The upstream had the whole request for most of the time, and did not answer it.
#[test]
fn one_that_came_in_whole_meanwhile_is_the_upstreams_failure() {
    for (ends_by, after, failures) in
        [("body", 100, 1), ("trailers", 150, 1), ("body", 151, 0), ("body", 299, 0)]
    {
        let config = timed();
        let shop = Shop::with(&config, 1);
        let stream = upload(shop.vm());
        shop.host.advance(ms(after));
        let last = if ends_by == "body" { stream.request_body(true) } else { stream.request_trailers() };
        assert_eq!(last.unwrap(), Action::Continue, "{ends_by}");
        attempted(&stream, 2);
        ring(&shop, 300 - after);
        assert_eq!(refused(&stream).header("x-resilience").unwrap(), MARK, "{ends_by}");
        let counted = (shop.metric(IGNORED), shop.metric(FAILURE));
        assert_eq!(counted, (1 - failures, failures), "{ends_by} after {after}");
        assert_eq!((balance(&shop, &config), shop.metric(GRANTED)), ((FLOOR - 1, 0), 1), "{ends_by}");
    }
}

/// The router's clock began as good as with ours: of the two only one is to answer.
#[test]
fn one_that_came_in_whole_at_once_is_the_routers_to_end() {
    for (late, is_ours) in [(0, false), (4, false), (5, true)] {
        let shop = Shop::with(&timed(), 1);
        let stream = upload(shop.vm());
        shop.host.advance(ms(late));
        assert_eq!(stream.request_body(true).unwrap(), Action::Continue, "{late}");
        ring(&shop, 300 - late);
        shop.pass(TICK).unwrap();
        assert_eq!(stream.local_response().is_some(), is_ours, "{late}");
        stream.finish().unwrap();
    }
}

#[test]
fn an_answer_that_has_begun_may_take_its_time() {
    let config = timed();
    let shop = Shop::with(&config, 1);
    let stream = upload(shop.vm());
    shop.host.advance(ms(100));
    answer(attempted(&stream, 1), End::Status(200)).unwrap();
    assert_eq!(balance(&shop, &config), (FLOOR, 1));
    ring(&shop, 200);
    // Its retries need not wait for its end: there is none any more. Most answers are whole at the second beat.
    shop.pass(TICK).unwrap();
    assert_eq!(balance(&shop, &config), (FLOOR, 1));
    shop.pass(TICK).unwrap();
    assert_eq!((stream.local_response(), balance(&shop, &config)), (None, (FLOOR, 0)));
    shop.pass(TICK * 4).unwrap();
    stream.finish().unwrap();
    assert_eq!(balance(&shop, &config), (FLOOR, 0));
}

/// A thousand streams that last would leave everybody else without a retry.
#[test]
fn retries_of_answers_that_last_come_back_with_the_beat() {
    let config = charged(1);
    let shop = Shop::with(&config, 1);
    let streams: Vec<_> = (0..5).map(|_| hold(shop.vm())).collect();
    for (index, stream) in streams.iter().enumerate() {
        answer(attempted(stream, 1 + u64::from(index == 0)), End::Status(200)).unwrap();
    }
    shop.pass(TICK).unwrap();
    assert_eq!(balance(&shop, &config), (FLOOR, 5));
    // Nothing is read of a stream that cannot be reached: it might be another's.
    shop.vm().fail_kind("proxy_set_effective_context", status::BAD_ARGUMENT);
    shop.pass(TICK).unwrap();
    assert_eq!((balance(&shop, &config), shop.metric(GRANTED)), ((FLOOR, 5), 0));
    shop.vm().clear_faults();
    shop.pass(TICK).unwrap();
    assert_eq!((balance(&shop, &config), shop.metric(GRANTED)), ((FLOOR - 1, 0), 1));
    for stream in &streams {
        stream.finish().unwrap();
    }
    assert_eq!((balance(&shop, &config), shop.metric(GRANTED)), ((FLOOR - 1, 0), 1));
}

#[test]
fn one_that_ends_before_its_time_is_forgotten() {
    let shop = Shop::with(&timed(), 1);
    let [leaves, stays] = [upload(shop.vm()), upload(shop.vm())];
    leave(&leaves, 1, End::ClientLeft);
    ring(&shop, 300);
    assert_eq!((leaves.local_response(), stays.local_response().is_some()), (None, true));
    refused(&stays);
    shop.vm().take_logs();
    shop.pass(TICK * 4).unwrap();
    assert_eq!(shop.vm().logs(), []);
}

#[test]
fn a_request_without_a_body_needs_no_timer() {
    let shop = Shop::with(&timed(), 1);
    let stream = hold(shop.vm());
    assert_eq!(shop.vm().tick_period(ROOT), Some(500));
    shop.pass(TICK * 4).unwrap();
    assert_eq!(stream.local_response(), None, "the router's clock ends it");
    leave(&stream, 1, End::Status(200));
}

#[test]
fn many_whose_time_ends_together_are_all_answered() {
    let config = timed();
    let shop = Shop::with(&config, 1);
    let streams: Vec<_> = (0..100).map(|_| upload(shop.vm())).collect();
    ring(&shop, 300);
    streams.iter().for_each(|stream| assert_eq!(refused(stream).status, 504));
    assert_eq!((balance(&shop, &config), shop.metric(IGNORED)), ((FLOOR, 0), 100));
}

/// Nothing is done to another stream in its place.
#[test]
fn one_that_cannot_be_reached_is_left_alone() {
    for status in status::FAULTS {
        let config = timed();
        let shop = Shop::with(&config, 1);
        let streams = [upload(shop.vm()), upload(shop.vm())];
        shop.vm().fail_kind("proxy_set_effective_context", status);
        ring(&shop, 300);
        shop.vm().clear_faults();
        for stream in &streams {
            assert_eq!(stream.local_response(), None, "{status}");
            leave(stream, 1, End::Status(200));
        }
        assert_eq!(balance(&shop, &config), (FLOOR, 0), "{status}");
        let counted = "resilience_calls_total;policy=checkout;outcome=success;slow=false";
        assert_eq!(shop.metric(counted), 2, "{status}");
    }
}

/// It would be half-open for ever.
#[test]
fn a_probe_that_cannot_be_reached_still_gives_its_verdict() {
    let config = timed().replace("1000000", "3");
    let shop = Shop::with(&config, 1);
    for _ in 0..3 {
        leave(&hold(shop.vm()), 1, End::Status(500));
    }
    shop.pass(WAIT + TICK).unwrap();
    let probe = upload(shop.vm());
    shop.vm().fail_kind("proxy_set_effective_context", status::BAD_ARGUMENT);
    ring(&shop, 300);
    shop.vm().clear_faults();
    leave(&probe, 1, End::Status(200));
    assert!(enter(&arrive(shop.vm())).unwrap().is_none(), "the probe was good");
}

/// To hold it for ever would be worse.
#[test]
fn one_whose_answer_the_host_does_not_send_goes_on() {
    for status in status::FAULTS {
        let config = timed();
        let shop = Shop::with(&config, 1);
        let stream = upload(shop.vm());
        shop.vm().fail_kind("proxy_send_local_response", status);
        ring(&shop, 300);
        shop.pass(TICK * 2).unwrap();
        shop.vm().clear_faults();
        assert_eq!(stream.local_response(), None, "{status}");
        leave(&stream, 2, End::Status(200));
        assert_eq!(balance(&shop, &config), (FLOOR - 1, 0), "{status}");
    }
}

#[test]
fn a_timer_that_the_host_refuses_is_late_by_a_tick_at_most() {
    for status in status::FAULTS {
        let shop = Shop::with(&timed(), 1);
        shop.vm().fail_kind("proxy_set_tick_period_milliseconds", status);
        let stream = upload(shop.vm());
        shop.vm().clear_faults();
        assert_eq!(shop.vm().tick_period(ROOT), Some(500), "{status}");
        ring(&shop, 500);
        assert_eq!(refused(&stream).header("x-resilience").unwrap(), MARK, "{status}");
    }
}
