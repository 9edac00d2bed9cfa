//! Jobs: the rules that a value concerns, found in the indexes and judged in chunks.
//!
//! A job is one value of one subject, with the moves of its signals. Rules of several tests are
//! judged at once. Rules of one test are judged in order of the move, in blocks of 256, until a
//! chunk of work is done. The others wait in the subject's queue, and later values of the subject
//! behind them. A rule that is changed meanwhile is settled first: judged by all values that wait,
//! which skip it then.

use std::{collections::HashSet, sync::Arc};

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::{
    Evaluator,
    records::{NONE, TestKind, flag},
};
use crate::{Now, Occasion, SignalKind, Sources, index::Entry, key::KeyRange};

/// A value and its time.
#[derive(Debug, Clone)]
pub(super) struct Moment {
    pub(super) now: Now,
    /// The number of the subject's newest value among all that arrived.
    pub(super) arrival: u64,
    /// The subject's value.
    pub(super) price: Decimal,
    /// The subject's value before.
    pub(super) earlier: Decimal,
    pub(super) sources: Sources,
    pub(super) formed_us: i64,
    /// Whether the value before is of an earlier run.
    pub(super) is_catch_up: bool,
    /// Whether passages fire nothing.
    pub(super) is_baseline: bool,
    /// Whether a reorg takes back a transaction's state.
    pub(super) is_retraction: bool,
    /// Whether a value arrived; otherwise time passed.
    pub(super) is_arrival: bool,
    /// Whether the subject was not live before.
    pub(super) is_back: bool,
}

impl Moment {
    /// The part that the fires of a signal with these values share.
    pub(super) fn occasion(&self, value: Decimal, previous: Option<Decimal>) -> Occasion {
        Occasion {
            value,
            previous,
            price: self.price,
            sources: self.sources.clone(),
            formed_us: self.formed_us,
            at: self.now,
            is_catch_up: self.is_catch_up,
            is_arrival: self.is_arrival,
        }
    }
}

/// A signal's move from one value to the next.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) signal: u32,
    pub(super) before: Option<Decimal>,
    pub(super) after: Decimal,
    /// The boundaries that are passed.
    pub(super) range: KeyRange,
    /// Whether the index has entries in the range.
    pub(super) passes: bool,
}

impl Move {
    pub(super) fn range(
        before: Option<Decimal>,
        after: Decimal,
        is_whole: bool,
        has_long: bool,
    ) -> KeyRange {
        match before {
            Some(before) if !is_whole => KeyRange::between(before, after, has_long),
            _ => KeyRange::ALL,
        }
    }

    fn is_downward(&self) -> bool {
        self.before.is_some_and(|before| self.after < before)
    }
}

pub(super) type Moves = SmallVec<[Move; 2]>;

/// A subject that a value or the time changed, with the moves of its signals.
#[derive(Debug)]
pub(super) struct SubjectChange {
    pub(super) subject: u32,
    pub(super) moment: Moment,
    pub(super) moves: Moves,
}

/// A value whose rules are not all judged.
#[derive(Debug)]
pub(super) struct Job {
    /// Its place among all jobs.
    number: u64,
    moment: Moment,
    moves: Moves,
    /// The move at work.
    at: usize,
    /// Its last entry that was judged.
    cursor: Option<Entry>,
    /// The part that the fires of the move at work share.
    occasion: Option<Arc<Occasion>>,
    /// Rules to judge first, each with its move.
    first: Vec<(u32, usize)>,
    /// Rules that are settled.
    skip: HashSet<u32>,
}

/// Rules that are taken out of an index one by one.
pub(super) const FEW: usize = 8;

/// Rules that are found, judged and taken out of an index together. Their records fit into the
/// nearest cache.
const BLOCK: usize = 256;

/// Further units of work of a rule that has to be looked at closely.
const CLOSE_WORK: usize = 4;

impl Job {
    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    /// Forgets a signal that ended.
    pub(super) fn forget(&mut self, signal: u32) {
        for one in &mut self.moves {
            if one.signal == signal {
                // Another signal may have the number later.
                one.signal = NONE;
                one.passes = false;
            }
        }
    }
}

impl Evaluator {
    /// Judges the rules that changes of one moment concern: those of several tests at once, by all of
    /// the changes together, and those of one test in chunks.
    pub(super) fn judge(&mut self, changes: Vec<SubjectChange>) {
        let mut complex = Vec::new();
        let mut firsts = SmallVec::<[_; 1]>::new();
        for change in &changes {
            self.find_complex(change, &mut complex);
            firsts.push(self.take_unresolved(change, &mut complex));
        }
        let mut judged = HashSet::new();
        for slot in complex {
            if judged.insert(slot) {
                self.judge_complex(slot, &changes);
            }
        }
        self.bury(None);
        for (change, first) in changes.into_iter().zip(firsts) {
            self.queue(change, first);
        }
    }

    /// Adds the rules of several tests whose boundaries a change passes.
    fn find_complex(&self, change: &SubjectChange, slots: &mut Vec<u32>) {
        let is_back = change.moment.is_back;
        for one in &change.moves {
            let signal = &self.signals[one.signal as usize];
            if signal.complex.len() == 0 || !is_back && !one.passes {
                continue;
            }
            let range = if is_back { KeyRange::ALL } else { one.range };
            let mut found = Vec::new();
            match one.is_downward() {
                false => signal
                    .complex
                    .ascending(range, None, usize::MAX, &mut found),
                true => signal
                    .complex
                    .descending(range, None, usize::MAX, &mut found),
            }
            slots.extend(found.into_iter().map(|(_, slot)| slot));
        }
    }

    /// Takes the rules that wait for the next value of the signals: returns those of one test, each
    /// with its move, and adds the others to `complex`.
    fn take_unresolved(
        &mut self,
        change: &SubjectChange,
        complex: &mut Vec<u32>,
    ) -> Vec<(u32, usize)> {
        let mut first = Vec::new();
        if !change.moment.is_arrival {
            return first;
        }
        for (at, one) in change.moves.iter().enumerate() {
            for slot in self.signals[one.signal as usize].unresolved.drain(..) {
                let record = self.records.get(slot);
                match record.is_some_and(|record| record.kind == TestKind::Complex) {
                    true => complex.push(slot),
                    false => first.push((slot, at)),
                }
            }
        }
        first
    }

    /// Queues the rules of one test that a change concerns, and judges their first chunk if no other
    /// value of the subject waits.
    fn queue(&mut self, change: SubjectChange, first: Vec<(u32, usize)>) {
        let number = change.subject;
        self.jobs += 1;
        let mut job = Job {
            number: self.jobs,
            moment: change.moment,
            moves: change.moves,
            at: 0,
            cursor: None,
            occasion: None,
            first,
            skip: HashSet::new(),
        };
        self.forget_ended(&mut job);
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
        entry.jobs.push_back(job);
        if !entry.is_busy {
            self.run_chunk(number);
        }
        let outputs = self.output_count();
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
        entry.outputs_end = outputs;
        if !entry.jobs.is_empty() && !std::mem::replace(&mut entry.is_busy, true) {
            self.busy.push_back(number);
        }
    }

    /// Judges one chunk of the subject that has waited longest.
    pub(super) fn run_next_chunk(&mut self) {
        let Some(number) = self.busy.pop_front() else {
            return;
        };
        self.run_chunk(number);
        let outputs = self.output_count();
        if let Some(entry) = self.subjects.get_mut(number as usize) {
            entry.outputs_end = outputs;
            entry.is_busy = !entry.jobs.is_empty();
            if entry.is_busy {
                self.busy.push_back(number);
            }
        }
    }

    /// Judges one chunk of a subject's oldest values.
    pub(super) fn run_chunk(&mut self, number: u32) {
        self.merge_subject(number);
        let mut budget = self.config.chunk.max(1);
        while budget > 0 {
            let entry = self.subjects.get_mut(number as usize);
            let Some(mut job) = entry.and_then(|entry| entry.jobs.pop_front()) else {
                return;
            };
            let is_done = self.run_job(&mut job, &mut budget);
            if is_done {
                continue;
            }
            if let Some(entry) = self.subjects.get_mut(number as usize) {
                entry.jobs.push_front(job);
            }
        }
    }

    /// Judges rules of a job until the budget is used. Returns whether the job is done.
    fn run_job(&mut self, job: &mut Job, budget: &mut usize) -> bool {
        while *budget > 0 {
            if let Some((slot, at)) = job.first.pop() {
                *budget = budget.saturating_sub(1 + CLOSE_WORK);
                if !job.skip.contains(&slot) {
                    self.judge_simple(slot, &job.moves[at], &job.moment);
                    self.bury(None);
                    self.forget_ended(job);
                }
                continue;
            }
            let Some(one) = job.moves.get(job.at).copied() else {
                return true;
            };
            let mut found = std::mem::take(&mut self.found);
            found.clear();
            if one.passes
                && let Some(signal) = self.signals.get(one.signal as usize)
            {
                let most = BLOCK.min(*budget);
                match one.is_downward() {
                    false => signal
                        .simple
                        .ascending(one.range, job.cursor, most, &mut found),
                    true => signal
                        .simple
                        .descending(one.range, job.cursor, most, &mut found),
                }
            }
            match (found.first().copied(), found.last().copied()) {
                (Some(from), Some(to)) => {
                    job.cursor = Some(to);
                    let work = self.judge_block(job, &one, &found);
                    *budget = budget.saturating_sub(work);
                    self.bury(Some((one.signal, from.min(to), from.max(to))));
                    self.forget_ended(job);
                }
                _ => {
                    job.at += 1;
                    job.cursor = None;
                    job.occasion = None;
                }
            }
            self.found = found;
        }
        false
    }

    /// Judges a block of rules of one signal. Returns the work that it was.
    fn judge_block(&mut self, job: &mut Job, one: &Move, found: &[Entry]) -> usize {
        let mut block = std::mem::take(&mut self.block);
        self.records
            .copy(found.iter().map(|(_, slot)| *slot), &mut block);
        let mut work = found.len();
        let mut plain = self.begin_plain(one, &job.moment, &mut job.occasion);
        for (entry, record) in found.iter().zip(&block) {
            if !job.skip.is_empty() && job.skip.contains(&entry.1) {
                continue;
            }
            if !self.judge_plain(*entry, record, &mut plain) {
                self.judge_simple(entry.1, one, &job.moment);
                work += CLOSE_WORK;
            }
        }
        self.end_plain(plain, found);
        self.block = block;
        work
    }

    /// Forgets the signals that a judged rule ended. A job at work is in no queue, where the end of
    /// a signal would find it.
    fn forget_ended(&self, job: &mut Job) {
        for one in &mut job.moves {
            if one.signal != NONE && !self.signals.contains(one.signal as usize) {
                // Another signal may have the number later.
                one.signal = NONE;
                one.passes = false;
            }
        }
    }

    /// Takes the rules that fired for the last time out of the index. Those of one boundary within
    /// the chunk are purged together.
    pub(super) fn bury(&mut self, chunk: Option<(u32, Entry, Entry)>) {
        if self.ended.is_empty() {
            return;
        }
        let mut is_purged = false;
        if let Some((signal, low, high)) = chunk
            && self.ended.len() > FEW
            && let Some(signal) = self.signals.get_mut(signal as usize)
        {
            let records = &self.records;
            let is_ended = |slot| {
                records
                    .get(slot)
                    .is_some_and(|record| record.has(flag::DETACHED))
            };
            signal.simple.purge(low, high, is_ended);
            is_purged = true;
        }
        let mut ended = std::mem::take(&mut self.ended);
        if is_purged && let Some((signal, ..)) = chunk {
            let mut released = 0;
            ended.retain(|slot| !self.is_out(*slot, signal, &mut released));
            if released > 0 {
                self.release_tests(signal, released);
            }
        }
        for slot in ended.drain(..) {
            self.detach(slot, is_purged);
        }
        // Its room is used again.
        self.ended = ended;
    }

    /// Whether a rule that ended is out of all indexes, once its signal is released: it had one
    /// boundary, which was purged.
    fn is_out(&mut self, slot: u32, signal: u32, released: &mut u32) -> bool {
        let fingerprint = match self.signals.get(signal as usize) {
            Some(signal) if signal.is_plain() => signal.fingerprint,
            _ => return false,
        };
        let Some(record) = self.records.get_mut(slot) else {
            return false;
        };
        let has_one_boundary = matches!(record.kind, TestKind::Above | TestKind::Below);
        if !has_one_boundary || record.signal != signal {
            return false;
        }
        // The subject and the kind are known by their fingerprint from now on.
        record.signal = fingerprint;
        *released += 1;
        true
    }

    /// Judges a rule by the values that wait, so that its outputs can be polled.
    pub fn settle_rule(&mut self, slot: u32) {
        if self.records.get(slot).is_some() {
            self.settle(slot);
        }
    }

    /// The signal of a rule of one test, and the number of its subject, whose values may wait.
    fn waits_for(&self, slot: u32) -> Option<(u32, usize)> {
        let signal = self.simple_signal(self.records.get(slot)?)?;
        Some((signal, self.signals[signal as usize].subject as usize))
    }

    /// Judges a rule by the values of its subject that wait, so that it can be changed.
    pub(super) fn settle(&mut self, slot: u32) {
        let Some((signal, number)) = self.waits_for(slot) else {
            return;
        };
        let mut jobs = std::mem::take(&mut self.subjects[number].jobs);
        for job in &mut jobs {
            if job.skip.insert(slot) {
                let found = job.moves.iter().position(|one| one.signal == signal);
                if let Some(at) = found
                    && !self.is_ageing(slot, signal, &job.moment)
                {
                    self.judge_simple(slot, &job.moves[at], &job.moment);
                }
            }
        }
        self.subjects[number].jobs = jobs;
        self.bury(None);
    }

    /// Whether an age that was passed only grows. One that was passed before a restart stays passed,
    /// although ages count anew.
    fn is_ageing(&self, slot: u32, signal: u32, moment: &Moment) -> bool {
        let signal = self.signals.get(signal as usize);
        let record = self.records.get(slot);
        !moment.is_arrival
            && signal.is_some_and(|signal| signal.kind == SignalKind::Age)
            && record.is_some_and(|record| record.leaf.is_on())
    }

    /// Excludes a rule from the values of its subject that wait: it was judged by the newest.
    pub(super) fn skip_jobs(&mut self, slot: u32) {
        let Some((_, number)) = self.waits_for(slot) else {
            return;
        };
        for job in &mut self.subjects[number].jobs {
            job.skip.insert(slot);
        }
    }
}
