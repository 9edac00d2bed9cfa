//! Subjects: their last values, whether these are live, and their signals.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{
    Evaluator, OwnerId,
    jobs::Job,
    records::{Record, TestKind},
};
use crate::{
    Leaf, Now, Rule, SignalKind, Subject, SubjectValue,
    signal::{Basis, Signal},
};

/// Whether the next value of a subject continues from the last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Liveness {
    /// It had no value yet.
    Never,
    /// Its last value counts.
    Live,
    /// No source counts since then, in monotonic milliseconds.
    Stale { since_ms: u64 },
    /// Its last value is of an earlier run.
    Restored,
    /// Its last value was taken back.
    Corrected,
}

/// How a value relates to the one before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Continuity {
    /// It follows it.
    Follows,
    /// It follows it, over an absence of this server.
    CatchUp,
    /// It is a new baseline: passages fire nothing.
    Baseline,
}

/// Rules that one value fired, so that they can be explained.
#[derive(Debug, Default)]
pub(super) struct FiredRules {
    arrival: u64,
    slots: Vec<u32>,
}

impl FiredRules {
    /// Adds rules that a value fired. Those of an older one are of no interest.
    fn add(&mut self, arrival: u64, slots: &[u32]) {
        if arrival > self.arrival {
            // Another half million may never fire at once: the room is not kept.
            *self = Self {
                arrival,
                slots: Vec::new(),
            };
        }
        if arrival == self.arrival {
            self.slots.extend_from_slice(slots);
        }
    }

    /// Forgets a rule, if it is among them.
    fn remove(&mut self, slot: u32) {
        self.slots.retain(|other| *other != slot);
    }

    /// Whether this value fired a rule.
    pub(super) fn has(&self, arrival: u64, slot: u32) -> bool {
        self.arrival == arrival && self.slots.contains(&slot)
    }
}

#[derive(Debug)]
pub(super) struct SubjectEntry {
    pub(super) key: Subject,
    /// Its part of the fingerprints of rules.
    pub(super) hash: u64,
    /// Tests of rules about it.
    pub(super) tests: u32,
    pub(super) signals: SmallVec<[u32; 4]>,
    pub(super) last: Option<SubjectValue>,
    pub(super) previous: Option<SubjectValue>,
    /// The number of its last value among all that arrived. 0 if none did in this run.
    pub(super) arrival: u64,
    /// How its last value relates to the one before. `None` if none arrived in this run.
    pub(super) continuity: Option<Continuity>,
    /// The rules that its newest value fired.
    pub(super) fired: FiredRules,
    pub(super) liveness: Liveness,
    /// Monotonic time of the last live value.
    pub(super) last_live_ms: Option<u64>,
    /// Outputs of the evaluator when its last value was judged.
    pub(super) outputs_end: u64,
    /// Values that are not judged yet, oldest first.
    pub(super) jobs: VecDeque<Job>,
    /// Whether it is in the evaluator's queue.
    pub(super) is_busy: bool,
    /// Its entry in the evaluator's deadlines, if it has one.
    pub(super) deadline_ms: Option<u64>,
    pub(super) is_changed: bool,
    pub(super) has_vanished: bool,
    /// Whether rules are being loaded that may need its restored value.
    pub(super) is_held: bool,
    /// Whether its last rule left while it was held.
    pub(super) is_released: bool,
}

impl SubjectEntry {
    fn new(key: Subject) -> Self {
        Self {
            hash: super::rules::subject_hash(&key),
            key,
            tests: 0,
            signals: SmallVec::new(),
            last: None,
            previous: None,
            arrival: 0,
            continuity: None,
            fired: FiredRules::default(),
            liveness: Liveness::Never,
            last_live_ms: None,
            outputs_end: 0,
            jobs: VecDeque::new(),
            is_busy: false,
            deadline_ms: None,
            is_changed: false,
            has_vanished: false,
            is_held: false,
            is_released: false,
        }
    }

    pub(super) fn is_live(&self) -> bool {
        self.liveness == Liveness::Live
    }

    pub(super) fn basis(&self, now: Now) -> Basis {
        Basis {
            value: self.last.as_ref().map(|last| last.value),
            peak: self.last.as_ref().and_then(|last| last.peak),
            last_live_ms: self.last_live_ms,
            now_ms: now.monotonic_ms,
        }
    }
}

impl Evaluator {
    pub(super) fn intern_number(&mut self, subject: &Subject) -> u32 {
        if let Some(number) = self.numbers.get(subject) {
            return *number;
        }
        let number = self.subjects.insert(SubjectEntry::new(subject.clone())) as u32;
        self.numbers.insert(subject.clone(), number);
        number
    }

    /// Restores the last value of a subject before its rules are inserted. Its age follows the
    /// wall clock, because the monotonic clock starts anew. Call [`Self::finish_load`] after the
    /// rules: until then the value stays, although a rule that has ended may be the first.
    pub fn restore_value(&mut self, subject: &Subject, value: SubjectValue, now: Now) {
        self.now = now;
        let number = self.intern_number(subject);
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
        if entry.liveness == Liveness::Never {
            entry.last = Some(value);
            entry.liveness = Liveness::Restored;
            // An outage of this server is no silence of the sources.
            entry.last_live_ms = Some(now.monotonic_ms);
            entry.is_held = true;
            self.held.push(number);
        }
    }

    /// Forgets subjects whose rules have all ended while they were loaded.
    pub(super) fn release_held(&mut self) {
        for number in std::mem::take(&mut self.held) {
            let subject = &mut self.subjects[number as usize];
            subject.is_held = false;
            if std::mem::take(&mut subject.is_released) {
                self.release_subject(number, 0);
            }
        }
    }

    fn find_signal_of(&self, subject: u32, leaf: &Leaf) -> Option<u32> {
        let signals = &self.subjects.get(subject as usize)?.signals;
        let has_kind = |signal: &&u32| self.signals[**signal as usize].kind == leaf.signal;
        signals.iter().find(has_kind).copied()
    }

    /// The signal of a test of a user's rule, made if it is the first.
    pub(super) fn acquire_signal(&mut self, leaf: &Leaf, owner: Option<OwnerId>, now: Now) -> u32 {
        let subject = self.intern_number(&leaf.subject);
        let found = self.find_signal_of(subject, leaf);
        let signal = found.unwrap_or_else(|| {
            let entry = &mut self.subjects[subject as usize];
            if leaf.signal == SignalKind::Age && entry.last_live_ms.is_none() {
                // A feed that is silent from the start counts as well.
                entry.last_live_ms = Some(now.monotonic_ms);
            }
            let mut signal = Signal::new(subject, leaf.signal);
            signal.fingerprint = super::rules::fingerprint(entry.hash, leaf.signal);
            if let (Some(last), true) = (&entry.last, entry.is_live()) {
                // The history begins with the current value.
                signal.feed(now.monotonic_ms, last.value, None);
            }
            let is_known = entry.is_live() || signal.is_plain() || leaf.signal == SignalKind::Age;
            signal.value = if is_known {
                signal.compute(entry.basis(now))
            } else {
                None
            };
            let number = self.signals.insert(signal) as u32;
            entry.signals.push(number);
            number
        });
        self.subjects[subject as usize].tests += 1;
        let found = &mut self.signals[signal as usize];
        found.tests += 1;
        let has_deadline = !found.is_plain();
        if let Some(owner) = owner.filter(|_| leaf.signal.has_window()) {
            self.window_use.add(owner, signal);
        }
        if let SignalKind::Age = leaf.signal
            && let Some(after) = leaf.test.threshold()
        {
            found.add_age(after);
        }
        // A plain value changes by no time.
        if has_deadline {
            self.schedule(subject, now);
        }
        signal
    }

    /// Releases the signal of a test of a user's rule. The last one ends it, and its subject if that
    /// is no symbol.
    pub(super) fn release_signal(
        &mut self,
        signal: u32,
        test: &crate::Test,
        owner: Option<OwnerId>,
    ) {
        let found = &mut self.signals[signal as usize];
        if let Some(owner) = owner.filter(|_| found.kind.has_window()) {
            self.window_use.remove(owner, signal);
        }
        if let (SignalKind::Age, Some(after)) = (found.kind, test.threshold()) {
            found.remove_age(after);
        }
        self.release_tests(signal, 1);
    }

    /// Releases tests of a signal.
    pub(super) fn release_tests(&mut self, signal: u32, count: u32) {
        let found = &mut self.signals[signal as usize];
        found.tests -= count;
        let (number, is_last) = (found.subject, found.tests == 0);
        if is_last {
            let subject = &mut self.subjects[number as usize];
            self.signals.remove(signal as usize);
            subject.signals.retain(|other| *other != signal);
            for job in &mut subject.jobs {
                job.forget(signal);
            }
        }
        self.release_subject(number, count);
    }

    /// Forgets which values of its subjects fired a rule of several tests before it was armed. A rule
    /// of one test has one subject, whose next fire forgets the others.
    pub(super) fn forget_fires(&mut self, slot: u32, record: &Record) {
        if record.kind != TestKind::Complex {
            return;
        }
        let tests = self.complexes.get(record.signal as usize);
        let tests = tests.into_iter().flat_map(|complex| &complex.tests);
        for one in tests {
            let subject = self.signals[one.signal as usize].subject;
            self.subjects[subject as usize].fired.remove(slot);
        }
    }

    /// Notes that a value of a subject fired a rule.
    pub(super) fn note_fire(&mut self, slot: u32, subject: u32, arrival: u64) {
        self.note_fires(&[slot], subject, arrival);
        if let Some(record) = self.records.get_mut(slot) {
            record.flags |= super::records::flag::NOTED;
        }
    }

    /// Notes that a value of a subject fired these rules, whose records say so already.
    pub(super) fn note_fires(&mut self, slots: &[u32], subject: u32, arrival: u64) {
        if let Some(entry) = self.subjects.get_mut(subject as usize) {
            entry.fired.add(arrival, slots);
        }
    }

    /// Holds the subjects of a rule that have values, as a test does. Release each of them.
    pub(super) fn hold_subjects(&mut self, rule: &Rule) -> SmallVec<[u32; 2]> {
        let subjects = rule.subjects().into_iter();
        let numbers: SmallVec<_> = subjects
            .filter_map(|subject| self.numbers.get(subject).copied())
            .collect();
        for number in &numbers {
            self.subjects[*number as usize].tests += 1;
        }
        numbers
    }

    /// Releases tests of a subject. The last one ends it, if it is no symbol.
    pub(super) fn release_subject(&mut self, number: u32, tests: u32) {
        let subject = &mut self.subjects[number as usize];
        subject.tests -= tests;
        if subject.tests == 0 && !matches!(subject.key, Subject::Symbol(_)) {
            if subject.is_held {
                subject.is_released = true;
                return;
            }
            let subject = self.subjects.remove(number as usize);
            self.numbers.remove(&subject.key);
            self.busy.retain(|other| *other != number);
            self.changed.retain(|other| *other != number);
        }
    }

    /// Marks a subject's value as changed since it was stored.
    pub(super) fn mark_changed(&mut self, number: u32) {
        let subject = &mut self.subjects[number as usize];
        if !subject.is_changed {
            subject.is_changed = true;
            self.changed.push(number);
        }
    }

    /// Schedules the next change of a subject by time alone.
    pub(super) fn schedule(&mut self, number: u32, now: Now) {
        let subject = &self.subjects[number as usize];
        let deadline_ms = subject.signals.iter().filter_map(|signal| {
            let signal = &self.signals[*signal as usize];
            // Only ages change while no source counts.
            let is_running = subject.is_live() || signal.kind == SignalKind::Age;
            let deadline_ms = signal.deadline(now.monotonic_ms, subject.last_live_ms);
            deadline_ms.filter(|_| is_running)
        });
        let Some(deadline_ms) = deadline_ms.min() else {
            return;
        };
        let deadline_ms = deadline_ms.max(now.monotonic_ms + 1);
        let subject = &mut self.subjects[number as usize];
        // A deadline that is too early does no harm: it is scheduled again then. So each subject
        // has few entries, although ages end later with each value.
        if subject
            .deadline_ms
            .is_none_or(|known_ms| deadline_ms < known_ms)
        {
            subject.deadline_ms = Some(deadline_ms);
            self.deadlines
                .push(std::cmp::Reverse((deadline_ms, number)));
        }
    }
}
