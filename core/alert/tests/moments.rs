//! Moments: windows of several subjects that move on at the same time.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{World, decimal, rule};
use tidewire_alert::{Condition, Leaf, SignalKind, Subject, Test};

/// A window with steps of 50 milliseconds.
const WINDOW_MS: u64 = 6_000;

fn symbol(name: &str) -> Subject {
    Subject::Symbol(name.into())
}

fn rises(name: &str) -> Condition {
    Condition::Leaf(Leaf {
        subject: symbol(name),
        signal: SignalKind::ChangePercent {
            window_ms: WINDOW_MS,
        },
        test: Test::Above(decimal("1")),
    })
}

/// The fires of a rule about the changes of A and B. That of A is 0 % at first and 2 % from 8 to 9
/// seconds, that of B 1.5 % until 8 seconds and 0 % then. `step_ms` is the time between two looks at
/// the clock.
fn fires(several: fn(Vec<Condition>) -> Condition, order: [&str; 2], step_ms: u64) -> usize {
    let mut world = World::new();
    // The evaluator may judge subjects in the order in which it met them.
    for name in order {
        world.evaluator.intern(&symbol(name));
    }
    world.insert(0, &rule(several(vec![rises("A"), rises("B")])));
    world.advance(990);
    world.price_of(&symbol("A"), "100");
    world.price_of(&symbol("B"), "100");
    world.advance(1_000);
    world.price_of(&symbol("A"), "98");
    world.price_of(&symbol("B"), "101.5");
    world.advance(1_000);
    world.price_of(&symbol("A"), "100");
    let mut fires = 0;
    while world.now.monotonic_ms < 10_000 {
        world.advance(step_ms);
        fires += world.slots().len();
    }
    fires
}

#[test]
fn windows_that_move_on_at_the_same_time_are_judged_together() {
    for order in [["A", "B"], ["B", "A"]] {
        for step_ms in [1, 50, 500] {
            let all = fires(Condition::All, order, step_ms);
            assert_eq!(all, 0, "the two never hold together: {order:?} {step_ms}");
            let any = fires(Condition::Any, order, step_ms);
            assert_eq!(any, 1, "one of the two always holds: {order:?} {step_ms}");
        }
    }
}
