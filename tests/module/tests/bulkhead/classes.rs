//! Which class a request is of, and what that means for it.

use crate::*;

/// Two classes: `low` has half of the permits.
fn classes(source: &str, more: &str) -> String {
    let priority = format!(
        r#"{{{source}"default": "low", "classes": [{{"name": "high", "max_share": 100}}, {{"name": "low", "max_share": 50}}]}}"#
    );
    policy_and(&format!(r#"{more}"bulkhead": {{"max_concurrent_calls": 2, "priority": {priority}}}"#))
}

const BY_HEADER: &str = r#""header": "x-class", "#;
const BY_METADATA: &str = r#""metadata": {"namespace": "shop", "key": "class"}, "#;
const METADATA: &[u8] = b"xds\0route_metadata\0filter_metadata\0shop\0class";

fn full(class: &str) -> String {
    format!("resilience_rejections_total;policy=checkout;reason=bulkhead_full;class={class}")
}

/// A request whose header and metadata say this.
fn arrive_as(vm: &FakeVm, header: &[&[u8]], metadata: Option<&[u8]>) -> FakeStream {
    let stream = arrive(vm);
    let mut request = stream.headers(Map::RequestHeaders);
    request.extend(header.iter().map(|value| (b"x-class".to_vec(), value.to_vec())));
    stream.set_request_headers(request);
    if let Some(value) = metadata {
        stream.set_property(METADATA, value);
    }
    stream
}

#[test]
fn a_class_comes_from_what_the_policy_names_or_else_is_its_default() {
    type Said = (&'static [&'static [u8]], Option<&'static [u8]>);
    let named: Said = (&[b"high"], Some(b"low"));
    let route: Said = (&[b"low"], Some(b"high"));
    let nothing: Said = (&[], None);
    let of_policy = r#""class": "high", "#;
    for (source, more, said, class) in [
        (BY_HEADER, "", named, "high"),
        (BY_METADATA, "", named, "low"),
        (BY_METADATA, "", route, "high"),
        ("", "", named, "low"),
        ("", of_policy, nothing, "high"),
        (BY_HEADER, of_policy, nothing, "high"),
        (BY_HEADER, of_policy, route, "low"),
        (BY_HEADER, "", nothing, "low"),
        (BY_HEADER, "", (&[b""], None), "low"),
        (BY_HEADER, "", (&[b"High"], None), "low"),
        (BY_HEADER, "", (&[b"high "], None), "low"),
        (BY_HEADER, "", (&[b"high\xff"], None), "low"),
        (BY_HEADER, "", (&[&[b'h'; 60_000]], None), "low"),
        // The first of several.
        (BY_HEADER, "", (&[b"low", b"high"], None), "low"),
        (BY_METADATA, "", (&[], Some(b"\0high")), "low"),
    ] {
        let shop = Shop::with(&classes(source, more), 1);
        let first = arrive_as(shop.vm(), said.0, said.1);
        assert_eq!(enter(&first).unwrap(), None);
        // The lower class has one of two permits.
        let second = arrive_as(shop.vm(), said.0, said.1);
        let about = format!("{source}{more}{said:.200?}");
        assert_eq!(enter(&second).unwrap().is_none(), class == "high", "{about}");
        let third = arrive_as(shop.vm(), said.0, said.1);
        assert!(enter(&third).unwrap().is_some(), "{about}");
        let other = if class == "high" { "low" } else { "high" };
        let counts = [full(class), full(other), full("_")].map(|name| shop.metric(&name));
        assert_eq!(counts, [if class == "high" { 1 } else { 2 }, 0, 0], "{about}");
        [first, second, third].iter().for_each(|stream| stream.finish().unwrap());
        assert_eq!(crowd(&shop), (0, 0));
    }
}

#[test]
fn every_refusal_is_counted_by_class() {
    let shop = Shop::with(&classes(BY_HEADER, ""), 1);
    shop.trip();
    let stream = arrive_as(shop.vm(), &[b"high"], None);
    assert!(enter(&stream).unwrap().is_some());
    let open =
        |class| format!("resilience_rejections_total;policy=checkout;reason=circuit_open;class={class}");
    // The one of `trip` named none.
    assert_eq!(["high", "low", "_"].map(|class| shop.metric(&open(class))), [1, 1, 0]);
}

#[test]
fn a_higher_class_takes_the_place_of_a_lower_one_and_is_served_before() {
    let queue = r#""max_concurrent_calls": 2, "max_wait_duration": "10s", "max_queue": 2"#;
    let config = classes(BY_HEADER, "").replace(r#""max_concurrent_calls": 2"#, queue);
    let shop = Shop::with(&config, 2);
    let wait_as = |worker: usize, class: &'static [u8]| {
        let stream = arrive_as(&shop.vms[worker], &[class], None);
        assert_eq!(stream.request_headers(true).unwrap(), Action::Pause);
        stream
    };
    let holders = [(); 2].map(|()| arrive_as(shop.vm(), &[b"high"], None));
    holders.iter().for_each(|holder| assert_eq!(enter(holder).unwrap(), None));
    let low = [wait_as(1, b"low"), wait_as(1, b"low")];
    let high = wait_as(0, b"high");
    assert_eq!(crowd(&shop), (2, 2));
    assert_eq!(deliver(&shop), 1);
    // The youngest goes.
    let reply = refused(&low[1]);
    assert_eq!((reply.status, reply.callback.as_str()), (503, "proxy_on_queue_ready"));
    assert_eq!(shop.metric(&full("low")), 1);
    assert_eq!(shop.host.histogram(WAITS).len(), 1);
    leave(&holders[0], End::Status(200));
    deliver(&shop);
    assert_eq!((went_on(&high), went_on(&low[0])), (1, 0));
    leave(&high, End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&low[0]), 0, "one of two is in flight: its share is taken");
    leave(&holders[1], End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&low[0]), 1);
    leave(&low[0], End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}
