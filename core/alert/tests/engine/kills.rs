//! Kills: the process ends before or after any write, and the user sees each fire once.

use tidewire_proto::v1::AlertRule;

use crate::support::{World, above, crosses_up, recurring};

/// Rules whose thresholds one value passes.
fn rules() -> Vec<AlertRule> {
    let mut rules: Vec<_> = (100..110)
        .map(|threshold| above("BTC-USD", &threshold.to_string()))
        .collect();
    rules.push(recurring(above("BTC-USD", "105")));
    rules.push(crosses_up("BTC-USD", "100"));
    rules
}

/// Runs one history with a kill, and checks that each rule has fired once.
async fn history(writes: i64, is_after: bool, second: Option<i64>) {
    let world = World::new();
    let run = world.start().await;
    let count = rules().len();
    for rule in rules() {
        run.register("ada", rule).await;
    }
    run.evaluate("BTC-USD", "99").await;
    // The last value is stored.
    run.stop().await;
    let mut kills = vec![
        Some((writes, is_after)),
        second.map(|writes| (writes, !is_after)),
        None,
    ];
    for kill in kills.drain(..) {
        let run = world.start().await;
        if let Some((writes, is_after)) = kill {
            run.killer.arm(writes, is_after);
        }
        // The feed goes on with the same price.
        let price = tidewire_alert::Decimal::from(110);
        run.engine
            .price("BTC-USD", (price, 1), None, ["a"].into_iter());
        let delivered = run.until("all notifications", |run| run.notified() == count);
        match kill {
            Some(_) => {
                tokio::select! {
                    () = run.killer.killed() => {}
                    () = delivered => {}
                }
                run.kill().await;
            }
            None => {
                delivered.await;
                let log = run.log("ada").await;
                let at = format!("killed {writes} {is_after} {second:?}");
                assert_eq!(log.len(), count, "{at}");
                let rules: std::collections::BTreeSet<_> =
                    log.iter().map(|event| event.alert_id.clone()).collect();
                assert_eq!(rules.len(), count, "{at}");
                run.stop().await;
            }
        }
    }
    assert_eq!(world.hub.notified.lock().len(), count);
    // Nothing more comes later.
    let run = world.start().await;
    let price = tidewire_alert::Decimal::from(111);
    run.engine
        .price("BTC-USD", (price, 1), None, ["a"].into_iter());
    run.until("the value", |run| run.engine.stats().evaluated > 0)
        .await;
    run.stop().await;
    assert_eq!(world.hub.notified.lock().len(), count);
}

#[tokio::test]
async fn a_fire_is_seen_once_whenever_the_process_is_killed() {
    for writes in 1..=6 {
        for is_after in [false, true] {
            for second in [None, Some(1), Some(2), Some(3), Some(4)] {
                history(writes, is_after, second).await;
            }
        }
    }
}

#[tokio::test]
async fn a_registration_that_was_acknowledged_survives_a_kill() {
    for is_after in [false, true] {
        for writes in 1..=4 {
            let world = World::new();
            let run = world.start().await;
            run.killer.arm(writes, is_after);
            let mut acknowledged = Vec::new();
            for threshold in 1..=8 {
                let rule = above("BTC-USD", &threshold.to_string());
                let registered = run.engine.register("ada", rule, None);
                tokio::select! {
                    registered = registered => acknowledged.push(registered.unwrap().id),
                    () = run.killer.killed() => break,
                }
            }
            run.kill().await;
            let run = world.start().await;
            let request = tidewire_proto::v1::ListAlertsRequest::default();
            let listed = run.engine.list("ada", &request, false).await.unwrap();
            let ids: Vec<_> = listed.items.into_iter().map(|rule| rule.id).collect();
            assert!(ids.starts_with(&acknowledged), "{ids:?} {acknowledged:?}");
            assert!(ids.len() <= acknowledged.len() + 1);
            run.stop().await;
        }
    }
}
