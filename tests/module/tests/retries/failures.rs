//! Host calls that fail: a request goes on, is retried less rather than more, and what was kept for it is settled.

use crate::*;

/// The ways in which a call fails. No host forgets a value: what is not found was never written, and that is no failure.
pub(super) fn faults(function: &str) -> impl Iterator<Item = u32> {
    let forgets = function == "proxy_get_shared_data";
    status::FAULTS.into_iter().filter(move |status| !forgets || *status != status::NOT_FOUND)
}

fn warnings(vm: &FakeVm) -> usize {
    vm.take_logs().iter().filter(|line| line.level == 3).count()
}

#[test]
fn nobody_is_retried_whose_headers_cannot_be_read() {
    for config in [capped(), charged(2)] {
        for status in status::FAULTS {
            let shop = Shop::with(&config, 1);
            shop.vm().fail_kind("proxy_get_header_map_pairs", status);
            let stream = hold(shop.vm());
            shop.vm().clear_faults();
            assert_eq!((told(&stream), balance(&shop, &config)), (Some(0), (FLOOR, 0)), "{status}");
            leave(&stream, 1, End::Status(200));
            assert_eq!(balance(&shop, &config), (FLOOR, 0), "{status}");
            let well = hold(shop.vm());
            assert_eq!(balance(&shop, &config).1, told(&well).map_or(3, i64::from), "{status}");
        }
    }
}

/// Bytes that are not a header map are as good as none.
#[test]
fn nobody_is_retried_whose_headers_are_not_headers() {
    let config = charged(2);
    for seed in 0..50 {
        let shop = Shop::with(&config, 1);
        shop.vm().scramble_random(seed, 1.0);
        let stream = arrive(shop.vm());
        let _ = stream.request_headers(true).unwrap();
        shop.vm().clear_faults();
        let kept = balance(&shop, &config).1;
        assert!(kept <= 2 && kept <= told(&stream).map_or(0, i64::from), "seed {seed}");
        stream.finish().unwrap();
    }
}

#[test]
fn where_nobody_tells_how_often_a_request_was_retried_all_that_was_kept_is_spent() {
    for (config, kept) in [(capped(), 3), (charged(2), 2)] {
        let settled = |title: &str, act: &dyn Fn(&FakeVm, &FakeStream)| {
            let shop = Shop::with(&config, 1);
            let stream = hold(shop.vm());
            attempted(&stream, 1);
            answer(&stream, End::Status(200)).unwrap();
            act(shop.vm(), &stream);
            stream.finish().unwrap();
            shop.vm().clear_faults();
            assert_eq!(balance(&shop, &config), (FLOOR - kept, 0), "{title}");
            assert_eq!(shop.metric(GRANTED), kept.unsigned_abs(), "{title}");
        };
        for status in status::FAULTS {
            settled(&format!("status {status}"), &|vm, _| vm.fail_kind("proxy_get_property", status));
        }
        settled("absent", &|_, stream| {
            stream.remove_property(ATTEMPTS);
        });
        for bytes in [&[][..], &[2], &[2, 0, 0, 0], b"2", &[2, 0, 0, 0, 0, 0, 0, 0, 0], &[0xff; 1000]] {
            settled(&format!("{bytes:?}"), &|_, stream| {
                stream.set_property(ATTEMPTS, bytes);
            });
        }
    }
}

#[test]
fn numbers_that_no_router_reaches_trap_nothing() {
    for attempts in [0, u64::from(u32::MAX), u64::from(u32::MAX) + 1, u64::MAX] {
        let config = charged(2);
        let shop = Shop::with(&config, 1);
        for _ in 0..3 {
            leave(&hold(shop.vm()), attempts, End::Status(200));
        }
        let (left, kept) = balance(&shop, &config);
        assert_eq!((left == FLOOR, kept), (attempts == 0, 0), "{attempts}");
        // They leave the window as any others do.
        shop.pass(Duration::from_secs(20)).unwrap();
        assert_eq!(told(&hold(shop.vm())), Some(2), "{attempts}");
    }
}

#[test]
fn a_header_that_cannot_be_written_is_told_of_and_what_was_made_counts() {
    let sections = r#""retry": {"max_retries": 2}, "timeout": {"total": "5s", "per_try": "1s"}"#;
    let config = shop_of(sections);
    for status in status::FAULTS {
        let shop = Shop::with(&config, 1);
        shop.vm().fail_kind("proxy_replace_header_map_value", status);
        shop.vm().fail_kind("proxy_remove_header_map_value", status);
        let stream = arrive_with(shop.vm(), &[("x-envoy-max-retries", "9")]);
        assert_eq!(enter(&stream).unwrap(), None, "{status}");
        // The one to be removed and the four to be set.
        assert_eq!((warnings(shop.vm()), written(&stream).len()), (5, 0), "{status}");
        shop.vm().clear_faults();
        assert_eq!(balance(&shop, &config), (FLOOR, 2), "{status}");
        leave(&stream, 4, End::Status(200));
        assert_eq!(balance(&shop, &config), (FLOOR - 3, 0), "{status}");
    }
}

#[test]
fn a_store_that_gives_no_answer_grants_nothing_and_takes_nothing() {
    for function in ["proxy_get_shared_data", "proxy_set_shared_data"] {
        for config in [capped(), charged(2)] {
            for status in faults(function) {
                let shop = Shop::with(&config, 1);
                leave(&hold(shop.vm()), 1, End::Status(200));
                shop.vm().fail_kind(function, status);
                let stream = hold(shop.vm());
                shop.vm().clear_faults();
                assert_eq!(told(&stream), Some(0), "{function} {status}");
                assert_eq!(balance(&shop, &config), (FLOOR, 0), "{function} {status}");
                assert_eq!(shop.metric("resilience_store_give_ups_total;operation=admit"), 1);
                leave(&stream, 1, End::Status(200));
                assert_eq!((balance(&shop, &config), shop.metric(LEASE_ENDED)), ((FLOOR, 0), 0));
            }
        }
    }
}

#[test]
fn what_the_store_does_not_take_at_the_end_is_kept_until_it_does() {
    for end in [End::Status(200), End::Status(500), End::ClientLeft] {
        let config = charged(2);
        let shop = Shop::with(&config, 1);
        let [first, second] = [hold(shop.vm()), hold(shop.vm())];
        let kept = balance(&shop, &config);
        shop.vm().cas_conflicts(usize::MAX);
        leave(&first, 2, end);
        shop.pass(TICK * 4).unwrap();
        assert_eq!(balance(&shop, &config), kept, "{end:?}");
        assert!(shop.metric("resilience_store_give_ups_total;operation=release") > 0);
        shop.vm().clear_faults();
        shop.pass(TICK).unwrap();
        assert_eq!(balance(&shop, &config).0, FLOOR - 1, "{end:?}");
        // Any callback takes the next try.
        shop.vm().cas_conflicts(usize::MAX);
        leave(&second, 2, end);
        shop.vm().clear_faults();
        assert_eq!(balance(&shop, &config).0, FLOOR - 1, "{end:?}");
        leave(&hold(shop.vm()), 1, End::Status(200));
        assert_eq!((balance(&shop, &config), shop.metric(LEASE_ENDED)), ((FLOOR - 2, 0), 0), "{end:?}");
        assert_eq!(shop.metric(GRANTED), 2, "{end:?}");
    }
}

#[test]
fn a_few_conflicts_change_nothing() {
    for config in [capped(), charged(2)] {
        let shop = Shop::with(&config, 1);
        leave(&hold(shop.vm()), 1, End::Status(200));
        shop.vm().cas_conflicts(3);
        let stream = hold(shop.vm());
        let kept = told(&stream).map_or(3, i64::from);
        assert_eq!((kept > 0, balance(&shop, &config)), (true, (FLOOR, kept)));
        shop.vm().cas_conflicts(3);
        leave(&stream, 2, End::Status(200));
        assert_eq!(balance(&shop, &config), (FLOOR - 1, 0));
        let conflicts =
            |operation| shop.metric(&format!("resilience_store_conflicts_total;operation={operation}"));
        assert_eq!((conflicts("admit"), conflicts("release")), (3, 3));
    }
}

#[test]
fn a_metric_that_cannot_be_written_changes_nothing() {
    let config = charged(2);
    for function in
        ["proxy_define_metric", "proxy_increment_metric", "proxy_record_metric", "proxy_get_metric"]
    {
        for status in status::FAULTS {
            let shop = Shop::with(&config, 1);
            shop.vm().fail_kind(function, status);
            let stream = hold(shop.vm());
            assert_eq!(
                (told(&stream), balance(&shop, &config)),
                (Some(2), (FLOOR, 2)),
                "{function} {status}"
            );
            leave(&stream, 2, End::Status(500));
            shop.pass(TICK).unwrap();
            assert_eq!(balance(&shop, &config), (FLOOR - 1, 0), "{function} {status}");
        }
    }
}

#[test]
fn what_cannot_be_read_in_shared_data_is_a_new_budget() {
    let config = charged(2);
    let shop = Shop::with(&config, 1);
    leave(&hold(shop.vm()), 3, End::Status(200));
    let before = hold(shop.vm());
    let good = shop.host.data(KEY).unwrap().0;
    let cut = (0..good.len()).map(|len| good[..len].to_vec());
    let flipped = (0..good.len()).map(|at| {
        let mut bytes = good.clone();
        bytes[at] ^= 0x80;
        bytes
    });
    for bytes in cut.chain(flipped) {
        let shop = Shop::with(&config, 1);
        shop.host.set_data(KEY, &bytes, 0).unwrap();
        leave(&hold(shop.vm()), 1, End::Status(500));
        shop.pass(Duration::from_secs(30)).unwrap();
        let (_, kept) = balance(&shop, &config);
        let next = hold(shop.vm());
        let granted = told(&next).expect("a number");
        assert_eq!(balance(&shop, &config).1, kept + i64::from(granted), "{bytes:?}");
        leave(&next, 1, End::Status(200));
        assert_eq!(balance(&shop, &config).1, kept, "{bytes:?}");
    }
    // What was kept of the one that is lost is not taken for what is kept of the new one.
    shop.host.set_data(KEY, "garbage", 0).unwrap();
    shop.host.advance(Duration::from_secs(1));
    let after = hold(shop.vm());
    leave(&before, 1, End::Status(200));
    assert_eq!((balance(&shop, &config).1, shop.metric(LEASE_ENDED)), (2, 1));
    leave(&after, 1, End::Status(200));
    assert_eq!(balance(&shop, &config).1, 0);
}
