//! Rules of several tests: how changes of their subjects change their conditions.
//!
//! A rule is judged once by all that changes in one moment. Example: a rule fires when both A and B rose
//! by 1 % within a minute. The windows of both move on at the same millisecond, with which A reaches
//! 1 % and B falls below it. Judged by A first, the rule would fire, although the two never held
//! together.

use smallvec::SmallVec;

use super::{
    Evaluator,
    conditions::Fact,
    jobs::SubjectChange,
    lifecycle::Verdict,
    records::{Record, TestKind, flag},
};
use crate::SignalKind;

/// The change of the tests of a rule.
#[derive(Debug)]
struct ComplexStep {
    /// The crossings that happened, by the bits of their numbers.
    passing: u32,
    /// For each test, the detectors that rose.
    risen: SmallVec<[u8; 16]>,
    /// The first test that became true.
    first: Option<Fact>,
    /// Whether a reorg took back the state of a transaction.
    takes_back: bool,
    has_changed: bool,
}

impl Evaluator {
    /// Judges a rule of several tests by changes of its subjects in one moment.
    pub(super) fn judge_complex(&mut self, slot: u32, changes: &[SubjectChange]) {
        self.counters.touched += 1;
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        if record.kind != TestKind::Complex || record.has(flag::DETACHED) {
            return;
        }
        let Some(step) = self.step_complex(&record, changes) else {
            return;
        };
        let mut has_changed = step.has_changed;
        let at_once = self.truth(&record, |one, number| {
            if one.test.is_crossing() {
                step.passing & (1 << number) != 0
            } else {
                one.state.is_on()
            }
        });
        let lasting = self.truth(&record, |one, _| {
            !one.test.is_crossing() && one.state.is_on()
        });
        let holds = self.truth(&record, |one, _| one.state.is_on());
        let is_known = record.has(flag::KNOWN);
        let is_baseline = changes.iter().any(|change| change.moment.is_baseline);
        let is_suppressed = is_known && (record.has(flag::TRUE) || is_baseline)
            || record.has(flag::QUIET) && step.passing == 0;
        let rises = at_once == Some(true) && !is_suppressed;
        let mut flags = record.flags;
        if at_once.is_some() || lasting.is_some() {
            flags &= !flag::QUIET;
        }
        if let Some(lasting) = lasting {
            flags = flags & !flag::TRUE | flag::KNOWN | if lasting { flag::TRUE } else { 0 };
        }
        has_changed |= flags != record.flags;
        if let Some(record) = self.records.get_mut(slot) {
            record.flags = flags;
        }
        if !has_changed && !record.has(flag::MISSED) {
            return;
        }
        let verdict = Verdict {
            rises,
            risen: &step.risen,
            holds,
            stands: self.stands(&record),
            takes_back: step.takes_back,
            has_changed,
        };
        let Some(fact) = step.first.or_else(|| self.current_fact(&record)) else {
            return;
        };
        // The fire is of the subject that its fact is about, if that is among those that changed.
        let subject = self
            .signal_of_test(&record, fact.test)
            .map(|one| one.subject);
        let about = |change: &&SubjectChange| Some(change.subject) == subject;
        if let Some(change) = changes.iter().find(about).or(changes.first()) {
            self.decide(slot, verdict, fact, &change.moment);
        }
    }

    /// Steps the tests of a rule whose subjects changed.
    fn step_complex(&mut self, record: &Record, changes: &[SubjectChange]) -> Option<ComplexStep> {
        let complex = self.complexes.get_mut(record.signal as usize)?;
        let mut result = ComplexStep {
            passing: 0,
            risen: SmallVec::from_elem(0, complex.tests.len()),
            first: None,
            takes_back: false,
            has_changed: false,
        };
        for (number, one) in complex.tests.iter_mut().enumerate() {
            let signal = &self.signals[one.signal as usize];
            let mut changes = changes.iter();
            let change = changes.find(|change| change.subject == signal.subject);
            let (Some(value), Some(change)) = (signal.value, change) else {
                continue;
            };
            // An age only ends with a live value.
            let is_running = signal.kind == SignalKind::Age && !one.state.is_on();
            if !self.subjects[signal.subject as usize].is_live() && !is_running {
                continue;
            }
            let moment = &change.moment;
            let step = one.test.step(value, one.state, moment.is_retraction);
            let passes = step.passes && !moment.is_baseline;
            if passes && one.test.is_crossing() {
                result.passing |= 1 << number;
            }
            if !moment.is_baseline {
                result.risen[number] = step.risen;
            }
            if (passes || step.starts_on) && result.first.is_none() {
                let mut moves = change.moves.iter();
                let before = moves.find(|other| other.signal == one.signal);
                result.first = Some(Fact {
                    value,
                    previous: before.and_then(|one| one.before),
                    threshold: one.test.threshold(),
                    // Rules have at most 16 tests.
                    test: number as u8,
                });
            }
            result.has_changed |= step.state != one.state;
            result.takes_back |= step.takes_back;
            one.state = step.state;
        }
        Some(result)
    }
}
