//! Situations: what users of other alert systems reported, each with the stated answer.

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
    Backtest, Condition, Decimal, Decision, Input, Leaf, Now, Output, Phase, Repeat, Rule,
    SignalKind, Subject, Test, Tick,
};
use tidewire_proto::v1::TransactionState;

fn below(threshold: &str) -> Condition {
    leaf(Test::Below(decimal(threshold)))
}

fn once(condition: Condition) -> Rule {
    Rule {
        repeat: Repeat::Times(1),
        ..rule(condition)
    }
}

#[test]
fn a_crossing_while_the_server_was_away_is_judged_by_the_stored_value() {
    let mut world = World::of(&rule(crosses_up("100", "0")));
    assert_eq!(world.prices(&["99"]), 0);
    world.restart(60 * SECOND_MS);
    assert!(
        world.reason(0).contains("before the restart"),
        "{}",
        world.reason(0)
    );
    let id = world.evaluator.intern(&btc());
    let tick = Tick::new(decimal("101"), 0);
    world
        .evaluator
        .apply(id, Input::Price { tick, volume: None }, world.now)
        .unwrap();
    let fires = world.fires();
    assert_eq!(fires.len(), 1);
    assert!(fires[0].is_catch_up);
    assert_eq!(fires[0].previous, Some(decimal("99")));
}

#[test]
fn an_absence_longer_than_the_catch_up_is_a_new_baseline() {
    let mut world = World::of(&rule(crosses_up("100", "0")));
    assert_eq!(world.prices(&["99"]), 0);
    world.restart(6 * 60 * SECOND_MS);
    assert_eq!(world.prices(&["101", "99", "100"]), 1);
}

/// A rule that expired meanwhile is loaded before the other one, and is the last of its subject then.
#[test]
fn a_rule_that_has_ended_takes_no_stored_value_from_another() {
    let on_gas = |test| {
        Condition::Leaf(Leaf {
            subject: Subject::Gas(1),
            signal: SignalKind::Value,
            test,
        })
    };
    let gas = |price: &str| Input::Gas(Tick::new(decimal(price), 0));
    let mut world = World::of(&Rule {
        expires_at_ms: Some(START_MS + 10_000),
        ..rule(on_gas(Test::Above(decimal("500"))))
    });
    let (crosses, hysteresis) = (decimal("100"), decimal("0"));
    let test = Test::CrossesUp {
        threshold: crosses,
        hysteresis,
    };
    world.insert(1, &rule(on_gas(test)));
    world.apply(&Subject::Gas(1), gas("99"));
    world.restart(60 * SECOND_MS);
    assert_eq!(world.phase(0), Phase::Expired);
    world.apply(&Subject::Gas(1), gas("101"));
    let fires = world.fires();
    assert_eq!(fires.len(), 1);
    assert_eq!(fires[0].previous, Some(decimal("99")));
}

#[test]
fn a_restart_inside_the_hysteresis_arms_nothing() {
    let mut world = World::of(&rule(crosses_up("100", "5")));
    assert_eq!(world.prices(&["99", "101", "97"]), 1);
    assert_eq!(world.phase(0), Phase::Recovering);
    world.restart(SECOND_MS);
    assert_eq!(world.prices(&["98", "101", "95", "99.99"]), 0);
    assert_eq!(world.phase(0), Phase::Armed);
    assert_eq!(world.prices(&["100"]), 1);
}

#[test]
fn a_condition_that_stays_true_fires_once() {
    let mut world = World::of(&rule(above("100")));
    assert_eq!(world.prices(&["101"]), 1);
    for _ in 0..24 * 40 {
        world.advance(HOUR_MS);
        assert_eq!(world.prices(&["101", "102"]), 0);
    }
}

#[test]
fn touching_a_threshold_is_passing_it() {
    for condition in [above("100"), crosses_up("100", "0")] {
        assert_eq!(
            World::of(&rule(condition.clone())).prices(&["99", "100", "101"]),
            1
        );
        assert_eq!(
            World::of(&rule(condition.clone())).prices(&["99", "100", "99"]),
            1
        );
        assert_eq!(
            World::of(&rule(condition)).prices(&["99", "100", "99", "100"]),
            2
        );
    }
    let either = leaf(Test::CrossesEither {
        threshold: decimal("100"),
        hysteresis: Decimal::ZERO,
    });
    assert_eq!(
        World::of(&rule(either.clone())).prices(&["99", "100", "99"]),
        1
    );
    assert_eq!(World::of(&rule(either)).prices(&["99", "101", "100"]), 2);
}

#[test]
fn a_level_that_is_true_at_registration_fires_at_once_and_a_crossing_does_not() {
    let mut world = World::new();
    world.price("101");
    for (slot, repeat) in [(0, Repeat::Times(1)), (1, Repeat::Recurring)] {
        world.insert(
            slot,
            &Rule {
                repeat,
                ..rule(above("100"))
            },
        );
        assert_eq!(world.slots(), [slot]);
    }
    world.insert(2, &rule(crosses_up("100", "0")));
    world.insert(3, &rule(below("100")));
    assert_eq!(world.slots(), [0; 0]);
    assert_eq!(world.phase(0), Phase::Exhausted);
    assert_eq!(world.phase(1), Phase::Firing);
    assert_eq!(world.phase(2), Phase::Firing);
    assert_eq!(world.phase(3), Phase::Armed);
    // The recurring one fires again only after it was false.
    assert_eq!(world.price("102"), [0; 0]);
    assert_eq!(world.price("99"), [3]);
    let mut fired = world.price("100");
    fired.sort_unstable();
    assert_eq!(fired, [1, 2]);
}

#[test]
fn a_backtest_gives_the_same_answers() {
    let prices = ["101", "99", "100", "98", "103"];
    for condition in [above("100"), crosses_up("100", "0"), below("99")] {
        let rule = rule(condition);
        let mut backtest = Backtest::new(&rule).unwrap();
        let mut world = World::of(&rule);
        for (number, price) in prices.iter().enumerate() {
            let tick = Tick::new(decimal(price), 0);
            let at_ms = START_MS + i64::try_from(number).unwrap();
            let fires = backtest
                .apply(&btc(), Input::Price { tick, volume: None }, at_ms)
                .unwrap();
            assert_eq!(fires.len(), world.price(price).len(), "{rule:?} {price}");
        }
        let tick = Tick::new(Decimal::ONE, 0);
        let error = backtest
            .apply(&btc(), Input::Price { tick, volume: None }, START_MS)
            .unwrap_err();
        assert_eq!(error.field, "timestamp");
    }
}

#[test]
fn thresholds_compare_exactly() {
    let mut world = World::of(&rule(above("0.00000000172")));
    world.insert(1, &rule(above("3.01")));
    world.insert(2, &rule(above("1000000.0000000000000001")));
    assert_eq!(world.price("0.00000000171"), [0; 0]);
    assert_eq!(world.price("0.00000000172"), [0]);
    assert_eq!(world.price("3.0099999999999999999"), [0; 0]);
    assert_eq!(world.price("3.01"), [1]);
    assert_eq!(world.price("1000000"), [0; 0]);
    assert_eq!(world.price("1000000.0000000000000001"), [2]);
    assert!(
        world.reason(0).contains("wanted at least 0.00000000172"),
        "{}",
        world.reason(0)
    );
}

#[test]
fn a_bad_tick_fires_nothing_and_moves_nothing() {
    let mut world = World::of(&rule(below("50")));
    assert_eq!(world.prices(&["100", "0", "-3", "100", "50"]), 1);
}

#[test]
fn a_gap_fires_every_threshold_in_order_of_the_move() {
    let mut world = World::with_chunk(3);
    for (slot, threshold) in ["105", "101", "110", "103", "120"].iter().enumerate() {
        world.insert(slot as u32, &rule(above(threshold)));
        world.insert(10 + slot as u32, &rule(below(threshold)));
    }
    world.price("130");
    world.price("100");
    assert_eq!(world.price("112"), [1, 3, 0, 2]);
    assert_eq!(world.price("102"), [12, 10, 13]);
}

#[test]
fn prices_of_others_are_judged_while_a_gap_is_worked_off() {
    let other = Subject::Symbol("ETH-USD".into());
    let mut world = World::with_chunk(1);
    for slot in 0..500 {
        world.insert(slot, &once(above("100")));
    }
    world.insert(
        1_000,
        &rule(Condition::Leaf(Leaf {
            subject: other.clone(),
            signal: SignalKind::Value,
            test: Test::Above(decimal("10")),
        })),
    );
    world.price("99");
    world.price_of(&other, "9");
    let tick = |price| Input::Price {
        tick: Tick::new(decimal(price), 0),
        volume: None,
    };
    world.apply(&btc(), tick("100"));
    // The other condition is true for a moment only.
    world.apply(&other, tick("10"));
    world.apply(&other, tick("9"));
    world.apply(&btc(), tick("99"));
    // A rule that is changed or removed meanwhile is judged by one version, and once.
    world.update(400, |rule| rule.cooldown_ms = 5);
    world.evaluator.remove(401);
    let mut outputs = Vec::new();
    world.evaluator.poll(8, &mut outputs);
    assert!(
        outputs
            .iter()
            .any(|output| matches!(output, Output::Fire(fire) if fire.slot == 1_000))
    );
    world.evaluator.poll(8, &mut outputs);
    let slots = world.slots();
    let early = outputs.iter().filter_map(|output| match output {
        Output::Fire(fire) => Some(fire.slot),
        _ => None,
    });
    let mut all: Vec<_> = early.chain(slots).collect();
    assert_eq!(all.len(), 501);
    all.sort_unstable();
    all.dedup();
    assert_eq!(all.len(), 501);
}

#[test]
fn a_percentage_in_small_steps_fires_at_its_threshold() {
    let window_ms = 600_000;
    let mut world = World::of(&rule(signal(
        SignalKind::ChangePercent { window_ms },
        Test::Above(decimal("5")),
    )));
    world.insert(
        1,
        &rule(signal(
            SignalKind::ChangePercent { window_ms },
            Test::Below(decimal("-5")),
        )),
    );
    let mut price = decimal("1000");
    world.price("1000");
    world.advance(window_ms);
    world.price("1000");
    world.advance(30_000);
    let mut fired_at = Vec::new();
    for _ in 0..60 {
        price += Decimal::ONE;
        for slot in world.price(&price.to_string()) {
            fired_at.push((slot, price));
        }
        world.advance(SECOND_MS);
    }
    assert_eq!(fired_at, [(0, decimal("1050"))]);
    // The fall has the other sign.
    world.advance(2 * window_ms);
    assert_eq!(world.price("1060"), [0; 0]);
    assert_eq!(world.price("1007"), [1]);
}

#[test]
fn a_short_history_is_unknown_and_explained() {
    let window_ms = 60_000;
    let mut world = World::new();
    world.price("100");
    world.insert(
        0,
        &rule(signal(
            SignalKind::ChangePercent { window_ms },
            Test::Below(decimal("-1")),
        )),
    );
    world.advance(40 * SECOND_MS);
    assert_eq!(world.price("90"), [0; 0]);
    assert_eq!(world.phase(0), Phase::Pending);
    assert!(
        world
            .reason(0)
            .contains("too short a history, 40 s of 60 s"),
        "{}",
        world.reason(0)
    );
    // It becomes known without a price.
    world.advance(20 * SECOND_MS + 500);
    assert_eq!(world.slots(), [0]);
}

#[test]
fn windows_averages_and_ages_change_by_time_alone() {
    let mut world = World::new();
    world.insert(
        0,
        &rule(signal(SignalKind::Age, Test::Above(Decimal::from(5_000)))),
    );
    let test = Test::TurnsNegative;
    world.insert(
        1,
        &rule(signal(
            SignalKind::AverageGap {
                fast_ms: 1_200,
                slow_ms: 12_000,
            },
            test,
        )),
    );
    let window_ms = 12_000;
    world.insert(
        2,
        &rule(signal(
            SignalKind::ChangePercent { window_ms },
            Test::Below(decimal("-10")),
        )),
    );
    world.price("100");
    world.advance(4_000);
    world.price("100");
    world.advance(4_999);
    assert_eq!(world.slots(), [0; 0]);
    assert!(world.evaluator.next_deadline().unwrap() <= world.now.monotonic_ms + 1);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
    world.advance(8_000);
    world.price("100");
    assert_eq!(world.price("85"), [2]);
    // The fast average falls below the slow one within the next steps.
    world.advance(200);
    assert_eq!(world.slots(), [1]);
    // The change is over once the window began at the new price, and is one again later.
    world.advance(13_000);
    world.price("85");
    assert_eq!(world.phase(2), Phase::Armed);
}

#[test]
fn a_volume_far_above_the_usual_one_fires() {
    let window_ms = 1_200;
    let mut world = World::of(&rule(signal(
        SignalKind::VolumeRatio { window_ms },
        Test::Above(decimal("3")),
    )));
    let trade = |world: &mut World, volume: i64| {
        let tick = Tick::new(decimal("100"), 0);
        world.apply(
            &btc(),
            Input::Price {
                tick,
                volume: Some(Decimal::from(volume)),
            },
        );
        world.slots()
    };
    for _ in 0..140 {
        assert_eq!(trade(&mut world, 10), [0; 0]);
        world.advance(100);
    }
    assert_eq!(world.phase(0), Phase::Armed);
    assert_eq!(trade(&mut world, 200), [0; 0]);
    assert_eq!(trade(&mut world, 100), [0]);
}

#[test]
fn a_deleted_rule_fires_no_more_and_its_fire_stays() {
    let mut world = World::of(&rule(above("100")));
    world.price("99");
    let tick = Tick::new(decimal("101"), 0);
    world.apply(&btc(), Input::Price { tick, volume: None });
    world.evaluator.remove(0);
    assert_eq!(world.slots(), [0]);
    assert_eq!(world.prices(&["99", "101"]), 0);
    assert_eq!(world.evaluator.counters().signals, 0);
}

#[test]
fn all_of_a_crossing_and_a_level_fires_at_the_crossing_alone() {
    let eth = Subject::Symbol("ETH-USD".into());
    let level = Condition::Leaf(Leaf {
        subject: eth.clone(),
        signal: SignalKind::Value,
        test: Test::Above(decimal("10")),
    });
    let mut world = World::of(&rule(Condition::All(vec![crosses_up("100", "0"), level])));
    world.price("99");
    assert_eq!(world.price("101"), [0; 0]);
    assert_eq!(world.price_of(&eth, "11"), [0; 0]);
    assert_eq!(world.price("99"), [0; 0]);
    assert_eq!(world.price("101"), [0]);
    // A stale part completes nothing.
    world.apply(&eth, Input::Stale);
    assert_eq!(world.prices(&["99", "101"]), 0);
}

#[test]
fn a_symbol_that_vanishes_is_told_once_and_others_run() {
    let eth = Subject::Symbol("ETH-USD".into());
    let mut world = World::of(&rule(above("100")));
    world.insert(
        1,
        &rule(Condition::Leaf(Leaf {
            subject: eth.clone(),
            signal: SignalKind::Value,
            test: Test::Above(decimal("10")),
        })),
    );
    world.price("99");
    world.price_of(&eth, "9");
    world.apply(&btc(), Input::Vanished);
    world.apply(&btc(), Input::Vanished);
    let outputs = world.poll();
    assert_eq!(outputs, [Output::Vanish { slot: 0 }]);
    assert_eq!(world.price_of(&eth, "10"), [1]);
    // It is back.
    assert_eq!(world.price("100"), [0]);
}

#[test]
fn a_corrected_price_and_a_long_outage_fire_nothing() {
    let mut world = World::of(&rule(above("100")));
    world.price("99");
    world.apply(&btc(), Input::Correction);
    assert_eq!(world.prices(&["101"]), 0);
    assert_eq!(world.prices(&["99", "101", "99"]), 1);
    world.apply(&btc(), Input::Stale);
    world.advance(299_000);
    assert_eq!(world.prices(&["101", "99"]), 1);
    world.apply(&btc(), Input::Stale);
    world.advance(301_000);
    assert_eq!(world.prices(&["101"]), 0);
    assert_eq!(world.prices(&["99", "101"]), 1);
}

#[test]
fn a_retracted_transaction_retracts_its_fire_and_may_fire_again() {
    let subject = Subject::Transaction {
        chain: 1,
        hash: "0x1".into(),
    };
    let condition = Condition::Leaf(Leaf {
        subject: subject.clone(),
        signal: SignalKind::State,
        test: Test::Reaches(TransactionState::Confirmed),
    });
    let mut world = World::of(&once(condition));
    let state = |world: &mut World, state, is_retraction| {
        world.apply(
            &subject,
            Input::Transaction {
                state,
                is_retraction,
                observed_us: 1,
            },
        );
        world.poll()
    };
    assert!(
        state(&mut world, TransactionState::Confirming, false)
            .iter()
            .all(|output| matches!(output, Output::Change { .. }))
    );
    assert!(matches!(
        state(&mut world, TransactionState::Finalized, false)[0],
        Output::Fire(_)
    ));
    assert_eq!(world.phase(0), Phase::Exhausted);
    let outputs = state(&mut world, TransactionState::Pending, true);
    assert!(matches!(
        outputs[0],
        Output::Retract {
            slot: 0,
            version: 1,
            ..
        }
    ));
    assert_eq!(world.phase(0), Phase::Armed);
    assert!(matches!(
        state(&mut world, TransactionState::Confirmed, false)[0],
        Output::Fire(_)
    ));
    assert_eq!(state(&mut world, TransactionState::Confirmed, false), []);
}

#[test]
fn rules_that_are_not_passed_are_not_touched() {
    let mut world = World::new();
    for slot in 0..10_000 {
        let threshold = (1_000 + slot).to_string();
        let condition = if slot % 2 == 0 {
            above(&threshold)
        } else {
            below(&threshold)
        };
        world.insert(slot, &once(condition));
    }
    world.price("6000");
    let touched = world.evaluator.counters().touched;
    for number in 0..1_000 {
        world.price(if number % 2 == 0 { "6000.5" } else { "6000.25" });
    }
    assert_eq!(world.evaluator.counters().touched, touched);
    world.price("6003.5");
    // Of those between, the ones below had fired before.
    assert_eq!(world.evaluator.counters().touched, touched + 1);
}

#[test]
fn an_explanation_has_both_values_and_the_decision() {
    let mut world = World::of(&rule(above("100")));
    world.price("98");
    world.advance(5);
    world.price("99");
    let explanation = world
        .evaluator
        .explain(0, &rule(above("100")), world.now)
        .unwrap();
    assert_eq!(explanation.version, 1);
    assert_eq!(explanation.decision, Decision::NotMet);
    assert_eq!(explanation.value, Some(decimal("99")));
    let (current, previous) = (explanation.current.unwrap(), explanation.previous.unwrap());
    assert_eq!(
        (current.value, previous.value),
        (decimal("99"), decimal("98"))
    );
    assert_eq!(
        current.at,
        Now {
            wall_ms: START_MS + 5,
            monotonic_ms: 15
        }
    );
    assert!(
        explanation
            .reason
            .starts_with("armed; price of BTC-USD is 99, wanted at least 100: false"),
        "{}",
        explanation.reason
    );
}

/// The age is 0 after a restart, and 0 at a value that arrives at once: the silence of before has
/// ended all the same.
#[test]
fn a_silence_from_before_a_restart_ends_with_the_first_value() {
    for waits_ms in [0, 400] {
        let silent = signal(SignalKind::Age, Test::Above(decimal("5000")));
        let mut world = World::of(&Rule {
            cooldown_ms: 600_000,
            ..rule(silent)
        });
        for fires in [1, 0] {
            world.price("100");
            world.apply(&btc(), Input::Stale);
            world.advance(6_000);
            // The second silence begins in the cooldown, and fires after it unless it ends.
            assert_eq!(world.fires().len(), fires);
        }
        world.restart(1_000);
        world.advance(waits_ms);
        assert_eq!(world.price("101").len(), 0);
        assert!(
            !world.reason(0).contains("true again"),
            "{}",
            world.reason(0)
        );
        for _ in 0..700 {
            world.advance(1_000);
            assert_eq!(world.price("101").len(), 0, "{waits_ms}");
        }
        world.apply(&btc(), Input::Stale);
        world.advance(6_000);
        assert_eq!(world.fires().len(), 1, "{waits_ms}");
    }
}
