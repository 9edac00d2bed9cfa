//! Explanations: why a rule did or did not fire, in words.

use rust_decimal::Decimal;

use super::{
    Evaluator,
    conditions::evaluate,
    records::{Record, TestKind, flag},
    subjects::{Continuity, Liveness, SubjectEntry},
};
use crate::{
    Decision, Explanation, Leaf, Now, Phase, Rule, SignalKind, Subject, Test, leaf::LeafState,
    subject::state_name,
};

/// Outcome of the newest value, as far as it concerns each test of a rule.
#[derive(Debug, Clone, Copy)]
struct Outcome {
    /// Whether the newest value fired it.
    has_fired: bool,
    /// Whether a passage is deferred.
    is_deferred: bool,
    is_attached: bool,
    is_single: bool,
}

impl Evaluator {
    /// Explains a rule. The rule must be the one that was inserted.
    #[must_use]
    pub fn explain(&self, slot: u32, rule: &Rule, now: Now) -> Option<Explanation> {
        let record = self.records.get(slot)?;
        let phase = self.phase(slot, now)?;
        let leaves = rule.condition.leaves();
        let test = self.newest_test(&leaves);
        let newest = *leaves.get(test)?;
        let subject = self.subject_of(newest);
        let is_attached = !record.has(flag::DETACHED);
        let outcome = Outcome {
            has_fired: self.has_fired_now(slot, record, &leaves),
            is_deferred: is_attached
                && record.has(flag::MISSED)
                && self.stands(record) != Some(false),
            is_attached,
            is_single: record.kind != TestKind::Complex,
        };
        let states = self.snapshot(record, now).leaves;
        let states = |number: usize| LeafState((states >> (4 * number).min(60)) as u8 & 0b1111);
        let mut number = 0;
        let holds = evaluate(&rule.condition, &mut || {
            number += 1;
            self.leaf_truth(leaves[number - 1], states(number - 1), outcome, now)
        });
        // The last fire may have ended the history that the condition needs.
        let holds = holds.or_else(|| outcome.has_fired.then_some(true));
        let decision = match holds {
            _ if outcome.has_fired => Decision::Fired,
            None => Decision::Unknown,
            Some(false) => Decision::NotMet,
            Some(true) => Decision::Suppressed,
        };
        let is_moment = leaves.iter().all(|leaf| leaf.test.is_crossing());
        let has_fired = record.has(flag::FIRED);
        let mut reasons = vec![match outcome.has_fired {
            true => fire_words(phase).to_owned(),
            false => phase_words(phase, outcome.is_deferred, has_fired, is_moment).to_owned(),
        }];
        match subject.and_then(|subject| subject.continuity) {
            Some(Continuity::CatchUp) => reasons.push(
                "the newest value is the first since the restart, and was compared with the one \
                 before it"
                    .to_owned(),
            ),
            Some(Continuity::Baseline) if !outcome.has_fired => reasons.push(
                "the newest value is a new baseline, after an outage, a correction or a change of \
                 the currency: a passage to it fires nothing"
                    .to_owned(),
            ),
            _ => {}
        }
        for (number, leaf) in leaves.iter().enumerate() {
            reasons.push(self.leaf_words(leaf, states(number), outcome, now));
        }
        match &rule.condition {
            crate::Condition::All(_) => reasons.push("all of these are required".to_owned()),
            crate::Condition::Any(_) => reasons.push("one of these is required".to_owned()),
            crate::Condition::Leaf(_) => {}
        }
        Some(Explanation {
            version: record.version,
            phase,
            decision,
            holds: holds == Some(true),
            test,
            value: self.leaf_value(newest, now),
            current: subject.and_then(|subject| subject.last.clone()),
            previous: subject.and_then(|subject| subject.previous.clone()),
            reason: reasons.join("; "),
        })
    }

    fn subject_of(&self, leaf: &Leaf) -> Option<&SubjectEntry> {
        let number = *self.numbers.get(&leaf.subject)?;
        self.subjects.get(number as usize)
    }

    /// The first test of the subject whose value arrived last.
    fn newest_test(&self, leaves: &[&Leaf]) -> usize {
        let arrival = |leaf: &Leaf| self.subject_of(leaf).map_or(0, |subject| subject.arrival);
        let mut newest = (0, 0);
        for (number, leaf) in leaves.iter().enumerate() {
            if arrival(leaf) > newest.1 {
                newest = (number, arrival(leaf));
            }
        }
        newest.0
    }

    /// Whether the newest value of these tests fired the rule.
    fn has_fired_now(&self, slot: u32, record: &Record, leaves: &[&Leaf]) -> bool {
        let subjects: Vec<_> = leaves
            .iter()
            .filter_map(|leaf| self.subject_of(leaf))
            .collect();
        let newest = subjects.iter().map(|subject| subject.arrival).max();
        record.has(flag::NOTED)
            && newest.is_some_and(|newest| {
                subjects
                    .iter()
                    .any(|subject| subject.fired.has(newest, slot))
            })
    }

    /// The value that a test compares, also of a rule that is not judged.
    fn leaf_value(&self, leaf: &Leaf, now: Now) -> Option<Decimal> {
        let subject = self.subject_of(leaf)?;
        match leaf.signal {
            SignalKind::Value | SignalKind::State => subject.last.as_ref().map(|last| last.value),
            SignalKind::Age => {
                let age_ms = now.monotonic_ms.saturating_sub(subject.last_live_ms?);
                Some(Decimal::from(age_ms))
            }
            kind => {
                let mut signals = subject.signals.iter();
                let signal = signals.find(|signal| self.signals[**signal as usize].kind == kind)?;
                self.signals[*signal as usize].value
            }
        }
    }

    /// Whether a test is true now. `None` if that is not known.
    fn leaf_truth(
        &self,
        leaf: &Leaf,
        state: LeafState,
        outcome: Outcome,
        now: Now,
    ) -> Option<bool> {
        let value = self.leaf_value(leaf, now)?;
        let is_live = self.subject_of(leaf)?.is_live();
        let is_known = !outcome.is_attached || state.is_known();
        if !is_known || !is_live && leaf.signal != SignalKind::Age {
            return None;
        }
        Some(match (leaf.test.is_crossing(), outcome.is_attached) {
            (true, _) => is_crossed(state, outcome),
            (false, true) => state.is_on(),
            (false, false) => leaf.test.is_true(value),
        })
    }

    /// One test in words, with the values that it compares.
    fn leaf_words(&self, leaf: &Leaf, state: LeafState, outcome: Outcome, now: Now) -> String {
        let name = signal_words(&leaf.subject, leaf.signal);
        let Some(subject) = self.subject_of(leaf) else {
            return format!("{name} is not known yet");
        };
        let wanted = test_words(&leaf.test);
        let Some(value) = self.leaf_value(leaf, now) else {
            let mut signals = subject.signals.iter();
            let signal = signals.find(|signal| self.signals[**signal as usize].kind == leaf.signal);
            let signal = signal.map(|signal| &self.signals[*signal as usize]);
            let coverage = signal.and_then(|signal| signal.coverage(now.monotonic_ms));
            return match coverage {
                Some((has_ms, needs_ms)) if has_ms < needs_ms => format!(
                    "{name} is unknown: too short a history, {} of {}",
                    duration(has_ms),
                    duration(needs_ms)
                ),
                Some(_) => format!("{name} is unknown: its sources report no basis for it"),
                None if outcome.is_attached => format!("{name} is not known yet"),
                None => format!("{name} is not computed for a rule that is not judged"),
            };
        };
        let liveness = match subject.liveness {
            Liveness::Live | Liveness::Never => "",
            Liveness::Stale { .. } => ", and no source counts at present",
            Liveness::Restored => {
                ", known from before the restart; the first new value is compared with it \
                 unless it is older than the catch-up time"
            }
            Liveness::Corrected => ", and its venue took it back",
        };
        let is_known = !outcome.is_attached || state.is_known();
        let truth = match (is_known, leaf.test.is_crossing()) {
            (false, _) => "not compared yet",
            (true, true) => crossing_words(&leaf.test, state, value, outcome),
            (true, false) if outcome.is_attached && state.is_on() => "true",
            (true, false) if !outcome.is_attached && leaf.test.is_true(value) => "true",
            (true, false) => "false",
        };
        let value = match leaf.signal {
            SignalKind::State => transaction_words(value),
            _ => value.normalize().to_string(),
        };
        format!("{name} is {value}, {wanted}: {truth}{liveness}")
    }
}

/// Whether a crossing is true: it is what the rule fires for, or is to fire for.
const fn is_crossed(state: LeafState, outcome: Outcome) -> bool {
    (outcome.has_fired || outcome.is_deferred) && (outcome.is_single || state.is_marked())
}

fn crossing_words(test: &Test, state: LeafState, value: Decimal, outcome: Outcome) -> &'static str {
    if is_crossed(state, outcome) {
        return "crossed";
    }
    if !outcome.is_attached {
        return "not judged";
    }
    match test {
        Test::CrossesEither { .. } | Test::TurnsEither => "not crossed by this value",
        _ if !state.is_on() => "not crossed",
        _ if test.is_true(value) => "not crossed by this value, which was past it already",
        _ => "not crossed by this value, and not back by the hysteresis",
    }
}

const fn fire_words(phase: Phase) -> &'static str {
    match phase {
        Phase::Exhausted => "the newest value fired it, as often as it may fire",
        Phase::Cooldown => "the newest value fired it, and its cooldown began",
        _ => "the newest value fired it",
    }
}

const fn phase_words(
    phase: Phase,
    is_deferred: bool,
    has_fired: bool,
    is_moment: bool,
) -> &'static str {
    match phase {
        Phase::Stopped => "stopped after 15 fires in three minutes",
        Phase::Disabled => "disabled by its owner",
        Phase::Exhausted => "it has fired as often as allowed",
        Phase::Expired => "expired",
        Phase::Snoozed if is_deferred => {
            "snoozed; the condition became true meanwhile, and fires at the end if it still is"
        }
        Phase::Snoozed => "snoozed",
        Phase::Cooldown if is_deferred => {
            "in its cooldown; the condition became true again meanwhile, and fires at the end if it still is"
        }
        Phase::Cooldown => "in its cooldown",
        Phase::Pending => "it waits for its first known value",
        Phase::Armed => "armed",
        Phase::Firing if is_moment && has_fired => {
            "it fired when the value crossed, and the value must be back before it can cross again"
        }
        Phase::Firing if is_moment => {
            "the value was past the threshold when the rule was armed, and must be back before it can cross"
        }
        Phase::Firing if has_fired => "it fired, and fires again only after its condition ended",
        Phase::Firing => {
            "its condition was true when it was armed, and must end before it can fire"
        }
        Phase::Recovering => "it waits until the value is back past the hysteresis",
    }
}

/// The name of a transaction's state, of its number.
fn transaction_words(number: Decimal) -> String {
    let state = i32::try_from(number).ok();
    let state = state.and_then(|number| number.try_into().ok());
    state.map_or_else(|| number.to_string(), state_name)
}

fn signal_words(subject: &Subject, signal: SignalKind) -> String {
    let name = match subject {
        Subject::Symbol(symbol) => format!("price of {symbol}"),
        Subject::Gas(chain) => format!("gas price of chain {chain} in gwei"),
        Subject::Portfolio { portfolio, .. } => format!("value of portfolio {portfolio}"),
        Subject::Transaction { hash, .. } => format!("state of transaction {hash}"),
    };
    match signal {
        SignalKind::Value | SignalKind::State => name,
        SignalKind::ChangePercent { window_ms } => {
            format!(
                "change in percent over {} of the {name}",
                duration(window_ms)
            )
        }
        SignalKind::ChangeAbsolute { window_ms } => {
            format!("change over {} of the {name}", duration(window_ms))
        }
        SignalKind::AverageGap { fast_ms, slow_ms } => format!(
            "average over {} minus that over {} of the {name}",
            duration(fast_ms),
            duration(slow_ms)
        ),
        SignalKind::VolumeRatio { window_ms } => {
            format!(
                "ratio of the volume over {} to the usual one, for the {name},",
                duration(window_ms)
            )
        }
        SignalKind::Age => format!("age in milliseconds of the {name}"),
        SignalKind::DrawdownPercent { .. } => format!("fall in percent from the highest {name}"),
        SignalKind::DrawdownAbsolute { .. } => format!("fall from the highest {name}"),
    }
}

fn test_words(test: &Test) -> String {
    match test {
        Test::Above(threshold) => format!("wanted at least {threshold}"),
        Test::Below(threshold) => format!("wanted at most {threshold}"),
        Test::StaysAbove {
            threshold,
            hysteresis,
        } => format!("wanted at least {threshold}, with a hysteresis of {hysteresis}"),
        Test::StaysBelow {
            threshold,
            hysteresis,
        } => format!("wanted at most {threshold}, with a hysteresis of {hysteresis}"),
        Test::CrossesUp { threshold, .. } => format!("wanted to cross {threshold} upwards"),
        Test::CrossesDown { threshold, .. } => format!("wanted to cross {threshold} downwards"),
        Test::CrossesEither { threshold, .. } => format!("wanted to cross {threshold}"),
        Test::Enters { low, high } => format!("wanted to enter {low} to {high}"),
        Test::Exits { low, high } => format!("wanted to leave {low} to {high}"),
        Test::TurnsPositive => "wanted to turn positive".to_owned(),
        Test::TurnsNegative => "wanted to turn negative".to_owned(),
        Test::TurnsEither => "wanted to change its sign".to_owned(),
        Test::Reaches(state) => format!("wanted {}", state_name(*state)),
    }
}

/// A duration in seconds, or milliseconds if it has a fraction of a second.
fn duration(milliseconds: u64) -> String {
    match milliseconds % 1_000 {
        0 => format!("{} s", milliseconds / 1_000),
        _ if milliseconds >= 10_000 => format!("{} s", milliseconds / 1_000),
        _ => format!("{milliseconds} ms"),
    }
}
