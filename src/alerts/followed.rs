//! Followed transactions: those that rules wait for, until the chain engine watches them.
//!
//! A watch is durable: the chain engine follows the transaction until its final state, also after a
//! restart. A watch that fails, as while a node is away, is tried again.

use std::{collections::HashMap, time::Duration};

use parking_lot::Mutex;
use tidewire_chain::{ChainEngine, ChainError, transaction::Interest};
use tidewire_stream::UserId;
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{EngineSlot, chain_tap::add_transaction};

/// Transactions whose watches are begun at the same time.
const AT_ONCE: usize = 16;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// A chain and a hash.
type Transaction = (u64, String);

/// Transactions that are not watched yet. There are no more than rules.
pub(super) struct FollowedTransactions {
    chains: ChainEngine,
    waiting: Mutex<HashMap<Transaction, UserId>>,
    added: Notify,
}

impl FollowedTransactions {
    pub(super) fn new(chains: ChainEngine) -> Self {
        Self {
            chains,
            waiting: Mutex::default(),
            added: Notify::new(),
        }
    }

    /// Has a transaction watched, for this user.
    pub(super) fn add(&self, chain: u64, hash: &str, user: &UserId) {
        let transaction = (chain, hash.to_owned());
        self.waiting.lock().insert(transaction, user.clone());
        self.added.notify_one();
    }

    /// Begins watches until cancelled.
    pub(super) async fn run(&self, engine: &EngineSlot, cancel: CancellationToken) {
        let following = async {
            loop {
                let has_failed = self.follow_all(engine).await;
                tokio::select! {
                    () = self.added.notified() => {}
                    () = sleep(RETRY), if has_failed => {}
                }
            }
        };
        cancel.run_until_cancelled(following).await;
    }

    /// Begins all watches. True if some failed and are tried again.
    async fn follow_all(&self, engine: &EngineSlot) -> bool {
        let all: Vec<_> = {
            let waiting = self.waiting.lock();
            let pairs = waiting.iter();
            pairs
                .map(|(transaction, user)| (transaction.clone(), user.clone()))
                .collect()
        };
        let mut has_failed = false;
        for part in all.chunks(AT_ONCE) {
            let mut watches = JoinSet::new();
            for ((chain, hash), user) in part.iter().cloned() {
                let chains = self.chains.clone();
                watches.spawn(async move {
                    let interest = Interest::Durable(Some(user.as_str().to_owned()));
                    let watched = chains.watch(chain, &hash, interest, Vec::new()).await;
                    ((chain, hash), watched)
                });
            }
            while let Some(Ok((transaction, watched))) = watches.join_next().await {
                match watched {
                    Ok(status) => {
                        if let Some(engine) = engine.get() {
                            add_transaction(engine, &status);
                        }
                        self.waiting.lock().remove(&transaction);
                    }
                    Err(error @ (ChainError::UnknownChain { .. } | ChainError::Hash(_))) => {
                        tracing::warn!(%error, "the transaction of an alert cannot be watched");
                        self.waiting.lock().remove(&transaction);
                    }
                    Err(_) => has_failed = true,
                }
            }
        }
        has_failed
    }
}
