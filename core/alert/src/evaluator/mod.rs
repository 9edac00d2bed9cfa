//! Evaluator: one partition of rules, judged by one thread.
//!
//! The caller applies inputs, then polls outputs until there are none. A value that passes very
//! many thresholds is judged in chunks, one chunk a poll, so that other subjects are not delayed.
//! Further values of the same subject queue up behind it, and each is judged in its turn.
//!
//! `records` has the state of the rules, `rules` inserts, changes and removes them, `values`
//! takes inputs and the time, `jobs` finds the rules whose thresholds a value passed, and
//! `lifecycle` decides what such a rule does when its condition is true, by `conditions`, `complex` for
//! rules of several tests, and `plain` more quickly for the most common rules.
//! `loading` inserts very many rules at once, and `windows` bounds what rules share.

mod complex;
mod conditions;
mod explanation;
mod jobs;
mod lifecycle;
mod loading;
mod plain;
mod records;
mod rules;
mod subjects;
mod values;
mod windows;

use std::collections::{BTreeSet, BinaryHeap, HashMap, VecDeque};

use slab::Slab;

use crate::{
    Now, Output, Subject, SubjectId, SubjectValue, index::Entry, key::KeyRange, signal::Signal,
};
use records::{Complex, Record, Records};
use subjects::SubjectEntry;
use windows::WindowUse;

pub use windows::OwnerId;

/// Fires within [`AUTO_STOP_MS`] after which a rule is stopped.
pub(crate) const AUTO_STOP_FIRES: usize = 15;

/// The time in which fires count towards the automatic stop: three minutes.
pub(crate) const AUTO_STOP_MS: u64 = 3 * 60 * 1_000;

/// Flag of a stored state: the first value fires nothing.
pub(crate) const FIRST_VALUE_IS_QUIET: u8 = records::flag::QUIET as u8;

/// Values of one subject that wait to be judged.
const MOST_JOBS: usize = 64;

/// Outputs that wait to be polled before inputs are refused.
const MOST_OUTPUTS: usize = 65_536;

/// Settings of an evaluator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatorConfig {
    /// Longest absence over which a last value is still compared with the next, in milliseconds.
    pub catch_up_ms: u64,
    /// Work that is done for one subject before others have their turn. A rule of one test is a
    /// unit, and its fire up to [`FIRE_WORK`] more. 1,024 units take about 50 microseconds.
    pub chunk: usize,
}

impl Default for EvaluatorConfig {
    fn default() -> Self {
        Self {
            catch_up_ms: 5 * 60 * 1_000,
            chunk: 1_024,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvaluatorCounters {
    /// Inputs that were applied.
    pub inputs: u64,
    /// Judgements of rules: those whose thresholds were passed, and those with a first value.
    pub touched: u64,
    /// Fires.
    pub fired: u64,
    /// Passages during a snooze or cooldown.
    pub deferred: u64,
    /// Rules in the evaluator.
    pub rules: usize,
    /// Derived signals, each with its index.
    pub signals: usize,
}

/// One partition of rules.
#[derive(Debug, Default)]
pub struct Evaluator {
    config: EvaluatorConfig,
    counters: EvaluatorCounters,
    records: Records,
    complexes: Slab<Complex>,
    signals: Slab<Signal>,
    subjects: Slab<SubjectEntry>,
    numbers: HashMap<Subject, u32>,
    /// When subjects change by time alone, in monotonic milliseconds, earliest first.
    deadlines: BinaryHeap<std::cmp::Reverse<(u64, u32)>>,
    /// Rules that became true while blocked, by the end of the block.
    cooldown_ends: BTreeSet<(u64, u32)>,
    snooze_ends: BTreeSet<(i64, u32)>,
    /// Subjects with values that are not judged yet, each once.
    busy: VecDeque<u32>,
    /// Subjects whose value changed since it was stored.
    changed: Vec<u32>,
    outputs: VecDeque<Output>,
    /// Values that arrived so far.
    arrivals: u64,
    /// Outputs that were polled.
    polled: u64,
    /// Values that became jobs.
    jobs: u64,
    window_use: WindowUse,
    /// Signals with boundaries that are not in their index yet.
    loading: Vec<u32>,
    /// Subjects with a restored value, while rules are loaded.
    held: Vec<u32>,
    /// Buffers of one block of rules, to be used again.
    block: Vec<Record>,
    found: Vec<Entry>,
    fired: Vec<u32>,
    released: Vec<Entry>,
    /// Simple rules that fired for the last time, and are still in the index.
    ended: Vec<u32>,
    now: Now,
}

impl Evaluator {
    /// An evaluator without rules.
    #[must_use]
    pub fn new(config: EvaluatorConfig) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    /// The number of a subject, with or without rules. Numbers of symbols stay valid; for others
    /// use [`Self::subject`].
    pub fn intern(&mut self, subject: &Subject) -> SubjectId {
        SubjectId(self.intern_number(subject))
    }

    /// The number of a subject that a rule is about. `None` means that inputs need not be applied.
    /// Except for symbols, it is valid until the subject's last rule is removed.
    #[must_use]
    pub fn subject(&self, subject: &Subject) -> Option<SubjectId> {
        self.numbers.get(subject).copied().map(SubjectId)
    }

    /// The rules that are judged by a subject, in no order. One may be there several times.
    #[must_use]
    pub fn slots_about(&self, subject: &Subject) -> Vec<u32> {
        let number = self.numbers.get(subject);
        let entry = number.and_then(|number| self.subjects.get(*number as usize));
        let mut found = Vec::new();
        let mut slots = Vec::new();
        for signal in entry.into_iter().flat_map(|entry| entry.signals.iter()) {
            let signal = &self.signals[*signal as usize];
            for index in [&signal.simple, &signal.complex] {
                index.ascending(KeyRange::ALL, None, usize::MAX, &mut found);
                slots.extend(found.drain(..).map(|(_, slot)| slot));
            }
            slots.extend(signal.loading.iter().map(|(_, slot)| *slot));
        }
        slots
    }

    /// The last value of a subject.
    #[must_use]
    pub fn value(&self, subject: SubjectId) -> Option<&SubjectValue> {
        self.subjects.get(subject.0 as usize)?.last.as_ref()
    }

    /// The values that changed since the last call, to be stored. At most `most` at a time.
    pub fn changed_values(&mut self, most: usize) -> Vec<(Subject, SubjectValue)> {
        self.settled_values(most, u64::MAX)
    }

    /// The values that changed since they were returned, and whose outputs are among the first
    /// `stored` ones. At most `most` at a time. A value that were stored before its fires would
    /// lose them in a crash.
    pub fn settled_values(&mut self, most: usize, stored: u64) -> Vec<(Subject, SubjectValue)> {
        let mut values = Vec::new();
        let (subjects, is_all) = (&mut self.subjects, stored == u64::MAX);
        self.changed.retain(|number| {
            let Some(subject) = subjects.get_mut(*number as usize) else {
                return false;
            };
            let is_settled = is_all || subject.jobs.is_empty() && subject.outputs_end <= stored;
            if !is_settled || values.len() >= most {
                return true;
            }
            subject.is_changed = false;
            if let Some(value) = &subject.last {
                values.push((subject.key.clone(), value.clone()));
            }
            false
        });
        values
    }

    /// Outputs so far, polled or not.
    #[must_use]
    pub fn output_count(&self) -> u64 {
        self.polled + self.outputs.len() as u64
    }

    /// Outputs that wait to be polled.
    #[must_use]
    pub fn waiting_outputs(&self) -> usize {
        self.outputs.len()
    }

    /// Moves all outputs that wait to `outputs`, and judges nothing.
    pub fn take_outputs(&mut self, outputs: &mut Vec<Output>) {
        self.polled += self.outputs.len() as u64;
        outputs.extend(self.outputs.drain(..));
    }

    /// The number of the newest value that has to be judged. Values are numbered as they arrive.
    #[must_use]
    pub fn newest_job(&self) -> u64 {
        self.jobs
    }

    /// Whether the values of a subject up to a number are judged.
    #[must_use]
    pub fn is_judged(&self, subject: &Subject, job: u64) -> bool {
        let number = self.numbers.get(subject);
        let entry = number.and_then(|number| self.subjects.get(*number as usize));
        let first = entry.and_then(|entry| entry.jobs.front());
        first.is_none_or(|first| first.number() > job)
    }

    /// Moves up to `most` outputs to `outputs`. Returns whether more may follow. One call judges at
    /// most one chunk of a queue, so that inputs of other subjects can come between. Poll until no
    /// more follow before time passes: a deferred passage cannot fire before it is judged.
    pub fn poll(&mut self, most: usize, outputs: &mut Vec<Output>) -> bool {
        if self.outputs.is_empty() {
            self.run_next_chunk();
        }
        let count = most.min(self.outputs.len());
        if outputs.is_empty() && count == self.outputs.len() {
            // Both keep their room, and nothing is copied.
            let polled = std::mem::replace(&mut self.outputs, std::mem::take(outputs).into());
            *outputs = polled.into();
        } else {
            outputs.extend(self.outputs.drain(..count));
        }
        self.polled += count as u64;
        !self.outputs.is_empty() || !self.busy.is_empty()
    }

    /// Whether [`Self::advance`] is due. Ask with the time: the wall clock may have been set.
    #[must_use]
    pub fn is_due(&self, now: Now) -> bool {
        let is_over = self.next_deadline();
        let is_awake = self.snooze_ends.first();
        is_over.is_some_and(|due_ms| due_ms <= now.monotonic_ms)
            || is_awake.is_some_and(|(due_ms, _)| *due_ms <= now.wall_ms)
    }

    /// Whether something is due at a time of the wall clock, which may be set at any moment.
    #[must_use]
    pub fn follows_wall_clock(&self) -> bool {
        !self.snooze_ends.is_empty()
    }

    /// When [`Self::advance`] is due, in monotonic milliseconds, unless the wall clock is set. `None`:
    /// not before an input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        let subject = self
            .deadlines
            .peek()
            .map(|std::cmp::Reverse((due_ms, _))| *due_ms);
        let cooldown = self.cooldown_ends.first().map(|(due_ms, _)| *due_ms);
        let snooze = self.snooze_ends.first().map(|(due_ms, _)| {
            let left_ms = due_ms
                .saturating_sub(self.now.wall_ms)
                .max(0)
                .unsigned_abs();
            self.now.monotonic_ms.saturating_add(left_ms)
        });
        [subject, cooldown, snooze].into_iter().flatten().min()
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> EvaluatorCounters {
        EvaluatorCounters {
            signals: self.signals.len(),
            ..self.counters
        }
    }
}

/// Returns whether a signal's move from one value to another concerns no rule, by the gap around
/// its value. Finds the gap if it is not known.
fn is_in_gap(signal: &mut Signal, range: KeyRange) -> bool {
    let is_inside = |gap: KeyRange| gap.low < range.low && range.high < gap.high;
    if signal.gap.is_some_and(is_inside) {
        return true;
    }
    let simple = signal.simple.gap(range);
    let complex = signal.complex.gap(range);
    signal.gap = simple.zip(complex).map(|(simple, complex)| KeyRange {
        low: simple.low.max(complex.low),
        high: simple.high.min(complex.high),
    });
    signal.gap.is_some()
}
