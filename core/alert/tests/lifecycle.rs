//! Lifecycle: snooze, cooldown, edits, expiry and the automatic stop.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{
    HOUR_MS, SECOND_MS, START_MS, World, above, btc, crosses_up, decimal, leaf, rule, signal,
};
use tidewire_alert::{
    Condition, Input, Leaf, Output, Phase, Repeat, Rule, SignalKind, Subject, Test, Tick,
};
use tidewire_proto::v1::TransactionState;

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

#[test]
fn a_deferred_crossing_of_either_direction_that_is_undone_is_dropped() {
    for (hysteresis, prices) in [("0", ["100", "101"]), ("5", ["99", "106"])] {
        let either = Rule {
            cooldown_ms: 10_000,
            ..rule(leaf(Test::CrossesEither {
                threshold: decimal("100"),
                hysteresis: decimal(hysteresis),
            }))
        };
        let mut world = World::of(&either);
        assert_eq!(world.prices(&["94", "106"]), 1);
        // Down and up again within the cooldown of the way up.
        assert_eq!(world.prices(&prices), 0);
        world.advance(60_000);
        assert_eq!(world.slots(), [0; 0], "hysteresis {hysteresis}");
        assert_eq!(world.prices(&["94"]), 1);
        // A passage that is not undone fires at the end.
        assert_eq!(world.prices(&["106"]), 0);
        world.advance(60_000);
        assert_eq!(world.slots(), [0]);
    }
}

#[test]
fn a_deferred_crossing_among_several_conditions_that_is_undone_is_dropped() {
    let any = Rule {
        cooldown_ms: 10_000,
        ..rule(Condition::Any(vec![
            crosses_up("100", "0"),
            crosses_up("200", "0"),
        ]))
    };
    let mut world = World::of(&any);
    assert_eq!(world.prices(&["90", "150"]), 1);
    assert_eq!(world.prices(&["210", "150"]), 0);
    world.advance(60_000);
    // The price is above 100 as it was when the cooldown began.
    assert_eq!(world.slots(), [0; 0]);
}

#[test]
fn a_change_keeps_the_last_value_of_what_only_this_rule_is_about() {
    let subjects = [
        (
            Subject::Portfolio {
                user: "ada".into(),
                portfolio: "main".into(),
            },
            Some("USD"),
        ),
        (Subject::Gas(1), None),
    ];
    for (subject, currency) in subjects {
        let test = |test| {
            Condition::Leaf(Leaf {
                subject: subject.clone(),
                signal: SignalKind::Value,
                test,
            })
        };
        let value = |world: &mut World, value: &str| {
            let tick = Tick::new(decimal(value), 0);
            let input = match currency {
                Some(currency) => Input::Portfolio {
                    tick,
                    currency: currency.into(),
                },
                None => Input::Gas(tick),
            };
            world.apply(&subject, input);
            world.slots().len()
        };
        let mut world = World::of(&once(test(Test::Above(decimal("10")))));
        assert_eq!(value(&mut world, "3"), 0);
        world.update(0, |rule| rule.condition = test(Test::Above(decimal("5"))));
        assert_eq!(world.phase(0), Phase::Armed);
        assert_eq!(value(&mut world, "6"), 1);
        world.update(0, |rule| rule.repeat = Repeat::Recurring);
        assert_eq!(value(&mut world, "4"), 0);
        assert_eq!(value(&mut world, "6"), 1);
    }
}

#[test]
fn a_change_keeps_the_highest_value_of_a_drawdown() {
    let subject = Subject::Portfolio {
        user: "ada".into(),
        portfolio: "main".into(),
    };
    let fall = |percent: &str| {
        Condition::Leaf(Leaf {
            subject: subject.clone(),
            signal: SignalKind::DrawdownPercent { window_ms: None },
            test: Test::Above(decimal(percent)),
        })
    };
    let mut world = World::of(&once(fall("50")));
    let value = |world: &mut World, value: &str| {
        let input = Input::Portfolio {
            tick: Tick::new(decimal(value), 0),
            currency: "USD".into(),
        };
        world.apply(&subject, input);
        world.slots().len()
    };
    assert_eq!(value(&mut world, "100") + value(&mut world, "95"), 0);
    world.update(0, |rule| rule.condition = fall("20"));
    assert_eq!(value(&mut world, "81"), 0);
    assert_eq!(value(&mut world, "79"), 1);
}

/// A transaction, and its test.
fn transaction(wanted: TransactionState) -> (Subject, Condition) {
    let subject = Subject::Transaction {
        chain: 1,
        hash: "0x1".into(),
    };
    let test = Condition::Leaf(Leaf {
        subject: subject.clone(),
        signal: SignalKind::State,
        test: Test::Reaches(wanted),
    });
    (subject, test)
}

/// A state of a transaction. Returns how many fires were retracted.
fn reach(world: &mut World, subject: &Subject, state: TransactionState, reorged: bool) -> usize {
    let input = Input::Transaction {
        state,
        is_retraction: reorged,
        observed_us: 1,
    };
    world.apply(subject, input);
    let outputs = world.poll().into_iter();
    outputs
        .filter(|output| matches!(output, Output::Retract { .. }))
        .count()
}

#[test]
fn a_reorg_retracts_only_what_the_transaction_made() {
    let (subject, test) = transaction(TransactionState::Confirming);
    let any = || once(Condition::Any(vec![above("100"), test.clone()]));
    // The price fires, and the transaction is included and taken back later.
    let mut world = World::of(&any());
    world.price("90");
    assert_eq!(world.prices(&["101"]), 1);
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Confirming, false),
        0
    );
    world.price("95");
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Pending, true),
        0
    );
    assert_eq!(world.phase(0), Phase::Exhausted);
    assert_eq!(world.prices(&["101"]), 0);
    // The transaction fires, and is taken back.
    let mut world = World::of(&any());
    world.price("90");
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Confirming, false),
        0
    );
    assert_eq!(world.phase(0), Phase::Exhausted);
    world.restart(1_000);
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Pending, true),
        1
    );
    assert_eq!(world.prices(&["90", "101"]), 1);
}

#[test]
fn a_fire_is_retracted_when_the_price_beside_its_transaction_fell_before() {
    let (subject, test) = transaction(TransactionState::Confirming);
    let mut world = World::of(&once(Condition::All(vec![above("100"), test])));
    world.price("101");
    reach(&mut world, &subject, TransactionState::Confirming, false);
    assert_eq!(world.phase(0), Phase::Exhausted);
    world.price("95");
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Pending, true),
        1
    );
}

#[test]
fn a_reorg_that_nobody_saw_is_known_by_the_state() {
    use TransactionState as State;
    for (wanted, fired, later, retracts) in [
        (State::Confirming, State::Confirming, State::Dropped, 1),
        (State::Confirmed, State::Confirmed, State::Replaced, 1),
        (State::Confirmed, State::Confirmed, State::Failed, 1),
        (State::Failed, State::Failed, State::Confirming, 1),
        (State::Replaced, State::Replaced, State::Confirmed, 1),
        // It may be the same block, seen by a node that is behind.
        (State::Confirmed, State::Confirmed, State::Confirming, 0),
        // A node that was called anew does not say yet what it has.
        (State::Confirmed, State::Confirmed, State::Pending, 0),
        (State::Confirmed, State::Confirmed, State::Unknown, 0),
        // That it was so is not undone.
        (State::Pending, State::Pending, State::Dropped, 0),
        (State::Dropped, State::Dropped, State::Pending, 0),
        (State::Replaced, State::Replaced, State::Cancelled, 0),
    ] {
        let (subject, test) = transaction(wanted);
        let mut world = World::of(&once(test));
        reach(&mut world, &subject, fired, false);
        assert_eq!(world.phase(0), Phase::Exhausted);
        world.restart(1_000);
        let found = reach(&mut world, &subject, later, false);
        assert_eq!(found, retracts, "{wanted:?}, then {later:?}");
    }
}

#[test]
fn a_level_with_a_hysteresis_ends_when_the_price_is_back_by_it() {
    let stays = rule(leaf(Test::StaysAbove {
        threshold: decimal("100"),
        hysteresis: decimal("5"),
    }));
    // Already true at the first value.
    let mut world = World::of(&stays);
    assert_eq!(world.prices(&["101"]), 1);
    // In between it neither ends nor fires again.
    assert_eq!(world.prices(&["97", "101", "95.01", "100"]), 0);
    world.price("96");
    assert_eq!(world.phase(0), Phase::Recovering);
    assert_eq!(world.prices(&["95", "99.99", "100"]), 1);
    let mut world = World::of(&stays);
    // Below the threshold it is not true at first.
    assert_eq!(world.prices(&["97"]), 0);
    assert_eq!(world.phase(0), Phase::Armed);
    let stays = rule(leaf(Test::StaysBelow {
        threshold: decimal("100"),
        hysteresis: decimal("5"),
    }));
    let mut world = World::of(&stays);
    assert_eq!(world.prices(&["99", "104.99", "100"]), 1);
    assert_eq!(world.prices(&["105", "100"]), 1);
}

/// A change stores the state of a rule at once, a price is stored later. After a crash, the stored
/// price may be on the side of the first new one already.
#[test]
fn a_deferred_passage_is_dropped_by_the_first_value_after_a_crash() {
    let either = leaf(Test::CrossesEither {
        threshold: decimal("100"),
        hysteresis: decimal("0"),
    });
    // A new baseline crosses back as well, but not in the other direction.
    let absences = [
        (above("100"), SECOND_MS),
        (crosses_up("100", "0"), SECOND_MS),
        (either, HOUR_MS),
    ];
    for (condition, away_ms) in absences {
        let mut world = World::of(&Rule {
            snoozed_until_ms: Some(START_MS + 2 * HOUR_MS as i64),
            ..rule(condition)
        });
        assert_eq!(world.prices(&["95"]), 0);
        let stored = world.evaluator.changed_values(usize::MAX);
        assert_eq!(world.prices(&["105"]), 0);
        world.restart_from(stored, away_ms);
        assert_eq!(world.prices(&["96"]), 0);
        assert!(
            !world.reason(0).contains("fires at the end"),
            "{}",
            world.reason(0)
        );
        world.advance(2 * HOUR_MS);
        assert_eq!(world.slots(), [0; 0]);
        assert_eq!(world.prices(&["105"]), 1);
    }
}

/// A crossing of Bitcoin at the moment in which the others made the condition false for sure.
#[test]
fn a_rule_that_was_armed_again_knows_that_its_condition_was_false() {
    let leaves = Condition::Leaf(Leaf {
        subject: Subject::Symbol("ETH-USD".into()),
        signal: SignalKind::Value,
        test: Test::Above(decimal("50")),
    });
    let exits = leaf(Test::Exits {
        low: decimal("99"),
        high: decimal("101"),
    });
    let any = Condition::Any(vec![above("100"), exits]);
    let mut world = World::of(&rule(Condition::All(vec![any, leaves])));
    world.update(0, |rule| rule.is_enabled = false);
    world.update(0, |rule| rule.is_enabled = true);
    assert_eq!(world.prices(&["103", "100", "95", "103"]), 0);
    let other = Subject::Symbol("ETH-USD".into());
    assert_eq!(world.price_of(&other, "60"), [0]);
}

#[test]
fn a_fire_at_registration_needs_no_transaction_if_the_price_is_enough() {
    let (subject, test) = transaction(TransactionState::Confirming);
    // The transaction is known before the price.
    let mut world = World::new();
    world.insert(1, &rule(test.clone()));
    reach(&mut world, &subject, TransactionState::Confirmed, false);
    world.price("105");
    world.insert(0, &rule(Condition::Any(vec![test, above("100")])));
    assert_eq!(world.slots(), [0]);
    world.price("95");
    // Only the fire of the other rule.
    assert_eq!(
        reach(&mut world, &subject, TransactionState::Dropped, false),
        1
    );
    assert!(
        !world
            .outputs
            .iter()
            .any(|output| matches!(output, Output::Retract { slot: 0, .. }))
    );
}

#[test]
fn a_clock_that_goes_back_snoozes_a_deferred_passage_again() {
    let mut world = World::of(&Rule {
        snoozed_until_ms: Some(START_MS + 5_000),
        ..rule(crosses_up("100", "0"))
    });
    assert_eq!(world.prices(&["99", "101"]), 0);
    // No source counts when the snooze ends.
    world.apply(&btc(), Input::Stale);
    world.advance(5_000);
    assert_eq!(world.slots(), [0; 0]);
    world.now.wall_ms -= 2_000;
    assert_eq!(world.prices(&["102"]), 0);
    assert_eq!(world.phase(0), Phase::Snoozed);
    world.advance(1_999);
    assert_eq!(world.slots(), [0; 0]);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
}

#[test]
fn a_deferred_passage_fires_at_the_end_of_a_cooldown_that_became_shorter() {
    let mut world = World::of(&Rule {
        cooldown_ms: 5_000,
        ..rule(above("100"))
    });
    // The second passage is deferred, and dropped. The edit finds none.
    assert_eq!(world.prices(&["101", "99", "101", "99"]), 1);
    world.update(0, |rule| rule.cooldown_ms = 700);
    assert_eq!(world.prices(&["101"]), 0);
    world.advance(699);
    assert_eq!(world.slots(), [0; 0]);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
}

/// Rules about a shorter age are passed at once, so many that their judgement waits. A change of the
/// first rule has it judged by the time that waits.
#[test]
fn an_age_that_was_passed_before_a_restart_stays_passed() {
    let silent = |after: &str| rule(signal(SignalKind::Age, Test::Above(decimal(after))));
    let mut world = World::of(&silent("60000"));
    for slot in 1..2_000 {
        world.insert(slot, &silent("1000"));
    }
    world.advance(60_000);
    assert_eq!(world.slots().len(), 2_000);
    world.restart(SECOND_MS);
    world.advance(1_000);
    world.advance(59_000);
    world.update(0, |_| {});
    assert_eq!(world.slots(), [0; 0]);
}
