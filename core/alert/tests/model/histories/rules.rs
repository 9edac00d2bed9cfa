//! Rules of histories, at random.

use rand::Rng as _;
use tidewire_alert::{Condition, Decimal, Leaf, Repeat, Rule, SignalKind, Test};

use super::{Focus, Run, STATES, decimal, subjects};

impl Run {
    pub(super) fn threshold(&mut self) -> Decimal {
        // Two of them differ only beyond the digits of a double.
        decimal(self.pick(&[
            "95",
            "100",
            "100.5",
            "102",
            "100.00000000000000001",
            "99.99999999999999999",
        ]))
    }

    fn leaf(&mut self) -> Leaf {
        let all = subjects();
        let number = match self.focus {
            Focus::Wide => self.pick(&[0, 0, 0, 0, 1, 1, 2, 3, 3, 4]),
            Focus::Alone => self.pick(&[2, 3, 3, 3]),
            Focus::Either => 0,
            Focus::Transactions => self.pick(&[0, 4]),
        };
        let subject = all[number].clone();
        if number == 4 {
            let test = Test::Reaches(self.pick(&STATES));
            return Leaf {
                subject,
                signal: SignalKind::State,
                test,
            };
        }
        let window_ms = self.pick(&[6_000, 6_000, 6_050]);
        let percent = decimal(self.pick(&["1", "5", "0.5"]));
        let signals = match number {
            0 | 1 => 6,
            3 => 5,
            _ => 1,
        };
        let is_plain = matches!(self.focus, Focus::Either | Focus::Transactions);
        let pick = if is_plain && !self.chance(8) || self.chance(2) {
            0
        } else {
            self.random.random_range(0..signals)
        };
        let (signal, test) = match (number, pick) {
            (0 | 1, 1) | (3, 1) => {
                let test = if self.chance(2) {
                    Test::Above(percent)
                } else {
                    Test::Below(-percent)
                };
                (SignalKind::ChangePercent { window_ms }, test)
            }
            (0 | 1, 2) => {
                let slow_ms = 2 * window_ms;
                let test =
                    self.pick(&[Test::TurnsPositive, Test::TurnsNegative, Test::TurnsEither]);
                (
                    SignalKind::AverageGap {
                        fast_ms: window_ms,
                        slow_ms,
                    },
                    test,
                )
            }
            (0 | 1, 3) => (
                SignalKind::VolumeRatio {
                    window_ms: self.pick(&[600, 650]),
                },
                Test::Above(decimal(self.pick(&["1.5", "3"]))),
            ),
            (0 | 1, 4 | 5) => {
                let after: u32 = self.pick(&[1_000, 1_000, 5_000, 60_000]);
                (SignalKind::Age, Test::Above(Decimal::from(after)))
            }
            (3, 2) => (
                SignalKind::ChangeAbsolute { window_ms },
                Test::Above(Decimal::TWO),
            ),
            (3, 3) => {
                let window_ms = self.pick(&[None, Some(window_ms)]);
                (
                    SignalKind::DrawdownPercent { window_ms },
                    Test::Above(percent),
                )
            }
            (3, 4) => {
                let window_ms = self.pick(&[None, Some(window_ms)]);
                (
                    SignalKind::DrawdownAbsolute { window_ms },
                    Test::Above(Decimal::TWO),
                )
            }
            _ => (SignalKind::Value, self.value_test()),
        };
        Leaf {
            subject,
            signal,
            test,
        }
    }

    fn value_test(&mut self) -> Test {
        let threshold = self.threshold();
        let hysteresis = decimal(self.pick(&["0", "0", "2", "5"]));
        let high = threshold + decimal(self.pick(&["1", "4"]));
        let low = threshold;
        let kind = if self.focus == Focus::Either && !self.chance(4) {
            6
        } else {
            self.random.random_range(0..8)
        };
        match kind {
            0 => Test::Above(threshold),
            2 => Test::Below(threshold),
            1 if hysteresis.is_zero() => Test::Above(threshold),
            3 if hysteresis.is_zero() => Test::Below(threshold),
            1 => Test::StaysAbove {
                threshold,
                hysteresis,
            },
            3 => Test::StaysBelow {
                threshold,
                hysteresis,
            },
            4 => Test::CrossesUp {
                threshold,
                hysteresis,
            },
            5 => Test::CrossesDown {
                threshold,
                hysteresis,
            },
            6 => Test::CrossesEither {
                threshold,
                hysteresis,
            },
            _ if self.chance(2) => Test::Enters { low, high },
            _ => Test::Exits { low, high },
        }
    }

    fn condition(&mut self) -> Condition {
        let is_single = match self.focus {
            Focus::Transactions => self.chance(3),
            _ => !self.chance(3),
        };
        if is_single {
            return Condition::Leaf(self.leaf());
        }
        let count = self.random.random_range(1..4);
        let mut list = Vec::new();
        let is_all = self.chance(2);
        let mut has_crossing = false;
        for _ in 0..count {
            let one = match self.chance(6) {
                true => Condition::Any(vec![
                    Condition::Leaf(self.leaf()),
                    Condition::Leaf(self.leaf()),
                ]),
                false => Condition::Leaf(self.leaf()),
            };
            let crosses = one.leaves().iter().any(|leaf| leaf.test.is_crossing());
            // As registration does, except for a window of their own.
            if is_all && crosses && has_crossing {
                continue;
            }
            has_crossing |= crosses;
            list.push(one);
        }
        if is_all {
            Condition::All(list)
        } else {
            Condition::Any(list)
        }
    }

    pub(super) fn rule(&mut self) -> Rule {
        self.version += 1;
        let repeat = self.pick(&[
            Repeat::Recurring,
            Repeat::Recurring,
            Repeat::Times(1),
            Repeat::Times(2),
            Repeat::Times(20),
        ]);
        let cooldown_ms = self.pick(&[0, 0, 700, 5_000, 20_000, 400_000]);
        let snoozed_until_ms = self.time();
        Rule {
            condition: self.condition(),
            repeat,
            cooldown_ms: if self.is_lazy { 0 } else { cooldown_ms },
            expires_at_ms: self.time(),
            snoozed_until_ms: snoozed_until_ms.filter(|_| !self.is_lazy),
            is_enabled: !self.chance(12),
            version: self.version,
        }
    }
}
