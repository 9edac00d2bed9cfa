//! Transaction watches of alert rules, as long as a rule tests the transaction.
//!
//! The chain engine has an interest of its own for rules, which no back end ends, and which
//! outlives a restart. A watch that ends without a final block, because the transaction was dropped
//! or no node sees it, is begun anew: it may still be sent again and included.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_alert::{AlertEngine, Subject};
use tidewire_chain::transaction::{Excess, is_provisional_end};
use tidewire_proto::v1::{ErrorCode, TransactionState, TransactionStatus, server_message::Data};
use tidewire_service::ChainSlots;
use tidewire_stream::{ChannelName, StreamCore, StreamError, Tap, UserId};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{Instant, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    chain_tap::add_transaction,
    watch_queue::{Transaction, WatchQueue},
};

/// Time between two looks for watches that no rule needs any more.
const SWEEP: Duration = Duration::from_secs(60);

/// Watches that a sweep looks at before other tasks have their turn.
const SWEEP_PART: usize = 256;

/// The watches, and those that wait to be begun.
pub(super) struct TransactionWatches {
    chains: ChainSlots,
    /// Where the nodes share chains, what their owners publish comes from here.
    stream: Option<Arc<StreamCore>>,
    /// The listeners to the states of watched transactions.
    taps: Mutex<HashMap<Transaction, Tap>>,
    queue: Mutex<WatchQueue>,
    added: Notify,
}

struct Begun {
    transaction: Transaction,
    watched: Result<Option<TransactionStatus>, StreamError>,
    tap: Option<Tap>,
}

/// Users who are asked in turn to take over a watch within their share.
const SUCCESSORS: usize = 64;

impl TransactionWatches {
    /// Watches on `chains`. With `stream` their states come from its channels.
    pub(super) fn new(chains: ChainSlots, stream: Option<Arc<StreamCore>>) -> Self {
        Self {
            chains,
            stream,
            taps: Mutex::default(),
            queue: Mutex::default(),
            added: Notify::new(),
        }
    }

    /// Has a transaction watched for a user's rule.
    pub(super) fn add(&self, user: &str, chain: u64, hash: &str) {
        let transaction = (chain, hash.to_owned());
        self.queue.lock().add(&UserId::new(user), &transaction);
        self.added.notify_one();
    }

    /// Takes a status that the chain engine publishes.
    pub(super) fn observe(&self, status: &TransactionStatus) {
        let transaction = (status.chain, status.hash.clone());
        let mut queue = self.queue.lock();
        if status.state() != TransactionState::Unknown {
            queue.seen(&transaction);
        }
        if is_provisional_end(status) {
            queue.ended(&transaction, Instant::now());
            drop(queue);
            self.added.notify_one();
        }
    }

    /// Begins watches, and ends those that no rule needs, until cancelled.
    pub(super) async fn run(self: &Arc<Self>, engine: &AlertEngine, cancel: CancellationToken) {
        let watching = async {
            tokio::join!(self.begin(engine), self.sweep(engine));
        };
        cancel.run_until_cancelled(watching).await;
        let taps = std::mem::take(&mut *self.taps.lock());
        drop(taps);
    }

    /// Has an engine hear the states of a transaction that the owner of its chain publishes.
    async fn listen(
        self: &Arc<Self>,
        engine: &AlertEngine,
        (chain, hash): &Transaction,
    ) -> Option<Tap> {
        let stream = self.stream.as_ref()?;
        let channel = ChannelName::parse(&format!("tx:{chain}:{}", hash.to_ascii_lowercase()));
        let (watches, engine) = (Arc::downgrade(self), engine.clone());
        let listener = Arc::new(move |publication: &tidewire_stream::Publication| {
            if let Data::Transaction(status) = &*publication.event() {
                if let Some(watches) = watches.upgrade() {
                    watches.observe(status);
                }
                add_transaction(&engine, status);
            }
        });
        Some(stream.tap(channel.ok()?, listener).await)
    }

    async fn begin(self: &Arc<Self>, engine: &AlertEngine) {
        let mut beginning: JoinSet<Begun> = JoinSet::new();
        loop {
            let due = loop {
                let (next, due) = {
                    let mut queue = self.queue.lock();
                    (queue.next(Instant::now()), queue.next_due())
                };
                match next {
                    Some((user, transaction)) => {
                        let users = users_of(engine, &transaction);
                        if users.is_empty() {
                            self.queue.lock().remove(&transaction);
                            continue;
                        }
                        if !users.contains(&user) {
                            self.queue.lock().reassign(&transaction, &users);
                            continue;
                        }
                        let (watches, engine) = (self.clone(), engine.clone());
                        beginning.spawn(async move {
                            // First, so that no state is missed.
                            let tap = watches.listen(&engine, &transaction).await;
                            let (chain, hash) = &transaction;
                            let watched = watches.chains.watch_for_rule(&user, *chain, hash).await;
                            Begun {
                                transaction,
                                watched,
                                tap,
                            }
                        });
                    }
                    None => break due,
                }
            };
            let waiting = async {
                match due {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.added.notified() => {}
                () = waiting => {}
                Some(Ok(begun)) = beginning.join_next() => self.finish(engine, begun),
            }
        }
    }

    fn finish(&self, engine: &AlertEngine, begun: Begun) {
        let Begun {
            transaction,
            watched,
            tap,
        } = begun;
        let now = Instant::now();
        if let (Some(tap), Ok(Some(_))) = (tap, &watched) {
            // One of an earlier watch is dropped without the lock.
            let earlier = self.taps.lock().insert(transaction.clone(), tap);
            drop(earlier);
        }
        match watched {
            Ok(Some(status)) => {
                let mut queue = self.queue.lock();
                queue.begun(&transaction);
                if is_provisional_end(&status) {
                    queue.ended(&transaction, now);
                }
                drop(queue);
                add_transaction(engine, &status);
            }
            Err(error)
                if [ErrorCode::NotFound, ErrorCode::InvalidArgument].contains(&error.code()) =>
            {
                tracing::warn!(%error, "the transaction of an alert cannot be watched");
                self.queue.lock().remove(&transaction);
            }
            Ok(None) => {
                let users = users_of(engine, &transaction);
                self.queue.lock().refused(&transaction, users, now);
            }
            Err(_) => {
                let users = users_of(engine, &transaction);
                self.queue.lock().failed(&transaction, users, now);
            }
        }
    }

    async fn sweep(&self, engine: &AlertEngine) {
        let mut ticks = interval(SWEEP);
        loop {
            ticks.tick().await;
            let watched = self.queue.lock().watched();
            for part in watched.chunks(SWEEP_PART) {
                for (payer, transaction) in part {
                    let users = users_of(engine, transaction);
                    if users.is_empty() {
                        self.end(engine, transaction).await;
                    } else if !users.contains(payer) {
                        self.hand_over(transaction, payer, &users).await;
                    }
                }
                tokio::task::yield_now().await;
            }
        }
    }

    async fn end(&self, engine: &AlertEngine, transaction: &Transaction) {
        let (chain, hash) = transaction;
        let ended = self.chains.unwatch_for_rules(*chain, hash).await;
        // A chain that does not answer is tried again at the next sweep.
        if ended.is_err() {
            return;
        }
        self.queue.lock().remove(transaction);
        let tap = self.taps.lock().remove(transaction);
        drop(tap);
        // A rule that was registered meanwhile needs it again.
        for user in users_of(engine, transaction) {
            self.queue.lock().add(&user, transaction);
            self.added.notify_one();
        }
    }

    /// Has a watch whose payer has no rule about it any more count for one of these users. It is
    /// not ended because all of them are over their share.
    async fn hand_over(
        &self,
        transaction @ (chain, hash): &Transaction,
        payer: &UserId,
        users: &[UserId],
    ) {
        let take = async |user: &UserId, excess| {
            let watch = (*chain, hash.as_str());
            self.chains.hand_rule_over(watch, payer, user, excess).await
        };
        for user in users.iter().take(SUCCESSORS) {
            if take(user, Excess::Refused).await {
                self.queue.lock().set_payer(transaction, user);
                return;
            }
        }
        // Where the owner of the chain is not reached, the next sweep tries again.
        if let Some(user) = users.first()
            && take(user, Excess::Allowed).await
        {
            self.queue.lock().set_payer(transaction, user);
        }
    }
}

/// The users whose rules test a transaction.
fn users_of(engine: &AlertEngine, (chain, hash): &Transaction) -> Vec<UserId> {
    engine.users_of(&Subject::Transaction {
        chain: *chain,
        hash: hash.as_str().into(),
    })
}
