//! Lifecycle: what a rule does when its condition becomes true or false.
//!
//! A rule fires when its condition rises, unless it is snoozed or cools down. Then the passage is
//! deferred: if the condition is still true when the block ends, the rule fires then.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::{
    AUTO_STOP_FIRES, AUTO_STOP_MS, Evaluator,
    jobs::{Moment, Move},
    records::{Extra, RECURRING, Record, TestKind, Timer, flag},
};
use crate::{
    Condition, Fire, Now, Output, Phase, RuleState, SignalKind, Test, leaf::LeafState,
    output::StateAfter,
};

/// Cooldown with which 16 fires cannot happen within the time of the automatic stop.
pub(super) const SAFE_COOLDOWN_MS: u32 = (AUTO_STOP_MS / AUTO_STOP_FIRES as u64) as u32;

/// The value that a judgement is about.
#[derive(Debug, Clone, Copy)]
struct Fact {
    value: Decimal,
    previous: Option<Decimal>,
    threshold: Option<Decimal>,
}

/// The result of judging a rule's condition.
#[derive(Debug, Clone, Copy)]
struct Verdict {
    /// Whether the condition became true, so that the rule is to fire.
    rises: bool,
    /// Whether it is true now. `None` if that is not known.
    holds: Option<bool>,
    has_changed: bool,
}

impl Evaluator {
    /// The signal of an attached rule of one test.
    pub(super) fn simple_signal(&self, record: &Record) -> Option<u32> {
        let is_simple = record.kind != TestKind::Complex && !record.has(flag::DETACHED);
        is_simple.then_some(record.signal)
    }

    /// Judges a rule of one test.
    pub(super) fn judge_simple(&mut self, slot: u32, one: &Move, moment: &Moment) {
        self.counters.touched += 1;
        let Some(record) = self.records.get(slot) else {
            return;
        };
        if self.simple_signal(record) != Some(one.signal) {
            return;
        }
        let test = record.test(self.records.second(record));
        if record.has(flag::MISSED)
            && record.leaf.is_on()
            && !moment.is_back
            && !self.is_blocked(record, moment.now)
            && let Some(value) = one.before
        {
            // The value waited to be judged, and the block ended before it arrived.
            let fact = Fact {
                value,
                previous: None,
                threshold: test.threshold(),
            };
            let mut end = moment.clone();
            end.price = moment.earlier;
            end.is_catch_up = false;
            self.fire(slot, fact, &end);
        }
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        if record.has(flag::DETACHED) {
            return;
        }
        let step = test.step(one.after, record.leaf, moment.is_retraction);
        let has_changed = step.state != record.leaf;
        if !has_changed && !record.has(flag::MISSED) {
            return;
        }
        let is_quiet = record.has(flag::QUIET);
        record.leaf = step.state;
        record.flags &= !flag::QUIET;
        let verdict = Verdict {
            rises: step.passes && !moment.is_baseline || step.starts_on && !is_quiet,
            holds: Some(step.state.is_on()),
            has_changed,
        };
        let fact = Fact {
            value: one.after,
            previous: one.before,
            threshold: test.threshold(),
        };
        self.decide(slot, verdict, fact, moment);
    }

    /// Judges a rule of several tests by a value of one of its subjects.
    pub(super) fn judge_complex(
        &mut self,
        slot: u32,
        subject: u32,
        moment: &Moment,
        moves: &[Move],
    ) {
        self.counters.touched += 1;
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        if record.kind != TestKind::Complex || record.has(flag::DETACHED) {
            return;
        }
        let Some(complex) = self.complexes.get_mut(record.signal as usize) else {
            return;
        };
        let mut passing = 0_u32;
        let mut risen = None;
        let mut has_changed = false;
        for (number, one) in complex.tests.iter_mut().enumerate() {
            let signal = &self.signals[one.signal as usize];
            let Some(value) = signal.value.filter(|_| signal.subject == subject) else {
                continue;
            };
            // An age only ends with a live value.
            let is_running = signal.kind == SignalKind::Age && !one.state.is_on();
            if !self.subjects[subject as usize].is_live() && !is_running {
                continue;
            }
            let step = one.test.step(value, one.state, moment.is_retraction);
            let passes = step.passes && !moment.is_baseline;
            if passes && one.test.is_crossing() {
                passing |= 1 << number;
            }
            if (passes || step.starts_on) && risen.is_none() {
                let before = moves.iter().find(|other| other.signal == one.signal);
                risen = Some(Fact {
                    value,
                    previous: before.and_then(|one| one.before),
                    threshold: one.test.threshold(),
                });
            }
            has_changed |= step.state != one.state;
            one.state = step.state;
        }
        let at_once = self.truth(&record, |_, number| Some(passing & (1 << number) != 0));
        let lasting = self.truth(&record, |_, _| Some(false));
        let holds = self.truth(&record, |state, _| Some(state.is_on()));
        let is_known = record.has(flag::KNOWN);
        let is_suppressed = is_known && (record.has(flag::TRUE) || moment.is_baseline)
            || record.has(flag::QUIET) && passing == 0;
        let rises = at_once == Some(true) && !is_suppressed;
        let mut flags = record.flags;
        if at_once.is_some() {
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
            holds,
            has_changed,
        };
        let Some(fact) = risen.or_else(|| self.current_fact(&record)) else {
            return;
        };
        self.decide(slot, verdict, fact, moment);
    }

    /// The truth of a complex rule's condition. A test whose value is not known is neither true
    /// nor false. `crossing` is the truth of a known crossing.
    fn truth(
        &self,
        record: &Record,
        crossing: impl Fn(LeafState, usize) -> Option<bool>,
    ) -> Option<bool> {
        let complex = self.complexes.get(record.signal as usize)?;
        let mut number = 0;
        evaluate(&complex.condition, &mut || {
            let one = complex.tests[number];
            let signal = &self.signals[one.signal as usize];
            let is_running =
                signal.kind == SignalKind::Age || self.subjects[signal.subject as usize].is_live();
            let is_known = signal.value.is_some() && is_running && one.state.is_known();
            let truth = match (is_known, one.test.is_crossing()) {
                (false, _) => None,
                (true, true) => crossing(one.state, number),
                (true, false) => Some(one.state.is_on()),
            };
            number += 1;
            truth
        })
    }

    /// Whether an attached rule's condition is true now. `None` if that is not known.
    pub(super) fn holds(&self, record: &Record) -> Option<bool> {
        if record.kind == TestKind::Complex {
            return self.truth(record, |state, _| Some(state.is_on()));
        }
        let signal = self.signals.get(record.signal as usize)?;
        let is_running =
            signal.kind == SignalKind::Age || self.subjects[signal.subject as usize].is_live();
        let is_known = signal.value.is_some() && is_running && record.leaf.is_known();
        is_known.then_some(record.leaf.is_on())
    }

    /// The value of an attached rule's first test.
    fn current_fact(&self, record: &Record) -> Option<Fact> {
        let (signal, test) = match record.kind {
            TestKind::Complex => {
                let first = self.complexes.get(record.signal as usize)?.tests.first()?;
                (first.signal, first.test)
            }
            _ => (record.signal, record.test(self.records.second(record))),
        };
        Some(Fact {
            value: self.signals.get(signal as usize)?.value.unwrap_or_default(),
            previous: None,
            threshold: test.threshold(),
        })
    }

    /// Fires, defers, drops or retracts.
    fn decide(&mut self, slot: u32, verdict: Verdict, fact: Fact, moment: &Moment) {
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        if verdict.holds == Some(false) {
            let has_fired = record.has(flag::FIRED);
            record.flags &= !(flag::MISSED | flag::FIRED);
            if has_fired && moment.is_retraction {
                self.retract(slot, moment.now);
                return;
            }
        }
        let record = *record;
        if verdict.rises && record.left > 0 {
            if self.is_blocked(&record, moment.now) && !self.is_expired(&record, moment.now) {
                self.defer(slot, moment.now);
            } else {
                self.fire(slot, fact, moment);
            }
        } else if verdict.holds == Some(true)
            && record.has(flag::MISSED)
            && !self.is_blocked(&record, moment.now)
        {
            self.fire(slot, fact, moment);
        } else if verdict.has_changed {
            self.outputs.push_back(Output::Change { slot });
        }
    }

    fn retract(&mut self, slot: u32, at: Now) {
        if let Some(record) = self.records.get_mut(slot)
            && record.left != RECURRING
        {
            record.left += 1;
        }
        if let Some(record) = self.records.get(slot)
            && record.extra != super::records::NONE
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.cooldown_ends_ms = None;
        }
        let Some(record) = self.records.get(slot) else {
            return;
        };
        let (version, state) = (record.version, self.snapshot(record, at));
        self.outputs.push_back(Output::Retract {
            slot,
            version,
            at,
            state,
        });
    }

    fn defer(&mut self, slot: u32, now: Now) {
        self.counters.deferred += 1;
        if let Some(record) = self.records.get_mut(slot) {
            record.flags |= flag::MISSED;
        }
        self.set_timer(slot, now);
        self.outputs.push_back(Output::Change { slot });
    }

    /// Fires a rule that is neither snoozed nor cools down. The 16th fire in three minutes stops it
    /// instead. An expired rule ends.
    fn fire(&mut self, slot: u32, fact: Fact, moment: &Moment) {
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        if self.is_expired(&record, moment.now) {
            self.end(slot, flag::EXPIRED);
            self.outputs.push_back(Output::Change { slot });
            return;
        }
        let now_ms = moment.now.monotonic_ms;
        let extra = self.records.extra(&record);
        let times = extra.and_then(|extra| extra.times).unwrap_or(1);
        let is_counted = record.cooldown_ms < SAFE_COOLDOWN_MS
            && (record.left == RECURRING || times as usize > AUTO_STOP_FIRES);
        if is_counted && self.count_fire(slot, now_ms) > AUTO_STOP_FIRES {
            self.end(slot, flag::STOPPED);
            let Some(record) = self.records.get(slot) else {
                return;
            };
            self.outputs.push_back(Output::Stop {
                slot,
                version: record.version,
                at: moment.now,
                dropped: 1,
                state: self.snapshot(record, moment.now),
            });
            return;
        }
        self.counters.fired += 1;
        if record.cooldown_ms > 0
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.cooldown_ends_ms = Some(now_ms.saturating_add(u64::from(record.cooldown_ms)));
        }
        let is_last = record.left == 1;
        if let Some(record) = self.records.get_mut(slot) {
            record.flags = record.flags & !flag::MISSED | flag::FIRED;
            if record.left != RECURRING {
                record.left = record.left.saturating_sub(1);
            }
        }
        // A reorg may retract the fire of a transaction's rule.
        if is_last && !self.can_retract(&record) {
            self.end(slot, 0);
        }
        let Some(record) = self.records.get(slot) else {
            return;
        };
        let fire = Fire {
            slot,
            version: record.version,
            threshold: fact.threshold,
            occasion: Arc::new(moment.occasion(fact.value, fact.previous)),
            after: StateAfter::Whole(Box::new(self.snapshot(record, moment.now))),
        };
        self.outputs.push_back(Output::Fire(fire));
    }

    /// Counts a fire, and returns the number within the time of the automatic stop.
    fn count_fire(&mut self, slot: u32, now_ms: u64) -> usize {
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let Some(extra) = self.records.extra_mut(slot) else {
            return 0;
        };
        extra
            .recent_ms
            .retain(|fired_ms| now_ms - fired_ms < AUTO_STOP_MS.cast_signed());
        extra.recent_ms.push(now_ms);
        extra.recent_ms.len()
    }

    /// Marks a rule as not judged any more. [`Self::bury`] takes it out of the index.
    fn end(&mut self, slot: u32, reason: u16) {
        if let Some(record) = self.records.get_mut(slot) {
            record.flags = record.flags & !flag::MISSED | flag::DETACHED | reason;
            self.ended.push(slot);
        }
        if reason == flag::STOPPED
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.recent_ms.clear();
        }
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

    pub(super) fn is_expired(&self, record: &Record, now: Now) -> bool {
        let expires_at_ms = self
            .records
            .extra(record)
            .and_then(|extra| extra.expires_at_ms);
        record.has(flag::EXPIRED)
            || expires_at_ms.is_some_and(|expires_ms| expires_ms <= now.wall_ms)
    }

    /// Whether the rule is snoozed or cools down.
    pub(super) fn is_blocked(&self, record: &Record, now: Now) -> bool {
        self.records
            .extra(record)
            .is_some_and(|extra| block_end(extra, now).is_some())
    }

    /// Sets the timer for the end of a rule's block.
    pub(super) fn set_timer(&mut self, slot: u32, now: Now) {
        let Some(extra) = self.records.extra_mut(slot) else {
            return;
        };
        if extra.timer.is_some() {
            return;
        }
        extra.timer = block_end(extra, now);
        match extra.timer {
            Some(Timer::Monotonic(due_ms)) => drop(self.cooldown_ends.insert((due_ms, slot))),
            Some(Timer::Wall(due_ms)) => drop(self.snooze_ends.insert((due_ms, slot))),
            None => {}
        }
    }

    pub(super) fn cancel_timer(&mut self, slot: u32) {
        let Some(record) = self.records.get(slot) else {
            return;
        };
        if record.extra == super::records::NONE {
            return;
        }
        let timer = self
            .records
            .extra_mut(slot)
            .and_then(|extra| extra.timer.take());
        match timer {
            Some(Timer::Monotonic(due_ms)) => drop(self.cooldown_ends.remove(&(due_ms, slot))),
            Some(Timer::Wall(due_ms)) => drop(self.snooze_ends.remove(&(due_ms, slot))),
            None => {}
        }
    }

    /// Fires the deferred passages whose block has ended.
    pub(super) fn end_blocks(&mut self, now: Now) {
        while let Some((due_ms, slot)) = self.cooldown_ends.first().copied() {
            if due_ms > now.monotonic_ms {
                break;
            }
            self.end_block(slot, now);
        }
        while let Some((due_ms, slot)) = self.snooze_ends.first().copied() {
            if due_ms > now.wall_ms {
                break;
            }
            self.end_block(slot, now);
        }
    }

    /// Fires a deferred passage if the block has ended and the condition is still true.
    pub(super) fn end_block(&mut self, slot: u32, now: Now) {
        self.cancel_timer(slot);
        self.settle(slot);
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        if !record.has(flag::MISSED) || record.has(flag::DETACHED) {
            return;
        }
        if self.is_blocked(&record, now) {
            self.set_timer(slot, now);
            return;
        }
        match (self.holds(&record), self.current_fact(&record)) {
            (Some(true), Some(fact)) => {
                let moment = self.present(&record, now);
                self.fire(slot, fact, &moment);
                self.bury(None);
            }
            (Some(false), _) => {
                if let Some(record) = self.records.get_mut(slot) {
                    record.flags &= !flag::MISSED;
                }
            }
            // It is judged at the next value.
            _ => self.leave_unresolved(slot),
        }
    }

    /// The present, as a moment in which nothing arrived.
    pub(super) fn present(&self, record: &Record, now: Now) -> Moment {
        let signal = match record.kind {
            TestKind::Complex => {
                let complex = self.complexes.get(record.signal as usize);
                complex
                    .and_then(|complex| complex.tests.first())
                    .map(|one| one.signal)
            }
            _ => Some(record.signal),
        };
        let signal = signal.and_then(|signal| self.signals.get(signal as usize));
        let subject = signal.and_then(|signal| self.subjects.get(signal.subject as usize));
        self.subject_present(subject, now)
    }

    pub(super) fn subject_present(
        &self,
        subject: Option<&super::subjects::SubjectEntry>,
        now: Now,
    ) -> Moment {
        let last = subject.and_then(|subject| subject.last.as_ref());
        Moment {
            now,
            price: last.map_or(Decimal::ZERO, |last| last.value),
            earlier: last.map_or(Decimal::ZERO, |last| last.value),
            sources: last.and_then(|last| last.sources.clone()),
            formed_us: last.map_or(0, |last| last.formed_us),
            is_catch_up: false,
            is_baseline: false,
            is_retraction: false,
            is_arrival: false,
            is_back: false,
        }
    }

    /// The state of a rule, to be stored.
    #[must_use]
    pub fn state(&self, slot: u32, now: Now) -> Option<RuleState> {
        Some(self.snapshot(self.records.get(slot)?, now))
    }

    pub(super) fn snapshot(&self, record: &Record, now: Now) -> RuleState {
        let mut leaves = u64::from(record.leaf.0);
        if record.kind == TestKind::Complex
            && let Some(complex) = self.complexes.get(record.signal as usize)
        {
            let states = complex.tests.iter().rev().map(|one| u64::from(one.state.0));
            leaves = states.fold(0, |leaves, state| leaves << 4 | state);
        }
        let extra = self.records.extra(record);
        // Times of the monotonic clock end with the run.
        let wall_ms = |monotonic_ms: i64| {
            let ahead_ms = monotonic_ms - i64::try_from(now.monotonic_ms).unwrap_or(i64::MAX);
            now.wall_ms.saturating_add(ahead_ms)
        };
        let cooldown_ends_ms = extra
            .and_then(|extra| extra.cooldown_ends_ms)
            .filter(|ends_ms| *ends_ms > now.monotonic_ms);
        RuleState {
            leaves,
            fires_left: Some(record.left),
            cooldown_ends_ms: cooldown_ends_ms
                .map(|ends_ms| wall_ms(i64::try_from(ends_ms).unwrap_or(i64::MAX))),
            flags: (record.flags & flag::STORED) as u8,
            recent_ms: extra.map_or_else(Vec::new, |extra| {
                extra.recent_ms.iter().map(|ms| wall_ms(*ms)).collect()
            }),
        }
    }

    /// Whether a rule fired too often and ended.
    #[must_use]
    pub fn is_stopped(&self, slot: u32) -> bool {
        let record = self.records.get(slot);
        record.is_some_and(|record| record.has(flag::STOPPED))
    }

    /// The phase of a rule, to be shown.
    #[must_use]
    pub fn phase(&self, slot: u32, now: Now) -> Option<Phase> {
        let record = self.records.get(slot)?;
        let extra = self.records.extra(record);
        let is_snoozed = extra
            .and_then(|extra| extra.snoozed_until_ms)
            .is_some_and(|until_ms| until_ms > now.wall_ms);
        let is_cooling = extra
            .and_then(|extra| extra.cooldown_ends_ms)
            .is_some_and(|ends_ms| ends_ms > now.monotonic_ms);
        Some(if record.has(flag::STOPPED) {
            Phase::Stopped
        } else if record.has(flag::DISABLED) {
            Phase::Disabled
        } else if record.left == 0 {
            Phase::Exhausted
        } else if self.is_expired(record, now) {
            Phase::Expired
        } else if is_snoozed {
            Phase::Snoozed
        } else if is_cooling {
            Phase::Cooldown
        } else {
            self.value_phase(record)
        })
    }

    /// The phase of a rule that is judged.
    fn value_phase(&self, record: &Record) -> Phase {
        if record.kind == TestKind::Complex {
            return match self.holds(record) {
                None => Phase::Pending,
                Some(true) => Phase::Firing,
                Some(false) => Phase::Armed,
            };
        }
        let test = record.test(self.records.second(record));
        let value = self
            .signals
            .get(record.signal as usize)
            .and_then(|signal| signal.value);
        match value {
            _ if !record.leaf.is_known() => Phase::Pending,
            // One of its directions can always be crossed next.
            _ if matches!(test, Test::CrossesEither { .. }) => Phase::Armed,
            _ if !record.leaf.is_on() => Phase::Armed,
            Some(value) if !test.is_true(value) => Phase::Recovering,
            _ => Phase::Firing,
        }
    }
}

/// The end of a rule's block, as the timer to set. `None` if it is not blocked.
fn block_end(extra: &Extra, now: Now) -> Option<Timer> {
    let cooldown = extra
        .cooldown_ends_ms
        .filter(|ends_ms| *ends_ms > now.monotonic_ms);
    let snooze = extra
        .snoozed_until_ms
        .filter(|until_ms| *until_ms > now.wall_ms);
    cooldown.map(Timer::Monotonic).or(snooze.map(Timer::Wall))
}

/// The truth of a condition, from left to right. `leaf` is called for each test.
fn evaluate(condition: &Condition, leaf: &mut impl FnMut() -> Option<bool>) -> Option<bool> {
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
