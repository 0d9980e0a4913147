//! What the upstream learns of the deadline: the rest, less the margin.

use crate::*;

const ALL: [&str; 3] = [EXPECTED, GRPC, OWN];

fn asking(milliseconds: u64) -> Request {
    within(GRPC, milliseconds)
        .header(EXPECTED, milliseconds.to_string())
        .header(OWN, milliseconds.to_string())
        .header("x-behave", "grpc=0")
}

fn last(stage: &Stage) -> Received {
    stage.upstream.received().pop().expect("a request")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_rest_is_passed_on_less_a_margin() {
    let timeout = json!({"total": "20s", "margin": "100ms", "deadline_header": OWN});
    let mut stage = stage(true, &json!({"timeout": timeout})).await;
    for (asked, most) in [(5_000, 4_900), (10_000, 9_900), (60_000, 20_000)] {
        assert_eq!(stage.ask(asking(asked)).await.header("grpc-status"), "");
        let received = last(&stage);
        for name in ALL {
            let told = milliseconds(&received, name).unwrap_or_else(|| panic!("{name} did not arrive"));
            assert!((1..=most).contains(&told), "{name}: {told} of {asked}, at most {most}");
            // Generous: nobody waits here.
            assert!(told + 3000 >= most, "{name}: {told} of {asked}, at most {most}");
        }
    }
    // The operator's own header tells the total to upstreams of callers who said nothing, as Envoy's does; nobody is made
    // to speak gRPC.
    assert_eq!(stage.ask(Request::get("/shop")).await.status, 200);
    let received = last(&stage);
    assert_eq!(milliseconds(&received, GRPC), None);
    for name in [OWN, EXPECTED] {
        assert!(
            milliseconds(&received, name).is_some_and(|told| (1..=20_000).contains(&told)),
            "{received:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_is_given_the_total_or_nothing() {
    let own = json!({"deadline_header": OWN});
    for (total, expected) in [(Some("2s"), Some(2000)), (None, None)] {
        let mut timeout = own.clone();
        if let Some(total) = total {
            timeout["total"] = total.into();
        } else {
            timeout["per_try"] = "5s".into();
        }
        let mut stage = stage(false, &json!({"timeout": timeout})).await;
        assert_eq!(stage.ask(asking(77_777)).await.status, 200);
        let received = last(&stage);
        for name in [GRPC, OWN] {
            let told = milliseconds(&received, name);
            match expected {
                Some(most) => {
                    assert!(told.is_some_and(|told| (1..=most).contains(&told)), "{name}: {told:?}")
                }
                None => assert_eq!(told, None, "{name}"),
            }
        }
        assert_ne!(milliseconds(&received, EXPECTED), Some(77_777));
    }
}

/// Policies without `timeout` have nothing to say about the deadlines of others.
#[tokio::test(flavor = "multi_thread")]
async fn a_policy_without_timeouts_leaves_them() {
    let mut stage = stage(false, &json!({"retry": {"max_retries": 1}})).await;
    assert_eq!(stage.ask(asking(77_777)).await.status, 200);
    let received = last(&stage);
    assert_eq!((milliseconds(&received, GRPC), milliseconds(&received, OWN)), (Some(77_777), Some(77_777)));
    assert_ne!(milliseconds(&received, EXPECTED), Some(77_777));
}

/// Each attempt is told no more than it has.
#[tokio::test(flavor = "multi_thread")]
async fn no_attempt_is_told_more_than_the_deadline() {
    let sections = json!({
        "timeout": {"per_try": "1s", "deadline_header": OWN},
        "retry": {"max_retries": 2},
        "retry_budget": null,
    });
    let mut stage = stage(true, &sections).await;
    let request = within(OWN, 8000).header("x-behave", "status=503");
    assert_eq!(stage.attempts(request).await.1, 3);
    for received in stage.upstream.received() {
        assert!(milliseconds(&received, OWN).is_some_and(|told| told <= 7990), "{received:?}");
        assert!(milliseconds(&received, EXPECTED).is_some_and(|told| told <= 1000), "{received:?}");
    }
}
