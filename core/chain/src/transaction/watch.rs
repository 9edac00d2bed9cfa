//! Watch: one watched transaction, its phase, and who is interested in it.

use alloy::primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};
use smallvec::SmallVec;

use super::WatchSlot;

/// How long an interest in a transaction lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// Until a session unsubscribes or ends.
    Session,
    /// Until the final state, for a back end, with a user whom the transaction concerns. Further
    /// users may follow.
    Durable(Option<String>),
    /// Until the final state, for rules that test it. A back end cannot end it.
    Rules,
}

/// A block by height and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockNumHash {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// The outcome of an included transaction, after its receipt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// The reason, if it failed.
    pub(super) failure: Option<Box<str>>,
    pub(super) gas_used: u64,
    /// In wei.
    pub(super) gas_price: u128,
}

/// The phase of a watched transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Unknown,
    Pending {
        reorged: bool,
    },
    /// In a block. Nothing is published before the outcome is known.
    Included {
        at: BlockNumHash,
        outcome: Option<Outcome>,
    },
    /// Another transaction used its nonce.
    Superseded {
        at: BlockNumHash,
        by: B256,
        cancelled: bool,
    },
}

impl Phase {
    /// The block that the phase depends on, and that a reorg could take back.
    pub(super) fn block(&self) -> Option<BlockNumHash> {
        match self {
            Self::Included { at, .. } | Self::Superseded { at, .. } => Some(*at),
            Self::Unknown | Self::Pending { .. } => None,
        }
    }

    /// Whether it is in a block and its outcome is unknown.
    pub(super) fn is_unsettled(&self) -> bool {
        matches!(self, Self::Included { outcome: None, .. })
    }
}

/// A watched transaction. Times are in milliseconds since the Unix epoch.
#[derive(Debug)]
pub(super) struct Watch {
    /// Its place in the table, which is free again once the watch is gone.
    pub(super) _slot: WatchSlot,
    /// Sender and nonce, once known.
    pub(super) account: Option<(Address, u64)>,
    pub(super) phase: Phase,
    /// The start of the phase.
    pub(super) since: i64,
    pub(super) next_check: i64,
    /// When the watch times out.
    pub(super) deadline: i64,
    /// Checks in this phase.
    pub(super) checks: u8,
    /// The last checks in a row that missed it, and the time of the first.
    pub(super) misses: u8,
    pub(super) first_miss: i64,
    /// Its transfer, once known.
    pub(super) transfer: Option<Box<Transfer>>,
    /// Whether a node answered that it does not have the transaction.
    pub(super) is_missed: bool,
    /// Interests of sessions.
    pub(super) sessions: u32,
    /// The interest of a back end: the users whom it concerns, sorted. Nearly always there is one.
    pub(super) durable: Option<SmallVec<[Box<str>; 1]>>,
    /// Whether rules are interested.
    pub(super) rules: bool,
    /// Error signatures that the watchers brought along.
    pub(super) abi: Box<[String]>,
}

/// Coins that a transaction itself moves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Transfer {
    /// The recipient. None if it creates a contract.
    pub to: Option<Address>,
    /// The amount, in wei.
    pub value: U256,
}

/// A watch as the store has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWatch {
    /// The transaction.
    pub hash: B256,
    /// The user whom it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Further users whom it concerns.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub further_users: Vec<String>,
    /// Sender and nonce, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(Address, u64)>,
    /// Whether rules are interested.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub rules: bool,
    /// Whether no back end is.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub only_rules: bool,
    /// Error signatures that the watchers brought along.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abi: Vec<String>,
    /// Its phase.
    pub phase: StoredPhase,
    /// The start of the phase, in milliseconds since the Unix epoch.
    pub since: i64,
}

/// The phase of a stored watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredPhase {
    /// No node had seen it.
    Unknown,
    /// It was in no block.
    Pending {
        /// A reorg took its block back.
        reorged: bool,
    },
    /// It was in this block.
    Included(BlockNumHash),
    /// Another transaction used its nonce.
    Superseded {
        /// The block of the other.
        at: BlockNumHash,
        /// The other's hash.
        by: B256,
        /// The other pays nothing to the sender itself, which cancels.
        cancelled: bool,
    },
}

impl Watch {
    /// Why the transaction is unknown: no node has it, or no node has answered.
    pub(super) fn why_unknown(&self) -> &'static str {
        match self.is_missed {
            true => "no node has seen it",
            false => "no node has answered",
        }
    }

    /// Whether the watch outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        self.durable.is_some() || self.rules
    }

    /// The watch as the store has it. `None` if neither a back end nor a rule is interested.
    pub(super) fn stored(&self, hash: B256) -> Option<StoredWatch> {
        if !self.is_durable() {
            return None;
        }
        let mut users = self.durable.iter().flatten().map(ToString::to_string);
        Some(StoredWatch {
            hash,
            rules: self.rules,
            only_rules: self.durable.is_none(),
            user: users.next(),
            further_users: users.collect(),
            account: self.account,
            abi: self.abi.to_vec(),
            phase: match &self.phase {
                Phase::Unknown => StoredPhase::Unknown,
                Phase::Pending { reorged } => StoredPhase::Pending { reorged: *reorged },
                Phase::Included { at, .. } => StoredPhase::Included(*at),
                Phase::Superseded { at, by, cancelled } => StoredPhase::Superseded {
                    at: *at,
                    by: *by,
                    cancelled: *cancelled,
                },
            },
            since: self.since,
        })
    }
}

impl From<StoredPhase> for Phase {
    fn from(stored: StoredPhase) -> Self {
        match stored {
            StoredPhase::Unknown => Self::Unknown,
            StoredPhase::Pending { reorged } => Self::Pending { reorged },
            StoredPhase::Included(at) => Self::Included { at, outcome: None },
            StoredPhase::Superseded { at, by, cancelled } => Self::Superseded { at, by, cancelled },
        }
    }
}
