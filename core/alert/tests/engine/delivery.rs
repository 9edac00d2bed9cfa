//! Delivery: outages of the hub and the store, deletion, limits of a minute, stops.

use std::sync::atomic::Ordering;

use tidewire_proto::v1::{AlertRule, AlertState, ErrorCode, ListAlertsRequest, Priority};

use crate::support::{START_MS, World, above, recurring};

#[tokio::test]
async fn fires_wait_while_the_hub_is_down() {
    let world = World::new();
    world.hub.is_down.store(true, Ordering::Release);
    let run = world.start().await;
    run.register("ada", above("BTC-USD", "100")).await;
    run.evaluate("BTC-USD", "101").await;
    // The push does not need the hub.
    run.until("the push", |run| run.sink.pushes.lock().len() == 1)
        .await;
    assert_eq!(run.notified(), 0);
    world.hub.is_down.store(false, Ordering::Release);
    run.until("the notification", |run| run.notified() == 1)
        .await;
    run.stop().await;
    assert_eq!(world.titles(), ["BTC-USD above 100"]);
}

#[tokio::test]
async fn fires_wait_while_the_store_fails() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", above("BTC-USD", "100")).await;
    world.store.fail_commits();
    let refused = run
        .engine
        .register("ada", above("BTC-USD", "1"), None)
        .await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Unavailable);
    let price = || tidewire_alert::Decimal::from(101);
    run.engine
        .price("BTC-USD", (price(), 1), None, ["a"].into_iter());
    run.until("the judgement", |run| run.engine.stats().touched > 0)
        .await;
    assert_eq!(run.sink.pushes.lock().len(), 0);
    // Requests are refused, and do not wait for the store.
    let refused = run.engine.register("ada", above("BTC-USD", "2"), None);
    assert_eq!(refused.await.unwrap_err().code(), ErrorCode::Unavailable);
    world.store.accept_commits();
    run.until("the notification", |run| run.notified() == 1)
        .await;
    let log = run.log("ada").await;
    assert_eq!((log.len(), &*log[0].sources), (1, &["a".to_owned()][..]));
    run.stop().await;
}

/// A flush fails after the write: the fire is there when the store works again, and so is its
/// notification, without another fire.
#[tokio::test]
async fn a_fire_whose_flush_failed_is_delivered_once_the_store_works() {
    let world = World::new();
    let run = world.start().await;
    let rule = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await;
    run.killer.flush_fails.store(true, Ordering::Release);
    let refused = run.engine.trigger("ada", &rule.id).await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Unavailable);
    run.killer.flush_fails.store(false, Ordering::Release);
    run.until("the notification", |run| run.notified() == 1)
        .await;
    assert_eq!(run.log("ada").await.len(), 1);
    run.stop().await;
}

#[tokio::test]
async fn a_fire_is_delivered_after_its_rule_is_deleted() {
    let world = World::new();
    world.hub.is_down.store(true, Ordering::Release);
    let run = world.start().await;
    let rule = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await;
    run.evaluate("BTC-USD", "101").await;
    run.engine.delete("ada", &rule.id).await.unwrap();
    run.evaluate("BTC-USD", "99").await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(0));
    world.hub.is_down.store(false, Ordering::Release);
    run.until("the notification", |run| run.notified() == 1)
        .await;
    // The log outlives the rule.
    assert_eq!(run.log("ada").await.len(), 1);
    run.stop().await;
}

#[tokio::test]
async fn a_sixteenth_fire_in_three_minutes_stops_the_rule() {
    let world = World::new();
    let run = world.start().await;
    let rule = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await;
    for _ in 0..20 {
        run.evaluate("BTC-USD", "101").await;
        run.evaluate("BTC-USD", "99").await;
    }
    assert_eq!(run.log("ada").await.len(), 15);
    run.until("the notices", |run| run.notified() == 16).await;
    let stops = || {
        let mut titles = world.titles();
        titles.retain(|title| title.starts_with("Alert stopped: "));
        titles.len()
    };
    assert_eq!(stops(), 1);
    let request = ListAlertsRequest::default();
    let listed = run.engine.list("ada", &request, false).await.unwrap();
    assert_eq!(listed.items[0].state(), AlertState::Stopped);
    assert!(listed.items[0].stopped_reason().contains("15 times"));
    run.stop().await;
    // It stays stopped after a restart, until its owner enables it.
    let run = world.start().await;
    let listed = run.engine.list("ada", &request, false).await.unwrap();
    assert_eq!(listed.items[0].state(), AlertState::Stopped);
    run.evaluate("BTC-USD", "101").await;
    assert_eq!(run.log("ada").await.len(), 15);
    let enable = AlertRule {
        id: rule.id,
        enabled: Some(true),
        ..AlertRule::default()
    };
    let enabled = run.engine.update("ada", enable).await.unwrap();
    assert_eq!(enabled.stopped_reason, None);
    run.evaluate("BTC-USD", "99").await;
    run.evaluate("BTC-USD", "101").await;
    assert_eq!(run.log("ada").await.len(), 16);
    assert_eq!(stops(), 1);
    run.stop().await;
}

#[tokio::test]
async fn fires_beyond_the_limit_of_a_minute_share_a_notification() {
    let mut world = World::new();
    world.config.fires_per_minute = 3;
    let run = world.start().await;
    for threshold in 1..=10 {
        run.register("ada", above("BTC-USD", &threshold.to_string()))
            .await;
    }
    run.evaluate("BTC-USD", "10").await;
    assert_eq!(run.log("ada").await.len(), 10);
    run.until("three notifications", |run| run.notified() == 3)
        .await;
    run.stop().await;
    // The summary comes at the end of the minute, also after a restart.
    world.clock.advance(60_000);
    let run = world.start().await;
    run.until("the summary", |run| run.notified() == 4).await;
    assert!(world.titles().contains(&"7 more alerts fired".to_owned()));
    run.stop().await;
}

#[tokio::test]
async fn a_log_is_bounded() {
    let mut world = World::new();
    world.config.log_items = 20;
    let run = world.start().await;
    for threshold in 1..=60 {
        run.register("ada", above("BTC-USD", &threshold.to_string()))
            .await;
    }
    run.evaluate("BTC-USD", "60").await;
    let fires = tidewire_store::Table("alert.fires");
    run.until("the bound", |_| world.store.len(fires) <= 20)
        .await;
    assert_eq!(run.log("ada").await.len(), 19);
    run.stop().await;
}

#[tokio::test]
async fn a_manual_fire_changes_no_state() {
    let world = World::new();
    let run = world.start().await;
    let rule = run.register("ada", above("BTC-USD", "100")).await;
    let event = run.engine.trigger("ada", &rule.id).await.unwrap();
    assert!(event.manual && event.id.is_some());
    run.until("the notification", |run| run.notified() == 1)
        .await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn fires_of_connected_users_and_urgent_rules_go_first() {
    let world = World::new();
    let run = world.start().await;
    for user in ["ada", "bob"] {
        for number in 0..900 {
            let rule = above("BTC-USD", &format!("100.{number:03}"));
            run.register(user, rule).await;
        }
    }
    for number in 0..5 {
        let last = above("BTC-USD", &format!("109.{number}"));
        run.register("cleo", last.clone()).await;
        let urgent = AlertRule {
            priority: Some(Priority::Urgent.into()),
            ..last
        };
        run.register("dan", urgent).await;
    }
    run.evaluate("BTC-USD", "99").await;
    let judged = run.engine.stats().touched;
    run.sink.connected.lock().insert("cleo".to_owned());
    run.killer.hold_commits();
    run.feed("BTC-USD", "110");
    run.until("the judgement", |run| {
        run.engine.stats().touched >= judged + 1_810
    })
    .await;
    run.killer.open();
    run.until("all fires", |run| run.sink.pushes.lock().len() == 1_810)
        .await;
    let pushes = run.sink.pushes.lock().clone();
    let place = |name: &str| pushes.iter().rposition(|(user, _)| user.as_str() == name);
    // Two batches may have begun before.
    for name in ["cleo", "dan"] {
        assert!(place(name).unwrap() < 1_100, "{name}: {:?}", place(name));
    }
    for name in ["ada", "cleo"] {
        let thresholds: Vec<_> = pushes
            .iter()
            .filter(|(user, _)| user.as_str() == name)
            .map(|(_, event)| event.threshold.clone().unwrap().value)
            .collect();
        let in_order = thresholds.is_sorted_by_key(|text| text.parse::<f64>().unwrap());
        assert!(in_order, "{name}: {thresholds:?}");
    }
    run.stop().await;
}

fn summaries(world: &World) -> Vec<(u64, Priority)> {
    let notified = world.hub.notified.lock();
    let notifications = notified.values().filter_map(|request| {
        let notification = request.notification.as_ref()?;
        let count = notification.title.split(' ').next()?;
        let count = match count {
            "One" => 1,
            count => count.parse().ok()?,
        };
        let is_summary = notification.title.contains("more alert");
        is_summary.then_some((count, notification.priority()))
    });
    let mut found: Vec<_> = notifications.collect();
    found.sort_unstable_by_key(|(count, priority)| (*count, *priority as i32));
    found
}

/// A fire of the last moment of a minute is stored while its summary is due.
#[tokio::test]
async fn a_fire_that_is_stored_as_its_summary_is_due_is_notified() {
    let mut world = World::new();
    world.config.fires_per_minute = 1;
    world
        .clock
        .advance(60_000 - START_MS.rem_euclid(60_000) - 10);
    let run = world.start().await;
    for threshold in 101..=106 {
        run.register("ada", above("BTC-USD", &threshold.to_string()))
            .await;
    }
    run.evaluate("BTC-USD", "103").await;
    run.until("the first", |run| run.notified() == 1).await;
    let stored = run.sink.pushes.lock().len();
    run.killer.hold_commits();
    run.feed("BTC-USD", "106");
    run.until("the batch", |run| run.killer.is_waiting()).await;
    world.clock.advance(10);
    // The delivery looks again at the end of the minute by its own clock, or when it is woken.
    run.killer.allow_commits(1);
    run.until("the fires", |run| run.sink.pushes.lock().len() > stored)
        .await;
    run.killer.open();
    run.until("the summary", |run| run.notified() >= 2).await;
    run.stop().await;
    // Whatever the next start finds.
    world.clock.advance(60_000);
    let run = world.start().await;
    run.feed("BTC-USD", "107");
    run.until("the value", |run| run.engine.stats().evaluated > 0)
        .await;
    run.stop().await;
    let counted: u64 = summaries(&world).iter().map(|(count, _)| count).sum();
    assert_eq!(counted, 5, "{:?}", world.titles());
}

#[tokio::test]
async fn fires_after_the_clock_is_set_back_are_notified() {
    let mut world = World::new();
    world.config.fires_per_minute = 1;
    let run = world.start().await;
    for threshold in 101..=106 {
        run.register("ada", above("BTC-USD", &threshold.to_string()))
            .await;
    }
    run.evaluate("BTC-USD", "103").await;
    world.clock.advance(60_000);
    // A registration wakes the delivery, and fires nothing.
    let other = run.register("bob", above("BTC-USD", "1000")).await;
    run.until("the summary", |run| run.notified() == 2).await;
    world.clock.set(START_MS);
    run.evaluate("BTC-USD", "106").await;
    world.clock.advance(60_000);
    run.engine.trigger("bob", &other.id).await.unwrap();
    run.until("the other summary", |run| run.notified() == 4)
        .await;
    run.stop().await;
    let medium = Priority::Medium;
    assert_eq!(summaries(&world), [(2, medium), (3, medium)]);
}

/// A user who sees only what is urgent or of high priority.
#[tokio::test]
async fn fires_of_different_priorities_share_no_summary() {
    let mut world = World::new();
    world.config.fires_per_minute = 1;
    let run = world.start().await;
    let of = |threshold: &str, priority: Priority| AlertRule {
        priority: Some(priority.into()),
        ..above("BTC-USD", threshold)
    };
    for (threshold, priority) in [
        ("101", Priority::Low),
        ("102", Priority::High),
        ("103", Priority::Urgent),
        ("104", Priority::Low),
        ("105", Priority::Urgent),
        ("106", Priority::Low),
    ] {
        run.register("ada", of(threshold, priority)).await;
    }
    run.evaluate("BTC-USD", "110").await;
    // The first of all, and the first that is urgent.
    run.until("two at once", |run| run.notified() == 2).await;
    assert_eq!(world.titles(), ["BTC-USD above 101", "BTC-USD above 103"]);
    run.stop().await;
    world.clock.advance(60_000);
    let run = world.start().await;
    run.until("the summaries", |run| run.notified() == 5).await;
    let expected = [
        (1, Priority::High),
        (1, Priority::Urgent),
        (2, Priority::Low),
    ];
    assert_eq!(summaries(&world), expected);
    run.stop().await;
}
