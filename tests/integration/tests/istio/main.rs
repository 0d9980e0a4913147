//! How our metrics get labels where the bootstrap is Istio's, as far as an Envoy by itself can show it.

mod relabel;

use relabel::{Relabel, Series};
use resilience_integration_tests::*;
use resilience_test_harness::*;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

fn bundle(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../envoy").join(file)
}

/// The shop of a test: policies of all kinds, and requests that make them count all kinds of things. Their names hold words that
/// are labels, where these could be taken for them.
struct Shop {
    upstream: Upstream,
    edge: Edge,
}

impl Shop {
    async fn start(stats_config: Value, overlay: Option<String>) -> Self {
        let upstream = Upstream::start().await;
        let fragile = json!({"consecutive_failures": 1, "wait_duration_in_open_state": "60s"});
        let with = |mut policy: Value, more: Value| {
            policy.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            policy
        };
        let answer = json!([{"on": ["refusal"], "static": {"status": 200, "text": ""}}]);
        let policies = [
            with(policy("ship-to-home", fragile.clone()), json!({"fallback": answer})),
            with(policy("api-store", fragile.clone()), json!({"key": "upstream_cluster"})),
            with(
                policy("no-reason-yet", fragile.clone()),
                json!({"circuit_breaker": null, "bulkhead": {
                    "max_concurrent_calls": 1, "max_wait_duration": "10s",
                    "priority": {"default": "first_class", "classes": [{"name": "first_class", "max_share": 100}]},
                }}),
            ),
            with(
                policy("outcome", fragile.clone()),
                json!({"retry": {"max_retries": 1, "retry_on": ["5xx"]}}),
            ),
            with(policy("shadow-bucket", fragile), json!({"mode": "shadow"})),
        ];
        let filters = [filter(&document(&policies))];
        let mut bootstrap =
            bootstrap(&[routed_listener("edge", &[patient_route()], &filters)], upstream.addr());
        bootstrap["stats_config"] = stats_config;
        bootstrap["stats_flush_interval"] = "0.2s".into();
        let mut builder = Envoy::builder(bootstrap);
        if let Some(yaml) = overlay {
            builder = builder.overlay_yaml(yaml);
        }
        let shop = Self { upstream, edge: Edge::of(builder).await };
        shop.trade().await;
        shop
    }

    async fn ask(&self, request: Request, behaviour: &str) -> u16 {
        let request = request.header("x-behave", behaviour);
        send_once(self.edge.address, Protocol::Http1, request).await.unwrap().status
    }

    async fn trade(&self) {
        for name in ["ship-to-home", "api-store", "shadow-bucket"] {
            let request = || Request::get(&format!("/{name}"));
            assert_eq!(self.ask(request(), "status=200").await, 200);
            assert_eq!(self.ask(request(), "status=500").await, 500);
            let then = self.ask(request(), "status=200").await;
            assert_eq!(then, if name == "api-store" { 503 } else { 200 });
        }
        let twice = Request::get("/outcome").header("x-id", "twice");
        assert_eq!(self.ask(twice, "status=500|status=200").await, 200);
        assert_eq!(self.ask(Request::post("/outcome", "x"), "status=500").await, 500);
        let request = || Request::get("/no-reason-yet");
        let hang = self.edge_client().await.start(request().header("x-behave", "hang")).await.unwrap();
        self.upstream.wait_in_flight(1).await;
        let waits = self.edge_client().await.start(request()).await.unwrap();
        eventually("one that waits", PATIENCE, async || {
            let shown = self.edge.envoy.get("/stats?filter=bulkhead_waiting").await.body;
            shown.lines().any(|line| line.ends_with(": 1")).then_some(())
        })
        .await;
        self.upstream.release();
        for pending in [hang, waits] {
            assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
        }
        eventually("what was counted of a wait", PATIENCE, async || {
            let shown = self.edge.envoy.get("/stats/prometheus").await.body;
            let count =
                shown.lines().find(|line| line.contains("wait_milliseconds") && line.contains("_count"));
            count?.ends_with(" 1").then_some(())
        })
        .await;
    }

    async fn edge_client(&self) -> Connection {
        Connection::open(self.edge.address, Protocol::Http1).await.unwrap()
    }

    /// What it counts, by Envoy's own names (`wasmcustom.<name>;<label>=<value>`), and what a scrape shows of it, without the
    /// buckets of histograms.
    async fn counted_and_scraped(&self) -> (BTreeSet<Series>, BTreeSet<Series>) {
        let counted = async || {
            let stats = self.edge.envoy.get("/stats?filter=^wasmcustom.resilience_").await.body;
            let names = stats.lines().filter_map(|line| line.strip_prefix("wasmcustom.")?.split_once(": "));
            names.flat_map(|(name, _)| Series::of_tags(name).scraped()).collect::<BTreeSet<_>>()
        };
        // A tick may define one more in between.
        eventually("two looks at the same", PATIENCE, async || {
            let before = counted().await;
            let text = self.edge.envoy.get("/stats/prometheus").await.body;
            let ours = text.lines().filter(|line| line.starts_with("resilience_") && !line.contains("le=\""));
            let scraped = ours.map(Series::of_exposition).collect();
            (counted().await == before).then_some((before, scraped))
        })
        .await
    }
}

fn assert_same(shown: &BTreeSet<Series>, counted: &BTreeSet<Series>) {
    let too_many: Vec<_> = shown.difference(counted).collect();
    let missing: Vec<_> = counted.difference(shown).collect();
    assert!(too_many.is_empty() && missing.is_empty(), "shown: {too_many:#?}\nnot shown: {missing:#?}");
    assert!(shown.len() > 20, "{shown:?}");
}

/// What is in the way of our metrics in the bootstrap of Istio's proxies: only stats that begin with certain words are kept, and
/// some of Istio's tags look for words anywhere in a name.
fn of_istio() -> Value {
    let kept = [
        "reporter=",
        "cluster_manager",
        "listener_manager",
        "server",
        "cluster.xds-grpc",
        "wasm",
        "component",
        "istio",
    ];
    let prefixes: Vec<_> = kept.iter().map(|word| json!({"prefix": word})).collect();
    let tag = |name: &str, regex: &str| json!({"tag_name": name, "regex": regex});
    json!({
        "use_all_default_tags": false,
        "stats_tags": [
            tag("cluster_name", r"^cluster\.((.+?(\..+?\.svc\.cluster\.local)?)\.)"),
            tag("response_code", r"_rq(_(\d{3}))$"),
            tag("response_code_class", r"_rq(_(\dxx))$"),
            tag("cache", r"(cache\.(.+?)\.)"),
            tag("component", r"(component\.(.+?)\.)"),
            tag("tag", r"(tag\.(.+?);\.)"),
            tag("wasm_filter", r"(wasm_filter\.(.+?)\.)"),
            tag("authz_enforce_result", r"rbac(\.(allowed|denied))"),
        ],
        "stats_matcher": {"inclusion_list": {"patterns": prefixes}},
    })
}

/// What the rendered ConfigMap hands to Envoy.
fn bootstrap_override() -> String {
    let scratch = Scratch::new();
    let render = bundle("../tools/render");
    let output =
        Command::new(render).arg(bundle("istio/labels.yaml")).arg(scratch.file("labels.yaml")).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{output:?}");
    let lines = scratch.lines("labels.yaml");
    let start = lines.iter().position(|line| line == "  custom_bootstrap.json: |").expect("a file");
    let inside = lines[start + 1..].iter().map(|line| line.strip_prefix("    ").unwrap_or(""));
    inside.collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn an_addition_to_istios_bootstrap_makes_labels() {
    // The one list that there is, without a second copy.
    let added = bootstrap_override();
    let ours = std::fs::read_to_string(bundle("stats-config.yaml")).unwrap();
    assert_eq!(added.trim(), ours.trim());
    let shop = Shop::start(of_istio(), Some(added)).await;
    let (counted, scraped) = shop.counted_and_scraped().await;
    assert_same(&scraped, &counted);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_it_prometheus_takes_labels_out_of_the_names() {
    let relabel = Relabel::read(&bundle("istio/relabel.yaml"));
    let shop = Shop::start(of_istio(), None).await;
    let (counted, scraped) = shop.counted_and_scraped().await;
    let relabelled: BTreeSet<_> = scraped.into_iter().map(|series| relabel.apply(series)).collect();
    assert_same(&relabelled, &counted.into_iter().map(Series::with_plain_values).collect());

    // What is rare, and what is new to none of the rules.
    let rare = [
        "resilience_circuit_breaker_transitions_total;policy=ship-to-home;to=half_open;cause=wait_over",
        "resilience_circuit_breaker_transitions_total;policy=cause;to=open;cause=slow_call_rate_threshold",
        "resilience_circuit_breaker_open_milliseconds_total;policy=ship-to-home",
        "resilience_circuit_breaker_recovery_milliseconds_sum;policy=outcome",
        "resilience_circuit_breaker_probes_total;policy=no-outcome;outcome=ignored",
        "resilience_leases_reclaimed_total;policy=kind;kind=permit",
        "resilience_configuration_generation;namespace=shop-namespace",
        "resilience_vm_deaths_total;namespace=shopfast",
        "resilience_vm_starts_total",
        "resilience_metrics_dropped_total",
        "resilience_store_give_ups_total;operation=lease",
        "resilience_keys_exhausted_total;policy=a-to-z",
        "resilience_stale_routes_total;policy=to",
        "resilience_rejections_total;policy=a-class-of-its-own;reason=circuit_open;class=_",
        "resilience_retries_denied_total;policy=reason;reason=not_idempotent",
        "resilience_fallbacks_total;policy=open-source;reason=upstream_failure;source=reroute",
    ];
    for name in rare {
        let series = Series::of_tags(name).with_plain_values();
        assert_eq!(relabel.apply(series.clone().unlabelled()), series, "{name}");
    }
}
