//! Restarts: last values, states, and symbols that are gone.

use tidewire_proto::v1::{AlertRule, AlertState};
use tidewire_store::Table;

use crate::support::{World, above, crosses_up, recurring};

#[tokio::test]
async fn a_crossing_while_away_is_judged_by_the_last_value() {
    let world = World::new();
    let run = world.start().await;
    let rule = run.register("ada", crosses_up("BTC-USD", "100")).await;
    run.evaluate("BTC-USD", "99").await;
    run.stop().await;
    world.clock.advance(60_000);
    let run = world.start().await;
    let fired = run.evaluate("BTC-USD", "101").await.fired;
    assert_eq!(fired.len(), 1);
    assert_eq!(fired[0].previous.as_ref().unwrap().value, "99");
    let explained = run.engine.explain("ada", &rule.id).await.unwrap();
    assert_eq!(explained.previous_tick.unwrap().value.unwrap().value, "99");
    run.stop().await;
}

#[tokio::test]
async fn after_a_long_absence_the_first_value_is_a_new_baseline() {
    let world = World::new();
    let run = world.start().await;
    run.register("ada", recurring(crosses_up("BTC-USD", "100")))
        .await;
    run.evaluate("BTC-USD", "99").await;
    run.stop().await;
    world.clock.advance(6 * 60_000);
    let run = world.start().await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(0));
    run.evaluate("BTC-USD", "99").await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn a_rule_that_fired_does_not_fire_again_after_a_restart() {
    let world = World::new();
    let run = world.start().await;
    let once = run.register("ada", above("BTC-USD", "100")).await;
    let many = run
        .register("ada", recurring(above("BTC-USD", "100")))
        .await;
    run.evaluate("BTC-USD", "101").await;
    run.stop().await;
    let run = world.start().await;
    let request = tidewire_proto::v1::ListAlertsRequest::default();
    let listed = run.engine.list("ada", &request, false).await.unwrap().items;
    let state = |id: &str| listed.iter().find(|rule| rule.id == id).unwrap().state();
    assert_eq!(state(&once.id), AlertState::Exhausted);
    assert_eq!(state(&many.id), AlertState::Firing);
    assert_eq!(run.evaluate("BTC-USD", "102").await.total, Some(0));
    run.evaluate("BTC-USD", "99").await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn the_owner_of_a_rule_hears_once_that_its_symbol_vanished() {
    let mut world = World::new();
    let run = world.start().await;
    let gone = run.register("ada", above("ETH-USD", "100")).await;
    run.register("ada", above("BTC-USD", "100")).await;
    run.evaluate("ETH-USD", "90").await;
    run.stop().await;
    world.symbols = vec!["BTC-USD"];
    for _ in 0..3 {
        let run = world.start().await;
        // Its answer comes after all that was judged before is stored.
        run.evaluate("BTC-USD", "90").await;
        let waiting = || world.store.len(Table("alert.outgoing"));
        run.until("the notice", |_| waiting() == 0).await;
        run.stop().await;
    }
    assert_eq!(world.titles(), ["No prices any more: ETH-USD above 100"]);
    let run = world.start().await;
    let disabled = AlertRule {
        id: gone.id,
        enabled: Some(false),
        ..AlertRule::default()
    };
    let disabled = run.engine.update("ada", disabled).await.unwrap();
    assert_eq!(disabled.state(), AlertState::Disabled);
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn a_change_that_was_acknowledged_survives_a_kill() {
    let world = World::new();
    let run = world.start().await;
    let rule = run.register("ada", above("BTC-USD", "100")).await;
    assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
    run.stop().await;
    let run = world.start().await;
    let change = AlertRule {
        id: rule.id,
        ..above("BTC-USD", "200")
    };
    run.engine.update("ada", change).await.unwrap();
    run.kill().await;
    let run = world.start().await;
    assert_eq!(run.evaluate("BTC-USD", "150").await.total, Some(0));
    assert_eq!(run.evaluate("BTC-USD", "201").await.total, Some(1));
    run.stop().await;
}

#[tokio::test]
async fn rules_of_many_pages_are_loaded() {
    let mut world = World::new();
    world.config.rules_per_user = 100_000;
    let run = world.start().await;
    let mut registering = tokio::task::JoinSet::new();
    for threshold in 1..=20_000 {
        let engine = run.engine.clone();
        let rule = above("BTC-USD", &threshold.to_string());
        registering.spawn(async move { engine.register("ada", rule, None).await.unwrap().id });
    }
    let ids: std::collections::BTreeSet<_> = registering.join_all().await.into_iter().collect();
    assert_eq!(ids.len(), 20_000);
    run.evaluate("BTC-USD", "10").await;
    run.stop().await;
    let run = world.start().await;
    assert_eq!(run.engine.stats().rules, 20_000);
    let fired = run.evaluate("BTC-USD", "5000").await;
    assert_eq!((fired.total, fired.fired.len()), (Some(4_990), 100));
    run.stop().await;
}

/// How long the server was away is not known then.
#[tokio::test]
async fn a_last_value_far_ahead_of_a_clock_that_was_set_back_is_no_catch_up() {
    for (by_ms, fires) in [(-1_000, 1), (-3_600_000, 0)] {
        let world = World::new();
        let run = world.start().await;
        run.register("ada", crosses_up("BTC-USD", "100")).await;
        run.evaluate("BTC-USD", "99").await;
        run.stop().await;
        world.clock.advance(by_ms);
        let run = world.start().await;
        let fired = run.evaluate("BTC-USD", "101").await.total;
        assert_eq!(fired, Some(fires), "{by_ms} ms");
        run.stop().await;
    }
}
