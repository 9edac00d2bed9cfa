//! Outputs of the evaluator: fires, and the rules whose state must be stored.

use std::{ops::Deref, sync::Arc};

use rust_decimal::Decimal;

use crate::{Now, RuleState, Sources, leaf::LeafState};

/// The part that all fires of one signal by one value share.
#[derive(Debug, Clone, PartialEq)]
pub struct Occasion {
    /// The value that the conditions test: a price, a percentage, a ratio … In a rule of several
    /// conditions, the value of the first that passed its threshold.
    pub value: Decimal,
    /// That value before. `None` if there was none.
    pub previous: Option<Decimal>,
    /// The subject's value at the time: for a symbol its price.
    pub price: Decimal,
    /// Sources of the price.
    pub sources: Sources,
    /// When the price was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// The time of the input that fired the rules.
    pub at: Now,
    /// Whether the passage happened while the server was away, and was judged by the stored
    /// last value.
    pub is_catch_up: bool,
    /// Whether a value arrived. Otherwise time passed, or a rule was registered or changed.
    pub is_arrival: bool,
}

/// A rule fired. Half a million rules may fire at once, so that a fire is small.
#[derive(Debug, Clone, PartialEq)]
pub struct Fire {
    /// The rule's slot.
    pub slot: u32,
    /// The rule's version.
    pub version: u32,
    /// The number of the condition that the value is of, from left to right.
    pub test: u8,
    /// The threshold that was passed, if the condition has one.
    pub threshold: Option<Decimal>,
    /// The part that it shares with others.
    pub occasion: Arc<Occasion>,
    pub(crate) after: StateAfter,
}

/// The state of a rule after its fire.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum StateAfter {
    /// Of a rule of one test, whose fires are not counted.
    Plain {
        leaf: LeafState,
        flags: u8,
        left: u32,
        /// The cooldown that began, 0 for none.
        cooldown_ms: u32,
    },
    Whole(Box<RuleState>),
}

impl Fire {
    /// The rule's state after the fire. Store it with the fire, in one batch.
    #[must_use]
    pub fn state(&self) -> RuleState {
        match &self.after {
            StateAfter::Whole(state) => (**state).clone(),
            StateAfter::Plain {
                leaf,
                flags,
                left,
                cooldown_ms,
            } => RuleState {
                leaves: u64::from(leaf.0),
                fires_left: Some(*left),
                cooldown_ends_ms: (*cooldown_ms > 0)
                    .then(|| self.at.wall_ms.saturating_add(i64::from(*cooldown_ms))),
                flags: *flags,
                recent_ms: Vec::new(),
            },
        }
    }
}

// Half a million of them are made by one value.
const _: () = assert!(size_of::<Output>() <= 64);

impl Output {
    /// The rule's slot.
    #[must_use]
    pub const fn slot(&self) -> u32 {
        match self {
            Self::Fire(fire) => fire.slot,
            Self::Retract { slot, .. }
            | Self::Stop { slot, .. }
            | Self::Vanish { slot }
            | Self::Change { slot } => *slot,
        }
    }
}

impl Deref for Fire {
    type Target = Occasion;

    fn deref(&self) -> &Occasion {
        &self.occasion
    }
}

/// An output. Each slot's outputs are in order.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// A rule fired.
    Fire(Fire),
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
        state: Box<RuleState>,
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
        state: Box<RuleState>,
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
