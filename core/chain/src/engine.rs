//! The chain engine: all chains, and what is published of them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use tidewire_proto::v1::{Block, server_message::Data};
use tidewire_stream::{ChannelKeeper, ChannelName};
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    BlockData, ChainConfig, ChainError, ConfigError,
    archive::Archive,
    endpoint::Pool,
    listener::{Board, Continuity, Follower, Move, Pace, Watcher},
    tree::Tree,
};

/// How many steps may be under way from a chain's follower to what becomes of them.
const STEPS: usize = 8;

/// All chains. Cheap to clone.
#[derive(Clone)]
pub struct ChainEngine {
    chains: Arc<BTreeMap<u64, Chain>>,
    publisher: Arc<dyn ChannelKeeper>,
}

/// One chain.
struct Chain {
    config: ChainConfig,
    pool: Pool,
    channel: ChannelName,
    newest: Mutex<Option<Block>>,
}

impl std::fmt::Debug for ChainEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ChainEngine")
            .field("chains", &self.chains.keys())
            .finish_non_exhaustive()
    }
}

impl ChainEngine {
    /// An engine that publishes through `publisher` and is not connected yet.
    ///
    /// # Errors
    /// Names the chain, the key and what was expected.
    pub fn new(
        configs: &[ChainConfig],
        publisher: Arc<dyn ChannelKeeper>,
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
                channel,
                newest: Mutex::new(None),
            };
            chains.insert(config.id, chain);
        }
        Ok(Self {
            chains: Arc::new(chains),
            publisher,
        })
    }

    /// Follows all chains, in `tasks`, until cancelled.
    pub fn connect(&self, tasks: &TaskTracker, cancel: &CancellationToken) {
        for chain in self.chains.values() {
            let board = Arc::new(Board::new(chain.pool.endpoints().len()));
            for (index, endpoint) in chain.pool.endpoints().iter().enumerate() {
                let watcher = Watcher {
                    chain: chain.config.id,
                    index,
                    endpoint: endpoint.clone(),
                    board: board.clone(),
                    pace: Pace::of(chain.config.block_time()),
                };
                tasks.spawn(watcher.run(cancel.clone()));
            }
            let (out, steps) = mpsc::channel(STEPS);
            let follower = Follower::new(
                &chain.config,
                chain.pool.clone(),
                board,
                Tree::new(chain.config.reorg_limit),
                Archive,
                out,
            );
            tasks.spawn(follower.run(cancel.clone()));
            tasks.spawn(self.clone().apply(chain.config.id, steps));
        }
    }

    async fn apply(self, chain: u64, mut steps: mpsc::Receiver<Move>) {
        let Some(chain) = self.chains.get(&chain) else {
            return;
        };
        while let Some(Move { step, continuity }) = steps.recv().await {
            if continuity == Continuity::Resync
                && let Err(error) = self.publisher.renew(&chain.channel).await
            {
                tracing::error!(channel = %chain.channel, %error, "nobody is told of a gap");
            }
            let mut block = shown(chain.config.id, &step.included);
            *chain.newest.lock() = Some(block.clone());
            block.reorged = step
                .retracted
                .iter()
                .map(|data| data.block.hash.to_string())
                .collect();
            self.publisher.publish(&chain.channel, Data::Block(block));
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
        id.filter(|id| self.chains.contains_key(id))
            .map(|_| ())
            .ok_or_else(|| self.unknown(rest))
    }

    fn chain(&self, id: u64) -> Result<&Chain, ChainError> {
        self.chains
            .get(&id)
            .ok_or_else(|| self.unknown(&id.to_string()))
    }

    fn unknown(&self, asked: &str) -> ChainError {
        ChainError::UnknownChain {
            asked: asked.to_owned(),
            known: self.chains.keys().copied().collect(),
        }
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
