//! Chain reach: finds out whether this node can follow a shared chain, for the balance.
//!
//! A node that may take a chain over probes its endpoints first, and only then. The owner goes by whether
//! the chain stands still.

use std::time::Duration;

use tidewire_chain::{ChainConfig, ChainEngine, ChainProbe, ConfigError};
use tidewire_store::Balance;
use tokio::time::{Instant, sleep};

/// Time between two looks of the owner at its chain.
const LOOK: Duration = Duration::from_secs(1);

/// Time after which a chain that an owner has opened stands still, if no endpoint answers.
const OPENING: Duration = Duration::from_secs(6);

/// Finds out whether this node can follow one chain.
#[derive(Debug)]
pub(crate) struct ChainReach {
    chain: u64,
    /// The name of its shard in the balance.
    shard: String,
    probe: ChainProbe,
    balance: Balance,
}

impl ChainReach {
    /// # Errors
    /// An address or a certificate cannot be used.
    pub(crate) fn new(
        config: &ChainConfig,
        shard: String,
        balance: Balance,
    ) -> Result<Self, ConfigError> {
        Ok(Self {
            chain: config.id,
            shard,
            probe: ChainProbe::new(config)?,
            balance,
        })
    }

    /// Whether this node can follow the chain. None if it has not found out.
    pub(crate) fn is_given(&self) -> Option<bool> {
        self.balance.is_usable(&self.shard)
    }

    /// Probes the endpoints when the balance has to know, for good.
    pub(crate) async fn probe(&self) {
        let chain = self.chain;
        loop {
            self.balance.check_due(&self.shard).await;
            let found = self.probe.run().await;
            match (&found, self.is_given()) {
                (Err(reason), Some(false)) => {
                    tracing::debug!(chain, %reason, "this node still cannot follow a chain");
                }
                (Err(reason), _) => {
                    tracing::warn!(chain, %reason, "this node cannot follow a chain, and leaves it to others");
                }
                (Ok(()), Some(false)) => {
                    tracing::info!(chain, "this node can follow a chain again");
                }
                (Ok(()), _) => {}
            }
            self.balance.report(&self.shard, found.is_ok());
        }
    }

    /// Reports whether the chain that this node owns stands still, for good.
    pub(crate) async fn watch(&self, engine: &ChainEngine) {
        let opened_at = Instant::now();
        let mut stood_still = false;
        loop {
            sleep(LOOK).await;
            let outage = engine.outage(self.chain);
            if let (Some(outage), false) = (&outage, stood_still) {
                tracing::warn!(chain = self.chain, %outage, "a chain stands still on this node: another one gets it that can follow it");
            }
            stood_still = outage.is_some();
            // Before, a chain that was taken without an answer does not stand still yet.
            if stood_still || opened_at.elapsed() >= OPENING {
                self.balance.report(&self.shard, !stood_still);
            }
        }
    }
}
