//! Timeouts that only watch, and those that are switched off.

use crate::*;

fn sections(mode: &str) -> Value {
    json!({"timeout": {"total": "100ms", "per_try": "50ms", "deadline_header": OWN, "mode": mode}})
}

async fn shadowed(stage: &Stage) -> u64 {
    stage.edge.count(SHADOW, &[("policy", "shop"), ("reason", "deadline_exceeded")]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn in_shadow_nothing_is_refused_or_shortened() {
    for (mode, counted) in [("shadow", 3), ("disabled", 0)] {
        let mut stage = stage(true, &sections(mode)).await;
        for header in [EXPECTED, OWN, GRPC] {
            let request = within(header, 5).header("x-behave", "delay=300ms; status=200");
            assert_eq!(stage.ask(request).await.status, 200, "{mode}, {header}");
        }
        let slow = Request::get("/shop").header("x-behave", "delay=300ms");
        assert_eq!(stage.ask(slow).await.status, 200, "{mode}");
        let slow = Request::post("/shop", "a body").header("x-behave", "delay=300ms");
        assert_eq!(stage.ask(slow).await.status, 200, "{mode}");
        assert_eq!((shadowed(&stage).await, exceeded(&stage.edge).await), (counted, 0), "{mode}");
        stage.edge.wait_calls("shop", Calls { success: 5, ..Calls::default() }).await;
    }
}

/// A policy that only watches writes nothing either.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_in_shadow_is_no_other() {
    let mut of_policy = sections("enforce");
    of_policy["mode"] = "shadow".into();
    let mut stage = stage(true, &of_policy).await;
    let request = within(OWN, 5).header("x-behave", "delay=300ms");
    assert_eq!(stage.ask(request).await.status, 200);
    assert_eq!((shadowed(&stage).await, exceeded(&stage.edge).await), (1, 0));
    assert_eq!(milliseconds(&stage.upstream.received()[0], OWN), Some(5));
}
