//! Explanation: why a rule did or did not fire, in words.

use rust_decimal::Decimal;

use crate::{Phase, SubjectValue};

/// Effect of the newest value on a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The condition cannot be judged: a value is not known, or its history is too short.
    Unknown,
    /// The condition is false, and a crossing is so unless this value crossed.
    NotMet,
    /// The value, or the time since then, fired the rule.
    Fired,
    /// The condition is true, and the state of the rule prevents that it fires.
    Suppressed,
}

/// An explanation.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The rule's version.
    pub version: u32,
    /// The rule's phase.
    pub phase: Phase,
    /// The effect of the newest value.
    pub decision: Decision,
    /// Whether the condition is true. A crossing is true at the value that crossed, and while it is
    /// deferred.
    pub holds: bool,
    /// The number of the test, from left to right, that `value` and both ticks are of: the first
    /// about the subject whose value arrived last.
    pub test: usize,
    /// The value that this test compares.
    pub value: Option<Decimal>,
    /// The newest value of its subject.
    pub current: Option<SubjectValue>,
    /// The value of this subject before it.
    pub previous: Option<SubjectValue>,
    /// The reason in words.
    pub reason: String,
}
