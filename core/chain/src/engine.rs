//! The chain engine: all chains, and what is published of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::{Block, server_message::Data};
use tidewire_store::{SharedStore, StoreError};
use tidewire_stream::{ChannelKeeper, ChannelName, SharedClock};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BlockData, ChainConfig, ChainError, ConfigError,
    archive::Archive,
    endpoint::Pool,
    journal::{Entry, Journal, JournalTask},
    listener::{Board, Continuity, Follower, Move, Pace, Watcher},
    tree::Tree,
};

/// How many steps may be under way from a chain's follower to what becomes of them.
const STEPS: usize = 8;

/// All chains. Cheap to clone.
#[derive(Clone)]
pub struct ChainEngine(Arc<Inner>);

struct Inner {
    chains: BTreeMap<u64, Chain>,
    journal: Journal,
    /// What runs the journal, until the engine is started.
    task: Mutex<Option<JournalTask>>,
}

/// One chain.
struct Chain {
    config: ChainConfig,
    pool: Pool,
    archive: Archive,
    channel: ChannelName,
    newest: Mutex<Option<Block>>,
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
        publisher: Arc<dyn ChannelKeeper>,
        clock: SharedClock,
        store: Option<SharedStore>,
    ) -> Result<Self, ConfigError> {
        ChainConfig::check_all(configs)?;
        let mut chains = BTreeMap::new();
        for config in configs {
            let time_limit = Duration::from_millis(config.call_timeout_ms);
            let channel = ChannelName::parse(&format!("blocks:{}", config.id));
            let channel = channel.map_err(|error| ConfigError::Channel(error.to_string()))?;
            let chain = Chain {
                config: config.clone(),
                pool: Pool::new(config.id, config.addresses()?, time_limit)?,
                archive: Archive::new(config.id, store.clone()),
                channel,
                newest: Mutex::new(None),
            };
            chains.insert(config.id, chain);
        }
        let (journal, task) = Journal::new(store, publisher, clock);
        Ok(Self(Arc::new(Inner {
            chains,
            journal,
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
            let kept = chain.archive.blocks().await?;
            let tree = Tree::resume(chain.config.reorg_limit, kept);
            if let Some(tip) = tree.tip() {
                let newest = chain.archive.block(tip).await;
                *chain.newest.lock() = newest.map(|data| shown(*id, &data));
                tracing::info!(chain = id, number = tip.number, "goes on from a block");
            }
            chain.follow(tree, tasks, cancel, |steps| self.clone().apply(*id, steps));
        }
        Ok(())
    }

    /// Makes publications of steps, until there are no more.
    async fn apply(self, id: u64, mut steps: mpsc::Receiver<Move>) {
        let Some(chain) = self.0.chains.get(&id) else {
            return;
        };
        while let Some(Move { step, continuity }) = steps.recv().await {
            let newest = shown(id, &step.included);
            let mut entry = Entry::default();
            chain
                .archive
                .keep(&step, chain.config.reorg_limit, &mut entry.writes);
            if continuity == Continuity::Resync {
                entry.renewed.push(chain.channel.clone());
            }
            let retracted = step.retracted.iter();
            let block = Block {
                reorged: retracted.map(|data| data.block.hash.to_string()).collect(),
                ..newest.clone()
            };
            entry
                .publications
                .push((chain.channel.clone(), Data::Block(block)));
            if self.0.journal.enter(entry).await.is_err() {
                return;
            }
            *chain.newest.lock() = Some(newest);
        }
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

    fn chain(&self, id: u64) -> Result<&Chain, ChainError> {
        self.0
            .chains
            .get(&id)
            .ok_or_else(|| self.unknown(&id.to_string()))
    }

    fn unknown(&self, asked: &str) -> ChainError {
        ChainError::UnknownChain {
            asked: asked.to_owned(),
            known: self.0.chains.keys().copied().collect(),
        }
    }
}

impl Chain {
    /// Follows the chain from where the tree stands. Its steps go to what `apply` makes.
    fn follow<F: Future<Output = ()> + Send + 'static>(
        &self,
        tree: Tree,
        tasks: &TaskTracker,
        cancel: &CancellationToken,
        apply: impl FnOnce(mpsc::Receiver<Move>) -> F,
    ) {
        let board = Arc::new(Board::new(self.pool.endpoints().len()));
        for (index, endpoint) in self.pool.endpoints().iter().enumerate() {
            let watcher = Watcher {
                chain: self.config.id,
                index,
                endpoint: endpoint.clone(),
                board: board.clone(),
                pace: Pace::of(self.config.block_time()),
            };
            tasks.spawn(watcher.run(cancel.clone()));
        }
        let (out, steps) = mpsc::channel(STEPS);
        let (pool, archive) = (self.pool.clone(), self.archive.clone());
        let follower = Follower::new(&self.config, pool, board, tree, archive, out);
        tasks.spawn(follower.run(cancel.clone()));
        tasks.spawn(apply(steps));
    }
}

/// A block as clients see it.
fn shown(chain: u64, data: &BlockData) -> Block {
    Block {
        chain,
        number: data.block.number,
        hash: data.block.hash.to_string(),
        parent_hash: data.block.parent.to_string(),
        timestamp: data.timestamp,
        transactions: u32::try_from(data.transactions.len()).unwrap_or(u32::MAX),
        base_fee_per_gas: data.base_fee.map(|fee| fee.to_string()),
        reorged: Vec::new(),
    }
}
