//! Rules: how they are inserted, changed and removed.

use std::hash::{Hash as _, Hasher};

use super::{
    AUTO_STOP_FIRES, Evaluator, OwnerId,
    jobs::{Move, Moves, SubjectChange},
    records::{Complex, ComplexTest, NONE, RECURRING, Record, TestKind, compact, flag},
};
use crate::{
    Condition, Leaf, Now, Repeat, Rule, RuleError, RuleState, SignalKind, Subject, Test,
    key::KeyRange, leaf::LeafState,
};

/// Bits of a test in [`RuleState`].
const LEAF_BITS: usize = 4;

/// Entries of a signal's unresolved rules, beyond its tests, before duplicates are dropped.
const UNRESOLVED_SLACK: usize = 64;

impl Evaluator {
    /// Inserts a rule in a free slot. Slots should be dense. A new rule ([`RuleState::new`]) is
    /// judged by the current values at once; a restored one by the next.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn insert(
        &mut self,
        slot: u32,
        rule: &Rule,
        state: RuleState,
        now: Now,
    ) -> Result<(), RuleError> {
        self.insert_of(None, slot, rule, state, now)
    }

    /// Inserts a rule of a user, as [`Self::insert`] does. The user's share of windows is not
    /// checked here: a stored rule keeps its own. Ask [`Self::admit_of`] before.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn insert_of(
        &mut self,
        owner: Option<OwnerId>,
        slot: u32,
        rule: &Rule,
        state: RuleState,
        now: Now,
    ) -> Result<(), RuleError> {
        if rule.is_enabled && state.fires_left != Some(0) {
            self.admit(rule)?;
        }
        self.insert_known(owner, slot, rule, state, now);
        Ok(())
    }

    /// Inserts a rule for whose windows there is room, or that was stored when there was.
    pub(super) fn insert_known(
        &mut self,
        owner: Option<OwnerId>,
        slot: u32,
        rule: &Rule,
        state: RuleState,
        now: Now,
    ) {
        self.advance(now);
        self.remove(slot);
        self.counters.rules += 1;
        let mut record = Record::VACANT;
        record.version = rule.version;
        record.cooldown_ms = rule.cooldown_ms;
        record.left = state.fires_left.unwrap_or(fires(rule.repeat));
        record.flags = u16::from(state.flags) & flag::STORED | flag::DETACHED;
        if !rule.is_enabled {
            record.flags |= flag::DISABLED;
        }
        match &rule.condition {
            Condition::Leaf(leaf) => {
                let (kind, first, _) = compact(&leaf.test);
                record.kind = kind;
                record.first = first;
                record.leaf = LeafState(state.leaves as u8 & 0b1111);
            }
            condition => {
                record.kind = TestKind::Complex;
                record.signal = self.complexes.insert(complex(condition, state.leaves)) as u32;
            }
        }
        self.records.set(slot, record);
        self.set_extra(slot, rule);
        self.set_owner(slot, rule, owner);
        let cooldown_left_ms = state.cooldown_ends_ms.map(|ends_ms| {
            // A clock that went back does not make the cooldown longer than it is.
            let left_ms = ends_ms.saturating_sub(now.wall_ms);
            left_ms.clamp(0, i64::from(rule.cooldown_ms)).unsigned_abs()
        });
        if let Some(left_ms) = cooldown_left_ms.filter(|left_ms| *left_ms > 0)
            && let Some(extra) = self.records.extra_mut(slot)
        {
            extra.set_cooldown_end(Some(now.monotonic_ms.saturating_add(left_ms)));
        }
        if !state.recent_ms.is_empty()
            && let Some(rare) = self.records.rare_mut(slot)
        {
            let monotonic_ms = i64::try_from(now.monotonic_ms).unwrap_or(i64::MAX);
            let since =
                |ms: i64| monotonic_ms.saturating_add(ms.saturating_sub(now.wall_ms).min(0));
            rare.recent_ms = state.recent_ms.into_iter().map(since).collect();
            rare.recent_ms.truncate(AUTO_STOP_FIRES);
        }
        let is_over = record.left == 0
            && !rule
                .condition
                .leaves()
                .iter()
                .any(|leaf| is_retractable(leaf));
        let is_off =
            record.has(flag::DISABLED) || record.has(flag::STOPPED) || record.has(flag::EXPIRED);
        if !is_over && !is_off {
            self.attach(slot, &rule.condition, now);
        } else if let Condition::Leaf(leaf) = &rule.condition
            && let Some(record) = self.records.get_mut(slot)
        {
            record.signal = leaf_fingerprint(leaf);
        }
    }

    /// Notes the owner of a rule that tests a window.
    fn set_owner(&mut self, slot: u32, rule: &Rule, owner: Option<OwnerId>) {
        let mut has_window = false;
        rule.condition
            .each_leaf(&mut |leaf| has_window |= leaf.signal.has_window());
        if has_window && let Some(rare) = self.records.rare_mut(slot) {
            rare.owner = owner;
        }
    }

    fn owner(&self, slot: u32) -> Option<OwnerId> {
        self.records.rare(self.records.get(slot)?)?.owner
    }

    /// Changes a rule. Only a changed condition or repeat, enabling, and an extended expiry arm it
    /// again; the current value is the baseline then, and fires nothing.
    ///
    /// # Errors
    /// As [`Self::admit`]. The rule is unchanged then.
    pub fn update(&mut self, slot: u32, rule: &Rule, now: Now) -> Result<(), RuleError> {
        self.update_of(None, slot, rule, now)
    }

    /// Changes a rule of a user, as [`Self::update`] does.
    ///
    /// # Errors
    /// As [`Self::admit_of`]. The rule is unchanged then.
    pub fn update_of(
        &mut self,
        owner: Option<OwnerId>,
        slot: u32,
        rule: &Rule,
        now: Now,
    ) -> Result<(), RuleError> {
        self.admit_change(owner, slot, rule, now)?;
        self.advance(now);
        // A block that ended is judged by the version before.
        self.end_block(slot, now);
        let Some(record) = self.records.get(slot).copied() else {
            return Ok(());
        };
        let has_new_condition = !self.has_condition(&record, &rule.condition);
        let is_new = has_new_condition || self.repeat(&record) != rule.repeat;
        let revives = self.is_revived(&record, rule, now);
        if let Some(record) = self.records.get_mut(slot) {
            record.version = rule.version;
            if is_new || revives && record.left == 0 {
                record.left = fires(rule.repeat);
            }
        }
        // The values of what the rule is about outlive its time in no index.
        let held = self.hold_subjects(rule);
        if has_new_condition || !rule.is_enabled || revives {
            // Before the test changes, so that its boundaries are found.
            self.detach_if_attached(slot);
        }
        self.change_cooldown(slot, &record, rule.cooldown_ms, now);
        self.set_extra(slot, rule);
        if self
            .records
            .get(slot)
            .is_some_and(|record| record.has(flag::DETACHED))
        {
            // An attached rule has its owner, whose windows are counted.
            self.set_owner(slot, rule, owner);
        }
        if has_new_condition {
            self.replace_condition(slot, &rule.condition);
        }
        if !rule.is_enabled {
            if let Some(record) = self.records.get_mut(slot) {
                record.flags |= flag::DISABLED;
            }
            self.cancel_timer(slot);
        } else if revives {
            self.revive(slot, &rule.condition, now);
        } else if record.has(flag::MISSED) {
            // The block may end earlier or later now.
            self.end_block(slot, now);
        }
        for subject in held {
            self.release_subject(subject, 1);
        }
        Ok(())
    }

    /// Whether a change arms a rule again.
    fn is_revived(&self, record: &Record, rule: &Rule, now: Now) -> bool {
        let is_expired = rule
            .expires_at_ms
            .is_some_and(|expires_ms| expires_ms <= now.wall_ms);
        rule.is_enabled
            && (record.has(flag::DISABLED)
                || record.has(flag::STOPPED)
                || !self.has_condition(record, &rule.condition)
                || self.repeat(record) != rule.repeat
                || self.is_expired(record, now) && !is_expired)
    }

    /// Whether a rule is in the indexes after a change.
    pub(super) fn is_attached_after(&self, slot: u32, rule: &Rule, now: Now) -> bool {
        let record = self.records.get(slot);
        record
            .is_some_and(|record| !record.has(flag::DETACHED) || self.is_revived(record, rule, now))
    }

    /// Removes a rule. It is judged by the values that arrived before, and its outputs stay: poll
    /// them before the slot has another rule.
    pub fn remove(&mut self, slot: u32) {
        if self.records.get(slot).is_none() {
            return;
        }
        self.settle(slot);
        self.cancel_timer(slot);
        self.detach_if_attached(slot);
        if let Some(record) = self.records.get(slot)
            && record.kind == TestKind::Complex
        {
            self.complexes.try_remove(record.signal as usize);
        }
        self.records.remove(slot);
        self.counters.rules -= 1;
    }

    /// Arms a rule anew. Its current value is the baseline.
    fn revive(&mut self, slot: u32, condition: &Condition, now: Now) {
        self.cancel_timer(slot);
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        record.leaf = LeafState::UNKNOWN;
        record.flags = flag::QUIET | flag::DETACHED;
        let (number, has_extra) = (record.signal, record.extra != NONE);
        if record.kind == TestKind::Complex
            && let Some(complex) = self.complexes.get_mut(number as usize)
        {
            for one in &mut complex.tests {
                one.state = LeafState::UNKNOWN;
            }
        }
        if has_extra && let Some(extra) = self.records.extra_mut(slot) {
            extra.set_cooldown_end(None);
            if let Some(rare) = extra.known_rare_mut() {
                rare.recent_ms.clear();
            }
        }
        self.attach(slot, condition, now);
    }

    fn replace_condition(&mut self, slot: u32, condition: &Condition) {
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        if record.kind == TestKind::Complex {
            self.complexes.try_remove(record.signal as usize);
        }
        let (kind, first, signal) = match condition {
            Condition::Leaf(leaf) => {
                let (kind, first, _) = compact(&leaf.test);
                (kind, first, leaf_fingerprint(leaf))
            }
            condition => (
                TestKind::Complex,
                rust_decimal::Decimal::ZERO,
                self.complexes.insert(complex(condition, 0)) as u32,
            ),
        };
        if let Some(record) = self.records.get_mut(slot) {
            record.kind = kind;
            record.first = first;
            record.signal = signal;
            record.leaf = LeafState::UNKNOWN;
            record.flags &= !flag::NOTED;
        }
    }

    /// Sets the parts of a rule that few rules have.
    fn set_extra(&mut self, slot: u32, rule: &Rule) {
        let second = match &rule.condition {
            Condition::Leaf(leaf) => compact(&leaf.test).2,
            _ => rust_decimal::Decimal::ZERO,
        };
        let times = match rule.repeat {
            Repeat::Times(times) if times != 1 => Some(times),
            _ => None,
        };
        let is_plain = second.is_zero()
            && times.is_none()
            && rule.expires_at_ms.is_none()
            && rule.snoozed_until_ms.is_none();
        let record = self.records.get(slot);
        let has_none = record.is_some_and(|record| self.records.rare(record).is_none());
        if is_plain && has_none {
            return;
        }
        if let Some(rare) = self.records.rare_mut(slot) {
            rare.second = second;
            rare.times = times;
            rare.expires_at_ms = rule.expires_at_ms;
            rare.snoozed_until_ms = rule.snoozed_until_ms;
        }
    }

    /// A new cooldown holds at once: it counts from the last fire.
    fn change_cooldown(&mut self, slot: u32, record: &Record, cooldown_ms: u32, now: Now) {
        let old_ms = record.cooldown_ms;
        if old_ms == cooldown_ms {
            return;
        }
        if let Some(record) = self.records.get_mut(slot) {
            record.cooldown_ms = cooldown_ms;
        }
        if record.extra == NONE {
            return;
        }
        if let Some(extra) = self.records.extra_mut(slot) {
            if let Some(rare) = extra.known_rare_mut() {
                rare.recent_ms.clear();
            }
            let running = extra
                .cooldown_ends_ms()
                .filter(|ends_ms| *ends_ms > now.monotonic_ms);
            // The fire may precede the monotonic clock, which begins anew with the process.
            extra.set_cooldown_end(running.map(|ends_ms| {
                let later_ms = ends_ms.saturating_add(u64::from(cooldown_ms));
                later_ms.saturating_sub(u64::from(old_ms))
            }));
        }
    }

    fn repeat(&self, record: &Record) -> Repeat {
        let times = self.records.rare(record).and_then(|rare| rare.times);
        match record.left {
            RECURRING => Repeat::Recurring,
            _ => Repeat::Times(times.unwrap_or(1)),
        }
    }

    fn has_condition(&self, record: &Record, condition: &Condition) -> bool {
        match condition {
            Condition::Leaf(_) if record.kind == TestKind::Complex => false,
            Condition::Leaf(leaf) if record.has(flag::DETACHED) => {
                record.signal == leaf_fingerprint(leaf)
                    && record.test(self.records.second(record)) == leaf.test
            }
            Condition::Leaf(leaf) => {
                let signal = &self.signals[record.signal as usize];
                self.subjects[signal.subject as usize].key == leaf.subject
                    && signal.kind == leaf.signal
                    && record.test(self.records.second(record)) == leaf.test
            }
            condition => {
                record.kind == TestKind::Complex
                    && self
                        .complexes
                        .get(record.signal as usize)
                        .is_some_and(|complex| complex.condition == *condition)
            }
        }
    }

    /// Puts a rule into the indexes of its signals, and judges it as far as it can be.
    fn attach(&mut self, slot: u32, condition: &Condition, now: Now) {
        // Ages grow without being computed.
        let leaves = condition.leaves().into_iter();
        let ages = leaves.filter(|leaf| leaf.signal == SignalKind::Age);
        let mut ageing: Vec<u32> = ages
            .filter_map(|leaf| self.numbers.get(&leaf.subject).copied())
            .collect();
        ageing.sort_unstable();
        ageing.dedup();
        self.pass_time(&ageing, now);
        let owner = self.owner(slot);
        let signals: Vec<_> = condition
            .leaves()
            .into_iter()
            .map(|leaf| (self.acquire_signal(leaf, owner, now), leaf.test))
            .collect();
        let is_complex = !matches!(condition, Condition::Leaf(_));
        for (number, test) in &signals {
            let (keys, has_long) = test.boundaries();
            let signal = &mut self.signals[*number as usize];
            signal.has_long |= has_long;
            signal.gap = None;
            let index = if is_complex {
                &mut signal.complex
            } else {
                &mut signal.simple
            };
            for key in keys {
                index.insert((key, slot));
            }
        }
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        record.flags &= !flag::DETACHED;
        let record_signal = record.signal;
        if is_complex {
            if let Some(complex) = self.complexes.get_mut(record_signal as usize) {
                for (one, (number, _)) in complex.tests.iter_mut().zip(&signals) {
                    one.signal = *number;
                }
            }
            self.judge_new_complex(slot, &signals, now);
        } else if let Some((number, _)) = signals.first() {
            record.signal = *number;
            self.judge_new_simple(slot, now);
        }
        self.bury(None);
    }

    pub(super) fn judge_new_simple(&mut self, slot: u32, now: Now) {
        self.skip_jobs(slot);
        let Some(record) = self.records.get(slot).copied() else {
            return;
        };
        let signal = &self.signals[record.signal as usize];
        let subject = &self.subjects[signal.subject as usize];
        // An age only ends with a live value: one that was passed before a restart stays passed.
        let is_live =
            subject.is_live() || signal.kind == SignalKind::Age && !record.leaf.is_known();
        if is_live && let Some(value) = signal.value {
            let one = Move {
                signal: record.signal,
                before: None,
                after: value,
                range: KeyRange::ALL,
                passes: true,
            };
            let moment = self.subject_present(Some(subject), now);
            self.judge_simple(slot, &one, &moment);
            return;
        }
        if let Some(value) = signal.value {
            // It may have been judged by a value that was not stored. The next one may then pass none
            // of its boundaries.
            let test = record.test(self.records.second(&record));
            if test.step(value, record.leaf, false).state != record.leaf {
                self.leave_unresolved(slot);
            }
        }
        if record.has(flag::MISSED) {
            self.end_block(slot, now);
        }
    }

    fn judge_new_complex(&mut self, slot: u32, signals: &[(u32, crate::Test)], now: Now) {
        let mut subjects: Vec<_> = signals
            .iter()
            .map(|(number, _)| self.signals[*number as usize].subject)
            .collect();
        // Transactions last: a fire needs none if the condition is true without them.
        let is_transaction = |number: u32| {
            let subject = self.subjects.get(number as usize);
            subject.is_some_and(|subject| matches!(subject.key, Subject::Transaction { .. }))
        };
        subjects.sort_unstable_by_key(|number| (is_transaction(*number), *number));
        subjects.dedup();
        for number in subjects {
            let change = SubjectChange {
                subject: number,
                moment: self.subject_present(self.subjects.get(number as usize), now),
                moves: Moves::new(),
            };
            self.judge_complex(slot, &[change]);
        }
        if self
            .records
            .get(slot)
            .is_some_and(|record| record.has(flag::MISSED))
        {
            self.end_block(slot, now);
        }
    }

    /// Has a rule judged at the next value of its signals.
    pub(super) fn leave_unresolved(&mut self, slot: u32) {
        let Some(record) = self.records.get(slot) else {
            return;
        };
        let signals = match record.kind {
            TestKind::Complex => {
                let complex = self.complexes.get(record.signal as usize);
                complex.map_or_else(Vec::new, |complex| {
                    complex.tests.iter().map(|one| one.signal).collect()
                })
            }
            _ => vec![record.signal],
        };
        for number in signals {
            let signal = &mut self.signals[number as usize];
            signal.unresolved.push(slot);
            if signal.unresolved.len() > 2 * signal.tests as usize + UNRESOLVED_SLACK {
                signal.unresolved.sort_unstable();
                signal.unresolved.dedup();
                let records = &self.records;
                signal
                    .unresolved
                    .retain(|slot| records.get(*slot).is_some());
            }
        }
    }

    fn detach_if_attached(&mut self, slot: u32) {
        if self
            .records
            .get(slot)
            .is_some_and(|record| !record.has(flag::DETACHED))
        {
            self.detach(slot, false);
        }
    }

    /// Takes an attached rule out of the indexes. `is_purged` says whether its entry is gone already,
    /// if it has only one.
    pub(super) fn detach(&mut self, slot: u32, is_purged: bool) {
        let Some(record) = self.records.get_mut(slot) else {
            return;
        };
        record.flags |= flag::DETACHED;
        let record = *record;
        let owner = self.owner(slot);
        if record.kind == TestKind::Complex {
            let tests = self
                .complexes
                .get(record.signal as usize)
                .map_or_else(Vec::new, |complex| complex.tests.clone());
            for one in tests {
                for key in one.test.boundaries().0 {
                    self.signals[one.signal as usize]
                        .complex
                        .remove((key, slot));
                }
            }
            let tests = self
                .complexes
                .get(record.signal as usize)
                .map_or_else(Vec::new, |complex| complex.tests.clone());
            for one in tests {
                self.release_signal(one.signal, &one.test, owner);
            }
            return;
        }
        let test = record.test(self.records.second(&record));
        self.merge(record.signal);
        let signal = &mut self.signals[record.signal as usize];
        let has_one_boundary = matches!(test, Test::Above(_) | Test::Below(_));
        if !is_purged || !has_one_boundary {
            for key in test.boundaries().0 {
                signal.simple.remove((key, slot));
            }
        }
        // The subject and the kind are known by their fingerprint from now on.
        let number = signal.fingerprint;
        if let Some(from) = self.records.get_mut(slot) {
            from.signal = number;
        }
        self.release_signal(record.signal, &test, owner);
    }
}

fn is_retractable(leaf: &Leaf) -> bool {
    leaf.signal == SignalKind::State
}

pub(super) const fn fires(repeat: Repeat) -> u32 {
    match repeat {
        Repeat::Recurring => RECURRING,
        Repeat::Times(times) => times,
    }
}

fn complex(condition: &Condition, states: u64) -> Complex {
    let tests = condition.leaves().into_iter().enumerate();
    Complex {
        tests: tests
            .map(|(number, leaf)| ComplexTest {
                signal: NONE,
                test: leaf.test,
                // Rules have at most 16 tests.
                state: LeafState((states >> (LEAF_BITS * number).min(60)) as u8 & 0b1111),
            })
            .collect(),
        condition: condition.clone(),
    }
}

/// A number for what a test is about, to find out whether a rule that is in no index was changed.
pub(super) fn fingerprint(subject: u64, signal: SignalKind) -> u32 {
    let mut hasher = QuickHasher(subject);
    signal.hash(&mut hasher);
    (hasher.finish() >> 32) as u32
}

/// The fingerprint of a test of a rule.
pub(super) fn leaf_fingerprint(leaf: &Leaf) -> u32 {
    fingerprint(subject_hash(&leaf.subject), leaf.signal)
}

/// A number for a subject.
pub(super) fn subject_hash(subject: &Subject) -> u64 {
    let mut hasher = QuickHasher(0);
    subject.hash(&mut hasher);
    hasher.finish()
}

/// A hasher for fingerprints, which are compared and never looked up: it has to be quick, and may
/// be predictable.
struct QuickHasher(u64);

impl Hasher for QuickHasher {
    fn write(&mut self, bytes: &[u8]) {
        for part in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..part.len()].copy_from_slice(part);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, word: u64) {
        // An odd number without a pattern: the golden ratio.
        self.0 = (self.0.rotate_left(23) ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn finish(&self) -> u64 {
        (self.0 ^ (self.0 >> 29)).wrapping_mul(0x9E37_79B9_7F4A_7C15)
    }
}
