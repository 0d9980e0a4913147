//! Shared data: the store that all decisions of the process go through.

use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask, ask_one, command, envoy, probe};
use resilience_test_harness::{Connection, Protocol, refused_address};

/// The number of a key, as `get` shows it behind the value.
fn cas(shown: &str) -> u32 {
    shown.rsplit(' ').next().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_wins_or_is_refused_by_its_number() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    assert_eq!(ask_one(&mut worker, "get key=k").await, "none");
    // On a missing key any number creates.
    assert_eq!(ask(&mut worker, "put key=k value=a cas=7; put key=l value=a cas=0").await, ["ok", "ok"]);
    let read = ask_one(&mut worker, "get key=k").await;
    assert!(read.starts_with("a "), "{read}");
    // The number read wins once; the same number again is old.
    let number = cas(&read);
    assert_ne!(number, 0);
    let put = format!("put key=k value=b cas={number}; put key=k value=c cas={number}; get key=k");
    let answers = ask(&mut worker, &put).await;
    assert_eq!(answers[..2], ["ok", "E8"]);
    assert!(answers[2].starts_with("b ") && cas(&answers[2]) != number, "{answers:?}");
    // 0 asks nothing.
    let answers = ask(&mut worker, "put key=k value=d cas=0; get key=k").await;
    assert!(answers[0] == "ok" && answers[1].starts_with("d "), "{answers:?}");
    // The largest number creates, and is the number of nothing that exists.
    let create = |value: &str| format!("put key=new value={value} cas={}; get key=new", u32::MAX);
    assert_eq!(ask(&mut worker, &create("first")).await[0], "ok");
    let answers = ask(&mut worker, &create("second")).await;
    assert!(answers[0] == "E8" && answers[1].starts_with("first "), "{answers:?}");
    // An empty value is a value.
    let answers = ask(&mut worker, "put key=k value= cas=0; get key=k").await;
    assert!(answers[1].starts_with(' '), "{answers:?}");
}

/// Workers that found no key write with what they have, 0; only the largest number makes one of them the first.
#[tokio::test(flavor = "multi_thread")]
async fn two_first_writers_both_win_unless_they_only_create() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 2).await;
    let (_, mut one) = workers.pop_first().unwrap();
    let (_, mut two) = workers.pop_first().unwrap();
    for (key, cas, second, kept) in [("k", 0, "ok", "two "), ("l", u32::MAX, "E8", "one ")] {
        let read = format!("get key={key}");
        assert_eq!(
            (ask_one(&mut one, &read).await, ask_one(&mut two, &read).await),
            ("none".into(), "none".into())
        );
        assert_eq!(ask_one(&mut one, &format!("put key={key} value=one cas={cas}")).await, "ok");
        assert_eq!(ask_one(&mut two, &format!("put key={key} value=two cas={cas}")).await, second);
        for worker in [&mut one, &mut two] {
            assert!(ask_one(worker, &read).await.starts_with(kept));
        }
    }
}

/// Each write of any key takes the next number of the whole process: a number never comes back before it wraps.
#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_are_one_sequence() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    let answers = ask(&mut worker, "put key=a value=; get key=a; put key=b value=; get key=b").await;
    assert_eq!(cas(&answers[3]), cas(&answers[1]) + 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_workers_count_in_one_value() {
    let (_envoy, edge) = with_probe("", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let mut first = workers.pop_first().unwrap().1;
    ask_one(&mut first, "put key=sum value=0").await;
    let mut adding = vec![first.start(command("add key=sum times=2000")).await.unwrap()];
    for worker in workers.values_mut() {
        adding.push(worker.start(command("add key=sum times=2000")).await.unwrap());
    }
    for worker in adding {
        assert_eq!(worker.headers().await.unwrap().status, 200);
    }
    assert!(ask_one(&mut first, "get key=sum").await.starts_with("8000 "));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_id_is_a_map_of_its_own_and_a_root_is_not() {
    let filters = [probe("a", "one", ""), probe("b", "one", ""), probe("c", "two", "")];
    let envoy = envoy(&filters, &[], &[]).start().await;
    let mut worker = Connection::open(envoy.addr("edge").await, Protocol::Http1).await.unwrap();
    assert_eq!(ask(&mut worker, "only name=a; put key=k value=mine").await, ["a", "ok"]);
    let read = ask(&mut worker, "only name=b; get key=k").await;
    assert!(read[1].starts_with("mine "), "{read:?}");
    assert_eq!(ask(&mut worker, "only name=c; get key=k").await, ["c", "none"]);
}
