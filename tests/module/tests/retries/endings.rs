//! What is kept for a request is settled once, with what was really used, however it ends.

use crate::*;
use resilience_module_tests::orders::{ANSWERS, Callback, ENDINGS, orders};

const ENDS: [End; 8] = [
    End::Status(200),
    End::Status(404),
    End::Status(500),
    End::Grpc(0),
    End::Grpc(14),
    End::ConnectFailure,
    End::ResetInBody,
    End::ClientLeft,
];

#[test]
fn however_a_request_ends_what_it_did_not_use_is_free_again() {
    for (config, reserved) in [(capped(), 3), (charged(2), 2)] {
        for end in ENDS {
            for made in 0..=reserved {
                let shop = Shop::with(&config, 2);
                let stream = hold(shop.vm());
                assert_eq!(balance(&shop, &config), (FLOOR, reserved), "{end:?}");
                leave(&stream, u64::try_from(made).unwrap() + 1, end);
                assert_eq!(balance(&shop, &config), (FLOOR - made, 0), "{end:?}, {made} retries");
                assert_eq!(shop.metric(GRANTED), made.unsigned_abs(), "{end:?}");
                assert_eq!((shop.metric(DENIED), shop.metric(LEASE_ENDED)), (0, 0), "{end:?}");
            }
        }
    }
}

#[test]
fn every_order_of_callbacks_settles_once() {
    // Beside one that stays: what is settled twice would be its own.
    let config = charged(1);
    let shop = Shop::with(&config, 1);
    let stays = hold(shop.vm());
    let body: Callback = ("body", |stream| assert_eq!(stream.request_body(true).unwrap(), Action::Continue));
    for order in orders(&[&[body], &ANSWERS[..], &ENDINGS].concat()) {
        let names: Vec<_> = order.iter().map(|(name, _)| *name).collect();
        let stream = hold(shop.vm());
        attempted(&stream, 1);
        let mut kept = 2;
        for (name, callback) in &order {
            callback(&stream);
            // There is no retry of an answer that goes to the client, and what fails is counted at once.
            kept -= i64::from(*name == "failure");
            assert_eq!(balance(&shop, &config), (FLOOR, kept), "{names:?}, after {name}");
        }
        for _ in 0..2 {
            stream.delete().unwrap();
            assert_eq!(balance(&shop, &config), (FLOOR, 1), "{names:?}");
        }
        shop.vm().take_calls();
    }
    leave(&stays, 2, End::Status(200));
    assert_eq!((balance(&shop, &config), shop.metric(LEASE_ENDED)), ((FLOOR - 1, 0), 0));
}

#[test]
fn more_than_was_kept_is_counted_as_well() {
    let config = charged(1);
    let shop = Shop::with(&config, 1);
    leave(&hold(shop.vm()), 5, End::Status(200));
    assert_eq!((balance(&shop, &config), shop.metric(GRANTED)), ((FLOOR - 4, 0), 4));
    // Below nothing there is nothing to give, and what is spent comes back as it leaves the window.
    leave(&hold(shop.vm()), 50, End::Status(200));
    assert_eq!(balance(&shop, &config), (FLOOR - 53, 0));
    assert_eq!(told(&hold(shop.vm())), Some(0));
}

#[test]
fn a_failure_that_a_retry_would_have_helped_says_what_it_lacked() {
    let denied = |reason: &str| format!("resilience_retries_denied_total;policy=checkout;reason={reason}");
    let config = charged(1).replace(r#""min_retries_per_second": 1"#, r#""min_retries_per_second": 0"#);
    let shop = Shop::with(&config, 1);
    let stream = hold(shop.vm());
    assert_eq!(told(&stream), Some(0));
    leave(&stream, 1, End::Status(200));
    assert_eq!(shop.metric(DENIED), 0, "it needed none");
    leave(&hold(shop.vm()), 1, End::Status(500));
    assert_eq!((shop.metric(DENIED), shop.metric(&denied("budget"))), (1, 1));
    let post = arrive_with(shop.vm(), &[(":method", "POST")]);
    enter(&post).unwrap();
    leave(&post, 1, End::Status(500));
    assert_eq!((shop.metric(DENIED), shop.metric(&denied("not_idempotent"))), (2, 1));
    assert_eq!(shop.metric(GRANTED), 0);
}

#[test]
fn a_request_that_is_refused_pays_for_nothing() {
    let config = charged(1).replace("1000000", "3");
    let shop = Shop::with(&config, 1);
    for _ in 0..3 {
        leave(&hold(shop.vm()), 1, End::Status(500));
    }
    let before = balance(&shop, &config);
    let stream = arrive(shop.vm());
    let reply = enter(&stream).unwrap().expect("the breaker is open");
    assert_eq!(reply.status, 503);
    refused(&stream);
    assert_eq!(balance(&shop, &config), before);
    assert_eq!(written(&stream), [""; 0]);
}

#[test]
fn a_probe_is_not_retried() {
    let config = charged(2).replace("1000000", "3");
    let shop = Shop::with(&config, 1);
    for _ in 0..3 {
        leave(&hold(shop.vm()), 1, End::Status(500));
    }
    shop.pass(WAIT + TICK).unwrap();
    let probe = hold(shop.vm());
    assert_eq!((told(&probe), balance(&shop, &config)), (Some(0), (FLOOR, 0)));
    leave(&probe, 1, End::Status(200));
    assert_eq!(told(&hold(shop.vm())), Some(2));
}

/// What a worker that died had kept counts as made: nobody can tell.
#[test]
fn what_a_dead_worker_kept_is_spent() {
    let config = charged(2);
    let shop = Shop::with(&config, 2);
    let lost = hold(&shop.vms[1]);
    let stays = hold(shop.vm());
    shop.pass(TICK * 2).unwrap();
    let others = shop.only(0);
    others.pass(Duration::from_secs(7)).unwrap();
    // Beside another that may come to need one, the second was granted one.
    assert_eq!(balance(&shop, &config), (FLOOR - 2, 1));
    let told = shop.vm().logs().iter().any(|line| line.message.contains("2 retries (as made)"));
    assert!(told, "{:?}", shop.vm().logs());
    // It was not dead after all.
    leave(&lost, 1, End::Status(200));
    assert_eq!((balance(&shop, &config), shop.metric(LEASE_ENDED)), ((FLOOR - 2, 1), 1));
    leave(&stays, 1, End::Status(200));
    assert_eq!(balance(&shop, &config), (FLOOR - 2, 0));
}

#[test]
fn memory_and_keys_do_not_grow_with_retries() {
    let config = shop_of(r#""retry": {"max_retries": 2}, "timeout": {"total": "300ms"}"#);
    let shop = Shop::with(&config, 2);
    let played = |rounds: usize| {
        for round in 0..rounds {
            let vm = &shop.vms[round % 2];
            leave(&hold(vm), 1 + u64::from(round % 3 == 0), ENDS[round % ENDS.len()]);
            let upload = arrive(vm);
            upload.request_headers(false).unwrap();
            if round % 4 == 0 {
                shop.pass(TICK).unwrap();
                refused(&upload);
            } else {
                leave(&upload, 1, End::Status(200));
            }
            shop.vms.iter().for_each(|vm| drop(vm.take_calls()));
        }
        assert_eq!(balance(&shop, &config).1, 0);
        shop.vms.iter().map(FakeVm::memory_size).collect::<Vec<_>>()
    };
    let before = played(50);
    assert_eq!(played(400), before);
    assert_eq!(shop.host.keys().len(), 2, "the policy's and the members'");
}

/// What fails after its answer has begun would not have been retried.
#[test]
fn a_failure_in_trailers_is_no_denied_retry() {
    for (end, denied) in [(End::Grpc(14), 0), (End::ResetInBody, 0), (End::Status(500), 1)] {
        let config = charged(1);
        let shop = Shop::with(&config, 1);
        let taken: Vec<_> = (0..FLOOR).map(|_| hold(shop.vm())).collect();
        assert_eq!(balance(&shop, &config), (FLOOR, FLOOR), "{end:?}");
        leave(&hold(shop.vm()), 1, end);
        assert_eq!(shop.metric(DENIED), denied, "{end:?}");
        drop(taken);
    }
}
