//! Options of the transaction tracker.

/// When a [`TransactionTracker`](super::TransactionTracker) changes a state or gives up. Times
/// are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOptions {
    /// The chain's id.
    pub chain: u64,
    /// Confirmations that make a transaction confirmed. Its own block is the first.
    pub required: u32,
    /// Blocks after which a block is final, where nodes report no final block.
    pub finality_depth: u64,
    /// The time to look for a hash that no node has seen.
    pub unknown_limit: i64,
    /// The time that a transaction may stay pending.
    pub pending_limit: i64,
    /// The time that a block may take to become final.
    pub settle_limit: i64,
    /// Checks in a row that must miss a transaction before it is dropped.
    pub drop_checks: u8,
    /// The time that it must have been missing by then.
    pub drop_after: i64,
    /// Transactions that one tick checks at most, so that calls do not grow with watches.
    pub checks_per_tick: usize,
    /// Transactions that can be watched at once.
    pub max_watches: usize,
    /// Final statuses that are remembered for later requests.
    pub max_ended: usize,
}

impl TransactionOptions {
    /// The time between checks of a missing transaction: short enough for
    /// [`drop_checks`](Self::drop_checks) of them within [`drop_after`](Self::drop_after).
    pub(super) fn check_interval(&self) -> i64 {
        self.drop_after / i64::from(self.drop_checks.max(1))
    }

    /// Options for a chain with a block every few seconds.
    #[must_use]
    pub fn new(chain: u64) -> Self {
        const MINUTE: i64 = 60_000;
        Self {
            chain,
            required: 3,
            finality_depth: 64,
            unknown_limit: 30 * MINUTE,
            pending_limit: 24 * 60 * MINUTE,
            settle_limit: 24 * 60 * MINUTE,
            drop_checks: 3,
            drop_after: MINUTE,
            checks_per_tick: 100,
            max_watches: 100_000,
            max_ended: 10_000,
        }
    }
}
