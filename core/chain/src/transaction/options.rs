//! What a chain's operator can set.

/// How a [`TransactionTracker`](super::TransactionTracker) judges. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionOptions {
    /// The chain's id.
    pub chain: u64,
    /// How many blocks make a transaction confirmed; its own is the first.
    pub required: u32,
    /// After how many blocks a block counts as final, where the chain itself does not say.
    pub finality_depth: u64,
    /// How long a hash is looked for that no node has seen.
    pub unknown_limit: i64,
    /// How long a transaction may wait in the pool.
    pub pending_limit: i64,
    /// How long a block may take to become final.
    pub settle_limit: i64,
    /// How many checks in a row must miss a transaction before it is dropped.
    pub drop_checks: u8,
    /// How long it must have been missing by then.
    pub drop_after: i64,
    /// How many transactions are checked in one turn, whatever is watched.
    pub checks_per_turn: usize,
    /// How many transactions can be watched.
    pub max_watches: usize,
    /// How many final states are remembered for those who ask.
    pub max_ended: usize,
}

impl TransactionOptions {
    /// How often a transaction is looked for that is missing: as often as it takes to be
    /// sure in time.
    pub(super) fn check_pause(&self) -> i64 {
        self.drop_after / i64::from(self.drop_checks.max(1))
    }

    /// What suits a chain with blocks every few seconds.
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
            checks_per_turn: 100,
            max_watches: 100_000,
            max_ended: 10_000,
        }
    }
}
