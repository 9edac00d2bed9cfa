//! Chain: one configured chain, its tasks, and the queue of commands to its processor.

use std::{sync::Arc, time::Duration};

use alloy::{primitives::B256, rpc::types::Transaction};
use parking_lot::Mutex;
use tidewire_proto::v1::Block;
use tidewire_store::{SharedStore, StoreError};
use tidewire_stream::{ClientKey, SharedClock, limit::semaphore::KeyedSemaphore};
use tokio::{
    sync::{mpsc, mpsc::error::SendTimeoutError, oneshot, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{REPLY_TIMEOUT, outage::OutageMonitor};
use crate::{
    ChainConfig, ChainError, ChainOutage, ConfigError, Finality, Provenance,
    block_store::BlockStore,
    endpoint::EndpointPool,
    fork_choice::{
        HeadListener, HeadTracker, Heads, PollIntervals, SequencedUpdate, fork_choice_grace,
    },
    interest::{InterestRegistry, WalletLookup},
    journal::Journal,
    mempool::MempoolListener,
    notice::{NoticeTracker, PaymentLimits},
    processor::{Command, Deps, InclusionProver, Inputs, Processor, Requester, block_message},
    proof::ProofPolicy,
    transaction::{
        BlockNumHash, Interest, RequestOwner, TransactionOptions, TransactionTracker, WatchSlots,
    },
    tree::HeaderTree,
    wallet::{ConfirmationRules, Tracing, WalletTracker},
};

/// Updates between the fork choice and the processor at most. Beyond, the fork choice waits.
const UPDATE_QUEUE: usize = 8;

/// Commands that wait for the processor at most. Beyond, clients wait.
const COMMAND_QUEUE: usize = 4_096;

/// Commands of one client that wait for the processor at most: those of a connection that
/// subscribes to all of its channels at once.
const COMMANDS_PER_CLIENT: u32 = 1_024;

/// Pending transactions that wait for the processor at most. Beyond, the mempool listener waits.
const PENDING_QUEUE: usize = 256;

/// Time for a reply during an outage of all endpoints: the processor may know it without them.
const OUTAGE_GRACE: Duration = Duration::from_millis(500);

/// One configured chain.
pub(super) struct Chain {
    config: ChainConfig,
    pool: EndpointPool,
    block_store: BlockStore,
    store: Option<SharedStore>,
    clock: SharedClock,
    newest: Arc<Mutex<Option<Block>>>,
    /// The followed wallets.
    wallets: WalletLookup,
    interest: Arc<InterestRegistry>,
    /// Why the chain stands still, while too few endpoints return usable results.
    outage: watch::Sender<Option<ChainOutage>>,
    /// The places of watched transactions.
    slots: WatchSlots,
    /// The queue to the processor, once it runs.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
    /// The places of clients in that queue.
    requesters: KeyedSemaphore<ClientKey>,
}

impl Chain {
    pub(super) fn new(
        config: ChainConfig,
        wallets: WalletLookup,
        interest: Arc<InterestRegistry>,
        clock: SharedClock,
        store: Option<SharedStore>,
    ) -> Result<Self, ConfigError> {
        let pool = EndpointPool::new(config.id, config.addresses()?, config.call_timeout);
        let pool = pool.map_err(|error| config.tls_error(error))?;
        Ok(Self {
            pool: pool.with_proofs(ProofPolicy::of(&config)),
            block_store: BlockStore::new(config.id, store.clone()),
            store,
            clock,
            newest: Arc::default(),
            wallets,
            interest,
            outage: watch::Sender::new(None),
            slots: WatchSlots::new(TransactionOptions::new(config.id).max_watches),
            commands: Mutex::new(None),
            requesters: KeyedSemaphore::default(),
            config,
        })
    }

    /// Restores the chain's state, and runs its tasks until cancelled.
    pub(super) async fn start(
        &self,
        journal: Journal,
        limits: Option<PaymentLimits>,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let id = self.config.id;
        let blocks = self.block_store.blocks().await?;
        let tree = HeaderTree::resume(self.config.reorg_limit(), blocks);
        let (mut transactions, wallets) = self.trackers();
        let notices = limits.map(|limits| {
            let listed = self.config.tokens.iter().copied().collect();
            NoticeTracker::new(id, self.rules(), listed, limits)
        });
        if let Some(tip) = tree.tip() {
            transactions.resume(BlockNumHash {
                number: tip.number,
                hash: tip.hash,
            });
        }
        let mut processor = Processor::new(self.deps(journal), transactions, wallets, notices);
        processor.restore().await?;
        if let Some(tip) = tree.tip() {
            let newest = self.block_store.block(tip).await;
            *self.newest.lock() = newest.map(|data| block_message(id, &data));
            tracing::info!(
                chain = id,
                number = tip.number,
                "the chain continues from a stored block"
            );
        }
        let grace = fork_choice_grace(self.config.block_time());
        let heads = Arc::new(Heads::new(self.pool.endpoints().len(), grace));
        let updates = self.spawn_fork_choice(heads.clone(), tree, tasks, cancel);
        let (inputs, pending) = self.connect(updates);
        let mempool = MempoolListener {
            chain: id,
            pool: self.pool.clone(),
            wallets: self.wallets.index.clone(),
            has_wallets: self.wallets.has_wallets.clone(),
            out: pending,
        };
        tasks.spawn(mempool.run(cancel.clone()));
        let monitor = OutageMonitor {
            chain: id,
            name: self.config.label(),
            pool: self.pool.clone(),
            heads,
            newest: self.newest.clone(),
            agreement: self.config.agreement,
            outage: self.outage.clone(),
        };
        tasks.spawn(monitor.run(cancel.clone()));
        tasks.spawn(processor.run(inputs));
        Ok(())
    }

    pub(super) fn trackers(&self) -> (TransactionTracker, WalletTracker) {
        let config = &self.config;
        let rules = self.rules();
        let mut options = TransactionOptions::new(config.id);
        options.required = rules.required;
        options.finality_depth = rules.finality_depth;
        options.drop_after = i64::try_from(config.drop_after.as_millis()).unwrap_or(i64::MAX);
        let transactions =
            TransactionTracker::new(options, config.custom_errors()).with_slots(self.slots.clone());
        let wallets = WalletTracker::new(config.id, Tracing::Auto).with_rules(rules);
        (transactions, wallets)
    }

    /// The depths at which transactions are confirmed and final.
    fn rules(&self) -> ConfirmationRules {
        let config = &self.config;
        let default = TransactionOptions::new(config.id).finality_depth;
        ConfirmationRules {
            required: config.confirmations,
            finality_depth: match config.finality() {
                Finality::Depth(depth) => depth,
                Finality::Tag(_) | Finality::Unsaid => default,
            },
            reorg_limit: config.reorg_limit() as u64,
        }
    }

    /// Dependencies of the chain's processor.
    pub(super) fn deps(&self, journal: Journal) -> Deps {
        Deps {
            chain: self.config.id,
            provenance: self.config.provenance,
            reorg_limit: self.config.reorg_limit(),
            pool: self.pool.clone(),
            prover: InclusionProver {
                pool: self.pool.clone(),
                proofs: ProofPolicy::of(&self.config),
                agreement: self.config.agreement,
                block_store: self.block_store.clone(),
            },
            block_store: self.block_store.clone(),
            journal,
            store: self.store.clone(),
            clock: self.clock.clone(),
            newest: self.newest.clone(),
            wallet_index: self.wallets.index.clone(),
            interest: self.interest.clone(),
        }
    }

    /// Opens the queue of commands. Returns the processor's inputs, and where pending
    /// transactions go in.
    pub(super) fn connect(
        &self,
        updates: mpsc::Receiver<SequencedUpdate>,
    ) -> (Inputs, mpsc::Sender<Box<Transaction>>) {
        let (sender, commands) = mpsc::channel(COMMAND_QUEUE);
        self.set_commands(sender);
        let (pending_sender, pending) = mpsc::channel(PENDING_QUEUE);
        let inputs = Inputs {
            updates,
            commands,
            pending,
        };
        (inputs, pending_sender)
    }

    pub(super) fn set_commands(&self, sender: mpsc::Sender<Command>) {
        *self.commands.lock() = Some(sender);
    }

    /// Runs the listeners of all endpoints and the tracker of the head, from where the tree
    /// stands. Returns the updates of the chain.
    fn spawn_fork_choice(
        &self,
        heads: Arc<Heads>,
        tree: HeaderTree,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> mpsc::Receiver<SequencedUpdate> {
        for (index, endpoint) in self.pool.endpoints().iter().enumerate() {
            let listener = HeadListener {
                chain: self.config.id,
                index,
                endpoint: endpoint.clone(),
                heads: heads.clone(),
                intervals: PollIntervals::of(self.config.block_time()),
                proofs: ProofPolicy::of(&self.config),
            };
            tasks.spawn(listener.run(cancel.clone()));
        }
        let (out, updates) = mpsc::channel(UPDATE_QUEUE);
        let (pool, block_store) = (self.pool.clone(), self.block_store.clone());
        let tracker = HeadTracker::new(&self.config, pool, heads, tree, block_store, out);
        tasks.spawn(tracker.run(cancel.clone()));
        updates
    }

    /// The places of the watched transactions.
    pub(super) fn slots(&self) -> &WatchSlots {
        &self.slots
    }

    /// Why the chain stands still, while too few endpoints return usable results.
    pub(super) fn outage(&self) -> Option<ChainOutage> {
        *self.outage.borrow()
    }

    /// The newest block, once one was read.
    pub(super) fn newest_block(&self) -> Option<Block> {
        let newest = self.newest.lock().clone()?;
        Some(Block {
            sample: self.provenance().is_sample(),
            ..newest
        })
    }

    /// Whether the chain is made up.
    pub(super) fn provenance(&self) -> Provenance {
        self.config.provenance
    }

    /// Sends a command to the processor.
    pub(super) async fn send(&self, command: Command) -> Result<(), ChainError> {
        let sender = self.commands.lock().clone();
        let sender = sender.ok_or(ChainError::NotRunning)?;
        match sender.send_timeout(command, REPLY_TIMEOUT).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => Err(ChainError::Timeout(self.config.id)),
            Err(SendTimeoutError::Closed(_)) => Err(ChainError::NotRunning),
        }
    }

    /// Watches a transaction for the subscribers of its channel, from the processor's next turn
    /// on.
    ///
    /// # Errors
    /// The chain has its maximum of watches, or the client its share, or the processor's queue is
    /// full.
    pub(super) fn follow(&self, hash: B256, owner: &RequestOwner) -> Result<(), ChainError> {
        let requester = self.requester(owner)?;
        let slot = self.slots.reserve_for(hash, owner);
        let slot = slot.map_err(ChainError::from)?;
        let sender = self.commands.lock().clone();
        let sender = sender.ok_or(ChainError::NotRunning)?;
        let sent = sender.try_send(Command::Follow(hash, slot, requester));
        sent.map_err(|_| ChainError::Timeout(self.config.id))
    }

    /// An owner that may send a command to the processor.
    ///
    /// # Errors
    /// The client's share of the queue is taken by its commands.
    pub(super) fn requester(&self, owner: &RequestOwner) -> Result<Requester, ChainError> {
        let place = owner.client.as_ref().map(|client| {
            let place = self.requesters.try_acquire(client, COMMANDS_PER_CLIENT);
            place.ok_or_else(|| {
                ChainError::ShareReached(format!(
                    "{COMMANDS_PER_CLIENT} requests of this client wait for chain {}",
                    self.config.id
                ))
            })
        });
        Ok(Requester::new(owner.clone(), place.transpose()?))
    }

    /// Sends a command to the processor, and waits for its reply, but not for endpoints that are known to
    /// return nothing.
    pub(super) async fn request<T>(
        &self,
        command: Command,
        reply: oneshot::Receiver<Result<T, ChainError>>,
    ) -> Result<T, ChainError> {
        let answered = async {
            self.send(command).await?;
            match timeout(REPLY_TIMEOUT, reply).await {
                Ok(result) => result.map_err(|_| ChainError::NotRunning)?,
                Err(_) => Err(ChainError::Timeout(self.config.id)),
            }
        };
        tokio::select! {
            biased;
            answered = answered => answered,
            outage = self.unreachable() => Err(ChainError::Unreachable(self.config.id, outage)),
        }
    }

    /// Waits until none of the endpoints is of use, and for what needs none of them.
    async fn unreachable(&self) -> ChainOutage {
        let is_total = |outage: &Option<ChainOutage>| outage.is_some_and(|one| one.responding == 0);
        let mut outage = self.outage.subscribe();
        loop {
            // It cannot fail: the sender is here.
            let _ = outage.wait_for(is_total).await;
            sleep(OUTAGE_GRACE).await;
            let known = *outage.borrow_and_update();
            if let Some(outage) = known.filter(|_| is_total(&known)) {
                return outage;
            }
        }
    }

    /// Notes an outage, as its monitor does.
    #[cfg(test)]
    pub(super) fn set_outage(&self, outage: Option<ChainOutage>) {
        self.outage.send_replace(outage);
    }

    /// Removes a session's interest whose watch received no reply. With a full queue nothing is
    /// sent, and the watch ends at its time-out.
    pub(super) fn cancel_watch(&self, hash: B256) {
        if let Some(sender) = &*self.commands.lock() {
            let _ = sender.try_send(Command::Unwatch(hash, Interest::Session));
        }
    }
}
