//! Outputs of the evaluator: fires, and the rules whose state must be stored.

use rust_decimal::Decimal;

use crate::{Now, RuleState, Sources};

/// A rule fired.
#[derive(Debug, Clone, PartialEq)]
pub struct Fire {
    /// The rule's slot.
    pub slot: u32,
    /// The rule's version.
    pub version: u32,
    /// The value that its condition tests: a price, a percentage, a ratio … In a rule of several
    /// conditions, the value of the first that passed its threshold.
    pub value: Decimal,
    /// That value before. `None` if there was none.
    pub previous: Option<Decimal>,
    /// The number of the condition that the value is of, from left to right.
    pub test: u8,
    /// The threshold that was passed, if the condition has one.
    pub threshold: Option<Decimal>,
    /// The subject's value at the time: for a symbol its price.
    pub price: Decimal,
    /// Sources of the price.
    pub sources: Sources,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// The time of the input that fired the rule.
    pub at: Now,
    /// Whether the passage happened while the server was away, and was judged by the stored
    /// last value.
    pub is_catch_up: bool,
    /// The rule's state after the fire. Store it with the fire, in one batch.
    pub state: RuleState,
}

/// An output. Each slot's outputs are in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A rule fired.
    Fire(Box<Fire>),
    /// The rule's last fire is taken back: a reorg undid the transaction's state. The rule may
    /// fire again.
    Retract {
        /// The rule's slot.
        slot: u32,
        /// The rule's version.
        version: u32,
        /// When.
        at: Now,
        /// The rule's state after it. Store it with the retraction.
        state: RuleState,
    },
    /// The rule fired too often and is disabled now: store it as disabled, and notify its owner.
    Stop {
        /// The rule's slot.
        slot: u32,
        /// The rule's version.
        version: u32,
        /// When.
        at: Now,
        /// Fires that were not delivered.
        dropped: u32,
        /// The rule's state after it.
        state: RuleState,
    },
    /// The rule's symbol vanished. Notify its owner.
    Vanish {
        /// The rule's slot.
        slot: u32,
    },
    /// The rule's state changed without a fire. Store [`crate::Evaluator::state`] of it, at the
    /// latest with the last values.
    Change {
        /// The rule's slot.
        slot: u32,
    },
}
