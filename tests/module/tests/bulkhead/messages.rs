//! Messages that no VM sends, or that never arrive.

use crate::*;
use resilience_module_tests::Random;

/// The queue of the only worker, or of the second of two: what any VM of the process can put something into.
fn queue(shop: &Shop, slot: usize) -> u32 {
    let name = format!("resilience/shop/#wake/{slot}");
    shop.host.resolve_queue("vm", name.as_bytes()).expect("a queue")
}

#[test]
fn each_worker_listens_under_a_name_of_its_own_where_requests_may_wait() {
    let shop = Shop::with(&patient(1), 3);
    shop.pass(TICK).unwrap();
    let queues: Vec<_> = (0..3).map(|slot| queue(&shop, slot)).collect();
    assert_eq!(queues.len(), 3);
    assert_eq!(shop.host.resolve_queue("vm", b"resilience/shop/#wake/3"), None);
    let registrations = |shop: &Shop| {
        let of = |vm: &FakeVm| {
            vm.calls().iter().filter(|call| call.function == "proxy_register_shared_queue").count()
        };
        shop.vms.iter().map(of).collect::<Vec<_>>()
    };
    shop.pass(TICK * 20).unwrap();
    assert_eq!(registrations(&shop), [1, 1, 1]);
    let without = Shop::with(&strict(1), 2);
    without.pass(TICK * 2).unwrap();
    assert_eq!(registrations(&without), [0, 0]);
}

#[test]
fn the_queue_of_a_worker_that_is_gone_is_used_again() {
    let shop = Shop::with(&patient(1), 2);
    shop.pass(TICK).unwrap();
    // What nobody read is still in it.
    assert_eq!(shop.host.enqueue(queue(&shop, 1), vec![1, 2, 3, 4]), status::OK);
    shop.vms[1].delete_root(ROOT).unwrap();
    let next = worker(&shop.host, &patient(1));
    let shop = Shop { host: shop.host.clone(), vms: vec![shop.vm().clone(), next] };
    shop.pass(TICK).unwrap();
    assert_eq!(shop.host.resolve_queue("vm", b"resilience/shop/#wake/2"), None);
    let holder = hold(shop.vm());
    let waiter = wait(&shop.vms[1]);
    leave(&holder, End::Status(200));
    assert_eq!((shop.vms[1].deliver_queues().unwrap(), went_on(&waiter)), (1, 1));
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn what_is_no_message_does_nothing() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    let waiter = wait(shop.vm());
    let mut random = Random::new(7);
    let id = |stream: &FakeStream| stream.id().to_le_bytes().to_vec();
    let mut messages = vec![
        Vec::new(),
        vec![0; 3],
        vec![0; 4],
        vec![0xff; 4],
        [id(&waiter), vec![0]].concat(),
        vec![b'x'; 60 * 1024],
        ROOT.to_le_bytes().to_vec(),
        // One that does not wait, and one that has got no permit.
        id(&holder),
        id(&waiter),
        id(&waiter),
    ];
    messages.extend((0..3000).map(|_| random.bytes(4)).filter(|bytes| *bytes != id(&waiter)));
    for message in messages {
        assert_eq!(shop.host.enqueue(queue(&shop, 0), message), status::OK);
    }
    deliver(&shop);
    assert_eq!((crowd(&shop), went_on(&waiter), waiter.local_response()), ((1, 1), 0, None));
    leave(&holder, End::Status(200));
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    // It goes on once, however often it is said.
    for _ in 0..3 {
        shop.host.enqueue(queue(&shop, 0), id(&waiter));
    }
    deliver(&shop);
    assert_eq!((crowd(&shop), went_on(&waiter)), ((1, 0), 1));
    leave(&waiter, End::Status(200));
    shop.host.enqueue(queue(&shop, 0), id(&waiter));
    deliver(&shop);
    assert_eq!(crowd(&shop), (0, 0));
}

#[test]
fn a_queue_that_is_not_ours_or_not_there_is_none_of_ours() {
    let shop = Shop::with(&patient(1), 1);
    let holder = hold(shop.vm());
    let waiter = wait(shop.vm());
    leave(&holder, End::Status(200));
    for (root, token) in [(ROOT, 0), (ROOT, 77), (99, 1), (waiter.id(), 1), (0, u32::MAX)] {
        shop.vm().call("proxy_on_queue_ready", &[root, token]).unwrap();
        assert_eq!(went_on(&waiter), 0);
    }
    deliver(&shop);
    assert_eq!(went_on(&waiter), 1);
    leave(&waiter, End::Status(200));
    assert_eq!(crowd(&shop), (0, 0));
}
