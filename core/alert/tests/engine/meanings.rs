//! Meanings: changes of a rule that differ in form alone, and histories of changes and kills.

use std::time::Duration;

use rand::{Rng as _, SeedableRng as _, rngs::StdRng, seq::IndexedRandom as _};
use tidewire_proto::v1::{
    self, AlertCondition, AlertRepeat, AlertRule, AlertState, CrossDirection, ListAlertsRequest,
    Unit, alert_condition::Kind, alert_repeat::Repeat,
};

use crate::support::{Run, START_MS, World, above, decimal, recurring};

fn repeat(repeat: Repeat) -> Option<AlertRepeat> {
    Some(AlertRepeat {
        repeat: Some(repeat),
    })
}

fn crosses(
    threshold: &str,
    direction: CrossDirection,
    hysteresis: Option<&str>,
) -> Option<AlertCondition> {
    Some(AlertCondition {
        kind: Some(Kind::PriceCrosses(v1::PriceCross {
            symbol: "BTC-USD".into(),
            threshold: decimal(threshold),
            direction: direction.into(),
            hysteresis: hysteresis.and_then(decimal),
        })),
    })
}

async fn listed(run: &Run) -> AlertRule {
    let request = ListAlertsRequest::default();
    let listed = run.engine.list("ada", &request, false).await.unwrap();
    listed.items[0].clone()
}

/// Stores states that changed without a fire, as the writer does each second.
async fn pass_a_second() {
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
}

#[tokio::test(start_paused = true)]
async fn a_change_of_the_form_alone_changes_nothing() {
    use CrossDirection::{Either, Unspecified, Up};
    for (condition, change) in [
        (
            crosses("100", Up, None),
            AlertRule {
                repeat: repeat(Repeat::Times(1)),
                ..AlertRule::default()
            },
        ),
        (
            crosses("100", Unspecified, None),
            AlertRule {
                condition: crosses("100", Either, None),
                ..AlertRule::default()
            },
        ),
        (
            crosses("100", Up, None),
            AlertRule {
                condition: crosses("100.00", Up, Some("0.0")),
                ..AlertRule::default()
            },
        ),
    ] {
        let world = World::new();
        let run = world.start().await;
        run.evaluate("BTC-USD", "90").await;
        let rule = AlertRule {
            condition,
            ..AlertRule::default()
        };
        let rule = run.register("ada", rule).await;
        assert_eq!(run.evaluate("BTC-USD", "101").await.total, Some(1));
        let change = AlertRule {
            id: rule.id.clone(),
            ..change
        };
        let changed = run.engine.update("ada", change).await.unwrap();
        assert_eq!(
            (changed.version, changed.state()),
            (Some(1), AlertState::Exhausted)
        );
        run.kill().await;
        let run = world.start().await;
        assert_eq!(listed(&run).await.state(), AlertState::Exhausted);
        for price in ["90", "101", "90"] {
            assert_eq!(run.evaluate("BTC-USD", price).await.total, Some(0));
        }
        run.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rule_is_shown_with_its_choices() {
    let world = World::new();
    let run = world.start().await;
    let rule = AlertRule {
        condition: crosses("100.50", CrossDirection::Unspecified, Some("0")),
        ..AlertRule::default()
    };
    let shown = run.register("ada", rule).await;
    assert_eq!(
        shown.condition,
        crosses("100.5", CrossDirection::Either, None)
    );
    assert_eq!(shown.repeat, repeat(Repeat::Once(Unit {})));
    run.stop().await;
}

/// Random changes, many of them in form alone, values, and kills in between: a rule is after a kill
/// what it was before, and has fired as often as its repeat allows since it was last armed.
#[tokio::test(start_paused = true)]
async fn what_a_change_answers_survives_a_kill() {
    let directions = [
        CrossDirection::Unspecified,
        CrossDirection::Either,
        CrossDirection::Up,
    ];
    for seed in 0..20 {
        let mut random = StdRng::seed_from_u64(seed);
        let world = World::new();
        let mut run = world.start().await;
        run.evaluate("BTC-USD", "90").await;
        let rule = AlertRule {
            condition: crosses("100", CrossDirection::Up, None),
            ..AlertRule::default()
        };
        let id = run.register("ada", rule).await.id;
        for _ in 0..15 {
            match random.random_range(0..4) {
                0 => {
                    let price = *["90", "101", "100"].choose(&mut random).unwrap();
                    run.evaluate("BTC-USD", price).await;
                }
                1 => {
                    let direction = *directions.choose(&mut random).unwrap();
                    let hysteresis = *[None, Some("0"), Some("5")].choose(&mut random).unwrap();
                    let condition = crosses("100", direction, hysteresis);
                    change(&run, &id, |rule| rule.condition = condition).await;
                }
                2 => {
                    let repeats = [
                        Repeat::Once(Unit {}),
                        Repeat::Times(1),
                        Repeat::Times(2),
                        Repeat::Recurring(Unit {}),
                    ];
                    let one = *repeats.choose(&mut random).unwrap();
                    change(&run, &id, |rule| rule.repeat = repeat(one)).await;
                }
                _ => {
                    if random.random_bool(0.5) {
                        pass_a_second().await;
                    }
                    let before = listed(&run).await;
                    run.kill().await;
                    run = world.start().await;
                    let after = listed(&run).await;
                    // The first value after the restart decides on which side the rule is.
                    let is_over = |rule: &AlertRule| rule.state() == AlertState::Exhausted;
                    assert_eq!(is_over(&before), is_over(&after), "seed {seed}");
                    assert_eq!(
                        (before.version, before.condition, before.fires),
                        (after.version, after.condition, after.fires),
                        "seed {seed}"
                    );
                }
            }
        }
        run.stop().await;
    }
}

async fn change(run: &Run, id: &str, set: impl FnOnce(&mut AlertRule)) {
    let mut update = AlertRule {
        id: id.to_owned(),
        ..AlertRule::default()
    };
    set(&mut update);
    run.engine.update("ada", update).await.unwrap();
}

/// No value arrives: the clock is set while the judge sleeps.
#[tokio::test(start_paused = true)]
async fn a_snooze_ends_when_the_clock_is_set_forward() {
    const HOUR_MS: i64 = 3_600_000;
    let world = World::new();
    let run = world.start().await;
    let rule = AlertRule {
        snoozed_until: Some(START_MS + 3 * HOUR_MS),
        ..recurring(above("BTC-USD", "100"))
    };
    run.register("ada", rule).await;
    run.evaluate("BTC-USD", "90").await;
    assert_eq!(run.evaluate("BTC-USD", "110").await.total, Some(0));
    tokio::time::sleep(Duration::from_secs(61)).await;
    assert_eq!(run.notified(), 0);
    world.clock.advance(4 * HOUR_MS);
    tokio::time::sleep(Duration::from_secs(61)).await;
    run.until("the fire", |run| run.notified() == 1).await;
    assert_eq!(run.log("ada").await.len(), 1);
    run.stop().await;
}
