//! Inputs of the evaluator: values as they arrive, and the time.

use std::sync::Arc;

use rust_decimal::Decimal;
use tidewire_proto::v1::TransactionState;

use crate::SubjectId;

/// The time of an input, by both clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Now {
    /// Wall clock, in milliseconds since the Unix epoch. Snooze and expiry follow it.
    pub wall_ms: i64,
    /// Monotonic clock, in milliseconds since any start of this run. Windows, staleness and
    /// cooldowns follow it.
    pub monotonic_ms: u64,
}

/// Names of the sources of a value. `None` is cheap and means that they are not known.
pub type Sources = Option<Arc<[Box<str>]>>;

/// A value that arrived.
#[derive(Debug, Clone, PartialEq)]
pub struct Tick {
    /// The value: price, gwei, or portfolio value. Values that are not positive are ignored,
    /// except those of portfolios, which may be zero.
    pub value: Decimal,
    /// When it was formed, in microseconds since the Unix epoch.
    pub formed_us: i64,
    /// Its sources.
    pub sources: Sources,
}

impl Tick {
    /// A tick without sources.
    #[must_use]
    pub const fn new(value: Decimal, formed_us: i64) -> Self {
        Self {
            value,
            formed_us,
            sources: None,
        }
    }
}

/// An input.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// A live price of a symbol.
    Price {
        /// The price.
        tick: Tick,
        /// The volume traded since the last tick, in the quote currency. `None` if the sources
        /// do not say.
        volume: Option<Decimal>,
    },
    /// No source of the symbol or chain counts any more. Its last value fires nothing.
    Stale,
    /// A venue took back its last price. The first price after it is a new baseline: it fires
    /// nothing, because the corrected price never was.
    Correction,
    /// A gas price, in gwei.
    Gas(Tick),
    /// A portfolio's value.
    Portfolio {
        /// The value.
        tick: Tick,
        /// Its currency.
        currency: Box<str>,
    },
    /// A transaction's state.
    Transaction {
        /// The state.
        state: TransactionState,
        /// Whether a reorg took back a state that was reported before.
        is_retraction: bool,
        /// When it was observed, in microseconds since the Unix epoch.
        observed_us: i64,
    },
    /// The symbol is not traded any more. Owners of its rules receive one notice.
    Vanished,
}

/// The evaluator still judges earlier values of this subject and its queue is full. Poll, then
/// apply the input again; or replace waiting inputs by their lowest, highest and last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} has too many values that are not judged yet, poll first")]
pub struct Busy(pub SubjectId);
