//! Channel providers of chains that one node each owns: `blocks`, `tx`, `wallet` and `events`.
//!
//! They check names by the configuration, and have the owner follow what is subscribed to. The broker
//! chooses the epochs: each channel has one order for all nodes.

use std::sync::Arc;

use futures::future::join_all;
use tidewire_proto::v1::ErrorCode;
use tidewire_stream::{Activation, Caller, ChannelName, ChannelProvider, StreamError, UserId};

use super::{SharedChain, SharedChains};
use crate::engine_slot::Location;

/// The providers, by namespace.
pub(super) fn of(shared: &Arc<SharedChains>) -> [(&'static str, Arc<dyn ChannelProvider>); 4] {
    [
        ("blocks", Arc::new(BlocksProvider(shared.clone()))),
        ("tx", Arc::new(TransactionProvider(shared.clone()))),
        ("wallet", Arc::new(WalletProvider(shared.clone()))),
        ("events", Arc::new(EventsProvider(shared.clone()))),
    ]
}

struct BlocksProvider(Arc<SharedChains>);

impl ChannelProvider for BlocksProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.catalog.check_blocks_channel(rest)?)
    }
}

struct TransactionProvider(Arc<SharedChains>);

impl ChannelProvider for TransactionProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.catalog.check_transaction_channel(rest)?)
    }

    fn activate_elsewhere<'a>(
        &'a self,
        rest: &'a str,
        caller: &'a Caller,
    ) -> Option<Activation<'a>> {
        Some(Box::pin(self.0.follow_on_chain("tx", rest, caller)))
    }
}

struct WalletProvider(Arc<SharedChains>);

impl ChannelProvider for WalletProvider {
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        Ok(self.0.catalog.check_wallet_channel(rest)?)
    }

    fn activate_elsewhere<'a>(
        &'a self,
        rest: &'a str,
        caller: &'a Caller,
    ) -> Option<Activation<'a>> {
        Some(Box::pin(self.0.follow_wallet(rest, caller)))
    }

    fn owns(&self, user: &UserId, rest: &str) -> bool {
        let mut chains = self.0.chains.values();
        chains.any(|chain| {
            let open = chain.slot.opened();
            open.is_some_and(|open| open.engine.owns_wallet(user, rest))
        })
    }
}

struct EventsProvider(Arc<SharedChains>);

impl ChannelProvider for EventsProvider {
    /// The owner knows the filters. Another node knows those that are followed on it; the owner refuses
    /// a subscription to any other one.
    fn validate(&self, rest: &str) -> Result<(), StreamError> {
        let chain = self.0.chain_of(rest)?;
        match chain.slot.locate() {
            Location::Here(open) => Ok(open.engine.check_events_channel(rest)?),
            _ => Ok(()),
        }
    }

    fn activate_elsewhere<'a>(
        &'a self,
        rest: &'a str,
        caller: &'a Caller,
    ) -> Option<Activation<'a>> {
        Some(Box::pin(self.0.follow_on_chain("events", rest, caller)))
    }
}

impl SharedChains {
    /// The chain that the part of a channel's name after the colon begins with.
    fn chain_of(&self, rest: &str) -> Result<&SharedChain, StreamError> {
        let id = rest.split(':').next().unwrap_or_default();
        self.catalog.check_blocks_channel(id)?;
        let chain = id.parse().ok().and_then(|id: u64| self.chains.get(&id));
        chain
            .ok_or_else(|| StreamError::new(ErrorCode::NotFound, format!("there is no chain {id}")))
    }

    async fn follow_on_chain(
        &self,
        namespace: &str,
        rest: &str,
        caller: &Caller,
    ) -> Result<(), StreamError> {
        let channel = ChannelName::parse(&format!("{namespace}:{rest}"))?;
        let chain = self.chain_of(rest)?;
        let interest = &chain.interest;
        interest.follow(self, &chain.slot, &channel, caller).await
    }

    /// Follows a wallet on all chains. A chain without an owner follows it once it has one.
    async fn follow_wallet(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        let channel = ChannelName::parse(&format!("wallet:{rest}"))?;
        let chains = self.chains.values();
        let followed = chains.map(|chain| {
            let interest = &chain.interest;
            interest.follow(self, &chain.slot, &channel, caller)
        });
        let followed = join_all(followed).await;
        let refused = |error: &&StreamError| error.code() != ErrorCode::Unavailable;
        let mut errors = followed.iter().filter_map(|one| one.as_ref().err());
        if let Some(error) = errors.clone().find(refused) {
            return Err(error.clone());
        }
        if let (Some(error), false) = (errors.next(), followed.iter().any(Result::is_ok)) {
            return Err(error.clone());
        }
        for (chain, followed) in self.chains.values().zip(&followed) {
            if followed.is_err() {
                chain.interest.follow_later(&channel, caller);
            }
        }
        Ok(())
    }
}
