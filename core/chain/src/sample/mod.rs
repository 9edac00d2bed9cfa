//! Sample chain: a made-up chain and its node, for trying things out without a node.
//!
//! The node runs in this process and listens on a port of the loopback interface, so the engine
//! follows it like every other node, with every proof. Every few seconds it makes a block of
//! transfers among a handful of accounts. Now and then a transaction fails, one is replaced by its
//! sender, and a reorg takes blocks back. Its state is kept in the store, so the chain continues
//! after a restart.
//!
//! - `ledger` is the state machine: accounts, waiting transactions, blocks and reorgs.
//! - `block` builds blocks that hash to their hashes.
//! - `rpc` answers JSON-RPC calls from the ledger, and `server` carries them over WebSockets.
//!
//! Messages about this chain bear `sample: true`; see [`Provenance`].

pub(crate) mod block;
mod ledger;
mod rpc;
mod server;

use std::{io, sync::Arc, time::Duration};

use alloy::primitives::{Address, address};
use parking_lot::Mutex;
use serde_json::json;
use tidewire_store::{Batch, SharedStore, Table};
use tidewire_stream::SharedClock;
use tokio::{
    net::TcpListener,
    sync::broadcast,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use self::ledger::{Ledger, LedgerEvent};
use crate::{ChainConfig, Provenance};

/// The chain's id, which no public chain has.
pub const CHAIN_ID: u64 = 7_357;

/// The wallet that most happens to.
pub const WALLET: Address = address!("5a3b1e00000000000000000000000000000000a1");

/// The token contract.
pub const TOKEN: Address = address!("5a3b1e00000000000000000000000000000000c0");

/// The symbol of the token.
const TOKEN_SYMBOL: &str = "SHELL";

/// Time between two steps. Transactions appear in one step, and the next makes a block of them.
const STEP: Duration = Duration::from_secs(2);

/// Events that wait for a slow connection at most. Beyond, it misses some.
const EVENT_BUFFER: usize = 256;

const TABLE: Table = Table("chain.sample");
const KEY: &[u8] = b"ledger";

/// Why the sample chain cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum SampleError {
    /// No port is free on the loopback interface.
    #[error("the sample chain's node cannot listen: {0}")]
    Listen(#[from] io::Error),
    /// The configuration of the chain is refused, which a test rules out.
    #[error("the sample chain's configuration: {0}")]
    Config(#[from] serde_json::Error),
}

/// The node of the sample chain.
pub struct SampleNode {
    listener: TcpListener,
    ledger: Arc<Mutex<Ledger>>,
    events: broadcast::Sender<LedgerEvent>,
    store: Option<SharedStore>,
    clock: SharedClock,
}

impl std::fmt::Debug for SampleNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SampleNode").finish_non_exhaustive()
    }
}

impl SampleNode {
    /// Opens the node, which continues the chain in the store. Returns the configuration of the
    /// chain too. Nothing is answered before [`run`](Self::run).
    ///
    /// # Errors
    /// No port is free.
    pub async fn open(
        store: Option<SharedStore>,
        clock: SharedClock,
    ) -> Result<(Self, ChainConfig), SampleError> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let url = format!("ws://{}", listener.local_addr()?);
        let config = json!({
            "id": CHAIN_ID, "name": "sample", "endpoints": [url], "confirmations": 4,
            "finality": 12, "block_time": "4s", "coin": "TIDE",
            "tokens": [format!("{TOKEN:?}")],
        });
        let config = ChainConfig {
            provenance: Provenance::Sample,
            ..serde_json::from_value(config)?
        };
        let stored = match &store {
            Some(store) => store.get(TABLE, KEY.to_vec()).await.ok().flatten(),
            None => None,
        };
        let stored = stored.and_then(|bytes| serde_json::from_slice(&bytes).ok());
        let ledger = stored.unwrap_or_else(|| Ledger::new(clock.now_ms()));
        let node = Self {
            listener,
            ledger: Arc::new(Mutex::new(ledger)),
            events: broadcast::channel(EVENT_BUFFER).0,
            store,
            clock,
        };
        Ok((node, config))
    }

    /// Makes blocks and answers calls until cancelled.
    pub async fn run(self, cancel: CancellationToken) {
        let serving = server::serve(&self.listener, &self.ledger, &self.events, &cancel);
        let making = self.make_blocks();
        cancel
            .run_until_cancelled(async { tokio::join!(serving, making) })
            .await;
    }

    async fn make_blocks(&self) {
        let mut steps = interval(STEP);
        steps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            steps.tick().await;
            let (events, stored) = {
                let mut ledger = self.ledger.lock();
                let events = ledger.step(self.clock.now_ms());
                (events, serde_json::to_vec(&*ledger))
            };
            // Stored first: the engine never knows a block that the node forgets.
            if let (Some(store), Ok(stored)) = (&self.store, stored) {
                let mut batch = Batch::new();
                batch.put(TABLE, KEY, stored);
                if let Err(error) = store.commit(batch).await {
                    tracing::debug!(%error, "the sample chain is not stored");
                }
            }
            for event in events {
                // Without a connection nobody listens.
                let _ = self.events.send(event);
            }
        }
    }
}
