//! Explanation: why a rule did or did not fire, in words.

use rust_decimal::Decimal;

use crate::{Phase, SubjectValue};

/// The decision about a rule at its subject's last value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The value is not known yet, or the history is too short.
    Unknown,
    /// The condition is false.
    False,
    /// The condition is true and fired the rule, or was true when the rule was armed.
    True,
    /// The condition became true while the rule was snoozed or cooled down. The rule fires at the
    /// end if the condition is still true.
    Deferred,
    /// The rule is disabled, stopped, expired or exhausted, and is not judged.
    NotJudged,
}

/// An explanation.
#[derive(Debug, Clone, PartialEq)]
pub struct Explanation {
    /// The rule's version.
    pub version: u32,
    /// The rule's phase.
    pub phase: Phase,
    /// The decision.
    pub decision: Decision,
    /// The value that the first condition tests.
    pub value: Option<Decimal>,
    /// The last value of the first condition's subject.
    pub current: Option<SubjectValue>,
    /// The value before it.
    pub previous: Option<SubjectValue>,
    /// The reason in words.
    pub reason: String,
}
