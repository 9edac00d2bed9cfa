//! The chain engine: all chains, and what is published of them.

mod interest;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use alloy::primitives::B256;
use parking_lot::Mutex;
use tidewire_proto::v1::{Block, EventFilter, TransactionStatus};
use tidewire_store::{SharedStore, StoreError};
use tidewire_stream::{ChannelName, DurablePublisher, SharedClock};
use tokio::{
    sync::{mpsc, mpsc::error::SendTimeoutError, oneshot},
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    ChainConfig, ChainError, ConfigError, Finality,
    abi::ErrorAbi,
    block_store::BlockStore,
    endpoint::EndpointPool,
    error::MAX_SIGNATURES,
    events::Filter,
    fork_choice::{HeadListener, HeadTracker, Heads, PollIntervals, SequencedUpdate},
    interest::{InterestRegistry, WalletInterest, WalletLookup},
    journal::{Journal, JournalTask},
    mempool::MempoolListener,
    processor::{Command, Deps, Processor, shown},
    proof::ProofPolicy,
    transaction::{Interest, TransactionOptions, TransactionTracker},
    tree::HeaderTree,
    wallet::{Stages, Tracing, WalletTracker},
};

/// How many steps may be under way from a chain's follower to what becomes of them.
const STEPS: usize = 8;

/// How many commands of clients may wait for a chain.
const COMMANDS: usize = 256;

/// Whoever asks a chain's desk or the journal is answered within this time: with a full disk
/// or a node that hangs they stand still, and clients must not hang with them.
pub(crate) const ANSWER: Duration = Duration::from_secs(20);

/// All chains. Cheap to clone.
#[derive(Clone)]
pub struct ChainEngine(Arc<Inner>);

struct Inner {
    chains: BTreeMap<u64, Chain>,
    journal: Journal,
    interest: Arc<InterestRegistry>,
    clock: SharedClock,
    /// What runs the journal, until the engine is started.
    task: Mutex<Option<JournalTask>>,
}

/// One chain.
pub(crate) struct Chain {
    config: ChainConfig,
    pool: EndpointPool,
    block_store: BlockStore,
    channel: ChannelName,
    store: Option<SharedStore>,
    clock: SharedClock,
    newest: Arc<Mutex<Option<Block>>>,
    /// The wallets that somebody follows.
    wallets: WalletLookup,
    interest: Arc<InterestRegistry>,
    /// The way to the desk, once it is there.
    commands: Mutex<Option<mpsc::Sender<Command>>>,
}

impl std::fmt::Debug for ChainEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainEngine")
            .field("chains", &self.0.chains.keys())
            .finish_non_exhaustive()
    }
}

impl ChainEngine {
    /// An engine that publishes through `publisher` and is not started yet. With a store
    /// it goes on after a restart where it was.
    ///
    /// # Errors
    /// Names the chain, the key and what was expected.
    pub fn new(
        configs: &[ChainConfig],
        publisher: Arc<dyn DurablePublisher>,
        clock: SharedClock,
        store: Option<SharedStore>,
    ) -> Result<Self, ConfigError> {
        ChainConfig::check_all(configs)?;
        let lookups: Vec<_> = configs.iter().map(|_| WalletLookup::default()).collect();
        let interest = Arc::new(InterestRegistry::new(WalletInterest::new(lookups.clone())));
        let mut chains = BTreeMap::new();
        for (config, wallets) in configs.iter().zip(lookups) {
            let channel = ChannelName::parse(&format!("blocks:{}", config.id));
            let channel = channel.map_err(|error| ConfigError::Channel(error.to_string()))?;
            let chain = Chain {
                config: config.clone(),
                pool: EndpointPool::new(config.id, config.addresses()?, config.call_timeout)?,
                block_store: BlockStore::new(config.id, store.clone()),
                channel,
                store: store.clone(),
                clock: clock.clone(),
                newest: Arc::default(),
                wallets,
                interest: interest.clone(),
                commands: Mutex::new(None),
            };
            chains.insert(config.id, chain);
        }
        let (journal, task) = Journal::new(store, publisher, interest.clone(), clock.clone());
        Ok(Self(Arc::new(Inner {
            chains,
            journal,
            interest,
            clock,
            task: Mutex::new(Some(task)),
        })))
    }

    /// Gives the channels back what was kept of them, and follows all chains, in `tasks`,
    /// until cancelled. To be done before clients come. Starting twice changes nothing.
    ///
    /// # Errors
    /// What was kept cannot be read.
    pub async fn start(
        &self,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> Result<(), StoreError> {
        let Some(mut journal) = self.0.task.lock().take() else {
            return Ok(());
        };
        journal.restore().await?;
        tasks.spawn(journal.run(cancel.clone()));
        for (id, chain) in &self.0.chains {
            let kept = chain.block_store.blocks().await?;
            let tree = HeaderTree::resume(chain.config.reorg_limit, kept);
            let (deps, commands) = chain.deps(self.0.journal.clone());
            let mut options = TransactionOptions::new(*id);
            options.required = chain.config.confirmations;
            if let Finality::Depth(depth) = chain.config.finality {
                options.finality_depth = depth;
            }
            options.drop_after =
                i64::try_from(chain.config.drop_after.as_millis()).unwrap_or(i64::MAX);
            let stages = Stages {
                required: options.required,
                finality_depth: options.finality_depth,
                reorg_limit: chain.config.reorg_limit as u64,
            };
            let transactions = TransactionTracker::new(options, chain.config.custom_errors());
            let wallet_tracker = WalletTracker::new(*id, Tracing::Auto).with(stages);
            let mut processor = Processor::new(deps, transactions, wallet_tracker);
            processor.restore().await?;
            if let Some(tip) = tree.tip() {
                let newest = chain.block_store.block(tip).await;
                *chain.newest.lock() = newest.map(|data| shown(*id, &data));
                tracing::info!(chain = id, number = tip.number, "goes on from a block");
            }
            let steps = chain.follow(tree, tasks, cancel);
            chain.follow_pool(tasks, cancel);
            tasks.spawn(processor.run(steps, commands));
        }
        Ok(())
    }

    /// The newest block of a chain.
    ///
    /// # Errors
    /// The chain is not configured, or nothing was read of it yet.
    pub fn latest_block(&self, chain: u64) -> Result<Block, ChainError> {
        let newest = self.chain(chain)?.newest.lock().clone();
        newest.ok_or(ChainError::NoBlock(chain))
    }

    /// Judges the part of a `blocks:` channel after the colon: a chain's id.
    ///
    /// # Errors
    /// Names the chains that there are.
    pub fn check_blocks_channel(&self, rest: &str) -> Result<(), ChainError> {
        let id = rest.parse().ok().filter(|id: &u64| id.to_string() == rest);
        id.filter(|id| self.0.chains.contains_key(id))
            .map(|_| ())
            .ok_or_else(|| self.unknown(rest))
    }

    /// Watches a transaction, and gives its state as a node has told it. Should it fail, the
    /// reason is told by the errors in `abi` too.
    ///
    /// # Errors
    /// There is no such chain, it is no hash, a signature is refused, or too many are watched.
    pub async fn watch(
        &self,
        chain: u64,
        hash: &str,
        interest: Interest,
        abi: Vec<String>,
    ) -> Result<TransactionStatus, ChainError> {
        let (reply, status) = oneshot::channel();
        let hash = parse_hash(hash)?;
        check_signatures(&abi)?;
        let command = Command::Watch(hash, interest.clone(), abi, reply);
        let asked = self.chain(chain)?;
        let answer = asked.request(command, status).await;
        // A back end asks again; a connection may go.
        if answer == Err(ChainError::Slow(chain)) && interest == Interest::Session {
            asked.cancel_watch(hash);
        }
        answer
    }

    /// Takes an interest in a transaction back.
    ///
    /// # Errors
    /// There is no such chain, or it is no hash.
    pub async fn unwatch(
        &self,
        chain: u64,
        hash: &str,
        interest: Interest,
    ) -> Result<(), ChainError> {
        let command = Command::Unwatch(parse_hash(hash)?, interest);
        self.chain(chain)?.send(command).await
    }

    /// The state of a transaction, watched or not, after a node was asked. If it is watched,
    /// why it fails is told by the errors in `abi` too.
    ///
    /// # Errors
    /// There is no such chain, it is no hash, a signature is refused, or too many are watched.
    pub async fn status(
        &self,
        chain: u64,
        hash: &str,
        abi: Vec<String>,
    ) -> Result<TransactionStatus, ChainError> {
        let (reply, status) = oneshot::channel();
        check_signatures(&abi)?;
        let command = Command::Status(parse_hash(hash)?, abi, reply);
        self.chain(chain)?.request(command, status).await
    }

    /// The channel that the events of a filter come on.
    ///
    /// # Errors
    /// There is no such chain, or the filter is refused.
    pub fn events_channel(
        &self,
        chain: u64,
        filter: &EventFilter,
    ) -> Result<ChannelName, ChainError> {
        self.chain(chain)?;
        let channel = Filter::parse(filter)?.channel(chain);
        channel.map_err(|error| ChainError::TooMany(error.to_string()))
    }

    pub(crate) fn chain(&self, id: u64) -> Result<&Chain, ChainError> {
        self.0
            .chains
            .get(&id)
            .ok_or_else(|| self.unknown(&id.to_string()))
    }

    pub(crate) fn has_chains(&self) -> bool {
        !self.0.chains.is_empty()
    }

    pub(crate) fn interest(&self) -> &InterestRegistry {
        &self.0.interest
    }

    pub(crate) fn journal(&self) -> &Journal {
        &self.0.journal
    }

    pub(crate) fn now_ms(&self) -> i64 {
        self.0.clock.now_ms()
    }

    fn unknown(&self, asked: &str) -> ChainError {
        ChainError::UnknownChain {
            asked: asked.to_owned(),
            known: self.0.chains.keys().copied().collect(),
        }
    }
}

impl Chain {
    /// What the chain's desk works with, and what clients want of it.
    fn deps(&self, journal: Journal) -> (Deps, mpsc::Receiver<Command>) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        *self.commands.lock() = Some(sender);
        let deps = Deps {
            chain: self.config.id,
            blocks: self.channel.clone(),
            reorg_limit: self.config.reorg_limit,
            pool: self.pool.clone(),
            block_store: self.block_store.clone(),
            journal,
            store: self.store.clone(),
            clock: self.clock.clone(),
            newest: self.newest.clone(),
            wallets: self.wallets.index.clone(),
            interest: self.interest.clone(),
        };
        (deps, commands)
    }

    /// Hears what comes into the pool, while wallets are followed.
    fn follow_pool(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        let Some(out) = self.commands.lock().clone() else {
            return;
        };
        let listener = MempoolListener {
            chain: self.config.id,
            pool: self.pool.clone(),
            wallets: self.wallets.index.clone(),
            has_wallets: self.wallets.has_wallets.clone(),
            out,
        };
        tasks.spawn(listener.run(cancel.clone()));
    }

    /// Says what is wanted.
    pub(crate) async fn send(&self, command: Command) -> Result<(), ChainError> {
        let sender = self.commands.lock().clone();
        let sender = sender.ok_or(ChainError::Ended)?;
        match sender.send_timeout(command, ANSWER).await {
            Ok(()) => Ok(()),
            Err(SendTimeoutError::Timeout(_)) => Err(ChainError::Slow(self.config.id)),
            Err(SendTimeoutError::Closed(_)) => Err(ChainError::Ended),
        }
    }

    /// Says what is wanted, if there is room for it.
    pub(crate) fn try_send(&self, command: Command) -> Result<(), ChainError> {
        let sender = self.commands.lock().clone();
        let sent = sender.ok_or(ChainError::Ended)?.try_send(command);
        sent.map_err(|_| ChainError::Slow(self.config.id))
    }

    /// Says what is wanted, and waits for the answer.
    pub(crate) async fn request<T>(
        &self,
        command: Command,
        answer: oneshot::Receiver<Result<T, ChainError>>,
    ) -> Result<T, ChainError> {
        self.send(command).await?;
        match timeout(ANSWER, answer).await {
            Ok(answered) => answered.map_err(|_| ChainError::Ended)?,
            Err(_) => Err(ChainError::Slow(self.config.id)),
        }
    }

    /// Takes a connection's interest back whose watch was not answered. Where even that finds
    /// no room, the watch ends at its time-out.
    fn cancel_watch(&self, hash: B256) {
        if let Some(sender) = &*self.commands.lock() {
            let _ = sender.try_send(Command::Unwatch(hash, Interest::Session));
        }
    }

    /// Follows the chain from where the tree stands. Gives its steps.
    fn follow(
        &self,
        tree: HeaderTree,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
    ) -> mpsc::Receiver<SequencedUpdate> {
        let heads = Arc::new(Heads::new(self.pool.endpoints().len()));
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
        let (out, steps) = mpsc::channel(STEPS);
        let (pool, block_store) = (self.pool.clone(), self.block_store.clone());
        let tracker = HeadTracker::new(&self.config, pool, heads, tree, block_store, out);
        tasks.spawn(tracker.run(cancel.clone()));
        steps
    }
}

fn check_signatures(abi: &[String]) -> Result<(), ChainError> {
    if abi.len() > MAX_SIGNATURES {
        return Err(ChainError::Signatures(abi.len()));
    }
    for signature in abi {
        ErrorAbi::parse(signature)?;
    }
    Ok(())
}

pub(crate) fn parse_hash(text: &str) -> Result<B256, ChainError> {
    let hash = text.starts_with("0x").then(|| text.parse().ok()).flatten();
    hash.ok_or_else(|| ChainError::Hash(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use tidewire_stream::{
        AnonymousPolicy, Authenticator, ManualClock, Namespaces, StreamCore, StreamOptions,
    };

    use super::*;

    /// An engine of one chain that cannot be reached, and where it publishes.
    fn engine() -> (ChainEngine, Arc<StreamCore>) {
        let config = serde_json::json!({"id": 1, "endpoints": ["http://127.0.0.1:1"]});
        let config: ChainConfig = serde_json::from_value(config).unwrap();
        let clock = ManualClock::at(0);
        let policy = AnonymousPolicy::Read;
        let authenticator = Authenticator::hs256(&[7; 32], policy, clock.clone()).unwrap();
        let options = StreamOptions::default();
        let namespaces = Namespaces::built_in();
        let stream = StreamCore::in_memory(namespaces, authenticator, clock.clone(), options);
        let engine = ChainEngine::new(&[config], stream.clone(), clock, None).unwrap();
        (engine, stream)
    }

    #[tokio::test(start_paused = true)]
    async fn who_follows_what_cannot_be_watched_is_told_of_a_gap() {
        let (engine, stream) = engine();
        let journal = engine.0.task.lock().take().unwrap();
        tokio::spawn(journal.run(CancellationToken::new()));
        let chain = &engine.0.chains[&1];
        let (deps, commands) = chain.deps(engine.0.journal.clone());
        let mut options = TransactionOptions::new(1);
        options.max_watches = 0;
        let transactions = TransactionTracker::new(options, chain.config.custom_errors());
        let processor = Processor::new(deps, transactions, WalletTracker::new(1, Tracing::Off));
        let (_chain, steps) = mpsc::channel(1);
        tokio::spawn(processor.run(steps, commands));
        let hash = B256::repeat_byte(7).to_string();
        let rest = format!("1:{hash}");
        let channel = ChannelName::parse(&format!("tx:{rest}")).unwrap();
        for _ in 0..2 {
            let before = stream.position(&channel).await.unwrap();
            engine.follow_transaction(&rest).unwrap();
            // What is wanted is done in its order.
            let watched = engine.watch(1, &hash, Interest::Session, Vec::new()).await;
            assert!(
                matches!(watched, Err(ChainError::TooMany(_))),
                "{watched:?}"
            );
            let after = stream.position(&channel).await.unwrap();
            assert_ne!(after.epoch, before.epoch);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_for_ever_for_a_chain_that_stands_still() {
        let (engine, _stream) = engine();
        let hash = B256::repeat_byte(7).to_string();
        let watch = || engine.watch(1, &hash, Interest::Session, Vec::new());
        assert_eq!(watch().await, Err(ChainError::Ended));
        // A desk that takes commands and does nothing.
        let (sender, mut commands) = mpsc::channel(2);
        *engine.0.chains[&1].commands.lock() = Some(sender);
        assert_eq!(watch().await, Err(ChainError::Slow(1)));
        assert!(matches!(commands.try_recv(), Ok(Command::Watch(..))));
        assert!(matches!(commands.try_recv(), Ok(Command::Unwatch(..))));
        // And one that takes nothing.
        for _ in 0..2 {
            assert_eq!(watch().await, Err(ChainError::Slow(1)));
        }
    }
}
