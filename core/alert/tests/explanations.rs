//! Explanations: what the newest value did to a rule, in the decision and in words.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{World, above, crosses_up, decimal, leaf, rule, signal};
use tidewire_alert::{
    Condition, Decision, Explanation, Input, Leaf, Repeat, Rule, SignalKind, Subject, Test,
};
use tidewire_proto::v1::TransactionState;

fn once(condition: Condition) -> Rule {
    Rule {
        repeat: Repeat::Times(1),
        ..rule(condition)
    }
}

fn explain(world: &World, rule: &Rule) -> Explanation {
    world.evaluator.explain(0, rule, world.now).unwrap()
}

fn assert_explained(world: &World, rule: &Rule, decision: Decision, holds: bool, words: &str) {
    let told = explain(world, rule);
    assert_eq!(
        (told.decision, told.holds),
        (decision, holds),
        "{}",
        told.reason
    );
    assert!(told.reason.contains(words), "{words}: {}", told.reason);
}

#[test]
fn a_rule_that_fired_for_the_last_time_is_explained_by_its_value() {
    let once = once(above("110"));
    let mut world = World::of(&once);
    assert_eq!(world.prices(&["100", "115"]), 1);
    assert_explained(
        &world,
        &once,
        Decision::Fired,
        true,
        "the newest value fired it, as often as it may fire; price of BTC-USD is 115, wanted at \
         least 110: true",
    );
    assert_eq!(explain(&world, &once).value, Some(decimal("115")));
    world.price("109");
    assert_explained(
        &world,
        &once,
        Decision::NotMet,
        false,
        "it has fired as often as allowed; price of BTC-USD is 109, wanted at least 110: false",
    );
    world.price("120");
    assert_explained(
        &world,
        &once,
        Decision::Suppressed,
        true,
        "as often as allowed",
    );
}

#[test]
fn a_crossing_is_true_at_the_value_that_crossed() {
    let crossing = rule(crosses_up("110", "0"));
    let mut world = World::new();
    world.price("116");
    world.insert(0, &crossing);
    let words = "must be back before it can cross; price of BTC-USD is 116, wanted to cross 110 \
                 upwards: not crossed by this value";
    assert_explained(&world, &crossing, Decision::NotMet, false, words);
    assert_eq!(world.prices(&["100", "111"]), 1);
    assert_explained(&world, &crossing, Decision::Fired, true, "upwards: crossed");
    world.price("112");
    let words = "it fired when the value crossed, and the value must be back before it can cross \
                 again; price of BTC-USD is 112, wanted to cross 110 upwards: not crossed by this \
                 value, which was past it already";
    assert_explained(&world, &crossing, Decision::NotMet, false, words);
}

#[test]
fn either_direction_is_crossed_only_when_it_is() {
    let either = rule(leaf(Test::CrossesEither {
        threshold: decimal("100"),
        hysteresis: decimal("0"),
    }));
    let mut world = World::of(&either);
    for (price, decision) in [
        ("105", Decision::NotMet),
        ("92", Decision::Fired),
        ("80", Decision::NotMet),
        ("100", Decision::Fired),
        ("106", Decision::NotMet),
    ] {
        world.price(price);
        let told = explain(&world, &either);
        assert_eq!(told.decision, decision, "{price}: {}", told.reason);
        assert_eq!(told.holds, decision == Decision::Fired);
    }
}

#[test]
fn what_prevents_a_fire_is_named() {
    let cooling = Rule {
        cooldown_ms: 60_000,
        ..rule(above("100"))
    };
    let mut world = World::of(&cooling);
    world.price("101");
    let words = "the newest value fired it, and its cooldown began";
    assert_explained(&world, &cooling, Decision::Fired, true, words);
    world.price("102");
    assert_explained(
        &world,
        &cooling,
        Decision::Suppressed,
        true,
        "in its cooldown;",
    );
    world.prices(&["99", "103"]);
    let words = "in its cooldown; the condition became true again meanwhile";
    assert_explained(&world, &cooling, Decision::Suppressed, true, words);

    let mut world = World::of(&rule(above("100")));
    world.update(0, |rule| rule.is_enabled = false);
    world.price("101");
    let off = Rule {
        is_enabled: false,
        ..rule(above("100"))
    };
    assert_explained(
        &world,
        &off,
        Decision::Suppressed,
        true,
        "disabled by its owner",
    );
    world.update(0, |rule| rule.is_enabled = true);
    let words = "its condition was true when it was armed";
    assert_explained(
        &world,
        &rule(above("100")),
        Decision::Suppressed,
        true,
        words,
    );
}

#[test]
fn of_several_conditions_the_newest_value_is_told() {
    let eth = Subject::Symbol("ETH-USD".into());
    let of_eth = Condition::Leaf(Leaf {
        subject: eth.clone(),
        signal: SignalKind::Value,
        test: Test::Above(decimal("50")),
    });
    let any = rule(Condition::Any(vec![above("100"), of_eth]));
    let mut world = World::of(&any);
    world.price("90");
    assert_eq!(world.price_of(&eth, "60"), [0]);
    let told = explain(&world, &any);
    assert_eq!((told.test, told.value), (1, Some(decimal("60"))));
    assert_eq!((told.decision, told.holds), (Decision::Fired, true));
    world.price("91");
    assert_explained(
        &world,
        &any,
        Decision::Suppressed,
        true,
        "price of BTC-USD is 91, wanted at least 100: false; price of ETH-USD is 60, wanted at \
         least 50: true; one of these is required",
    );
}

#[test]
fn a_restart_and_a_new_baseline_are_told() {
    let crossing = rule(crosses_up("100", "0"));
    let mut world = World::of(&crossing);
    world.price("99");
    world.restart(60_000);
    assert_explained(
        &world,
        &crossing,
        Decision::Unknown,
        false,
        "before the restart",
    );
    assert_eq!(world.price("101"), [0]);
    let words = "the newest value is the first since the restart, and was compared";
    assert_explained(&world, &crossing, Decision::Fired, true, words);
    world.prices(&["99"]);
    world.restart(600_000);
    assert_eq!(world.price("101"), [0; 0]);
    let words = "a new baseline, after an outage";
    assert_explained(&world, &crossing, Decision::NotMet, false, words);
}

#[test]
fn states_of_transactions_have_their_names() {
    let subject = Subject::Transaction {
        chain: 1,
        hash: "0xab".into(),
    };
    let waiting = once(Condition::Leaf(Leaf {
        subject: subject.clone(),
        signal: SignalKind::State,
        test: Test::Reaches(TransactionState::Confirmed),
    }));
    let mut world = World::of(&waiting);
    let input = |state| Input::Transaction {
        state,
        is_retraction: false,
        observed_us: 1,
    };
    world.apply(&subject, input(TransactionState::Pending));
    let words = "state of transaction 0xab is pending, wanted confirmed: false";
    assert_explained(&world, &waiting, Decision::NotMet, false, words);
    world.apply(&subject, input(TransactionState::Confirmed));
    world.poll();
    let words = "state of transaction 0xab is confirmed, wanted confirmed: true";
    assert_explained(&world, &waiting, Decision::Fired, true, words);
}

#[test]
fn a_feed_that_never_began_becomes_stale() {
    let stale = once(support::signal(
        SignalKind::Age,
        Test::Above(decimal("60000")),
    ));
    let mut world = World::of(&stale);
    world.advance(59_999);
    assert_eq!(world.slots(), [0; 0]);
    world.advance(1);
    assert_eq!(world.slots(), [0]);
    let words = "age in milliseconds of the price of BTC-USD is 60000, wanted at least 60000: true";
    assert_explained(&world, &stale, Decision::Fired, true, words);
}

/// A rule fires before any value came, because a price is old. Disabling it forgets its gas.
#[test]
fn a_fire_of_an_age_is_told_though_other_subjects_are_forgotten() {
    let gas = Condition::Leaf(Leaf {
        subject: Subject::Gas(1),
        signal: SignalKind::Value,
        test: Test::Above(decimal("100")),
    });
    let old = signal(SignalKind::Age, Test::Above(decimal("1000")));
    let mut either = rule(Condition::Any(vec![old, gas]));
    let mut world = World::of(&either);
    world.advance(2_000);
    assert_eq!(world.fires().len(), 1);
    assert_explained(
        &world,
        &either,
        Decision::Fired,
        true,
        "the newest value fired it",
    );
    either.is_enabled = false;
    world.update(0, |rule| rule.is_enabled = false);
    assert_explained(
        &world,
        &either,
        Decision::Fired,
        true,
        "the newest value fired it",
    );
}

/// The slot had another rule, which the portfolio's newest value fired. The gas that fired the new
/// rule is forgotten with it, so that the portfolio's value is the newest again.
#[test]
fn a_fire_of_a_rule_before_is_not_told_of_the_one_after() {
    let value = |subject: &Subject, test| {
        Condition::Leaf(Leaf {
            subject: subject.clone(),
            signal: SignalKind::Value,
            test,
        })
    };
    let portfolio = Subject::Portfolio {
        user: "ada".into(),
        portfolio: "main".into(),
    };
    let gas = Subject::Gas(1);
    let tick = |value: &str| tidewire_alert::Tick::new(decimal(value), 1);
    let worth = || value(&portfolio, Test::Above(decimal("100")));
    let cheap = value(&gas, Test::Below(decimal("10")));
    let mut world = World::new();
    // Keeps the portfolio known.
    world.insert(1, &rule(value(&portfolio, Test::Above(decimal("1000")))));
    world.insert(0, &rule(Condition::Any(vec![worth(), cheap.clone()])));
    world.apply(
        &portfolio,
        Input::Portfolio {
            tick: tick("150"),
            currency: "USD".into(),
        },
    );
    assert_eq!(world.slots(), [0]);
    world.evaluator.remove(0);
    let dear = value(&portfolio, Test::Above(decimal("200")));
    let new = once(Condition::Any(vec![dear, cheap]));
    world.insert(0, &new);
    world.apply(&gas, Input::Gas(tick("5")));
    assert_eq!(world.slots(), [0]);
    let told = explain(&world, &new);
    assert_eq!(told.decision, Decision::Unknown, "{}", told.reason);
}
