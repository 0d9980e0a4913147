//! Answers that take their time: once they have begun there are no retries of them, and what was kept is for others.

use crate::*;

/// More than the default budget has retries, and yet few enough for it when they have paid.
const LASTING: usize = 120;
const FLOOR: u64 = 100;

/// Not answered before a first release, and not at an end before a second.
fn lasting(number: usize) -> Request {
    let download = "hang; body=a slow download; hang-mid-body";
    let events = "hang; body=data: an event; chunked; header=content-type:text/event-stream; hang-mid-body";
    get(number).header("x-behave", if number.is_multiple_of(2) { download } else { events })
}

/// Whether all that is kept was given back; a little more is there where what they paid still counts.
async fn wait_floor(edge: &Edge) {
    eventually("a balance at the floor or above", PATIENCE, async || {
        edge.gauge(BALANCE, "shop").await.is_some_and(|left| left >= FLOOR).then_some(())
    })
    .await;
}

async fn do_not_keep_retries(route: Value, sections: Value, attempts: usize) {
    let mut stage = Stage::routed(&[route], &[filter(&shop(&sections))]).await;
    let mut pending = Vec::new();
    for number in 0..LASTING {
        pending.push(stage.start(lasting(number)).await);
    }
    stage.upstream.wait_requests(LASTING).await;
    // As long as any of them may be retried, there is not enough for all.
    let meanwhile = stage.attempts_of_failing(get("meanwhile")).await;
    assert!(meanwhile < attempts, "{meanwhile} attempts: no real test");
    stage.upstream.release();
    let mut begun = Vec::new();
    for pending in pending {
        let mut answer = pending.headers().await.expect("an answer that begins");
        assert_eq!(answer.status, 200);
        assert!(answer.chunk().await.expect("a first piece").is_some());
        begun.push(answer);
    }
    wait_floor(&stage.edge).await;
    for number in 0..2 * WORKERS {
        let id = format!("besides-{number}");
        assert_eq!(stage.attempts_of_failing(get(id)).await, attempts, "{sections}");
    }
    assert_eq!(stage.upstream.in_flight(), LASTING, "they last");
    stage.upstream.release();
    for answer in begun {
        assert_eq!(answer.finish().await.broken, None);
    }
    let failure = 1 + 2 * WORKERS as u64;
    let calls = Calls { success: LASTING as u64, failure, ..Calls::default() };
    stage.edge.wait_calls("shop", calls).await;
    let made = meanwhile - 1 + 2 * WORKERS * (attempts - 1);
    wait_granted(&stage.edge, "shop", made).await;
    assert_eq!(traps(&stage.edge.envoy), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_last_keep_no_retries_from_others() {
    do_not_keep_retries(patient_route(), json!({"retry": {"max_retries": 3}}), 4).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nor_do_they_where_the_route_makes_them() {
    do_not_keep_retries(retrying_route(2), json!({"retry_budget": {}}), 3).await;
}
