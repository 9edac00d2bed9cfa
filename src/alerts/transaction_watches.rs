//! Transaction watches of alert rules, from the registration of the rule until the chain engine
//! watches the transaction.
//!
//! A watch is durable: the chain engine watches the transaction until its final state, also after a
//! restart. A watch that fails, as while a node is away, is tried again.

use std::{collections::HashSet, time::Duration};

use parking_lot::Mutex;
use tidewire_alert::Subject;
use tidewire_chain::{ChainEngine, ChainError, transaction::Interest};
use tokio::{sync::Notify, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{EngineSlot, chain_tap::add_transaction};

/// Transactions whose watches are begun at the same time.
const AT_ONCE: usize = 16;

/// Time between two attempts.
const RETRY: Duration = Duration::from_secs(5);

/// Whether no rule waits for a transaction any more.
fn is_abandoned(engine: &EngineSlot, (chain, hash): &Transaction) -> bool {
    let subject = Subject::Transaction {
        chain: *chain,
        hash: hash.as_str().into(),
    };
    engine.get().is_some_and(|engine| !engine.tests(&subject))
}

/// A chain and a hash.
type Transaction = (u64, String);

/// Transactions that are not watched yet. Those that no rule waits for any more leave it.
pub(super) struct TransactionWatches {
    chains: ChainEngine,
    waiting: Mutex<HashSet<Transaction>>,
    added: Notify,
}

impl TransactionWatches {
    pub(super) fn new(chains: ChainEngine) -> Self {
        Self {
            chains,
            waiting: Mutex::default(),
            added: Notify::new(),
        }
    }

    /// Has a transaction watched.
    pub(super) fn add(&self, chain: u64, hash: &str) {
        self.waiting.lock().insert((chain, hash.to_owned()));
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
        let all: Vec<_> = self.waiting.lock().iter().cloned().collect();
        let mut has_failed = false;
        for part in all.chunks(AT_ONCE) {
            let mut watches = JoinSet::new();
            for (chain, hash) in part.iter().cloned() {
                let chains = self.chains.clone();
                watches.spawn(async move {
                    // Of nobody: the rule notifies its owner, and only if it fires.
                    let interest = Interest::Durable(None);
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
                    Err(_) if is_abandoned(engine, &transaction) => {
                        self.waiting.lock().remove(&transaction);
                    }
                    Err(_) => has_failed = true,
                }
            }
        }
        has_failed
    }
}
