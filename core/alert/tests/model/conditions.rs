//! Conditions: whether that of a rule is true, and the explanation that follows.

use tidewire_alert::{Decimal, Decision, Leaf, Now, SignalKind};

use crate::{
    naive::{Naive, Side},
    numbers::Source,
    truths::{is_crossing, is_true, tree},
};

impl Naive {
    pub(crate) fn is_running(&self, leaf: &Leaf) -> bool {
        let subject = self.subjects.get(&leaf.subject);
        leaf.signal == SignalKind::Age
            || subject.is_some_and(|subject| subject.source == Source::Live)
    }

    pub(crate) fn is_known(&self, leaf: &Leaf) -> bool {
        let subject = self.subjects.get(&leaf.subject);
        self.is_running(leaf) && subject.is_some_and(|subject| subject.known(leaf.signal).is_some())
    }

    /// The truth of a rule's condition, with that of each known test.
    pub(crate) fn truth(
        &self,
        slot: u32,
        of: impl Fn(&Leaf, [Side; 2], [bool; 2]) -> bool,
    ) -> Option<bool> {
        let rule = &self.rules[&slot];
        let leaves = rule.rule.condition.leaves().into_iter();
        let truths: Vec<_> = leaves
            .zip(rule.sides.iter().zip(&rule.passed))
            .map(|(leaf, (sides, passed))| {
                let is_known = self.is_known(leaf) && sides[0].is_some();
                is_known.then(|| of(leaf, *sides, *passed))
            })
            .collect();
        tree(&rule.rule.condition, &mut truths.into_iter())
    }

    pub(crate) fn holds(&self, slot: u32) -> Option<bool> {
        self.truth(slot, |_, sides, _| sides.contains(&Some(true)))
    }

    /// Whether what passed and is deferred is not back.
    pub(crate) fn stands(&self, slot: u32) -> Option<bool> {
        self.truth(slot, |leaf, sides, passed| {
            if is_crossing(&leaf.test) {
                passed.contains(&true)
            } else {
                sides.contains(&Some(true))
            }
        })
    }

    /// The first test of the subject whose value arrived last, and the number of that value.
    pub(crate) fn newest(&self, slot: u32) -> (Leaf, u64) {
        let leaves = self.rules[&slot].rule.condition.leaves();
        let arrival = |leaf: &Leaf| {
            let subject = self.subjects.get(&leaf.subject);
            subject.map_or(0, |subject| subject.arrival)
        };
        let newest = leaves.iter().map(|leaf| arrival(leaf)).max().unwrap();
        let first = leaves.into_iter().find(|leaf| arrival(leaf) == newest);
        (first.unwrap().clone(), newest)
    }

    /// The expected explanation: the decision, whether the condition is true, and the value of
    /// a plain test.
    pub(crate) fn explanation(&self, slot: u32, now: Now) -> (Decision, bool, Option<Decimal>) {
        let rule = &self.rules[&slot];
        let (newest, arrival) = self.newest(slot);
        let has_fired = rule.fired_at.contains(&arrival);
        let is_deferred = rule.is_active() && rule.is_deferred && self.stands(slot) != Some(false);
        let leaves = rule.rule.condition.leaves().into_iter();
        let truths: Vec<Option<bool>> = leaves
            .zip(rule.sides.iter().zip(&rule.passed))
            .map(|(leaf, (sides, passed))| {
                let subject = self.subjects.get(&leaf.subject)?;
                let value = match leaf.signal {
                    SignalKind::Age => subject.number(leaf.signal, now),
                    _ if subject.source != Source::Live => None,
                    SignalKind::Value | SignalKind::State => subject.value,
                    // The history of a rule that is not judged is another rule's, or none.
                    kind if subject.histories.contains_key(&kind) => subject.known(kind),
                    _ => None,
                }?;
                if rule.is_active() && sides[0].is_none() {
                    return None;
                }
                Some(match (is_crossing(&leaf.test), rule.is_active()) {
                    (true, _) => {
                        (has_fired || is_deferred) && (rule.is_single() || passed.contains(&true))
                    }
                    (false, true) => sides.contains(&Some(true)),
                    (false, false) => is_true(&leaf.test, value)[0] == Some(true),
                })
            })
            .collect();
        let holds = tree(&rule.rule.condition, &mut truths.into_iter());
        let holds = holds.or_else(|| has_fired.then_some(true));
        let decision = match holds {
            _ if has_fired => Decision::Fired,
            None => Decision::Unknown,
            Some(false) => Decision::NotMet,
            Some(true) => Decision::Suppressed,
        };
        let subject = self.subjects.get(&newest.subject);
        let value = subject.and_then(|subject| subject.value);
        let is_plain = newest.signal == SignalKind::Value;
        (decision, holds == Some(true), value.filter(|_| is_plain))
    }

    /// Whether a rule that fires would not without its transactions.
    pub(crate) fn needs_transaction(&self, slot: u32) -> bool {
        let without = self.truth(slot, |leaf, sides, passed| {
            leaf.signal != SignalKind::State
                && if is_crossing(&leaf.test) {
                    passed.contains(&true)
                } else {
                    sides.contains(&Some(true))
                }
        });
        let rule = &self.rules[&slot];
        rule.is_of_transaction() && (rule.is_single() || without != Some(true))
    }
}
