//! Unknown commits: a flush fails, and the batch may be written all the same. The judged rules agree
//! with the stored ones before anything is answered.

use std::sync::atomic::Ordering;

use tidewire_proto::v1::{AlertRule, AlertState, ErrorCode, ListAlertsRequest};
use tidewire_store::{Batch, Table, Write};

use crate::support::{FailedFlush, Run, World, above, recurring};

/// The outcomes of a flush that failed.
const OUTCOMES: [FailedFlush; 2] = [FailedFlush::Written, FailedFlush::NotWritten];

async fn listed(run: &Run, user: &str) -> Vec<AlertRule> {
    let request = ListAlertsRequest::default();
    run.engine.list(user, &request, false).await.unwrap().items
}

/// Runs a request whose flush fails, then opens the store while somebody lists the rules.
async fn refused<T: std::fmt::Debug>(
    run: &Run,
    left: FailedFlush,
    request: impl Future<Output = Result<T, tidewire_alert::AlertError>>,
) -> Vec<AlertRule> {
    run.killer.fail_next_flush(left);
    let error = request.await.unwrap_err();
    assert_eq!(error.code(), ErrorCode::Unavailable, "{error}");
    // Further requests do not wait for the store.
    let other = run.engine.register("bob", above("ETH-USD", "1"), None);
    assert_eq!(other.await.unwrap_err().code(), ErrorCode::Unavailable);
    run.killer.reopen();
    listed(run, "ada").await
}

#[tokio::test]
async fn a_registration_whose_flush_failed_is_judged_if_it_is_stored() {
    for left in OUTCOMES {
        let world = World::new();
        let run = world.start().await;
        run.evaluate("BTC-USD", "90").await;
        let key = || Some("k1".to_owned());
        let rule = || recurring(above("BTC-USD", "100"));
        let first = run.engine.register("ada", rule(), key());
        let shown = refused(&run, left, first).await;
        match left {
            FailedFlush::Written => assert_eq!(shown[0].state(), AlertState::Armed),
            FailedFlush::NotWritten => assert_eq!(shown, []),
        }
        let again = run.engine.register("ada", rule(), key()).await.unwrap();
        assert_eq!(again.state(), AlertState::Armed, "{left:?}");
        assert_eq!(listed(&run, "ada").await.len(), 1);
        assert_eq!(run.evaluate("BTC-USD", "120").await.total, Some(1));
        let explained = run.engine.explain("ada", &again.id).await.unwrap();
        assert!(explained.holds);
        run.stop().await;
    }
}

#[tokio::test]
async fn a_registration_whose_flush_failed_is_judged_without_a_repetition() {
    let world = World::new();
    let run = world.start().await;
    run.evaluate("BTC-USD", "90").await;
    run.killer.fail_next_flush(FailedFlush::Written);
    let rule = recurring(above("BTC-USD", "100"));
    run.engine.register("ada", rule, None).await.unwrap_err();
    run.killer.reopen();
    run.until("the rule", |run| run.engine.stats().rules == 1)
        .await;
    assert_eq!(run.evaluate("BTC-USD", "120").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn a_change_whose_flush_failed_is_judged_if_it_is_stored() {
    for left in OUTCOMES {
        let world = World::new();
        let run = world.start().await;
        run.evaluate("BTC-USD", "120").await;
        let rule = run
            .register("ada", recurring(above("BTC-USD", "1000")))
            .await;
        let change = || AlertRule {
            id: rule.id.clone(),
            ..above("BTC-USD", "200")
        };
        let shown = refused(&run, left, run.engine.update("ada", change())).await;
        let version = match left {
            FailedFlush::Written => 2,
            FailedFlush::NotWritten => 1,
        };
        assert_eq!(shown[0].version(), version);
        let again = run.engine.update("ada", change()).await.unwrap();
        assert_eq!(again.version(), 2, "{left:?}");
        assert_eq!(run.evaluate("BTC-USD", "300").await.total, Some(1));
        assert_eq!(run.evaluate("BTC-USD", "1500").await.total, Some(0));
        run.stop().await;
    }
}

#[tokio::test]
async fn a_deletion_whose_flush_failed_is_judged_if_it_is_stored() {
    for left in OUTCOMES {
        let world = World::new();
        let run = world.start().await;
        run.evaluate("BTC-USD", "120").await;
        let rule = run
            .register("ada", recurring(above("BTC-USD", "200")))
            .await;
        let shown = refused(&run, left, run.engine.delete("ada", &rule.id)).await;
        let (rules, fires) = match left {
            FailedFlush::Written => (0, 0),
            FailedFlush::NotWritten => (1, 1),
        };
        assert_eq!(shown.len(), rules);
        assert_eq!(run.evaluate("BTC-USD", "300").await.total, Some(fires));
        run.stop().await;
    }
}

#[tokio::test]
async fn a_manual_fire_whose_flush_failed_is_pushed_if_it_is_stored() {
    for left in OUTCOMES {
        let world = World::new();
        let run = world.start().await;
        let rule = run.register("ada", above("BTC-USD", "200")).await;
        refused(&run, left, run.engine.trigger("ada", &rule.id)).await;
        let count = usize::from(left == FailedFlush::Written);
        run.until("the notification", |run| run.notified() == count)
            .await;
        run.until("the push", |run| run.sink.pushes.lock().len() == count)
            .await;
        assert_eq!(run.log("ada").await.len(), count);
        run.stop().await;
    }
}

fn removes_a_rule(batch: &Batch) -> bool {
    let mut writes = batch.writes().iter();
    writes.any(|write| matches!(write, Write::Delete(Table("alert.rules"), _)))
}

/// Two registrations of one group need the last window of a symbol. The rows of the one that is
/// refused are removed before it is answered, also when that fails at first.
#[tokio::test]
async fn a_refused_rule_does_not_come_back_at_a_restart() {
    use tidewire_proto::v1::{AlertCondition, PercentChange, alert_condition::Kind};
    let over = |window_ms: u64| AlertRule {
        condition: Some(AlertCondition {
            kind: Some(Kind::PercentChange(PercentChange {
                symbol: "BTC-USD".into(),
                percent: 5.0,
                window_ms,
            })),
        }),
        ..AlertRule::default()
    };
    let world = World::new();
    let run = world.start().await;
    for number in 0..7 {
        run.register("ada", over(1_000_000 + number)).await;
    }
    run.killer
        .fail_flush_of(removes_a_rule, FailedFlush::NotWritten);
    run.killer.hold_commits();
    // The first keeps the writer busy, so that the others share a batch.
    let [busy, first, second] = [1, 8, 9].map(|number| {
        let engine = run.engine.clone();
        let rule = over(1_000_000 + number);
        tokio::spawn(async move { engine.register("ada", rule, None).await })
    });
    tokio::task::yield_now().await;
    run.killer.open();
    run.until("the failure", |run| {
        run.killer.is_closed.load(Ordering::Acquire)
    })
    .await;
    let rules = Table("alert.rules");
    assert_eq!(world.store.len(rules), 10);
    assert!(!second.is_finished());
    run.killer.reopen();
    busy.await.unwrap().unwrap();
    first.await.unwrap().unwrap();
    let refused = second.await.unwrap().unwrap_err();
    assert_eq!(refused.code(), ErrorCode::InvalidArgument);
    assert_eq!(world.store.len(rules), 9);
    run.stop().await;
    let run = world.start().await;
    assert_eq!(run.engine.stats().rules, 9);
    run.stop().await;
}
