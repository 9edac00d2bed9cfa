//! Loading: very many rules at once, as at the start of the server.
//!
//! A rule's boundaries wait beside the index of their signal, are sorted once, and are then merged
//! into full blocks. An insertion at a time would move half a block for each boundary. The
//! waiting ones are at most half of the index, so that a merge costs each entry a constant time.

use super::{
    Evaluator, OwnerId,
    records::{Record, compact, flag},
};
use crate::{Condition, Leaf, Now, Output, Repeat, Rule, RuleState, leaf::LeafState};

/// Boundaries of a signal that wait before they are merged, if its index has few.
const FEW: usize = 4_096;

/// Part of an index below which boundaries are inserted one by one.
const INSERTED_PART: usize = 16;

impl Evaluator {
    /// Inserts a rule as [`Self::insert_of`] does, but quickly if very many follow one another. Any
    /// input or change in between merges what waits. A stored rule had room for its windows once, and
    /// is never refused.
    pub fn load(
        &mut self,
        owner: Option<OwnerId>,
        slot: u32,
        rule: &Rule,
        state: RuleState,
        now: Now,
    ) {
        match &rule.condition {
            Condition::Leaf(leaf)
                if leaf.signal.is_plain() && is_plain(rule, &state) && self.is_free(slot) =>
            {
                self.load_plain(slot, rule, leaf, &state, now);
            }
            _ => self.insert_known(owner, slot, rule, state, now),
        }
    }

    fn is_free(&self, slot: u32) -> bool {
        self.records.get(slot).is_none()
    }

    /// Loads a rule of one test of a plain value that can fire.
    fn load_plain(&mut self, slot: u32, rule: &Rule, leaf: &Leaf, state: &RuleState, now: Now) {
        let number = self.acquire_signal(leaf, None, now);
        let (kind, first, _) = compact(&leaf.test);
        let mut record = Record::VACANT;
        record.version = rule.version;
        record.cooldown_ms = rule.cooldown_ms;
        record.left = state.fires_left.unwrap_or(super::rules::fires(rule.repeat));
        record.flags = u16::from(state.flags) & flag::STORED;
        (record.kind, record.first, record.signal) = (kind, first, number);
        record.leaf = LeafState(state.leaves as u8 & 0b1111);
        let signal = &mut self.signals[number as usize];
        let (keys, has_long) = leaf.test.boundaries();
        signal.has_long |= has_long;
        signal.gap = None;
        if signal.loading.is_empty() {
            self.loading.push(number);
        }
        signal
            .loading
            .extend(keys.into_iter().map(|key| (key, slot)));
        let is_due = signal.loading.len() >= FEW.max(signal.simple.len() / 2);
        let value = signal.value;
        let is_live = self.subjects[signal.subject as usize].is_live();
        let step = value.map(|value| leaf.test.step(value, record.leaf, false));
        let rises = step.is_some_and(|step| step.passes || step.starts_on);
        if is_live && rises {
            // It may fire, and end.
            self.counters.rules += 1;
            self.records.set(slot, record);
            self.merge(number);
            self.judge_new_simple(slot, now);
            self.bury(None);
            return;
        }
        let is_changed = step.is_some_and(|step| step.state != record.leaf);
        if is_live && let Some(step) = step {
            self.counters.touched += 1;
            record.leaf = step.state;
            record.flags &= !flag::QUIET;
            if !step.state.is_on() {
                record.flags &= !flag::FIRED;
            }
        }
        self.counters.rules += 1;
        self.records.set(slot, record);
        self.skip_jobs(slot);
        match (is_changed, is_live) {
            (true, true) => self.outputs.push_back(Output::Change { slot }),
            (true, false) => self.leave_unresolved(slot),
            (false, _) => {}
        }
        if is_due {
            self.merge(number);
        }
    }

    /// Ends a load: merges all boundaries that wait into their indexes, and forgets restored values
    /// of which no rule is left.
    pub fn finish_load(&mut self) {
        self.release_held();
        for number in std::mem::take(&mut self.loading) {
            self.merge(number);
        }
    }

    /// Merges the boundaries of a subject's signals.
    pub(super) fn merge_subject(&mut self, number: u32) {
        if self.loading.is_empty() {
            return;
        }
        let entry = self.subjects.get(number as usize);
        let signals = entry.map_or_else(Default::default, |entry| entry.signals.clone());
        signals.into_iter().for_each(|signal| self.merge(signal));
    }

    /// Merges the boundaries of a signal.
    pub(super) fn merge(&mut self, number: u32) {
        let Some(signal) = self.signals.get_mut(number as usize) else {
            return;
        };
        if signal.loading.is_empty() {
            return;
        }
        let mut entries = std::mem::take(&mut signal.loading);
        signal.gap = None;
        if entries.len() < signal.simple.len() / INSERTED_PART {
            for entry in entries {
                signal.simple.insert(entry);
            }
        } else {
            entries.sort_unstable();
            signal.simple.merge(&entries);
        }
    }
}

/// Whether nothing but the value decides about a rule.
fn is_plain(rule: &Rule, state: &RuleState) -> bool {
    let has_second = match &rule.condition {
        Condition::Leaf(leaf) => !compact(&leaf.test).2.is_zero(),
        _ => true,
    };
    let ends = u16::from(state.flags) & (flag::STOPPED | flag::EXPIRED | flag::MISSED);
    rule.is_enabled
        && !has_second
        && matches!(rule.repeat, Repeat::Recurring | Repeat::Times(1))
        && rule.expires_at_ms.is_none()
        && rule.snoozed_until_ms.is_none()
        && state.cooldown_ends_ms.is_none()
        && state.recent_ms.is_empty()
        && state.fires_left != Some(0)
        && ends == 0
}
