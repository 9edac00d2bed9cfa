//! Which wallets are followed: those that clients follow, for a while after the last one
//! has gone too, and those that are tied to users, as long as they are.

use std::sync::Arc;

use alloy::primitives::Address;
use parking_lot::RwLock;
use tidewire_stream::UserId;
use tokio::sync::Notify;

use super::{InsertOutcome, RetentionMap};
use super::{
    WalletIndex,
    links::{LinkError, Links},
};

/// How many wallets may be followed.
pub(crate) const WALLETS: usize = 1_000_000;

/// How many may be kept without a follower.
const IDLE: usize = 100_000;

/// Where the wallets of a chain are looked up, and who waits for the first one.
#[derive(Debug, Clone, Default)]
pub(crate) struct WalletLookup {
    pub(crate) index: Arc<RwLock<WalletIndex>>,
    pub(crate) has_wallets: Arc<Notify>,
}

/// The wallets that are followed, on all chains.
#[derive(Debug, Default)]
pub(crate) struct WalletInterest {
    pub(crate) retained: RetentionMap<Address, ()>,
    pub(crate) links: Links,
    chains: Vec<WalletLookup>,
}

/// As many wallets are followed as may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{WALLETS} wallets are followed, which is the most that may be")]
pub(crate) struct WalletLimit;

impl WalletInterest {
    /// None yet, on these chains.
    pub(crate) fn new(chains: Vec<WalletLookup>) -> Self {
        Self {
            chains,
            ..Self::default()
        }
    }

    /// Follows a wallet for somebody who is about to be entered.
    pub(crate) fn follow(&self, address: Address) -> Result<(), WalletLimit> {
        match self
            .retained
            .insert(address, (), WALLETS, || self.watch(address))
        {
            InsertOutcome::New | InsertOutcome::Known => Ok(()),
            InsertOutcome::Full => Err(WalletLimit),
        }
    }

    /// Ties a wallet to a user, and follows it from now on.
    pub(crate) fn link(&self, address: Address, user: &UserId) -> Result<(), LinkError> {
        self.links.link(address, user)
    }

    /// Looks at all of them, and gives those that are to be forgotten.
    pub(crate) async fn sweep(
        &self,
        now_ms: i64,
        is_followed: impl Fn(&Address) -> bool,
    ) -> Vec<Address> {
        let is_used = |address: &Address| is_followed(address) || self.links.has_user(address);
        self.retained.sweep(now_ms, IDLE, is_used).await
    }

    /// Forgets a wallet that is still nobody's. False if it is somebody's.
    pub(crate) fn forget(&self, address: &Address) -> bool {
        // Whoever ties it meanwhile follows it after that, and so has it followed again.
        !self.links.has_user(address) && self.retained.forget(address, || self.unwatch(address))
    }

    /// Follows all that are tied to a user.
    pub(crate) fn follow_linked(&self) {
        for address in self.links.addresses() {
            if let Err(error) = self.follow(address) {
                tracing::error!(%address, %error, "a user's wallet is not followed");
            }
        }
    }

    /// Looks up those that were stored in the chains' blocks.
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
