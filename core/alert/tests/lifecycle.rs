//! Lifecycle: snooze, cooldown, edits, expiry and the automatic stop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{HOUR_MS, SECOND_MS, START_MS, World, above, btc, crosses_up, decimal, rule};
use tidewire_alert::{Condition, Input, Output, Phase, Repeat, Rule, Tick};

fn once(condition: Condition) -> Rule {
    Rule {
        repeat: Repeat::Times(1),
        ..rule(condition)
    }
}

#[test]
fn a_crossing_during_a_snooze_fires_at_its_end_if_it_still_holds() {
    let snoozed = Rule {
        snoozed_until_ms: Some(START_MS + 10_000),
        ..rule(crosses_up("100", "0"))
    };
    let mut world = World::of(&snoozed);
    assert_eq!(world.prices(&["99", "101"]), 0);
    assert_eq!(world.phase(0), Phase::Snoozed);
    assert!(
        world.reason(0).contains("fires at the end"),
        "{}",
        world.reason(0)
    );
    world.advance(9_999);
    assert_eq!(world.slots(), [0; 0]);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
    world.advance(60_000);
    assert_eq!(world.slots(), [0; 0]);

    let mut world = World::of(&snoozed);
    assert_eq!(world.prices(&["99", "101", "99"]), 0);
    world.advance(60_000);
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.prices(&["101"]), 1);

    // An earlier end fires at once.
    let mut world = World::of(&snoozed);
    assert_eq!(world.prices(&["99", "101"]), 0);
    world.update(0, |rule| rule.snoozed_until_ms = None);
    assert_eq!(world.slots(), [0]);
}

#[test]
fn the_end_of_a_cooldown_fires_only_what_passed_again() {
    let cooling = Rule {
        cooldown_ms: 10_000,
        ..rule(above("100"))
    };
    let mut world = World::of(&cooling);
    assert_eq!(world.prices(&["99", "101"]), 1);
    assert_eq!(world.phase(0), Phase::Cooldown);
    world.advance(20_000);
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.prices(&["99", "101"]), 1);
    assert_eq!(world.prices(&["99", "101", "99", "101"]), 0);
    world.advance(10_000);
    assert_eq!(world.slots(), [0]);
    world.advance(60_000);
    assert_eq!(world.slots(), [0; 0]);
}

#[test]
fn a_rule_saved_unchanged_keeps_its_state_and_a_new_cooldown_holds_at_once() {
    let cooling = Rule {
        cooldown_ms: 10 * HOUR_MS as u32,
        ..rule(above("100"))
    };
    let mut world = World::of(&cooling);
    assert_eq!(world.phase(0), Phase::Pending);
    world.update(0, |_| {});
    assert_eq!(world.phase(0), Phase::Pending);
    assert_eq!(world.prices(&["101"]), 1);
    world.advance(20_000);
    world.update(0, |_| {});
    assert_eq!(world.phase(0), Phase::Cooldown);
    assert_eq!(world.prices(&["99", "101"]), 0);
    world.update(0, |rule| rule.cooldown_ms = 10_000);
    assert_eq!(world.slots(), [0]);
}

#[test]
fn what_happened_while_a_rule_was_off_fires_nothing() {
    for condition in [above("100"), crosses_up("100", "0")] {
        let mut world = World::of(&rule(condition));
        world.price("99");
        world.update(0, |rule| rule.is_enabled = false);
        assert_eq!(world.phase(0), Phase::Disabled);
        world.advance(7 * 24 * HOUR_MS);
        assert_eq!(world.prices(&["120"]), 0);
        world.update(0, |rule| rule.is_enabled = true);
        assert_eq!(world.slots(), [0; 0]);
        assert_eq!(world.prices(&["121"]), 0);
        assert_eq!(world.prices(&["99", "100"]), 1);
    }
}

#[test]
fn a_new_condition_or_repeat_arms_with_the_current_value_as_baseline() {
    let mut world = World::of(&once(above("100")));
    assert_eq!(world.prices(&["101"]), 1);
    world.update(0, |rule| rule.repeat = Repeat::Times(2));
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.prices(&["99", "101"]), 1);
    world.update(0, |rule| rule.condition = above("50"));
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.prices(&["40"]), 0);
    let id = world.evaluator.intern(&btc());
    let tick = Tick::new(decimal("60"), 0);
    world
        .evaluator
        .apply(id, Input::Price { tick, volume: None }, world.now)
        .unwrap();
    assert_eq!(world.fires()[0].version, 3);
}

#[test]
fn once_is_once() {
    let mut world = World::of(&once(above("100")));
    assert_eq!(world.prices(&["101"; 50]), 1);
    assert_eq!(world.prices(&["99", "101"]), 0);
    assert_eq!(world.phase(0), Phase::Exhausted);
}

#[test]
fn the_sixteenth_fire_in_three_minutes_stops_the_rule() {
    let mut world = World::of(&rule(above("100")));
    let mut fires = 0;
    for _ in 0..16 {
        fires += world.prices(&["99", "100"]);
        world.advance(SECOND_MS);
    }
    assert_eq!(fires, 15);
    let stop = world
        .outputs
        .iter()
        .find(|output| matches!(output, Output::Stop { .. }));
    assert!(
        matches!(
            stop,
            Some(Output::Stop {
                slot: 0,
                dropped: 1,
                ..
            })
        ),
        "{stop:?}"
    );
    assert_eq!(world.phase(0), Phase::Stopped);
    assert_eq!(world.prices(&["99", "100"]), 0);
    // The owner enables it again.
    world.update(0, |rule| rule.is_enabled = true);
    assert_eq!(world.prices(&["100"]), 0);
    assert_eq!(world.prices(&["99", "100"]), 1);

    let mut world = World::of(&rule(above("100")));
    for _ in 0..40 {
        assert_eq!(world.prices(&["99", "100"]), 1);
        world.advance(12 * SECOND_MS);
    }
}

#[test]
fn a_clock_that_goes_back_neither_freezes_nor_ends_a_cooldown() {
    let cooling = Rule {
        cooldown_ms: 10_000,
        ..rule(above("100"))
    };
    let mut world = World::of(&cooling);
    assert_eq!(world.prices(&["99", "101"]), 1);
    world.now.wall_ms -= HOUR_MS as i64;
    assert_eq!(world.prices(&["99", "101"]), 0);
    world.advance(9_999);
    assert_eq!(world.slots(), [0; 0]);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
    // Over a restart, the rest is at most the whole cooldown.
    world.now.wall_ms -= HOUR_MS as i64;
    world.restart(0);
    assert_eq!(world.phase(0), Phase::Cooldown);
    world.advance(10_000);
    assert_ne!(world.phase(0), Phase::Cooldown);
}

#[test]
fn a_shorter_cooldown_counts_from_a_fire_before_the_restart() {
    let cooling = Rule {
        cooldown_ms: 400_000,
        ..rule(above("100"))
    };
    let mut world = World::of(&cooling);
    assert_eq!(world.prices(&["99", "101", "99", "101"]), 1);
    world.restart(100 * SECOND_MS);
    assert_eq!(world.prices(&["101"]), 0);
    assert_eq!(world.phase(0), Phase::Cooldown);
    world.update(0, |rule| rule.cooldown_ms = 20_000);
    assert_eq!(world.slots(), [0]);
}

#[test]
fn an_expired_rule_never_fires() {
    let mut world = World::of(&Rule {
        expires_at_ms: Some(START_MS + 1_000),
        ..rule(above("100"))
    });
    world.price("99");
    world.advance(1_000);
    assert_eq!(world.phase(0), Phase::Expired);
    assert_eq!(world.prices(&["101", "99", "101"]), 0);
    world.update(0, |rule| rule.expires_at_ms = None);
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.prices(&["99", "101"]), 1);
}
