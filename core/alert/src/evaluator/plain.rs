//! Plain rules: the quick way to judge a rule of one level, which nothing blocks or counts.
//!
//! Nearly all rules that a large move passes are plain, so that this way decides how long half a
//! million of them take. Whatever it does not decide goes to [`Evaluator::judge_simple`], which
//! gives the same results.

use std::sync::Arc;

use super::{
    Evaluator,
    jobs::{Moment, Move},
    lifecycle::SAFE_COOLDOWN_MS,
    records::{NONE, RECURRING, Record, TestKind, flag},
};
use crate::{Fire, Occasion, Output, output::StateAfter};

impl Evaluator {
    /// Judges a rule. `record` is a copy of its record, `occasion` what the fires of the move have
    /// in common. False if the rule is not plain: then nothing was changed.
    pub(super) fn judge_plain(
        &mut self,
        slot: u32,
        record: &Record,
        (one, moment): (&Move, &Moment),
        occasion: &mut Option<Arc<Occasion>>,
    ) -> bool {
        let is_on = match record.kind {
            TestKind::Above => one.after >= record.first,
            TestKind::Below => one.after <= record.first,
            _ => return false,
        };
        let is_plain = record.extra == NONE
            && record.signal == one.signal
            && record.flags & (flag::MISSED | flag::DETACHED | flag::QUIET) == 0
            && record.left > 0
            && !moment.is_retraction;
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
        self.counters.touched += 1;
        self.counters.fired += 1;
        if record.cooldown_ms > 0
            && let Some(extra) = self.records.extra_mut(slot)
        {
            let cooldown_ms = u64::from(record.cooldown_ms);
            extra.cooldown_ends_ms = Some(moment.now.monotonic_ms.saturating_add(cooldown_ms));
        }
        let (mut leaf, mut flags) = (record.leaf, record.flags | flag::FIRED);
        leaf.set_one(true);
        let left = match record.left {
            RECURRING => RECURRING,
            left => left - 1,
        };
        if left == 0 {
            flags |= flag::DETACHED;
            self.ended.push(slot);
        }
        if let Some(record) = self.records.get_mut(slot) {
            (record.leaf, record.flags, record.left) = (leaf, flags, left);
        }
        if let Some(signal) = self.signals.get(one.signal as usize) {
            self.note_fire(slot, signal.subject, moment.arrival);
        }
        let occasion =
            occasion.get_or_insert_with(|| Arc::new(moment.occasion(one.after, one.before)));
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
}
