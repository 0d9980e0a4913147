//! Metrics: one for the process under each name.

use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask, ask_one, command, envoy, probe};
use resilience_test_harness::config::bootstrap;
use resilience_test_harness::{Connection, Envoy, Protocol, refused_address};
use serde_json::json;

#[tokio::test(flavor = "multi_thread")]
async fn increments_of_all_workers_add_up_and_every_worker_reads_the_sum() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    for worker in workers.values_mut() {
        let both = "increment kind=counter name=c by=2; increment kind=gauge name=g by=3";
        assert_eq!(ask(worker, both).await, ["ok", "ok"]);
    }
    for worker in workers.values_mut() {
        assert_eq!(ask(worker, "value kind=counter name=c; value kind=gauge name=g").await, ["8", "12"]);
    }
    assert_eq!(envoy.stat("wasmcustom.c").await, Some(8));
    assert_eq!(envoy.prometheus().await.get("g", &[]), Some(12.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gauge_is_overwritten_by_record_and_wraps_below_zero() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    let mut workers = a_connection_to_each_worker(edge, 4).await;
    let (_, mut one) = workers.pop_first().unwrap();
    let (_, mut two) = workers.pop_first().unwrap();
    assert_eq!(ask_one(&mut one, "record kind=gauge name=g value=5").await, "ok");
    assert_eq!(ask(&mut two, "record kind=gauge name=g value=2; value kind=gauge name=g").await[1], "2");
    assert_eq!(ask(&mut one, "increment kind=gauge name=g by=-2; value kind=gauge name=g").await[1], "0");
    let below = ask(&mut two, "increment kind=gauge name=g by=-1; value kind=gauge name=g").await;
    assert_eq!(below[1], u64::MAX.to_string());
    assert_eq!(envoy.stat("wasmcustom.g").await, Some(u64::MAX));
    assert_eq!(ask(&mut one, "increment kind=gauge name=g by=1; value kind=gauge name=g").await[1], "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_one_metric_in_every_vm_id_and_root() {
    let (first, second) = (probe("a", "one", ""), probe("b", "two", ""));
    let third = probe("c", "one", "");
    // Three filters, of which the one that is named on the connection answers: the others are passed by.
    let envoy = envoy(&[first, second, third], &[], &[]).start().await;
    let edge = envoy.addr("edge").await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    for (plugin, sum) in [("a", "1"), ("b", "2"), ("c", "3")] {
        let commands =
            format!("only name={plugin}; increment kind=counter name=c by=1; value kind=counter name=c");
        let answer = worker.send(command(&commands)).await.unwrap();
        assert_eq!(answer.text(), format!("{plugin}\nok\n{sum}"));
    }
    assert_eq!(envoy.stat("wasmcustom.c").await, Some(3));
}

/// What no metric of its kind can do is a status.
#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_has_no_value_and_a_counter_only_grows() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    assert_eq!(ask_one(&mut worker, "record kind=histogram name=h value=7").await, "ok");
    assert_eq!(ask_one(&mut worker, "value kind=histogram name=h").await, "E2");
    assert_eq!(ask_one(&mut worker, "increment kind=counter name=c by=-1").await, "E2");
    assert!(envoy.get("/stats?filter=wasmcustom.h").await.body.contains("wasmcustom.h:"));
}

/// An id is no key: who defines a metric at every use fills the host's table, and who compares ids compares nothing.
#[tokio::test(flavor = "multi_thread")]
async fn defining_a_metric_again_gives_another_id_for_it() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    for (kind, name) in [("counter", "c"), ("gauge", "g")] {
        let twice = format!("twice kind={kind} name={name} first=2 second=5");
        assert_eq!(ask_one(&mut worker, &twice).await, "different 7 7", "{kind}");
        assert_eq!(envoy.stat(&format!("wasmcustom.{name}")).await, Some(7), "{kind}");
    }
}

/// Nothing fails, so a module cannot tell: what an operator leaves out of the stats is no place to keep anything.
#[tokio::test(flavor = "multi_thread")]
async fn a_metric_that_the_bootstrap_rejects_takes_everything_and_stays_at_zero() {
    let mut bootstrap = bootstrap(&[resilience_host_contract::edge(&[probe("probe", "vm", "")], &[])], &[]);
    bootstrap["stats_config"]["stats_matcher"] =
        json!({"exclusion_list": {"patterns": [{"prefix": "wasmcustom.rejected"}]}});
    let envoy = Envoy::builder(bootstrap).start().await;
    let mut workers = a_connection_to_each_worker(envoy.addr("edge").await, 4).await;
    for kind in ["counter", "gauge"] {
        for worker in workers.values_mut() {
            let commands = ["rejected", "kept"].map(|name| {
                let metric = format!("kind={kind} name={name}-{kind}");
                format!("increment {metric} by=3; value {metric}")
            });
            let answers = ask(worker, &commands.join("; ")).await;
            assert_eq!(answers[..3], ["ok", "0", "ok"], "{kind}");
        }
        assert_eq!(envoy.stat(&format!("wasmcustom.rejected-{kind}")).await, None);
        assert_eq!(envoy.stat(&format!("wasmcustom.kept-{kind}")).await, Some(12));
    }
    let worker = workers.first_entry().unwrap().into_mut();
    let record = "record kind=gauge name=rejected-gauge value=7; value kind=gauge name=rejected-gauge";
    assert_eq!(ask(worker, record).await, ["ok", "0"]);
    assert_eq!(ask_one(worker, "record kind=histogram name=rejected-h value=7").await, "ok");
}
