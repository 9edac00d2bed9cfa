//! Windows: what rules share, and the share of one user.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a test fails"
)]

mod support;

use support::{START_MS, above, decimal, rule, signal};
use tidewire_alert::{
    Condition, Evaluator, EvaluatorConfig, Leaf, Now, OwnerId, Rule, RuleError, RuleState,
    SignalKind, Subject, Test,
};

const NOW: Now = Now {
    wall_ms: START_MS,
    monotonic_ms: 10,
};

fn change(seconds: u64) -> Rule {
    let kind = SignalKind::ChangePercent {
        // None of the common lengths.
        window_ms: 1_000 * seconds + 7,
    };
    rule(signal(kind, Test::Above(decimal("5"))))
}

struct Users {
    evaluator: Evaluator,
    slots: u32,
}

impl Users {
    fn new() -> Self {
        Self {
            evaluator: Evaluator::new(EvaluatorConfig::default()),
            slots: 0,
        }
    }

    fn register(&mut self, user: u32, rule: &Rule) -> Result<u32, RuleError> {
        let owner = Some(OwnerId(user));
        self.evaluator.admit_of(owner, None, rule)?;
        self.slots += 1;
        self.evaluator
            .insert_of(owner, self.slots, rule, RuleState::new(), NOW)?;
        Ok(self.slots)
    }

    fn change(&mut self, user: u32, slot: u32, rule: &Rule) -> Result<(), RuleError> {
        let next = Rule {
            version: 2,
            ..rule.clone()
        };
        self.evaluator
            .update_of(Some(OwnerId(user)), slot, &next, NOW)
    }
}

#[test]
fn one_user_has_a_share_of_the_windows_of_a_symbol() {
    let mut users = Users::new();
    let slots: Vec<_> = (1..=8)
        .map(|window| users.register(1, &change(window)).unwrap())
        .collect();
    let refused = users.register(1, &change(9)).unwrap_err();
    assert_eq!(refused.field, "condition");
    assert!(refused.problem.contains("BTC-USD over 8"), "{refused}");
    assert!(
        refused.problem.contains("share of one user is 8"),
        "{refused}"
    );
    // Windows that the user has, and plain values, need no further share.
    users.register(1, &change(3)).unwrap();
    users.register(1, &rule(above("100"))).unwrap();
    // Others have their own share.
    users.register(2, &change(9)).unwrap();
    users.register(2, &change(1)).unwrap();
    // A window that a change gives back is free for it.
    users.change(1, slots[0], &change(10)).unwrap();
    let refused = users.change(1, slots[2], &change(11)).unwrap_err();
    assert!(refused.problem.contains("share"), "{refused}");
    users.evaluator.remove(slots[1]);
    users.register(1, &change(12)).unwrap();
    assert!(users.register(1, &change(13)).is_err());
}

#[test]
fn a_symbol_with_all_of_its_windows_still_has_room_for_plain_rules() {
    let mut users = Users::new();
    for window in 1..=64 {
        users.register(window / 8, &change(window.into())).unwrap();
    }
    let refused = users.register(99, &change(65)).unwrap_err();
    assert!(
        refused.problem.contains("64 different windows"),
        "{refused}"
    );
    users.register(99, &change(64)).unwrap();
    users.register(99, &rule(above("100"))).unwrap();
    let age = signal(SignalKind::Age, Test::Above(decimal("5000")));
    users.register(99, &rule(age)).unwrap();
}

#[test]
fn a_portfolio_belongs_to_its_user() {
    let mut users = Users::new();
    let of_portfolio = |window: u64| {
        rule(Condition::Leaf(Leaf {
            subject: Subject::Portfolio {
                user: "ada".into(),
                portfolio: "main".into(),
            },
            signal: SignalKind::ChangePercent {
                window_ms: 1_000 * window,
            },
            test: Test::Above(decimal("5")),
        }))
    };
    for window in 1..=64 {
        users.register(1, &of_portfolio(window)).unwrap();
    }
    assert!(users.register(1, &of_portfolio(65)).is_err());
}

#[test]
fn several_windows_of_one_rule_count_together() {
    let mut users = Users::new();
    for window in 1..=6 {
        users.register(1, &change(window)).unwrap();
    }
    let all = |windows: [u64; 3]| {
        let changes = windows.map(|window| change(window).condition);
        rule(Condition::All(changes.into()))
    };
    assert!(users.register(1, &all([6, 7, 8])).is_ok());
    assert!(users.register(1, &all([7, 8, 9])).is_err());
}

#[test]
fn there_is_always_room_for_windows_of_common_lengths() {
    let mut users = Users::new();
    for window in 1..=64 {
        users.register(window / 8, &change(window.into())).unwrap();
    }
    let minute = 60_000;
    let common = [1, 5, 15, 30, 60, 4 * 60, 24 * 60, 7 * 24 * 60].map(|count| count * minute);
    let of = |kind| rule(signal(kind, Test::Above(decimal("5"))));
    for (place, slow_ms) in common.into_iter().enumerate() {
        let change = SignalKind::ChangePercent { window_ms: slow_ms };
        users.register(99, &of(change)).unwrap();
        let volume = SignalKind::VolumeRatio { window_ms: slow_ms };
        users.register(99, &of(volume)).unwrap();
        for fast_ms in &common[..place] {
            let fast_ms = *fast_ms;
            let gap = SignalKind::AverageGap { fast_ms, slow_ms };
            users.register(99, &of(gap)).unwrap();
        }
    }
    let odd = |window_ms| of(SignalKind::ChangePercent { window_ms });
    let refused = users.register(99, &odd(61_000_000)).unwrap_err();
    assert!(refused.problem.contains("or a window of 1, 5"), "{refused}");
    // They take no room of the others.
    let gap = SignalKind::AverageGap {
        fast_ms: minute,
        slow_ms: minute + 1,
    };
    assert!(users.register(99, &of(gap)).is_err());
    users.register(99, &change(1)).unwrap();
}
