//! Lifecycle: what a rule does when its condition becomes true or false.
//!
//! A rule fires when its condition rises, unless it is snoozed or cools down. Then the passage is
//! deferred: if the condition is still true when the block ends, the rule fires then.

use std::sync::Arc;

use rust_decimal::Decimal;

use super::{
    AUTO_STOP_FIRES, AUTO_STOP_MS, Evaluator,
    conditions::{Fact, stands},
    jobs::{Moment, Move},
    records::{Extra, RECURRING, Record, TestKind, Timer, flag},
};
use crate::{Fire, Now, Output, Phase, RuleState, Test, leaf::LeafState, output::StateAfter};

/// Cooldown with which 16 fires cannot happen within the time of the automatic stop.
pub(super) const SAFE_COOLDOWN_MS: u32 = (AUTO_STOP_MS / AUTO_STOP_FIRES as u64) as u32;

/// The result of judging a rule's condition.
#[derive(Debug, Clone, Copy)]
pub(super) struct Verdict<'a> {
    /// Whether the condition became true, so that the rule is to fire.
    pub(super) rises: bool,
    /// For each test, the detectors that rose.
    pub(super) risen: &'a [u8],
    /// Whether it is true now. `None` if that is not known.
    pub(super) holds: Option<bool>,
    /// Whether a deferred passage is not undone. `None` if that is not known.
    pub(super) stands: Option<bool>,
    /// Whether a reorg took back the state of a transaction that it tests.
    pub(super) takes_back: bool,
    pub(super) has_changed: bool,
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
            && stands(&test, record.leaf)
            && !moment.is_back
            && !self.is_blocked(record, moment.now)
            && let Some(value) = one.before
        {
            // The value waited to be judged, and the block ended before it arrived.
            let fact = Fact {
                value,
                previous: None,
                threshold: test.threshold(),
                test: 0,
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
            risen: &[step.risen],
            holds: Some(step.state.is_on()),
            stands: Some(stands(&test, step.state)),
            takes_back: step.takes_back,
            has_changed,
        };
        let fact = Fact {
            value: one.after,
            previous: one.before,
            threshold: test.threshold(),
            test: 0,
        };
        self.decide(slot, verdict, fact, moment);
    }

    /// Fires, defers, drops or retracts.
    pub(super) fn decide(&mut self, slot: u32, verdict: Verdict<'_>, fact: Fact, moment: &Moment) {
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        if verdict.stands == Some(false) {
            record.flags &= !flag::MISSED;
        }
        if verdict.holds == Some(false) {
            record.flags &= !flag::FIRED;
        }
        if verdict.takes_back && record.has(flag::NEEDS) && verdict.holds != Some(true) {
            self.retract(slot, moment.now);
            return;
        }
        let record = *record;
        if verdict.rises && record.left > 0 {
            if self.is_blocked(&record, moment.now) && !self.is_expired(&record, moment.now) {
                self.mark(slot, verdict.risen, record.has(flag::MISSED));
                self.defer(slot, moment.now);
            } else {
                self.mark(slot, verdict.risen, false);
                self.fire(slot, fact, moment);
            }
        } else if verdict.stands == Some(true)
            && record.has(flag::MISSED)
            && !self.is_blocked(&record, moment.now)
        {
            self.fire(slot, fact, moment);
        } else {
            if record.has(flag::MISSED) {
                // A clock that went back may have snoozed it anew, after its timer ended.
                self.set_timer(slot, moment.now);
            }
            if verdict.has_changed {
                self.outputs.push_back(Output::Change { slot });
            }
        }
    }

    /// Marks the detectors that rose with a passage. `adds` keeps the marks of another one, which is
    /// deferred.
    fn mark(&mut self, slot: u32, risen: &[u8], adds: bool) {
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        let mark = |state: &mut LeafState, risen: u8| {
            if !adds {
                state.unmark();
            }
            state.mark(risen);
        };
        if record.kind != TestKind::Complex {
            // One direction needs no marks, and 10,000,000 rules no work for them.
            if matches!(record.kind, TestKind::CrossesEither | TestKind::TurnsEither) {
                risen.iter().for_each(|one| mark(&mut record.leaf, *one));
            }
            return;
        }
        if let Some(complex) = self.complexes.get_mut(record.signal as usize) {
            for (one, risen) in complex.tests.iter_mut().zip(risen) {
                mark(&mut one.state, *risen);
            }
        }
    }

    fn retract(&mut self, slot: u32, at: Now) {
        if let Some(record) = self.records.get_mut(slot) {
            // The next passage is a new one, also if it is not known whether the condition is true.
            record.flags &= !(flag::NEEDS | flag::FIRED | flag::TRUE);
            if record.left != RECURRING {
                record.left += 1;
            }
        }
        if let Some(record) = self.records.get(slot)
            && record.extra != super::records::NONE
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.set_cooldown_end(None);
        }
        let Some(record) = self.records.get(slot) else {
            return;
        };
        let (version, state) = (record.version, self.snapshot(record, at));
        self.outputs.push_back(Output::Retract {
            slot,
            version,
            at,
            state: Box::new(state),
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
        let rare = self.records.rare(&record);
        let times = rare.and_then(|rare| rare.times).unwrap_or(1);
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
                state: Box::new(self.snapshot(record, moment.now)),
            });
            return;
        }
        self.counters.fired += 1;
        if let Some((subject, arrival)) = self.newest_subject(&record) {
            // Rules of one test may be judged after newer values arrived, the others are at once.
            let arrival = match record.kind {
                TestKind::Complex => arrival,
                _ => moment.arrival,
            };
            if !record.has(flag::NOTED) {
                self.forget_fires(slot, &record);
            }
            self.note_fire(slot, subject, arrival);
        }
        if record.cooldown_ms > 0
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.set_cooldown_end(Some(now_ms.saturating_add(u64::from(record.cooldown_ms))));
        }
        let is_last = record.left == 1;
        let needs = match self.needs_transaction(&record) {
            true => flag::NEEDS,
            false => 0,
        };
        if let Some(record) = self.records.get_mut(slot) {
            record.flags = record.flags & !(flag::MISSED | flag::NEEDS) | flag::FIRED | needs;
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
            test: fact.test,
            threshold: fact.threshold,
            occasion: Arc::new(moment.occasion(fact.value, fact.previous)),
            after: StateAfter::Whole(Box::new(self.snapshot(record, moment.now))),
        };
        self.outputs.push_back(Output::Fire(fire));
    }

    /// Counts a fire, and returns the number within the time of the automatic stop.
    fn count_fire(&mut self, slot: u32, now_ms: u64) -> usize {
        let now_ms = i64::try_from(now_ms).unwrap_or(i64::MAX);
        let Some(rare) = self.records.rare_mut(slot) else {
            return 0;
        };
        rare.recent_ms
            .retain(|fired_ms| now_ms - fired_ms < AUTO_STOP_MS.cast_signed());
        rare.recent_ms.push(now_ms);
        rare.recent_ms.len()
    }

    /// Marks a rule as not judged any more. [`Self::bury`] takes it out of the index.
    fn end(&mut self, slot: u32, reason: u16) {
        if let Some(record) = self.records.get_mut(slot) {
            record.flags = record.flags & !flag::MISSED | flag::DETACHED | reason;
            self.ended.push(slot);
        }
        if reason == flag::STOPPED
            && let Some(rare) = self.records.rare_mut(slot)
        {
            rare.recent_ms.clear();
        }
    }

    pub(super) fn is_expired(&self, record: &Record, now: Now) -> bool {
        let rare = self.records.rare(record);
        let expires_at_ms = rare.and_then(|rare| rare.expires_at_ms);
        record.has(flag::EXPIRED)
            || expires_at_ms.is_some_and(|expires_ms| expires_ms <= now.wall_ms)
    }

    /// Whether the rule is snoozed or cools down.
    pub(super) fn is_blocked(&self, record: &Record, now: Now) -> bool {
        self.records
            .extra(record)
            .is_some_and(|extra| block_end(extra, now).is_some())
    }

    /// Sets the timer for the end of a rule's block, in place of one for another end.
    pub(super) fn set_timer(&mut self, slot: u32, now: Now) {
        let Some(extra) = self.records.extra_mut(slot) else {
            return;
        };
        let timer = block_end(extra, now);
        let known = extra.rare().and_then(|rare| rare.timer);
        if known == timer {
            return;
        }
        self.cancel_timer(slot);
        match timer {
            Some(Timer::Monotonic(due_ms)) => drop(self.cooldown_ends.insert((due_ms, slot))),
            Some(Timer::Wall(due_ms)) => drop(self.snooze_ends.insert((due_ms, slot))),
            None => {}
        }
        if let Some(rare) = self.records.rare_mut(slot) {
            rare.timer = timer;
        }
    }

    pub(super) fn cancel_timer(&mut self, slot: u32) {
        let Some(record) = self.records.get(slot) else {
            return;
        };
        if record.extra == super::records::NONE {
            return;
        }
        let extra = self.records.extra_mut(slot);
        let rare = extra.and_then(Extra::known_rare_mut);
        let timer = rare.and_then(|rare| rare.timer.take());
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
        match (self.stands(&record), self.current_fact(&record)) {
            (Some(true), Some(fact)) => {
                let moment = self.present(&record, fact, now);
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

    /// The present of a fact's subject, as a moment in which nothing arrived.
    fn present(&self, record: &Record, fact: Fact, now: Now) -> Moment {
        let signal = self.signal_of_test(record, fact.test);
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
            arrival: subject.map_or(0, |subject| subject.arrival),
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
            .and_then(Extra::cooldown_ends_ms)
            .filter(|ends_ms| *ends_ms > now.monotonic_ms);
        let rare = extra.and_then(Extra::rare);
        RuleState {
            leaves,
            fires_left: Some(record.left),
            cooldown_ends_ms: cooldown_ends_ms
                .map(|ends_ms| wall_ms(i64::try_from(ends_ms).unwrap_or(i64::MAX))),
            flags: (record.flags & flag::STORED) as u8,
            recent_ms: rare.map_or_else(Vec::new, |rare| {
                rare.recent_ms.iter().map(|ms| wall_ms(*ms)).collect()
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
            .and_then(|extra| extra.rare()?.snoozed_until_ms)
            .is_some_and(|until_ms| until_ms > now.wall_ms);
        let is_cooling = extra
            .and_then(Extra::cooldown_ends_ms)
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
        .cooldown_ends_ms()
        .filter(|ends_ms| *ends_ms > now.monotonic_ms);
    let snooze = extra
        .rare()
        .and_then(|rare| rare.snoozed_until_ms)
        .filter(|until_ms| *until_ms > now.wall_ms);
    cooldown.map(Timer::Monotonic).or(snooze.map(Timer::Wall))
}
