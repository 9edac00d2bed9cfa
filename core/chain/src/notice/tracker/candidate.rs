//! Candidates: transactions and payments of a block that users may be notified of.

use std::collections::{BTreeMap, BTreeSet};

use alloy::primitives::{Address, B256};
use serde::{Deserialize, Serialize};

use crate::{
    notice::{Grouping, NoticeFacts, NoticeState, NoticeTopic},
    transaction::BlockNumHash,
};

/// Subject of a notice, which users receive once: a transaction, or a payment in it to one wallet in
/// one token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub(super) struct Subject {
    pub(super) hash: B256,
    pub(super) topic: NoticeTopic,
    wallet: Option<Address>,
    token: Option<Address>,
}

impl Subject {
    pub(super) fn transaction(hash: B256) -> Self {
        Self {
            hash,
            topic: NoticeTopic::Transaction,
            wallet: None,
            token: None,
        }
    }

    pub(super) fn payment(hash: B256, wallet: Address, token: Option<Address>) -> Self {
        Self {
            hash,
            topic: NoticeTopic::Payment,
            wallet: Some(wallet),
            token,
        }
    }
}

/// Outcome of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Outcome {
    Succeeded,
    Failed,
    Replaced,
    Cancelled,
    Dropped,
}

impl Outcome {
    pub(super) fn state(self) -> NoticeState {
        match self {
            Self::Succeeded => NoticeState::Confirmed,
            Self::Failed => NoticeState::Failed,
            Self::Replaced => NoticeState::Replaced,
            Self::Cancelled => NoticeState::Cancelled,
            Self::Dropped => NoticeState::Dropped,
        }
    }
}

/// A transaction or payment that users may be notified of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Candidate {
    /// The linked wallet that it concerns.
    pub(super) wallet: Option<Address>,
    /// None while its receipt is missing.
    pub(super) outcome: Option<Outcome>,
    pub(super) facts: NoticeFacts,
    /// The users for whom a back end watches the transaction.
    pub(super) watchers: BTreeSet<String>,
    /// The users who were notified, and how.
    pub(super) notified: BTreeMap<String, Grouping>,
    /// When the last of them was.
    pub(super) notified_ms: Option<i64>,
}

impl Candidate {
    pub(super) fn new(wallet: Option<Address>, facts: NoticeFacts) -> Self {
        Self {
            wallet,
            outcome: None,
            facts,
            watchers: BTreeSet::new(),
            notified: BTreeMap::new(),
            notified_ms: None,
        }
    }

    /// A watched transaction that is in no block.
    pub(super) fn of_watch(
        outcome: Outcome,
        facts: NoticeFacts,
        watchers: BTreeSet<String>,
    ) -> Self {
        Self {
            outcome: Some(outcome),
            watchers,
            ..Self::new(None, facts)
        }
    }

    /// Adds facts. A fact that is missing now does not replace an earlier one.
    pub(super) fn merge(&mut self, newer: NoticeFacts) {
        let older = std::mem::take(&mut self.facts);
        self.facts = NoticeFacts {
            from: newer.from.or(older.from),
            to: newer.to.or(older.to),
            value: newer.value.or(older.value),
            token: newer.token.or(older.token),
            reason: newer.reason.or(older.reason),
            replaced_by: newer.replaced_by.or(older.replaced_by),
        };
    }
}

/// The candidates of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct CandidateBlock {
    /// Whether it was deep enough at the last look, so that its users were notified.
    pub(super) is_settled: bool,
    pub(super) candidates: BTreeMap<Subject, Candidate>,
}

/// A block as the store has it.
#[derive(Serialize, Deserialize)]
struct StoredBlock {
    is_settled: bool,
    candidates: Vec<(Subject, Candidate)>,
}

impl CandidateBlock {
    pub(super) fn encode(&self) -> Option<Vec<u8>> {
        let candidates = self.candidates.iter();
        let stored = StoredBlock {
            is_settled: self.is_settled,
            candidates: candidates
                .map(|(subject, candidate)| (*subject, candidate.clone()))
                .collect(),
        };
        let encoded = serde_json::to_vec(&stored);
        encoded
            .inspect_err(|error| tracing::error!(%error, "candidates are not stored"))
            .ok()
    }
}

/// The key of a block: chain, height and hash.
pub(super) fn key(chain: u64, at: BlockNumHash) -> Vec<u8> {
    let numbers = [chain.to_be_bytes(), at.number.to_be_bytes()].concat();
    [numbers.as_slice(), at.hash.as_slice()].concat()
}

/// Reads a row. None if it is unreadable.
pub(super) fn decode(key: &[u8], value: &[u8]) -> Option<(BlockNumHash, CandidateBlock)> {
    let (number, hash) = key.get(8..)?.split_first_chunk::<8>()?;
    let stored: StoredBlock = serde_json::from_slice(value).ok()?;
    let at = BlockNumHash {
        number: u64::from_be_bytes(*number),
        hash: B256::try_from(hash).ok()?,
    };
    let block = CandidateBlock {
        is_settled: stored.is_settled,
        candidates: stored.candidates.into_iter().collect(),
    };
    Some((at, block))
}
