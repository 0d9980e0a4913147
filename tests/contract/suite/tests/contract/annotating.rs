//! What a filter writes beside a stream for those who log it: filter state, by `set_property`.

use crate::scene::{Scene, said};
use resilience_host_contract::{command, probe};
use resilience_test_harness::config::{
    bootstrap, cluster, connection_manager, listener, route, virtual_host, with_access_log_of,
};
use resilience_test_harness::{Envoy, PATIENCE, Protocol, Scratch, Upstream, eventually, send_once};
use serde_json::{Value, json};

const LOG: &str = "access.log";

/// An Envoy whose access log shows what was written beside each request.
struct Stage {
    scene: Scene,
    scratch: Scratch,
}

impl Stage {
    async fn new(log_format: Value) -> Self {
        let (upstream, scratch) = (Upstream::start().await, Scratch::new());
        let mut to_upstream = route("all", "/", "up");
        to_upstream["request_headers_to_add"] =
            json!([{"header": {"key": "x-told", "value": "%FILTER_STATE(wasm.shop.policy:PLAIN)%"}}]);
        let hosts = [virtual_host("all", &[to_upstream])];
        let manager = connection_manager(&hosts, &[probe("probe", "vm", "queue")]);
        let manager = with_access_log_of(manager, &scratch.file(LOG), log_format);
        let bootstrap = bootstrap(&[listener("edge", manager)], &[cluster("up", &[upstream.addr()])]);
        let envoy =
            Envoy::builder(bootstrap).argument("--file-flush-interval-msec").argument("20").start().await;
        let edge = envoy.addr("edge").await;
        let stage = Self { scene: Scene::of(upstream, envoy, edge).await, scratch };
        // One for each request that found out which worker it had.
        stage.quiet().await;
        stage
    }

    /// With the value of one key in its own shape.
    async fn json() -> Self {
        let shown = |form: &str| format!("%FILTER_STATE(wasm.shop.policy{form})%");
        let values = json!({
            "case": "%REQ(x-case)%",
            "plain": shown(":PLAIN"),
            "typed": shown(""),
            "in text": format!("<{}>", shown(":PLAIN")),
            "status": "%RESPONSE_CODE%",
            "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        });
        Self::new(json!({"json_format": values})).await
    }

    /// Waits until nothing more is written.
    async fn quiet(&self) {
        let mut before = None;
        eventually("an access log that has been written", PATIENCE, async || {
            tokio::time::sleep(std::time::Duration::from_millis(60)).await;
            let now = self.scratch.lines(LOG).len();
            before.replace(now).filter(|before| *before == now)
        })
        .await;
    }

    /// The line of a case.
    async fn logged(&self, case: &str) -> Value {
        eventually(&format!("the line of {case}"), PATIENCE, async || {
            let lines =
                self.scratch.lines(LOG).into_iter().filter_map(|line| serde_json::from_str(&line).ok());
            lines.into_iter().find(|line: &Value| line["case"] == case)
        })
        .await
    }

    /// Runs commands of a request of its own, and gives what the log says of it.
    async fn told(&self, commands: &str) -> Value {
        let request = command(commands).header("x-case", commands);
        send_once(self.scene.edge, Protocol::Http2, request).await.expect("an answer");
        self.logged(commands).await
    }
}

/// One segment with dots in it, as it is then in every place; segments set off by NUL make a name that no log can say.
#[tokio::test(flavor = "multi_thread")]
async fn a_property_is_filter_state_under_a_prefix_of_the_hosts() {
    let stage = Stage::json().await;
    let read = "property by=, path=shop.policy; property by=, path=filter_state,wasm.shop.policy; property by=, path=shop,policy";
    for (set, answers, logged) in [
        ("shop.policy", "ok|a|a|-", json!("a")),
        ("shop,policy", "ok|-|-|-", Value::Null),
        ("wasm.shop.policy", "ok|-|-|-", Value::Null),
    ] {
        let commands = format!("set-property path={set} value=a; {read}; go");
        let request = command(&commands).header("x-case", set);
        let answer = send_once(stage.scene.edge, Protocol::Http2, request).await.unwrap();
        assert_eq!(answer.header("x-probe-answer"), answers, "{set}");
        assert_eq!(stage.logged(set).await["plain"], logged, "{set}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_of_json_shows_text_numbers_and_null() {
    let stage = Stage::json().await;
    let line = |line: Value| ["plain", "typed", "in text", "status", "attempts"].map(|key| line[key].clone());
    let base64 =
        |text: &str| json!({"@type": "type.googleapis.com/google.protobuf.BytesValue", "value": text});
    let set = stage.told("set-property path=shop.policy value=checkout; go").await;
    assert_eq!(
        line(set),
        [json!("checkout"), base64("Y2hlY2tvdXQ="), json!("<checkout>"), json!(200), json!(1)]
    );
    let empty = stage.told("set-property path=shop.policy hex=; go").await;
    assert_eq!(line(empty), [json!(""), base64(""), json!("<>"), json!(200), json!(1)]);
    // Nothing set, and no attempt.
    let absent = stage.told("reply status=503").await;
    assert_eq!(line(absent), [Value::Null, Value::Null, json!("<->"), json!(503), json!(0)]);
}

/// The log is written behind the filter's own log callback.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_that_was_written_is_logged_whenever_that_was() {
    let stage = Stage::json().await;
    let set = |value: &str| format!("set-property path=shop.policy value={value}");
    let early = set("early");
    for (commands, logged) in [
        (format!("{early}; go"), "early"),
        (format!("{early}; reply status=503"), "early"),
        (format!("{early}; on-response reply status=504"), "early"),
        (format!("{early}; {}; go", set("second")), "second"),
        (format!("on-response {}", set("late")), "late"),
        (format!("{early}; on-response {}", set("late")), "late"),
        (format!("{early}; on-end event=log as=log {}; go", set("last")), "last"),
        // Nothing fails, and nobody sees it.
        (format!("{early}; on-end event=done as=done {}; go", set("lost")), "early"),
    ] {
        assert_eq!(stage.told(&commands).await["plain"], logged, "{commands}");
    }
    assert_eq!(said(&stage.scene.envoy, "done", "done").await, ["ok"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_waits_is_written_to_from_a_queue_and_at_a_tick() {
    let mut stage = Stage::json().await;
    let scene = &mut stage.scene;
    let (vm, other) = scene.two();
    let set = |value: &str, stream| {
        format!("effective stream={stream}&set-property path=shop.policy value={value}")
    };

    // Where no stream is meant there is nothing to write to.
    assert_eq!(scene.tell(other, vm, "nobody", "set-property path=shop.policy value=x").await, ["E1"]);
    let (first, at) = scene.pause(vm, "first").await;
    let (second, beside) = scene.pause(vm, "second").await;
    let both = format!("{}&{}", set("queue", at.stream), set("beside", beside.stream));
    assert_eq!(scene.tell(other, vm, "told", &both).await, ["ok"; 4]);
    assert_eq!(scene.at_tick(vm, "ticked", &set("tick", at.stream)).await, ["ok", "ok"]);
    for (case, pending, place) in [("first", first, at), ("second", second, beside)] {
        crate::scene::resume(&mut scene.workers, place, &format!("{case}-resumed")).await;
        assert_eq!(pending.headers().await.unwrap().finish().await.status, 200);
    }
    assert_eq!(stage.logged("first").await["plain"], "tick");
    assert_eq!(stage.logged("second").await["plain"], "beside");
}

/// Headers that the route adds are written by the router, behind every filter.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_can_hand_it_on_to_the_upstream() {
    let stage = Stage::json().await;
    stage.told("set-property path=shop.policy value=checkout; go").await;
    stage.told("go").await;
    let received = stage.scene.upstream.received();
    let told =
        received.iter().map(|request| request.headers.get("x-told").map(|value| value.to_str().unwrap()));
    assert_eq!(told.collect::<Vec<_>>(), [Some("checkout"), None]);
}

/// A log of JSON has one line and one value whatever it holds; a log of text has what was written, as it is.
#[tokio::test(flavor = "multi_thread")]
async fn only_a_log_of_json_holds_any_bytes() {
    let stage = Stage::json().await;
    for (hex, shown) in [
        ("612262", "a\"b"),
        ("615c62", "a\\b"),
        ("610a62", "a\nb"),
        ("6100621b", "a\0b\u{1b}"),
        ("c3a4", "ä"),
        // What is no text is taken for Latin-1.
        ("61ff62", "a\u{ff}b"),
    ] {
        let line = stage.told(&format!("set-property path=shop.policy hex={hex}; go")).await;
        assert_eq!(line["plain"], shown, "{hex}");
    }
    let text = json!({"text_format_source": {"inline_string": "<%FILTER_STATE(wasm.shop.policy:PLAIN)%>\n"}});
    let stage = Stage::new(text).await;
    let before = stage.scratch.lines(LOG).len();
    let request = command("set-property path=shop.policy hex=610a62; go");
    send_once(stage.scene.edge, Protocol::Http2, request).await.unwrap();
    let lines = eventually("two lines", PATIENCE, async || {
        Some(stage.scratch.lines(LOG)).filter(|lines| lines.len() > before + 1)
    })
    .await;
    assert_eq!(lines[before..], ["<a", "b>"]);
}
