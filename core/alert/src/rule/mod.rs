//! Rule: a checked alert rule.
//!
//! Every condition tests one value of one subject, its *signal*: a price, a change within a
//! window, an age … `parse` makes rules of messages and refuses what could never fire.

mod numbers;
mod parse;

pub(crate) use parse::EARLIEST_MS;

use rust_decimal::Decimal;
use tidewire_proto::v1::{AlertRule, TransactionState};

use crate::{Catalog, Limits, Now, RuleError, Subject};

/// A part of a rule, or why it is refused.
type Outcome<T> = Result<T, RuleError>;

/// A checked rule. Name, priority and template stay in the message, since judging needs none.
#[derive(Debug, Clone, PartialEq)]
pub struct Rule {
    /// The condition.
    pub condition: Condition,
    /// How often the rule may fire.
    pub repeat: Repeat,
    /// Pause after each fire, in milliseconds.
    pub cooldown_ms: u32,
    /// Expiry, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<i64>,
    /// End of the snooze, in milliseconds since the Unix epoch.
    pub snoozed_until_ms: Option<i64>,
    /// Whether the owner wants the rule to be judged.
    pub is_enabled: bool,
    /// Number of the rule's version, from 1. Fires carry it.
    pub version: u32,
}

impl Rule {
    /// Checks a rule that a client registers or changes. `owner` is the user whose portfolios it
    /// may test. `template` is the rule's text template.
    ///
    /// # Errors
    /// The rule is invalid, or it could never fire. The error names the field.
    pub fn from_proto(
        rule: &AlertRule,
        owner: &str,
        template: Option<&str>,
        limits: &Limits,
        catalog: &dyn Catalog,
        now: Now,
    ) -> Result<Self, RuleError> {
        parse::check(rule, owner, template, limits, catalog, now)
    }

    /// Reads a rule that was checked when it was stored. Only its form is checked: it may have
    /// expired, and its symbol may have vanished.
    ///
    /// # Errors
    /// The stored rule is malformed.
    pub fn restore(rule: &AlertRule, owner: &str, version: u32) -> Result<Self, RuleError> {
        parse::restore(rule, owner, version)
    }

    /// The same rule as another version.
    #[must_use]
    pub fn with_version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// The subjects that the rule tests, each once.
    #[must_use]
    pub fn subjects(&self) -> Vec<&Subject> {
        let mut subjects: Vec<_> = self
            .condition
            .leaves()
            .iter()
            .map(|leaf| &leaf.subject)
            .collect();
        subjects.sort_unstable();
        subjects.dedup();
        subjects
    }
}

/// How often a rule may fire.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repeat {
    /// Without limit.
    Recurring,
    /// Up to this number of times.
    Times(u32),
}

/// A condition.
#[derive(Debug, Clone, PartialEq)]
pub enum Condition {
    /// A test of one signal.
    Leaf(Leaf),
    /// All of these hold.
    All(Vec<Condition>),
    /// Any of these holds.
    Any(Vec<Condition>),
}

impl Condition {
    /// Calls `see` with each test of the condition, from left to right.
    pub(crate) fn each_leaf<'a>(&'a self, see: &mut dyn FnMut(&'a Leaf)) {
        match self {
            Self::Leaf(leaf) => see(leaf),
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().for_each(|one| one.each_leaf(see));
            }
        }
    }

    /// The tests of the condition, from left to right.
    #[must_use]
    pub fn leaves(&self) -> Vec<&Leaf> {
        match self {
            Self::Leaf(leaf) => vec![leaf],
            Self::All(conditions) | Self::Any(conditions) => {
                conditions.iter().flat_map(Self::leaves).collect()
            }
        }
    }
}

/// A test of one signal of one subject.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Leaf {
    /// The subject.
    pub subject: Subject,
    /// The signal.
    pub signal: SignalKind,
    /// The test.
    pub test: Test,
}

/// A value that is derived from a subject's values. Windows are in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum SignalKind {
    /// The value itself.
    Value,
    /// Change of the value within a window, in percent.
    ChangePercent {
        /// The window.
        window_ms: u64,
    },
    /// Change of the value within a window.
    ChangeAbsolute {
        /// The window.
        window_ms: u64,
    },
    /// Fast average minus slow average.
    AverageGap {
        /// The fast window.
        fast_ms: u64,
        /// The slow window.
        slow_ms: u64,
    },
    /// Volume of a window, divided by the mean volume of the ten windows before it.
    VolumeRatio {
        /// The window.
        window_ms: u64,
    },
    /// Time since the last live value, in milliseconds.
    Age,
    /// Fall from the highest value, in percent. Without a window, the highest value since the
    /// first.
    DrawdownPercent {
        /// The window.
        window_ms: Option<u64>,
    },
    /// Fall from the highest value.
    DrawdownAbsolute {
        /// The window.
        window_ms: Option<u64>,
    },
    /// State of a transaction.
    State,
}

/// A test of a signal. Thresholds are exact.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Test {
    /// At least the threshold.
    Above(Decimal),
    /// At most the threshold.
    Below(Decimal),
    /// At least the threshold. It ends when the value is back by the hysteresis.
    StaysAbove {
        /// The threshold.
        threshold: Decimal,
        /// Distance that the value must move back, above 0.
        hysteresis: Decimal,
    },
    /// At most the threshold. It ends when the value is back by the hysteresis.
    StaysBelow {
        /// The threshold.
        threshold: Decimal,
        /// Distance that the value must move back, above 0.
        hysteresis: Decimal,
    },
    /// From below the threshold to at least the threshold.
    CrossesUp {
        /// The threshold.
        threshold: Decimal,
        /// Distance that the value must move back before it can cross again.
        hysteresis: Decimal,
    },
    /// From above the threshold to at most the threshold.
    CrossesDown {
        /// The threshold.
        threshold: Decimal,
        /// Distance that the value must move back before it can cross again.
        hysteresis: Decimal,
    },
    /// Either. Each direction has its own memory.
    CrossesEither {
        /// The threshold.
        threshold: Decimal,
        /// Distance that the value must move back before it can cross again.
        hysteresis: Decimal,
    },
    /// From outside into the range, bounds included.
    Enters {
        /// Lower bound.
        low: Decimal,
        /// Upper bound.
        high: Decimal,
    },
    /// From inside to outside of the range.
    Exits {
        /// Lower bound.
        low: Decimal,
        /// Upper bound.
        high: Decimal,
    },
    /// From at most zero to above zero.
    TurnsPositive,
    /// From at least zero to below zero.
    TurnsNegative,
    /// Either.
    TurnsEither,
    /// The transaction reached this state.
    Reaches(TransactionState),
}

impl Test {
    /// Whether the test is of a moment: its first value is never a fire.
    #[must_use]
    pub const fn is_crossing(&self) -> bool {
        !matches!(
            self,
            Self::Above(_)
                | Self::Below(_)
                | Self::StaysAbove { .. }
                | Self::StaysBelow { .. }
                | Self::Reaches(_)
        )
    }

    /// The threshold that a person entered, if there is exactly one.
    #[must_use]
    pub const fn threshold(&self) -> Option<Decimal> {
        match self {
            Self::Above(threshold)
            | Self::Below(threshold)
            | Self::StaysAbove { threshold, .. }
            | Self::StaysBelow { threshold, .. }
            | Self::CrossesUp { threshold, .. }
            | Self::CrossesDown { threshold, .. }
            | Self::CrossesEither { threshold, .. } => Some(*threshold),
            _ => None,
        }
    }
}
