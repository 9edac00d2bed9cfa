//! Plain rules: the quick way to judge a rule of one level, which nothing blocks or counts.
//!
//! Nearly all rules that a large move passes are plain, so that this way decides how long half a
//! million of them take. Whatever it does not decide goes to [`Evaluator::judge_simple`], which
//! gives the same results.

use std::sync::Arc;

use super::{
    Evaluator,
    jobs::{FEW, Moment, Move},
    lifecycle::SAFE_COOLDOWN_MS,
    records::{RECURRING, Record, TestKind, flag},
};
use crate::{Fire, Occasion, Output, index::Entry, output::StateAfter};

/// A block of rules of one signal, and what its plain ones did.
pub(super) struct PlainBlock<'a> {
    one: &'a Move,
    moment: &'a Moment,
    /// The part that the fires of the move share.
    occasion: &'a mut Option<Arc<Occasion>>,
    /// The fingerprint of a signal of which rules are released without a look at what they test.
    fingerprint: Option<u32>,
    /// Rules that fired.
    fired: Vec<u32>,
    /// Entries of rules that fired for the last time, which know their signal no more.
    released: Vec<Entry>,
}

impl Evaluator {
    /// Begins a block.
    pub(super) fn begin_plain<'a>(
        &mut self,
        one: &'a Move,
        moment: &'a Moment,
        occasion: &'a mut Option<Arc<Occasion>>,
    ) -> PlainBlock<'a> {
        let signal = self.signals.get(one.signal as usize);
        let fingerprint = signal.filter(|signal| signal.is_plain());
        PlainBlock {
            one,
            moment,
            occasion,
            fingerprint: fingerprint.map(|signal| signal.fingerprint),
            fired: std::mem::take(&mut self.fired),
            released: std::mem::take(&mut self.released),
        }
    }

    /// Judges a rule. `record` is a copy of its record. False if the rule is not plain: then nothing
    /// was changed.
    pub(super) fn judge_plain(
        &mut self,
        entry: Entry,
        record: &Record,
        block: &mut PlainBlock<'_>,
    ) -> bool {
        let (one, moment) = (block.one, block.moment);
        let is_on = match record.kind {
            TestKind::Above => one.after >= record.first,
            TestKind::Below => one.after <= record.first,
            _ => return false,
        };
        let now_ms = moment.now.monotonic_ms;
        let is_plain = record.signal == one.signal
            && record.flags & (flag::MISSED | flag::DETACHED | flag::QUIET) == 0
            && record.left > 0
            && !moment.is_retraction
            && self
                .records
                .extra(record)
                .is_none_or(|extra| extra.is_idle(now_ms));
        if !is_plain {
            return false;
        }
        let is_known = record.leaf.is_known();
        if is_known && record.leaf.is_on() == is_on {
            self.counters.touched += 1;
            return true;
        }
        let rises = is_on && (!is_known || !moment.is_baseline);
        let is_counted = record.cooldown_ms < SAFE_COOLDOWN_MS && record.left == RECURRING;
        if !rises || is_counted {
            return false;
        }
        let slot = entry.1;
        self.counters.touched += 1;
        self.counters.fired += 1;
        if record.cooldown_ms > 0
            && let Some(extra) = self.records.extra_mut(slot)
        {
            let ends_ms = now_ms.saturating_add(u64::from(record.cooldown_ms));
            extra.set_cooldown_end(Some(ends_ms));
        }
        let (mut leaf, mut flags) = (record.leaf, record.flags | flag::FIRED | flag::NOTED);
        leaf.set_one(true);
        let mut signal = record.signal;
        let left = match record.left {
            RECURRING => RECURRING,
            left => left - 1,
        };
        if left == 0 {
            flags |= flag::DETACHED;
            match block.fingerprint {
                Some(fingerprint) => {
                    // The subject and the kind are known by their fingerprint from now on.
                    signal = fingerprint;
                    block.released.push(entry);
                }
                None => self.ended.push(slot),
            }
        }
        if let Some(record) = self.records.get_mut(slot) {
            (record.leaf, record.flags, record.left) = (leaf, flags, left);
            record.signal = signal;
        }
        block.fired.push(slot);
        let occasion = block
            .occasion
            .get_or_insert_with(|| Arc::new(moment.occasion(one.after, one.before)));
        self.outputs.push_back(Output::Fire(Fire {
            slot,
            version: record.version,
            test: 0,
            threshold: Some(record.first),
            occasion: occasion.clone(),
            after: StateAfter::Plain {
                leaf,
                flags: (flags & flag::STORED) as u8,
                left,
                cooldown_ms: record.cooldown_ms,
            },
        }));
        true
    }

    /// Ends a block: notes its fires, and takes the rules that fired for the last time out of the
    /// index. `found` are all entries of the block.
    pub(super) fn end_plain(&mut self, block: PlainBlock<'_>, found: &[Entry]) {
        let PlainBlock {
            one,
            moment,
            mut fired,
            mut released,
            ..
        } = block;
        if let Some(signal) = self.signals.get_mut(one.signal as usize) {
            let subject = signal.subject;
            if let [first, .., last] = found
                && released.len() > FEW
            {
                let (low, high) = (*first.min(last), *first.max(last));
                let records = &self.records;
                match released.len() == found.len() {
                    true => signal.simple.purge(low, high, |_| true),
                    false => signal.simple.purge(low, high, |slot| {
                        let record = records.get(slot);
                        record.is_some_and(|record| record.has(flag::DETACHED))
                    }),
                }
            } else {
                for entry in &released {
                    signal.simple.remove(*entry);
                }
            }
            if !fired.is_empty() {
                self.note_fires(&fired, subject, moment.arrival);
            }
            if !released.is_empty() {
                // A block has 256 rules at most.
                self.release_tests(one.signal, released.len() as u32);
            }
        }
        fired.clear();
        released.clear();
        // Their room is used again.
        (self.fired, self.released) = (fired, released);
    }
}
