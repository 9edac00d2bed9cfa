//! Explanations: why a rule did or did not fire, in words.

use rust_decimal::Decimal;

use super::{Evaluator, records::flag};
use crate::{
    Condition, Decision, Explanation, Leaf, Now, Phase, Rule, SignalKind, Subject, Test,
    leaf::LeafState,
};

impl Evaluator {
    /// Explains a rule. The rule must be the one that was inserted.
    #[must_use]
    pub fn explain(&self, slot: u32, rule: &Rule, now: Now) -> Option<Explanation> {
        let record = self.records.get(slot)?;
        let phase = self.phase(slot, now)?;
        let leaves = rule.condition.leaves();
        let first = leaves.first()?;
        let subject = self.numbers.get(&first.subject);
        let subject = subject.and_then(|number| self.subjects.get(*number as usize));
        let is_attached = !record.has(flag::DETACHED);
        let holds = if is_attached {
            self.holds(record)
        } else {
            None
        };
        let decision = match (is_attached && record.left > 0, holds) {
            (false, _) => Decision::NotJudged,
            (true, _) if record.has(flag::MISSED) => Decision::Deferred,
            (true, None) => Decision::Unknown,
            (true, Some(true)) => Decision::True,
            (true, Some(false)) => Decision::False,
        };
        let mut reasons = vec![phase_words(phase, decision, record.has(flag::FIRED)).to_owned()];
        let states = self.snapshot(record, now).leaves;
        for (number, leaf) in leaves.iter().enumerate() {
            let state = LeafState((states >> (4 * number).min(60)) as u8 & 0b1111);
            reasons.push(self.leaf_words(leaf, state, now));
        }
        if let Condition::All(_) = rule.condition {
            reasons.push("all of these are required".to_owned());
        } else if let Condition::Any(_) = rule.condition {
            reasons.push("one of these is required".to_owned());
        }
        Some(Explanation {
            version: record.version,
            phase,
            decision,
            value: self.leaf_value(first),
            current: subject.and_then(|subject| subject.last.clone()),
            previous: subject.and_then(|subject| subject.previous.clone()),
            reason: reasons.join("; "),
        })
    }

    fn leaf_value(&self, leaf: &Leaf) -> Option<Decimal> {
        let subject = self
            .subjects
            .get(*self.numbers.get(&leaf.subject)? as usize)?;
        let signal = subject
            .signals
            .iter()
            .find(|signal| self.signals[**signal as usize].kind == leaf.signal)?;
        self.signals[*signal as usize].value
    }

    /// One test in words, with the values that it compares.
    fn leaf_words(&self, leaf: &Leaf, state: LeafState, now: Now) -> String {
        let name = signal_words(&leaf.subject, leaf.signal);
        let number = self.numbers.get(&leaf.subject);
        let Some(subject) = number.and_then(|number| self.subjects.get(*number as usize)) else {
            return format!("{name} is not known yet");
        };
        let wanted = test_words(&leaf.test);
        let signals = subject
            .signals
            .iter()
            .map(|signal| &self.signals[*signal as usize]);
        let signal = signals
            .into_iter()
            .find(|signal| signal.kind == leaf.signal);
        let Some(value) = signal.and_then(|signal| signal.value) else {
            let coverage = signal.and_then(|signal| signal.coverage(now.monotonic_ms));
            return match coverage {
                Some((has_ms, needs_ms)) if has_ms < needs_ms => format!(
                    "{name} is unknown: too short a history, {} of {}",
                    duration(has_ms),
                    duration(needs_ms)
                ),
                Some(_) => format!("{name} is unknown: its sources report no basis for it"),
                None => format!("{name} is not known yet"),
            };
        };
        let liveness = match subject.liveness {
            super::subjects::Liveness::Live | super::subjects::Liveness::Never => "",
            super::subjects::Liveness::Stale { .. } => ", and no source counts at present",
            super::subjects::Liveness::Restored => {
                ", known from before the restart; the first new value is compared with it \
                 unless it is older than the catch-up time"
            }
            super::subjects::Liveness::Corrected => ", and its venue took it back",
        };
        let value = value.normalize();
        let truth = match (state.is_known(), state.is_on(), leaf.test.is_crossing()) {
            (false, _, _) => "not compared yet",
            (true, true, false) => "true",
            (true, false, false) => "false",
            (true, true, true) if leaf.test.is_true(value) => "crossed",
            (true, true, true) => "crossed, and not back by the hysteresis",
            (true, false, true) => "not crossed",
        };
        format!("{name} is {value}, {wanted}: {truth}{liveness}")
    }
}

const fn phase_words(phase: Phase, decision: Decision, has_fired: bool) -> &'static str {
    match (phase, decision) {
        (Phase::Stopped, _) => "stopped after 15 fires in three minutes",
        (Phase::Disabled, _) => "disabled by its owner",
        (Phase::Exhausted, _) => "it has fired as often as allowed",
        (Phase::Expired, _) => "expired",
        (Phase::Snoozed, Decision::Deferred) => {
            "snoozed; the condition became true meanwhile, and fires at the end if it still is"
        }
        (Phase::Snoozed, _) => "snoozed",
        (Phase::Cooldown, Decision::Deferred) => {
            "in its cooldown; the condition became true again meanwhile, and fires at the end if it still is"
        }
        (Phase::Cooldown, _) => "in its cooldown",
        (Phase::Pending, _) => "it waits for its first known value",
        (Phase::Armed, _) => "armed",
        (Phase::Firing, _) if has_fired => {
            "it fired, and fires again only after its condition ended"
        }
        (Phase::Firing, _) => {
            "its condition was true when it was armed, and must end before it can fire"
        }
        (Phase::Recovering, _) => "it waits until the value is back past the hysteresis",
    }
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
        Test::CrossesUp { threshold, .. } => format!("wanted to cross {threshold} upwards"),
        Test::CrossesDown { threshold, .. } => format!("wanted to cross {threshold} downwards"),
        Test::CrossesEither { threshold, .. } => format!("wanted to cross {threshold}"),
        Test::Enters { low, high } => format!("wanted to enter {low} to {high}"),
        Test::Exits { low, high } => format!("wanted to leave {low} to {high}"),
        Test::TurnsPositive => "wanted to turn positive".to_owned(),
        Test::TurnsNegative => "wanted to turn negative".to_owned(),
        Test::TurnsEither => "wanted to change its sign".to_owned(),
        Test::Reaches(state) => format!("wanted {} ({})", state.as_str_name(), *state as i32),
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
