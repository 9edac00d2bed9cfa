//! Outages: a store that hangs or is slow, a task that panics, and the end of a run.

use std::sync::atomic::Ordering;

use tidewire_proto::v1::{AlertRule, ErrorCode, ListAlertsRequest, ListFiresRequest};

use crate::support::{Run, World, above, price_of};

#[tokio::test(start_paused = true)]
async fn every_request_ends_in_time_while_the_store_hangs() {
    let world = World::new();
    let run = world.start().await;
    let known = run.register("ada", above("BTC-USD", "100")).await;
    run.evaluate("BTC-USD", "99").await;
    run.killer.hold();
    let engine = &run.engine;
    let id = known.id.as_str();
    let renamed = AlertRule {
        id: id.to_owned(),
        name: Some("new".to_owned()),
        ..AlertRule::default()
    };
    let other = above("BTC-USD", "200");
    let (list, fires) = (ListAlertsRequest::default(), ListFiresRequest::default());
    let results = [
        engine.register("ada", other, None).await.map(drop),
        engine.update("ada", renamed).await.map(drop),
        engine.delete("ada", id).await,
        engine.trigger("ada", id).await.map(drop),
        engine.evaluate(price_of("BTC-USD", "101")).await.map(drop),
        engine.list("ada", &list, false).await.map(drop),
        engine.fires("ada", &fires).await.map(drop),
        engine.explain("ada", id).await.map(drop),
    ];
    for (place, result) in results.into_iter().enumerate() {
        let error = result.expect_err("a store that hangs");
        assert_eq!(error.code(), ErrorCode::Unavailable, "{place}");
        assert!(error.to_string().contains("within 10s"), "{place}: {error}");
    }
    run.killer.open();
    // What was acknowledged is there, and changes that nobody waited for any more were not begun.
    let listed = run.engine.list("ada", &list, false).await.unwrap().items;
    assert!(
        listed
            .iter()
            .any(|rule| rule.id == id && rule.name.is_none())
    );
    assert_eq!(run.evaluate("BTC-USD", "102").await.total, Some(1));
    run.stop().await;
}

/// Registers 900 rules from 100 on, whose fires need two commits, and judges them by 99.
async fn register_900(run: &Run) {
    for number in 0..900 {
        run.register("ada", above("BTC-USD", &format!("100.{number:03}")))
            .await;
    }
    run.evaluate("BTC-USD", "99").await;
}

#[tokio::test]
async fn a_value_that_fires_very_many_rules_delays_no_change() {
    let world = World::new();
    let run = world.start().await;
    register_900(&run).await;
    run.killer.hold_commits();
    let engine = run.engine.clone();
    let evaluated = tokio::spawn(async move { engine.evaluate(price_of("BTC-USD", "110")).await });
    tokio::task::yield_now().await;
    let engine = run.engine.clone();
    let registered =
        tokio::spawn(async move { engine.register("bob", above("BTC-USD", "1"), None).await });
    tokio::task::yield_now().await;
    for _ in 0..20 {
        // The fires need two commits. The change comes after them, and before the value is stored.
        run.killer.allow_commits(1);
        for _ in 0..50 {
            tokio::task::yield_now().await;
        }
        if registered.is_finished() {
            break;
        }
    }
    assert!(registered.is_finished() && !evaluated.is_finished());
    registered.await.unwrap().unwrap();
    run.killer.open();
    let evaluated = evaluated.await.unwrap().unwrap();
    assert_eq!((evaluated.total, evaluated.events.len()), (900, 100));
    run.stop().await;
}

#[tokio::test]
async fn a_stop_saves_all_last_values() {
    let world = World::new();
    let run = world.start().await;
    for number in 0..12_000 {
        run.feed(&format!("S{number}-USD"), "1");
    }
    run.stop().await;
    assert_eq!(world.rows("alert.values").await.len(), 12_000);
}

#[tokio::test]
async fn a_value_is_not_stored_before_its_fires() {
    let world = World::new();
    let run = world.start().await;
    register_900(&run).await;
    run.stop().await;
    let run = world.start().await;
    run.killer.hold_commits();
    run.feed("BTC-USD", "110");
    run.until("the judgement", |run| run.engine.stats().touched >= 900)
        .await;
    run.feed("ETH-USD", "7");
    run.until("the other value", |run| run.engine.stats().evaluated >= 2)
        .await;
    // A part of the fires is stored, and perhaps other values.
    run.killer.allow_commits(1);
    run.killer.arm(2, true);
    run.killer.allow_commits(1);
    run.killer.killed().await;
    run.kill().await;
    let values = world.rows("alert.values").await;
    let stored = |symbol: &str| {
        let row = values
            .iter()
            .find(|(key, _)| key.ends_with(symbol.as_bytes()));
        row.map(|(_, value)| value.clone())
    };
    if let Some(value) = stored("BTC-USD") {
        assert!(!value.windows(3).any(|part| part == b"110"));
    }
}

#[tokio::test]
async fn a_panic_of_a_task_is_a_fault_at_once() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", above("BTC-USD", "100")).await;
    assert_eq!(run.engine.fault(), None);
    run.sink.panics.store(true, Ordering::Release);
    run.feed("BTC-USD", "101");
    run.until("the fault", |run| run.engine.fault().is_some())
        .await;
    assert!(run.engine.fault().unwrap().contains("\"writer\""));
    let refused = run
        .engine
        .register("ada", above("BTC-USD", "1"), None)
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(refused.code(), ErrorCode::Unavailable);
    assert!(refused.to_string().contains("panicked"), "{refused}");
    // The other tasks end with the run.
    run.stop().await;
}

#[tokio::test]
async fn a_value_that_was_answered_survives_a_kill() {
    let world = World::new();
    let run = world.start().await;
    let rule = crate::support::crosses_up("BTC-USD", "110");
    run.register("ada", rule).await;
    run.register("ada", crate::support::recurring(above("BTC-USD", "100")))
        .await;
    for price in ["131", "100", "101"] {
        run.evaluate("BTC-USD", price).await;
    }
    run.evaluate("BTC-USD", "90").await;
    run.kill().await;
    let run = world.start().await;
    assert_eq!(run.evaluate("BTC-USD", "115").await.total, Some(2));
    run.stop().await;
}
