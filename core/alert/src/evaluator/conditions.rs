//! Conditions: whether a rule's condition is true, by the state of its tests.

use rust_decimal::Decimal;

use super::{
    Evaluator,
    records::{ComplexTest, Record, TestKind},
};
use crate::{Condition, SignalKind, Subject, Test, leaf::LeafState, signal::Signal};

/// The value that a judgement is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fact {
    pub(super) value: Decimal,
    pub(super) previous: Option<Decimal>,
    pub(super) threshold: Option<Decimal>,
    /// The number of the test.
    pub(super) test: u8,
}

impl Evaluator {
    /// The truth of a complex rule's condition. A test whose value is not known is neither true
    /// nor false. `truth` is the truth of a known one, with its number.
    pub(super) fn truth(
        &self,
        record: &Record,
        truth: impl Fn(&ComplexTest, usize) -> bool,
    ) -> Option<bool> {
        let complex = self.complexes.get(record.signal as usize)?;
        let mut number = 0;
        evaluate(&complex.condition, &mut || {
            let one = &complex.tests[number];
            let signal = &self.signals[one.signal as usize];
            let is_running =
                signal.kind == SignalKind::Age || self.subjects[signal.subject as usize].is_live();
            let is_known = signal.value.is_some() && is_running && one.state.is_known();
            number += 1;
            is_known.then(|| truth(one, number - 1))
        })
    }

    /// Whether an attached rule's condition is true now. `None` if that is not known.
    pub(super) fn holds(&self, record: &Record) -> Option<bool> {
        if record.kind == TestKind::Complex {
            return self.truth(record, |one, _| one.state.is_on());
        }
        let signal = self.signals.get(record.signal as usize)?;
        let is_running =
            signal.kind == SignalKind::Age || self.subjects[signal.subject as usize].is_live();
        let is_known = signal.value.is_some() && is_running && record.leaf.is_known();
        is_known.then_some(record.leaf.is_on())
    }

    /// Whether the deferred passage of an attached rule is not undone. `None` if that is not known.
    pub(super) fn stands(&self, record: &Record) -> Option<bool> {
        if record.kind == TestKind::Complex {
            return self.truth(record, |one, _| match one.test.is_crossing() {
                true => one.state.is_marked(),
                false => one.state.is_on(),
            });
        }
        let test = record.test(self.records.second(record));
        self.holds(record).map(|_| stands(&test, record.leaf))
    }

    /// The value of an attached rule's test: of several, the first that its passage is about.
    pub(super) fn current_fact(&self, record: &Record) -> Option<Fact> {
        let (number, signal, test) = match record.kind {
            TestKind::Complex => {
                let tests = &self.complexes.get(record.signal as usize)?.tests;
                let passed = tests.iter().position(|one| one.state.is_marked());
                let passed = passed.or_else(|| tests.iter().position(|one| one.state.is_on()));
                let number = passed.unwrap_or(0);
                let one = tests.get(number)?;
                (number, one.signal, one.test)
            }
            _ => (0, record.signal, record.test(self.records.second(record))),
        };
        Some(Fact {
            value: self.signals.get(signal as usize)?.value.unwrap_or_default(),
            previous: None,
            threshold: test.threshold(),
            // Rules have at most 16 tests.
            test: number as u8,
        })
    }

    /// The signal of one of an attached rule's tests.
    pub(super) fn signal_of_test(&self, record: &Record, test: u8) -> Option<&Signal> {
        let number = match record.kind {
            TestKind::Complex => {
                let tests = &self.complexes.get(record.signal as usize)?.tests;
                tests.get(usize::from(test))?.signal
            }
            _ => record.signal,
        };
        self.signals.get(number as usize)
    }

    /// The subject of an attached rule whose value arrived last, with the number of that value.
    pub(super) fn newest_subject(&self, record: &Record) -> Option<(u32, u64)> {
        let tests = match record.kind {
            TestKind::Complex => self.complexes.get(record.signal as usize)?.tests.len(),
            _ => 1,
        };
        let subjects = (0..tests).filter_map(|test| {
            // Rules have at most 16 tests.
            let number = self.signal_of_test(record, test as u8)?.subject;
            let subject = self.subjects.get(number as usize)?;
            // Subjects without a value are equally old. The age of one of the symbols among them
            // may fire a rule, and symbols are not forgotten with their last rule.
            let is_symbol = matches!(subject.key, Subject::Symbol(_));
            Some((number, subject.arrival, is_symbol))
        });
        let newest = subjects.max_by_key(|(_, arrival, is_symbol)| (*arrival, *is_symbol));
        newest.map(|(number, arrival, _)| (number, arrival))
    }

    pub(super) fn can_retract(&self, record: &Record) -> bool {
        if record.kind != TestKind::Complex {
            return matches!(record.test(Decimal::ZERO), Test::Reaches(_));
        }
        let complex = self.complexes.get(record.signal as usize);
        complex.is_some_and(|complex| {
            complex
                .tests
                .iter()
                .any(|one| matches!(one.test, Test::Reaches(_)))
        })
    }

    /// Whether a rule that fires now needs its transactions: without them its condition is not true.
    pub(super) fn needs_transaction(&self, record: &Record) -> bool {
        if record.kind != TestKind::Complex || !self.can_retract(record) {
            return self.can_retract(record);
        }
        let without = self.truth(record, |one, _| match one.test {
            Test::Reaches(_) => false,
            test if test.is_crossing() => one.state.is_marked(),
            _ => one.state.is_on(),
        });
        without != Some(true)
    }
}

/// Whether the deferred passage of a test is not undone.
pub(super) fn stands(test: &Test, state: LeafState) -> bool {
    match test {
        // Its other direction may be on.
        Test::CrossesEither { .. } | Test::TurnsEither => state.is_marked(),
        _ => state.is_on(),
    }
}

/// The truth of a condition, from left to right. `leaf` is called for each test.
pub(super) fn evaluate(
    condition: &Condition,
    leaf: &mut impl FnMut() -> Option<bool>,
) -> Option<bool> {
    // Each test is visited, so that `leaf` keeps count.
    let (conditions, decisive) = match condition {
        Condition::Leaf(_) => return leaf(),
        Condition::All(conditions) => (conditions, false),
        Condition::Any(conditions) => (conditions, true),
    };
    let mut truth = Some(!decisive);
    for condition in conditions {
        match (evaluate(condition, leaf), truth) {
            (Some(one), _) if one == decisive => truth = Some(decisive),
            (None, Some(so_far)) if so_far != decisive => truth = None,
            _ => {}
        }
    }
    truth
}
