//! Queues: values that wait while their rules are judged in chunks.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{World, above, btc, decimal, rule};
use tidewire_alert::{Condition, Input, Leaf, Repeat, Rule, SignalKind, Subject, Test};

fn eth() -> Subject {
    Subject::Symbol("ETH-USD".into())
}

fn eth_above(threshold: &str) -> Condition {
    Condition::Leaf(Leaf {
        subject: eth(),
        signal: SignalKind::Value,
        test: Test::Above(decimal(threshold)),
    })
}

fn once(condition: Condition) -> Rule {
    Rule {
        repeat: Repeat::Times(1),
        ..rule(condition)
    }
}

#[test]
fn a_signal_that_ends_within_a_value_is_not_mistaken_for_the_next_one() {
    let mut world = World::with_chunk(1);
    world.price_of(&eth(), "10");
    world.price("40");
    world.apply(&btc(), Input::Stale);
    // Without a live price, the rule is judged at the next one, before the index is read.
    world.insert(0, &once(above("55")));
    let tick = tidewire_alert::Tick::new(decimal("60"), 0);
    world.apply(&btc(), Input::Price { tick, volume: None });
    // The rule fired, and its signal ended. The next signal has the same number.
    world.insert(1, &once(eth_above("50")));
    assert_eq!(world.slots(), [0]);
}
