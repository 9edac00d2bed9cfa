//! Evaluator: one partition of rules, judged by one thread.
//!
//! The caller applies inputs, then polls outputs until there are none. A value that passes very
//! many thresholds is judged in chunks, one chunk a poll, so that other subjects are not delayed.

use crate::{
    Busy, Explanation, Input, Now, Output, Rule, RuleError, RuleState, Subject, SubjectId,
    SubjectValue,
};

/// Fires within three minutes after which a rule is stopped.
pub(crate) const AUTO_STOP_FIRES: usize = 15;

/// Settings of an evaluator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EvaluatorConfig {
    /// Longest absence over which a last value is still compared with the next, in milliseconds.
    pub catch_up_ms: u64,
}

impl Default for EvaluatorConfig {
    fn default() -> Self {
        Self {
            catch_up_ms: 5 * 60 * 1_000,
        }
    }
}

/// Counts since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct EvaluatorCounters {
    /// Inputs that were applied.
    pub inputs: u64,
    /// Rules that were judged: those whose thresholds were passed, and those with a first value.
    pub touched: u64,
    /// Fires.
    pub fired: u64,
    /// Rules in the evaluator.
    pub rules: usize,
}

/// One partition of rules.
#[derive(Debug, Default)]
pub struct Evaluator {
    counters: EvaluatorCounters,
}

impl Evaluator {
    /// An evaluator without rules.
    #[must_use]
    pub fn new(_config: EvaluatorConfig) -> Self {
        Self::default()
    }

    /// The number of a symbol, with or without rules.
    pub fn intern(&mut self, _subject: &Subject) -> SubjectId {
        SubjectId(0)
    }

    /// The number of a subject that a rule is about. `None` means that inputs need not be applied.
    #[must_use]
    pub fn subject(&self, _subject: &Subject) -> Option<SubjectId> {
        None
    }

    /// Restores the last value of a subject before its rules are inserted. The age of the value
    /// follows the wall clock, because the monotonic clock starts anew.
    pub fn restore_value(&mut self, _subject: &Subject, _value: SubjectValue, _now: Now) {}

    /// The values that changed since the last call, to be stored. At most `most` at a time.
    pub fn changed_values(&mut self, _most: usize) -> Vec<(Subject, SubjectValue)> {
        Vec::new()
    }

    /// Whether the evaluator has room for the rule's signals. Ask before the rule is stored.
    ///
    /// # Errors
    /// A subject has too many different windows.
    pub fn admit(&self, _rule: &Rule) -> Result<(), RuleError> {
        Ok(())
    }

    /// Inserts a rule in a free slot. Slots should be dense. A new rule
    /// ([`RuleState::new`]) is judged by the current values at once.
    ///
    /// # Errors
    /// As [`Self::admit`].
    pub fn insert(
        &mut self,
        _slot: u32,
        _rule: &Rule,
        _state: RuleState,
        _now: Now,
    ) -> Result<(), RuleError> {
        Ok(())
    }

    /// Changes a rule. Only a changed condition or repeat, and enabling, arm it again.
    ///
    /// # Errors
    /// As [`Self::admit`]. The rule is unchanged then.
    pub fn update(&mut self, _slot: u32, _rule: &Rule, _now: Now) -> Result<(), RuleError> {
        Ok(())
    }

    /// Removes a rule. It does not fire any more, but outputs that wait to be polled stay.
    pub fn remove(&mut self, _slot: u32) {}

    /// The state of a rule, to be stored.
    #[must_use]
    pub fn state(&self, _slot: u32, _now: Now) -> Option<RuleState> {
        None
    }

    /// The phase of a rule, to be shown.
    #[must_use]
    pub fn phase(&self, _slot: u32, _now: Now) -> Option<crate::Phase> {
        None
    }

    /// Applies an input. Unusable values (not positive, or stale) change nothing.
    ///
    /// # Errors
    /// Too many values of the subject wait to be judged.
    pub fn apply(&mut self, _subject: SubjectId, _input: Input, _now: Now) -> Result<(), Busy> {
        self.counters.inputs += 1;
        Ok(())
    }

    /// Judges what time alone changes: windows, averages, ages, and ends of cooldown, snooze and
    /// expiry.
    pub fn advance(&mut self, _now: Now) {}

    /// When [`Self::advance`] is due, in monotonic milliseconds. `None`: not before an input.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        None
    }

    /// Moves up to `most` outputs to `outputs`. Returns whether more may follow.
    pub fn poll(&mut self, _most: usize, _outputs: &mut Vec<Output>) -> bool {
        false
    }

    /// Explains a rule. The rule must be the one that was inserted.
    #[must_use]
    pub fn explain(&self, _slot: u32, _rule: &Rule, _now: Now) -> Option<Explanation> {
        None
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> EvaluatorCounters {
        self.counters
    }
}
