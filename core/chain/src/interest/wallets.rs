//! Wallet interest: the wallets that clients follow, and those that are linked to users.
//!
//! A followed wallet expires like any item of a [`RetentionMap`]. A linked one stays as long as
//! its link does.

use std::sync::Arc;

use alloy::primitives::Address;
use parking_lot::RwLock;
use tidewire_stream::UserId;
use tokio::sync::Notify;

use super::{
    RetentionLimit, RetentionMap, WalletIndex,
    links::{LinkError, Links},
};
use crate::transaction::RequestOwner;

/// Wallets in memory at most, on all chains together.
pub(crate) const MAX_WALLETS: usize = 1_000_000;

/// Idle wallets in memory at most. Beyond, those idle longest are evicted.
const MAX_IDLE: usize = 100_000;

/// Where one chain looks its wallets up.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalletLookup {
    pub(crate) index: Arc<RwLock<WalletIndex>>,
    /// Notified when a wallet is added: the mempool listener sleeps while there is none.
    pub(crate) has_wallets: Arc<Notify>,
}

/// The followed wallets, on all chains.
#[derive(Debug)]
pub(crate) struct WalletInterest {
    pub(crate) retained: RetentionMap<Address, ()>,
    pub(crate) links: Links,
    chains: Vec<WalletLookup>,
}

impl WalletInterest {
    /// No wallets yet, on the chains with these lookups.
    pub(crate) fn new(chains: Vec<WalletLookup>) -> Self {
        Self {
            retained: RetentionMap::new(MAX_WALLETS, "wallets"),
            links: Links::default(),
            chains,
        }
    }

    /// Follows a wallet for a client that is about to subscribe, or for a link.
    pub(crate) fn follow(
        &self,
        address: Address,
        owner: &RequestOwner,
    ) -> Result<(), RetentionLimit> {
        let watch = || self.watch(address);
        self.retained.insert(address, (), owner, watch).map(drop)
    }

    /// Links a wallet to a user.
    pub(crate) fn link(&self, address: Address, user: &UserId) -> Result<(), LinkError> {
        self.links.link(address, user)
    }

    /// Checks all wallets, and returns those to forget.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        has_subscriber: impl Fn(&Address) -> bool,
    ) -> Vec<Address> {
        let is_used = |address: &Address| has_subscriber(address) || self.links.has_user(address);
        self.retained.sweep(now_ms, MAX_IDLE, is_used).await
    }

    /// Forgets an unfollowed wallet. Returns false if it has followers.
    pub(crate) fn forget(&self, address: &Address) -> bool {
        // A caller that links the wallet after this check follows it afterwards, so it is
        // watched again.
        !self.links.has_user(address) && self.retained.forget(address, || self.unwatch(address))
    }

    /// Follows all wallets that are linked to a user.
    pub(crate) fn follow_linked(&self) {
        for address in self.links.addresses() {
            if let Err(error) = self.follow(address, &RequestOwner::default()) {
                tracing::error!(%address, %error, "a linked wallet is not followed");
            }
        }
    }

    /// Adds the restored wallets to each chain's index.
    pub(crate) fn watch_all(&self) {
        for address in self.retained.keys() {
            self.watch(address);
        }
    }

    fn watch(&self, address: Address) {
        for WalletLookup { index, has_wallets } in &self.chains {
            index.write().watch(address);
            has_wallets.notify_one();
        }
    }

    fn unwatch(&self, address: &Address) {
        for WalletLookup { index, .. } in &self.chains {
            index.write().unwatch(address);
        }
    }
}
