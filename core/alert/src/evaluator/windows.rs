//! Windows: how many different ones of a subject rules may use, and one user's share of them.
//!
//! A window holds a history of 120 steps, and all rules that test it share it. The *common* windows of
//! a symbol have usual lengths. They are few, and there is always room for them. A symbol has room for
//! 64 others, of which one user's rules use up to eight. Eight users can therefore take that room, and
//! everyone else tests common windows, or those. A portfolio belongs to one user, who may use all.
//!
//! Example: Ada's rules test `BTC-USD` over eight windows of odd lengths. She may register further
//! rules over these, or over an hour, but none over a ninth. Bob may, also over Ada's.

use std::collections::{BTreeSet, HashMap};

use super::Evaluator;
use crate::{Now, Rule, RuleError, SignalKind, Subject};

/// Windows of one subject, beside the common ones. Each holds a history of 120 steps.
const MOST_WINDOWS: usize = 64;

/// The lengths of common windows, in milliseconds. The changes, volumes and pairs of averages over
/// them are at most 44 windows of a symbol.
const COMMON_MS: [u64; 8] = [
    60_000,
    5 * 60_000,
    15 * 60_000,
    30 * 60_000,
    60 * 60_000,
    4 * 60 * 60_000,
    24 * 60 * 60_000,
    7 * 24 * 60 * 60_000,
];

/// These lengths in words.
const COMMON: &str = "1, 5, 15 or 30 minutes, 1 or 4 hours, 1 or 7 days";

/// Windows of one subject that the rules of one user may test, except of the user's portfolios.
const SHARE: usize = 8;

/// Number of the user who owns a rule, chosen by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct OwnerId(pub u32);

/// The windows that users' rules test.
#[derive(Debug, Default)]
pub(super) struct WindowUse {
    /// Tests of the rules of one user, by the number of the signal.
    tests: HashMap<(OwnerId, u32), u32>,
}

impl WindowUse {
    pub(super) fn add(&mut self, owner: OwnerId, signal: u32) {
        *self.tests.entry((owner, signal)).or_default() += 1;
    }

    pub(super) fn remove(&mut self, owner: OwnerId, signal: u32) {
        if let Some(tests) = self.tests.get_mut(&(owner, signal)) {
            *tests -= 1;
            if *tests == 0 {
                self.tests.remove(&(owner, signal));
            }
        }
    }

    fn of(&self, owner: OwnerId, signal: u32) -> u32 {
        self.tests.get(&(owner, signal)).copied().unwrap_or(0)
    }
}

impl SignalKind {
    /// Whether the signal is the value of its subject itself.
    pub(super) const fn is_plain(self) -> bool {
        matches!(self, Self::Value | Self::State)
    }

    /// Whether the signal has a history of its own. There are only a few others for each subject.
    pub(super) const fn has_window(self) -> bool {
        match self {
            Self::Value | Self::Age | Self::State => false,
            Self::ChangePercent { .. }
            | Self::ChangeAbsolute { .. }
            | Self::AverageGap { .. }
            | Self::VolumeRatio { .. } => true,
            Self::DrawdownPercent { window_ms } | Self::DrawdownAbsolute { window_ms } => {
                window_ms.is_some()
            }
        }
    }
}

/// Whether there is always room for a window.
fn is_common(subject: &Subject, kind: SignalKind) -> bool {
    let is_usual = |window_ms: u64| COMMON_MS.contains(&window_ms);
    matches!(subject, Subject::Symbol(_))
        && match kind {
            SignalKind::ChangePercent { window_ms } | SignalKind::VolumeRatio { window_ms } => {
                is_usual(window_ms)
            }
            SignalKind::AverageGap { fast_ms, slow_ms } => is_usual(fast_ms) && is_usual(slow_ms),
            _ => false,
        }
}

impl Evaluator {
    /// Whether the evaluator has room for the rule's windows. Ask before the rule is stored.
    ///
    /// # Errors
    /// A subject would have more than 64 different windows beside the common ones.
    pub fn admit(&self, rule: &Rule) -> Result<(), RuleError> {
        self.admit_of(None, None, rule)
    }

    /// Whether the evaluator has room for the windows of a user's rule, and the user a share of it.
    /// `replaced` is the slot of the rule that it changes.
    ///
    /// # Errors
    /// A subject would have more than 64 different windows beside the common ones, or the user more
    /// than eight of them.
    pub fn admit_of(
        &self,
        owner: Option<OwnerId>,
        replaced: Option<u32>,
        rule: &Rule,
    ) -> Result<(), RuleError> {
        let mut wanted: Vec<(&Subject, BTreeSet<SignalKind>)> = Vec::new();
        rule.condition.each_leaf(&mut |leaf| {
            if !leaf.signal.has_window() || is_common(&leaf.subject, leaf.signal) {
                return;
            }
            match wanted.iter_mut().find(|one| *one.0 == leaf.subject) {
                Some((_, kinds)) => drop(kinds.insert(leaf.signal)),
                None => wanted.push((&leaf.subject, [leaf.signal].into())),
            }
        });
        for (subject, kinds) in wanted {
            self.admit_windows(owner, replaced, subject, kinds)?;
        }
        Ok(())
    }

    /// Whether the evaluator has room for the windows of a user's changed rule. A rule that is judged
    /// neither before nor after the change needs none.
    ///
    /// # Errors
    /// As [`Self::admit_of`].
    pub fn admit_change(
        &self,
        owner: Option<OwnerId>,
        slot: u32,
        rule: &Rule,
        now: Now,
    ) -> Result<(), RuleError> {
        let needs = rule.is_enabled && self.is_attached_after(slot, rule, now);
        match needs {
            true => self.admit_of(owner, Some(slot), rule),
            false => Ok(()),
        }
    }

    fn admit_windows(
        &self,
        owner: Option<OwnerId>,
        replaced: Option<u32>,
        subject: &Subject,
        wanted: BTreeSet<SignalKind>,
    ) -> Result<(), RuleError> {
        let entry = self.numbers.get(subject);
        let entry = entry.and_then(|number| self.subjects.get(*number as usize));
        let given_back = replaced.map_or_else(Vec::new, |slot| self.windows_of(slot));
        // The windows of all, and those of the owner, before and after.
        let (mut all, mut own) = (wanted.clone(), wanted);
        let (mut all_before, mut own_before) = (0, 0);
        for number in entry.into_iter().flat_map(|entry| entry.signals.iter()) {
            let signal = &self.signals[*number as usize];
            if !signal.kind.has_window() || is_common(subject, signal.kind) {
                continue;
            }
            let replaced = given_back.iter().filter(|other| *other == number).count() as u32;
            all_before += 1;
            if signal.tests > replaced {
                all.insert(signal.kind);
            }
            let tests = owner.map_or(0, |owner| self.window_use.of(owner, *number));
            own_before += usize::from(tests > 0);
            if tests > replaced {
                own.insert(signal.kind);
            }
        }
        let or_common = match subject {
            Subject::Symbol(_) => format!(", or a window of {COMMON}"),
            _ => String::new(),
        };
        // Rules that were stored before a bound shrank can still be changed.
        if all.len() > MOST_WINDOWS.max(all_before) {
            let problem = format!(
                "rules test {subject} over {all_before} different windows already, which is the maximum: expected one of these{or_common}"
            );
            return Err(RuleError::new("condition", problem));
        }
        let is_own = matches!(subject, Subject::Portfolio { .. });
        if owner.is_some() && !is_own && own.len() > SHARE.max(own_before) {
            let problem = format!(
                "the rules of this user test {subject} over {own_before} different windows, and the share of one user is {SHARE}: expected one of these{or_common}"
            );
            return Err(RuleError::new("condition", problem));
        }
        Ok(())
    }

    /// The windows that an attached rule tests, once for each test.
    fn windows_of(&self, slot: u32) -> Vec<u32> {
        let Some(record) = self.records.get(slot) else {
            return Vec::new();
        };
        if record.has(super::records::flag::DETACHED) {
            return Vec::new();
        }
        match self.simple_signal(record) {
            Some(signal) => vec![signal],
            None => {
                let complex = self.complexes.get(record.signal as usize);
                let tests = complex.iter().flat_map(|complex| &complex.tests);
                tests.map(|one| one.signal).collect()
            }
        }
    }
}
