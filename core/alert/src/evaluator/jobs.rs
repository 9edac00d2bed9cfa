//! Jobs: the rules that a value concerns, found in the indexes and judged in chunks.
//!
//! A job is one value of one subject, with the moves of its signals. Rules of several tests are
//! judged at once. Rules of one test are judged in order of the move, 256 at a time. The others
//! wait in the subject's queue, and later values of the subject behind them. A rule that is
//! changed meanwhile is settled first: judged by all values that wait, which skip it then.

use std::collections::HashSet;

use rust_decimal::Decimal;
use smallvec::SmallVec;

use super::{
    Evaluator,
    records::{NONE, TestKind, flag},
};
use crate::{Now, Sources, index::Entry, key::KeyRange};

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

/// A value whose rules are not all judged.
#[derive(Debug)]
pub(super) struct Job {
    moment: Moment,
    moves: Moves,
    /// The move at work.
    at: usize,
    /// Its last entry that was judged.
    cursor: Option<Entry>,
    /// Rules to judge first, each with its move.
    first: Vec<(u32, usize)>,
    /// Rules that are settled.
    skip: HashSet<u32>,
}

/// Rules that are taken out of an index one by one.
const FEW: usize = 8;

impl Job {
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
    /// Judges the rules that these moves concern: those of several tests at once, those of one
    /// test in chunks.
    pub(super) fn judge(&mut self, number: u32, moment: Moment, moves: Moves) {
        let mut first = Vec::new();
        let mut complex = Vec::new();
        for (at, one) in moves.iter().enumerate() {
            let signal = &mut self.signals[one.signal as usize];
            let range = if moment.is_back {
                KeyRange::ALL
            } else {
                one.range
            };
            if signal.complex.len() > 0 && (moment.is_back || one.passes) {
                let mut found = Vec::new();
                match one.is_downward() {
                    false => signal
                        .complex
                        .ascending(range, None, usize::MAX, &mut found),
                    true => signal
                        .complex
                        .descending(range, None, usize::MAX, &mut found),
                }
                complex.extend(found.into_iter().map(|(_, slot)| slot));
            }
            if moment.is_arrival {
                first.extend(signal.unresolved.drain(..).map(|slot| (slot, at)));
            }
        }
        first.retain(|(slot, _)| {
            let record = self.records.get(*slot);
            let is_complex = record.is_some_and(|record| record.kind == TestKind::Complex);
            if is_complex {
                complex.push(*slot);
            }
            !is_complex
        });
        let mut judged = HashSet::new();
        for slot in complex {
            if judged.insert(slot) {
                self.judge_complex(slot, number, &moment, &moves);
            }
        }
        self.bury(None);
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
        let mut job = Job {
            moment,
            moves,
            at: 0,
            cursor: None,
            first,
            skip: HashSet::new(),
        };
        // A judged rule may have ended a signal of this subject.
        for at in 0..job.moves.len() {
            let signal = job.moves[at].signal;
            if !self.signals.contains(signal as usize) {
                job.forget(signal);
            }
        }
        entry.jobs.push_back(job);
        if !entry.is_busy {
            self.run_chunk(number);
        }
        let Some(entry) = self.subjects.get_mut(number as usize) else {
            return;
        };
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
        if let Some(entry) = self.subjects.get_mut(number as usize) {
            entry.is_busy = !entry.jobs.is_empty();
            if entry.is_busy {
                self.busy.push_back(number);
            }
        }
    }

    /// Judges one chunk of a subject's oldest values.
    pub(super) fn run_chunk(&mut self, number: u32) {
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
                *budget -= 1;
                if !job.skip.contains(&slot) {
                    self.judge_simple(slot, &job.moves[at], &job.moment);
                    self.bury(None);
                }
                continue;
            }
            let Some(one) = job.moves.get(job.at).copied() else {
                return true;
            };
            let mut found = Vec::new();
            if one.passes
                && let Some(signal) = self.signals.get(one.signal as usize)
            {
                match one.is_downward() {
                    false => signal
                        .simple
                        .ascending(one.range, job.cursor, *budget, &mut found),
                    true => signal
                        .simple
                        .descending(one.range, job.cursor, *budget, &mut found),
                }
            }
            let (Some(from), Some(to)) = (found.first().copied(), found.last().copied()) else {
                job.at += 1;
                job.cursor = None;
                continue;
            };
            *budget -= found.len();
            job.cursor = Some(to);
            for (_, slot) in &found {
                if job.skip.is_empty() || !job.skip.contains(slot) {
                    self.judge_simple(*slot, &one, &job.moment);
                }
            }
            self.bury(Some((one.signal, from.min(to), from.max(to))));
            if self.signals.get(one.signal as usize).is_none() {
                job.forget(one.signal);
            }
        }
        false
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
        for slot in std::mem::take(&mut self.ended) {
            self.detach(slot, is_purged);
        }
    }

    /// Judges a rule by the values of its subject that wait, so that it can be changed.
    pub(super) fn settle(&mut self, slot: u32) {
        let Some(signal) = self
            .records
            .get(slot)
            .and_then(|record| self.simple_signal(record))
        else {
            return;
        };
        let number = self.signals[signal as usize].subject;
        let mut jobs = std::mem::take(&mut self.subjects[number as usize].jobs);
        for job in &mut jobs {
            if job.skip.insert(slot) {
                let found = job.moves.iter().position(|one| one.signal == signal);
                if let Some(at) = found {
                    self.judge_simple(slot, &job.moves[at], &job.moment);
                }
            }
        }
        self.subjects[number as usize].jobs = jobs;
        self.bury(None);
    }

    /// Excludes a rule from the values of its subject that wait: it was judged by the newest.
    pub(super) fn skip_jobs(&mut self, slot: u32) {
        let Some(signal) = self
            .records
            .get(slot)
            .and_then(|record| self.simple_signal(record))
        else {
            return;
        };
        let number = self.signals[signal as usize].subject;
        for job in &mut self.subjects[number as usize].jobs {
            job.skip.insert(slot);
        }
    }
}
