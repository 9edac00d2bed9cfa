//! A watched transaction and where it stands.

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

/// Who wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Interest {
    /// A connection, until it says otherwise or goes.
    Session,
    /// A back end, until the final state; the user whom it concerns, if any.
    Durable(Option<String>),
}

/// A block that holds something.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct BlockNumHash {
    /// Its height.
    pub number: u64,
    /// Its hash.
    pub hash: B256,
}

/// What inclusion came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outcome {
    /// Why it failed, if it did.
    pub(super) failure: Option<Box<str>>,
    pub(super) gas_used: u64,
    pub(super) gas_price: u128,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    Unknown,
    Pending {
        reorged: bool,
    },
    /// In a block; nothing is told before the outcome is known.
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
    /// The block that could still be taken back.
    pub(super) fn at(&self) -> Option<BlockNumHash> {
        match self {
            Self::Included { at, .. } | Self::Superseded { at, .. } => Some(*at),
            Self::Unknown | Self::Pending { .. } => None,
        }
    }
}

#[derive(Debug)]
pub(super) struct Watch {
    /// Sender and nonce, once known.
    pub(super) account: Option<(Address, u64)>,
    pub(super) phase: Phase,
    /// Since when it is in this phase.
    pub(super) since: i64,
    /// When it is checked next.
    pub(super) next_check: i64,
    /// When it is given up.
    pub(super) deadline: i64,
    /// How many checks there were in this phase.
    pub(super) checks: u8,
    /// How many of them in a row missed it, and the time of the first.
    pub(super) misses: u8,
    pub(super) first_miss: i64,
    pub(super) sessions: u32,
    pub(super) durable: Option<Option<Box<str>>>,
    /// Signatures of errors, by whoever watches it.
    pub(super) abi: Box<[String]>,
}

/// A watch as it is stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredWatch {
    /// The transaction.
    pub hash: B256,
    /// Whom it concerns.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Sender and nonce, once known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub account: Option<(Address, u64)>,
    /// Signatures of errors.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub abi: Vec<String>,
    /// Where it stood.
    pub phase: StoredPhase,
    /// Since when, in milliseconds since the Unix epoch.
    pub since: i64,
}

/// Where a stored watch stood.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredPhase {
    /// No node had seen it.
    Unknown,
    /// It was in the pool; a reorg may have put it there.
    Pending {
        /// A reorg took it back.
        reorged: bool,
    },
    /// It was in this block.
    Included(BlockNumHash),
    /// Another used its nonce.
    Superseded {
        /// In this block.
        at: BlockNumHash,
        /// The other.
        by: B256,
        /// The other pays the sender nothing.
        cancelled: bool,
    },
}

impl Watch {
    pub(super) fn stored(&self, hash: B256) -> Option<StoredWatch> {
        let user = self.durable.as_ref()?;
        Some(StoredWatch {
            hash,
            user: user.as_ref().map(ToString::to_string),
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
