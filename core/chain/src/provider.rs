//! Channel providers of the chain engine: `blocks`, `tx`, `wallet` and `events`.
//!
//! They translate between the streaming core and [`ChainEngine`]: `validate` checks a name,
//! `activate` follows the named item. Retention ends the following, some time after the last
//! subscriber has left.

use std::sync::Arc;

use tidewire_stream::{Caller, ChannelEpoch, ChannelProvider, Epoch, StreamError, UserId};

use crate::ChainEngine;

impl ChainEngine {
    /// The providers of the engine's channels, by namespace.
    #[must_use]
    pub fn channel_providers(&self) -> [(&'static str, Arc<dyn ChannelProvider>); 4] {
        [
            ("blocks", Arc::new(BlocksProvider(self.clone()))),
            ("tx", Arc::new(TransactionProvider(self.clone()))),
            ("wallet", Arc::new(WalletProvider(self.clone()))),
            ("events", Arc::new(EventsProvider(self.clone()))),
        ]
    }
}

/// Channels `blocks:{chain}`. Configured chains are followed all the time.
struct BlocksProvider(ChainEngine);

impl ChannelProvider for BlocksProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.check_blocks_channel(rest)?)
    }
}

/// Channels `tx:{chain}:{hash}`. The first subscription starts a watch, which publishes the
/// state of the transaction anew. So the broker may choose the epoch: no state is missed.
struct TransactionProvider(ChainEngine);

impl ChannelProvider for TransactionProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.check_transaction_channel(rest)?)
    }

    fn activate(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        Ok(self.0.on_behalf_of(caller).follow_transaction(rest)?)
    }
}

/// Channels `wallet:{address}`.
struct WalletProvider(ChainEngine);

impl ChannelProvider for WalletProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.check_wallet_channel(rest)?)
    }

    fn activate(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        Ok(self.0.on_behalf_of(caller).follow_wallet(rest)?)
    }

    fn epoch(&self, rest: &str) -> ChannelEpoch {
        channel_epoch(self.0.wallet_epoch(rest))
    }

    fn owns(&self, user: &UserId, rest: &str) -> bool {
        self.0.owns_wallet(user, rest)
    }
}

/// Channels `events:{chain}:{filter}`, which a `watch` names.
struct EventsProvider(ChainEngine);

impl ChannelProvider for EventsProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.check_events_channel(rest)?)
    }

    fn activate(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        Ok(self.0.on_behalf_of(caller).follow_events(rest)?)
    }

    fn epoch(&self, rest: &str) -> ChannelEpoch {
        channel_epoch(self.0.events_epoch(rest))
    }
}

fn channel_epoch(epoch: Option<Epoch>) -> ChannelEpoch {
    epoch.map_or(ChannelEpoch::Inactive, ChannelEpoch::Active)
}
