//! Channel providers of chains that one node each owns: `blocks`, `tx`, `wallet` and `events`.
//!
//! They check names by the configuration, and have the owner follow what is subscribed to. The broker
//! chooses the epochs: each channel has one order for all nodes.

use std::sync::Arc;

use futures::future::join_all;
use prost::Message as _;
use tidewire_proto::v1::{ErrorCode, LinkWalletRequest};
use tidewire_stream::{
    Activation, CallClass, Caller, ChannelName, ChannelProvider, Identity, OwnerLookup,
    StreamError, UserId, identity::UserIdentity,
};

use super::{
    SharedChain, SharedChains,
    calls::IS_LINKED,
    wire::{ChainCall, LinkReply},
};
use crate::{
    engine_slot::Location,
    forwarding::{CHAINS, Call, Reached},
};

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
        let is_linked = chains.any(|chain| match chain.slot.locate() {
            Location::Here(open) => open.engine.owns_wallet(user, rest),
            _ => false,
        });
        is_linked || self.0.links.contains(user, rest)
    }

    fn look_owner_up<'a>(&'a self, user: &'a UserId, rest: &'a str) -> Option<OwnerLookup<'a>> {
        Some(Box::pin(self.0.look_link_up(user, rest)))
    }

    fn forget_owner(&self, user: &UserId, rest: &str) {
        self.0.links.forget(user, rest);
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
        interest.follow(&chain.slot, &channel, caller).await
    }

    /// Asks the owners of chains whether a wallet is linked to a user. One that links it is enough: all
    /// chains have the same links.
    async fn look_link_up(&self, user: &UserId, rest: &str) {
        let asked = self.chains.keys().map(|id| self.ask_link(*id, user, rest));
        let answers = join_all(asked).await;
        if answers.contains(&Some(true)) {
            self.links.insert(user, rest);
        } else if answers.contains(&Some(false)) {
            self.links.forget(user, rest);
        }
    }

    /// Asks the owner of a chain. None if it does not answer.
    async fn ask_link(&self, id: u64, user: &UserId, rest: &str) -> Option<bool> {
        let chain = self.chains.get(&id)?;
        let request = LinkWalletRequest {
            user: Some(user.as_str().to_owned()),
            address: rest.to_owned(),
        };
        let wrapped = ChainCall {
            chain: id,
            request: request.encode_to_vec().into(),
        };
        let caller = Identity::from(UserIdentity::new(user.clone(), i64::MAX)).into();
        let call = Call::read((CHAINS, IS_LINKED), &caller, &wrapped)
            .in_class(CallClass::Chain)
            .short_if(true);
        match self.relay.reach(&chain.slot, call).await {
            Ok(Reached::Here(open)) => Some(open.engine.owns_wallet(user, rest)),
            Ok(Reached::Answered(LinkReply { is_linked })) => Some(is_linked),
            Err(error) => {
                tracing::debug!(chain = id, %error, "it is not known to whom a wallet is linked");
                None
            }
        }
    }

    /// Follows a wallet on all chains. A chain without an owner follows it once it has one.
    async fn follow_wallet(&self, rest: &str, caller: &Caller) -> Result<(), StreamError> {
        let channel = ChannelName::parse(&format!("wallet:{rest}"))?;
        let chains = self.chains.values();
        let followed = chains.map(|chain| {
            let interest = &chain.interest;
            interest.follow(&chain.slot, &channel, caller)
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
