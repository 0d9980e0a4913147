//! Filters that change answers: behind us they make what we judge, in front of us they get what we made.

use super::*;
use resilience_test_harness::config::typed;

fn lua(script: &str) -> Value {
    let source = json!({"default_source_code": {"inline_string": script}});
    typed("envoy.filters.http.lua", "extensions.filters.http.lua.v3.Lua", source)
}

/// What a script makes of an answer behind us is the upstream's to us.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_behind_us_is_what_we_judge() {
    let failing = lua("function envoy_on_response(handle)
           local wanted = handle:headers():get('x-make')
           if wanted then handle:headers():replace(':status', wanted) end
         end");
    let document = document(&[fragile("shop", 1000, later())]);
    for place in PLACES {
        let filters = std::slice::from_ref(&failing);
        let (front, behind) = if place == Place::Front { (filters, &[][..]) } else { (&[][..], filters) };
        let mut scene = Scene::placed(&document, &[], front, behind).await;
        for (words, in_front, by_us) in [
            // A good answer that is made bad, and a bad one that is made good.
            ("status=200; header=x-make:500", 500, true),
            ("status=500; header=x-make:200", 200, false),
        ] {
            let answer = scene.get("/shop", words).await;
            let is_ours = answer.header("x-resilience") == mark("shop", "upstream_failure", "static");
            let expected = match place {
                Place::Behind => (200, by_us),
                // Of our own answer nothing is left that would tell the script.
                Place::Front => (in_front, !by_us),
            };
            assert_eq!((answer.status, is_ours), expected, "{words} {place:?}");
        }
        let failures = 1;
        scene.edge.wait_calls("shop", calls(1, failures, 0)).await;
        scene.sound();
    }
}

/// It gets ours, whole, whatever the failed one was.
#[tokio::test(flavor = "multi_thread")]
async fn who_reads_bodies_in_front_of_us_reads_ours() {
    let reading = lua("function envoy_on_response(handle)
           local body = handle:body()
           handle:headers():add('x-length', body and body:length() or 0)
         end");
    let large = "ours ".repeat(20_000);
    let policies = [
        fragile("shop", 1000, json!([{"static": {"status": 200, "text": large}}])),
        fragile("empty", 1000, json!([{"static": {"status": 200}}])),
    ];
    let mut scene = Scene::placed(&document(&policies), &[], &[reading], &[]).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for words in [
            "status=500",
            "status=500; chunked",
            "status=500; size=500000",
            "status=500; size=500000; chunked",
        ] {
            for (path, body) in [("/shop", large.as_str()), ("/empty", "")] {
                let answer = scene.ask(protocol, told(Request::get(path), words)).await.answer;
                let what = format!("{path} {words} over {protocol:?}");
                assert_eq!(
                    (answer.status, answer.text() == body, &answer.broken),
                    (200, true, &None),
                    "{what}"
                );
                assert_eq!(answer.header("x-length"), body.len().to_string(), "{what}");
            }
        }
    }
    scene.sound();
}

/// Delays of a fault filter: in front they come on top of a policy's time, behind they are part of what the upstream may take only
/// where Envoy's own clock has begun.
#[tokio::test(flavor = "multi_thread")]
async fn a_delay_is_bounded_by_none_of_our_timeouts_in_either_place() {
    let delay =
        json!({"delay": {"fixed_delay": "1.7s", "percentage": {"numerator": 100, "denominator": "HUNDRED"}}});
    let delaying = typed("envoy.filters.http.fault", "extensions.filters.http.fault.v3.HTTPFault", delay);
    let policy = with(fragile("shop", 1000, later()), json!({"timeout": {"total": "1500ms"}}));
    for place in PLACES {
        let filters = std::slice::from_ref(&delaying);
        let (front, behind) = if place == Place::Front { (filters, &[][..]) } else { (&[][..], filters) };
        let mut scene = Scene::placed(&document(std::slice::from_ref(&policy)), &[], front, behind).await;
        let started = Instant::now();
        let answer = scene.get("/shop", "status=200").await;
        assert_eq!((answer.status, answer.header("x-resilience")), (200, String::new()), "{place:?}");
        assert!(started.elapsed() >= Duration::from_millis(1700), "{place:?}: it was not delayed");
        let hung = scene.get("/shop", "hang").await;
        assert_eq!(hung.header("x-resilience"), mark("shop", "timeout", "static"), "{place:?}");
        scene.sound();
    }
}
