//! Notices: what users learn about the transactions of their wallets, also while they are offline.
//!
//! The path of a notice:
//!
//! ```text
//! block ─▶ tracker ─▶ journal ─▶ queue ─▶ sender ─▶ NoticeSink
//!          depth       one transaction    until the sink has stored it
//! ```
//!
//! [`NoticeTracker`] decides who learns what, and when. The journal stores its notices in the
//! transaction of the block that causes them. [`NoticeSender`] passes them on and removes them
//! after the sink has stored them. If the server is killed in between, the notice is passed on
//! again with the same [key](StoredNotice::key), by which the sink recognises it. This crate does
//! not know what the sink does with a notice.

mod limits;
mod queue;
mod sender;
mod tracker;

use std::{future::Future, pin::Pin};

use alloy::primitives::{Address, B256, U256};
use serde::{Deserialize, Serialize};
use tidewire_store::{Batch, Store, StoreError, Table};

pub(crate) use limits::PaymentLimits;
pub(crate) use queue::NoticeQueue;
pub(crate) use sender::NoticeSender;
pub(crate) use tracker::{NoticeContext, NoticeTracker};

use crate::transaction::BlockNumHash;

/// Transactions that are not confirmed yet, or that a reorg may still take back.
const CANDIDATES: Table = Table("chain.notice.candidates");

/// Notices that the sink has not stored yet.
const QUEUE: Table = Table("chain.notice.queue");

/// The number of the next notice.
const NUMBERS: Table = Table("chain.notice.numbers");

/// Subject of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeTopic {
    /// A transaction that the user's wallet sent, or that a back end watches for the user.
    Transaction,
    /// A payment to the user's wallet.
    Payment,
}

/// State that a notice reports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NoticeState {
    /// Its block has the required confirmations.
    Confirmed,
    /// It reverted, and its block has the required confirmations.
    Failed,
    /// Another transaction used its nonce.
    Replaced,
    /// Another transaction of no value used its nonce.
    Cancelled,
    /// No node has it any more.
    Dropped,
    /// A reorg took back what an earlier notice reported.
    Reorged,
}

impl NoticeState {
    /// The name in data and keys.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Confirmed => "confirmed",
            Self::Failed => "failed",
            Self::Replaced => "replaced",
            Self::Cancelled => "cancelled",
            Self::Dropped => "dropped",
            Self::Reorged => "reorged",
        }
    }
}

/// Whether a notice stands alone or replaces earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Grouping {
    /// Each transaction has a notification of its own.
    Single,
    /// The newest payment of a token to a wallet replaces the one before. So are payments that
    /// anybody can cause at no cost.
    Grouped,
}

/// The token of a payment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeToken {
    /// Its contract.
    pub address: Address,
    /// Its symbol, if the configuration lists the token: others may advertise in theirs.
    pub symbol: Option<String>,
    /// Its decimals, if a node returned them.
    pub decimals: Option<u32>,
    /// Whether the configuration lists the token.
    pub is_listed: bool,
}

/// Facts about a transaction or a payment, as far as they are known.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoticeFacts {
    /// The sender.
    pub from: Option<Address>,
    /// The recipient.
    pub to: Option<Address>,
    /// The amount, in the smallest unit of the coin or the token.
    pub value: Option<U256>,
    /// The token. None for the chain's coin.
    pub token: Option<NoticeToken>,
    /// Why it failed or was dropped.
    pub reason: Option<String>,
    /// The transaction that used its nonce.
    pub replaced_by: Option<B256>,
}

/// One piece of news for one user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notice {
    /// The chain's id.
    pub chain: u64,
    /// The user's id.
    pub user: String,
    /// Its subject.
    pub topic: NoticeTopic,
    /// The state of the transaction.
    pub state: NoticeState,
    /// Whether it replaces earlier notices of the same token.
    pub grouping: Grouping,
    /// The transaction's hash.
    pub hash: B256,
    /// The user's wallet. None for a transaction that is watched without it.
    pub wallet: Option<Address>,
    /// The block of the transaction, if it is or was in one.
    pub block: Option<BlockNumHash>,
    /// The known facts about it.
    pub facts: NoticeFacts,
}

/// A notice from the queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredNotice {
    /// Its number. Numbers grow and are never used again.
    pub number: u64,
    /// The notice.
    pub notice: Notice,
}

impl StoredNotice {
    /// The idempotency key: the same for every attempt, and another for every notice.
    #[must_use]
    pub fn key(&self) -> String {
        let Notice {
            chain, hash, state, ..
        } = &self.notice;
        format!("{chain}:{hash}:{}:{}", state.as_str(), self.number)
    }
}

/// A sink that cannot store notices at present.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SinkUnavailable(pub String);

/// A future that a sink returns.
pub type SinkFuture<'a> = Pin<Box<dyn Future<Output = Result<(), SinkUnavailable>> + Send + 'a>>;

/// Receiver of notices, which the composition root provides.
pub trait NoticeSink: Send + Sync + 'static {
    /// Stores all notices, in their order. It recognises a repeated one by its
    /// [key](StoredNotice::key). After an error all of them come again.
    fn store(&self, notices: Vec<StoredNotice>) -> SinkFuture<'_>;
}

/// Removes the state of notices. A server that makes none must not find an old state later, when
/// it makes them again.
pub(crate) async fn clear(store: &dyn Store) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for table in [CANDIDATES, QUEUE] {
        if store.scan(table, Vec::new(), None, 1).await?.is_empty() {
            continue;
        }
        batch.delete_range(table, Vec::new(), vec![u8::MAX; 64]);
    }
    match batch.is_empty() {
        true => Ok(()),
        false => store.commit(batch).await,
    }
}
