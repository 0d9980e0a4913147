//! Metrics: one for the process under each name.

use crate::with_probe;
use resilience_host_contract::{a_connection_to_each_worker, ask, ask_one, command, envoy, probe};
use resilience_test_harness::config::bootstrap;
use resilience_test_harness::{Connection, Envoy, PATIENCE, Protocol, eventually, refused_address};
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

/// Whoever defines a metric before its first event shows that none came yet, to those who do not leave out what was never
/// used. A name without labels has an empty list of them.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_only_defined_is_shown_as_zero() {
    let (envoy, edge) = with_probe("", refused_address()).await;
    let mut worker = Connection::open(edge, Protocol::Http1).await.unwrap();
    let define = "value kind=counter name=defined_c; value kind=gauge name=defined_g";
    assert_eq!(ask(&mut worker, define).await, ["0", "0"]);
    let usage = "record kind=gauge name=used_g value=0; increment kind=counter name=used_c by=0";
    // To add nothing to a counter is an error.
    assert_eq!(ask(&mut worker, usage).await, ["ok", "E2"]);
    let shown = async |query: &str| {
        let text = envoy.get(&format!("/stats/prometheus{query}")).await.body;
        ["defined_c", "defined_g", "used_g"]
            .map(|name| text.lines().any(|line| line == format!("{name}{{}} 0")))
    };
    assert_eq!(shown("").await, [true; 3]);
    assert_eq!(shown("?usedonly").await, [false, false, true]);
}

/// Its unit is nobody's but the name's. What it shows is as old as the last flush, and the sum is put together from the
/// middles of fine buckets.
#[tokio::test(flavor = "multi_thread")]
async fn a_histogram_is_shown_in_buckets_with_its_sum_and_its_count() {
    let mut bootstrap = bootstrap(&[resilience_host_contract::edge(&[probe("probe", "vm", "")], &[])], &[]);
    bootstrap["stats_flush_interval"] = "0.1s".into();
    let envoy = Envoy::builder(bootstrap).start().await;
    let mut workers = a_connection_to_each_worker(envoy.addr("edge").await, 4).await;
    let values = [3, 7, 70, 4000];
    for (value, worker) in values.into_iter().zip(workers.values_mut()) {
        let record = format!("record kind=histogram name=waits value={value}");
        assert_eq!(ask_one(worker, &record).await, "ok");
    }
    let shown = eventually("a flush of all workers", PATIENCE, async || {
        Some(envoy.prometheus().await).filter(|metrics| metrics.get("waits_count", &[]) == Some(4.0))
    })
    .await;
    for (le, count) in
        [("1", 0.0), ("5", 1.0), ("10", 2.0), ("100", 3.0), ("5000", 4.0), ("3600000", 4.0), ("+Inf", 4.0)]
    {
        assert_eq!(shown.get("waits_bucket", &[("le", le)]), Some(count), "{le}");
    }
    let (sum, exact) = (shown.get("waits_sum", &[]).unwrap(), f64::from(values.iter().sum::<i32>()));
    assert!(sum != exact && (sum - exact).abs() < exact * 0.05, "{sum}");
    assert!(envoy.get("/stats/prometheus").await.body.contains("# TYPE waits histogram\n"));
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
