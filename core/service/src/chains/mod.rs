//! Chain slots: the engines of chains, here or on the nodes that own them.
//!
//! Without shared chains this node has one engine for all of them. With shared chains each one is owned
//! by one node. Requests go to the owner ([`forwarding`](crate::forwarding)), publications come from
//! the broker, and the owner hears which channels are followed here:
//!
//! ```text
//! subscription ─▶ InterestBook ── updates, one at a time ──▶ owner: NodeInterest ─▶ its engine
//! (this node)     per chain                                  "a node follows tx:1:0x…"
//! ```

mod book;
pub(crate) mod calls;
mod follow;
mod interest;
mod linked_wallets;
#[cfg(test)]
mod model;
mod nodes;
mod providers;
mod rules;
mod wire;

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures::future::join_all;
use prost::Message;
use tidewire_chain::ChainEngine;
use tidewire_proto::v1::ErrorCode;
use tidewire_store::SharedStore;
use tidewire_stream::{
    CallClass, CallLane, CallRefusal, Caller, ChannelName, ChannelProvider, ForwardedCall,
    StreamCore, StreamError,
};

pub(crate) use self::wire::ChannelReply;
use self::{
    interest::ChainInterest,
    linked_wallets::LinkedWallets,
    nodes::NodeInterest,
    wire::{ChainCall, InterestUpdate},
};
use crate::{
    engine_slot::{EngineSlot, Location},
    forwarding::{CHAINS, Call, Reached, Relay, TAKEOVER, decode},
};

/// The method of updates of interest.
const INTEREST: &str = "interest";

/// The engines of chains, here or on other nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChainSlots(Source);

#[derive(Debug, Clone)]
enum Source {
    /// One engine for all chains, on this node.
    Own(ChainEngine),
    Shared(Arc<SharedChains>),
}

/// Chains that one node each owns.
#[derive(Debug)]
struct SharedChains {
    /// An engine of all chains that never starts: it checks names.
    catalog: ChainEngine,
    stream: Arc<StreamCore>,
    relay: Relay,
    links: LinkedWallets,
    chains: BTreeMap<u64, SharedChain>,
}

#[derive(Debug)]
struct SharedChain {
    slot: EngineSlot<OpenChain>,
    interest: ChainInterest,
}

/// The engine of a chain that this node owns.
#[derive(Debug, Clone)]
struct OpenChain {
    engine: ChainEngine,
    /// The interest of all nodes, since the engine is open.
    nodes: Arc<NodeInterest>,
    opened_at: tokio::time::Instant,
}

impl ChainSlots {
    /// All chains, on this node.
    #[must_use]
    pub fn own(engine: ChainEngine) -> Self {
        Self(Source::Own(engine))
    }

    /// Chains that one node each owns. `catalog` is an engine of all of them that is never started.
    #[must_use]
    pub fn shared(stream: Arc<StreamCore>, catalog: ChainEngine) -> Self {
        let chains = catalog.ids().into_iter().map(|id| {
            let chain = SharedChain {
                slot: EngineSlot::of_owner(
                    format!("requests about chain {id}"),
                    format!("chain {id}"),
                    "the server is starting",
                )
                .with_patience(TAKEOVER),
                interest: ChainInterest::new(id),
            };
            (id, chain)
        });
        Self(Source::Shared(Arc::new(SharedChains {
            chains: chains.collect(),
            relay: Relay::Forward(stream.clone()),
            links: LinkedWallets::default(),
            catalog,
            stream,
        })))
    }

    /// Sets the engine of a chain that this node owns, with the store that it is open on. It is
    /// started.
    pub fn open(&self, chain: u64, engine: ChainEngine, store: SharedStore) {
        if let Some(chain) = self.chain(chain) {
            let open = OpenChain {
                engine,
                nodes: Arc::default(),
                opened_at: tokio::time::Instant::now(),
            };
            chain.slot.set(open, store);
            chain.interest.look();
        }
    }

    /// Takes the engine of a chain out, if there is one. Requests go to `node`, which owns the chain, or
    /// wait for the owner if it is not known.
    pub fn close(&self, chain: u64, node: Option<&str>, reason: String) {
        if let Some(chain) = self.chain(chain) {
            chain.slot.clear_for(node, reason);
            chain.interest.look();
        }
    }

    /// The same while this node, which owns the chain, opens its engine: requests wait anew.
    pub fn begin_opening(&self, chain: u64) {
        if let Some(chain) = self.chain(chain) {
            chain.slot.clear_to_open("it is being opened".to_owned());
        }
    }

    /// The channel providers of the chains, by namespace.
    #[must_use]
    pub fn channel_providers(&self) -> [(&'static str, Arc<dyn ChannelProvider>); 4] {
        match &self.0 {
            Source::Own(engine) => engine.channel_providers(),
            Source::Shared(shared) => providers::of(shared),
        }
    }

    /// Tells the owners of shared chains what is followed here, for good. Ends at once if chains are
    /// not shared.
    pub async fn run(&self) {
        if let Source::Shared(shared) = &self.0 {
            let chains = shared.chains.values();
            join_all(chains.map(|chain| chain.interest.run(shared, &chain.slot))).await;
        }
    }

    /// Whether one node each owns the chains.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self.0, Source::Shared(_))
    }

    /// An engine that knows the names of all chains, whether or not it runs them.
    pub(crate) fn catalog(&self) -> &ChainEngine {
        match &self.0 {
            Source::Own(engine) => engine,
            Source::Shared(shared) => &shared.catalog,
        }
    }

    /// Saves changes to the interest in transactions, wallets and events.
    pub(crate) async fn store_interest(&self) {
        for (engine, _) in self.engines() {
            engine.store_interest().await;
        }
    }

    /// Removes interest that has had no subscriber for its retention time, on any node.
    pub(crate) async fn expire_interest(&self, has_subscriber: impl Fn(&ChannelName) -> bool) {
        let now = tokio::time::Instant::now();
        if let Source::Shared(shared) = &self.0 {
            for chain in shared.chains.values() {
                chain.interest.sweep(&has_subscriber, now).await;
            }
        }
        for (engine, open) in self.engines() {
            if let Some(open) = &open {
                open.nodes.expire(now);
                if open.is_settling(now) {
                    // Not all nodes have told of their interest yet.
                    continue;
                }
            }
            let is_followed = |channel: &ChannelName| {
                let elsewhere = open.as_ref().map(|open| &open.nodes);
                has_subscriber(channel) || elsewhere.is_some_and(|nodes| nodes.contains(channel))
            };
            engine.expire_interest(is_followed).await;
        }
    }

    /// The engines that run on this node.
    fn engines(&self) -> Vec<(ChainEngine, Option<OpenChain>)> {
        match &self.0 {
            Source::Own(engine) => vec![(engine.clone(), None)],
            Source::Shared(shared) => {
                let slots = shared.chains.values().map(|chain| chain.slot.locate());
                let open = slots.filter_map(|location| match location {
                    Location::Here(open) => Some((open.engine.clone(), Some(open))),
                    _ => None,
                });
                open.collect()
            }
        }
    }

    fn chain(&self, id: u64) -> Option<&SharedChain> {
        match &self.0 {
            Source::Own(_) => None,
            Source::Shared(shared) => shared.chains.get(&id),
        }
    }

    /// The chains that a wallet is followed on, each by an engine of its own. One of all chains does it
    /// at once.
    pub(crate) fn of_wallets(&self) -> Vec<u64> {
        match &self.0 {
            Source::Shared(shared) if !shared.chains.is_empty() => {
                shared.chains.keys().copied().collect()
            }
            // It refuses, if there is no chain.
            Source::Own(_) | Source::Shared(_) => vec![0],
        }
    }

    /// Has the engine of a chain carry out a request, here or on another node. An engine that is here
    /// refuses an unknown chain.
    ///
    /// # Errors
    /// The engine refuses it, or there is no owner in time, or it does not answer.
    pub(crate) async fn ask<Q: Message, A: Message + Default>(
        &self,
        chain: u64,
        method: &'static str,
        caller: &Caller,
        request: &Q,
    ) -> Result<A, StreamError> {
        let body = Bytes::from(request.encode_to_vec());
        let call = ForwardedCall {
            lane: CallLane::default(),
            service: CHAINS.to_owned(),
            method: method.to_owned(),
            caller: caller.clone(),
            body: body.clone(),
            time: calls::TIME,
        };
        let on = async |engine: &ChainEngine| decode(calls::answer(engine, &call).await?.into());
        let shared = match &self.0 {
            Source::Own(engine) => return on(engine).await,
            Source::Shared(shared) => shared,
        };
        let Some(shared_chain) = shared.chains.get(&chain) else {
            return on(&shared.catalog).await;
        };
        let request = ChainCall {
            chain,
            request: body,
        };
        loop {
            let asked = Call::read((CHAINS, method), caller, &request)
                .in_class(CallClass::Chain)
                .short_if(method == calls::BLOCK)
                .within(calls::TIME);
            let open = match shared.relay.reach(&shared_chain.slot, asked).await? {
                Reached::Here(open) => open,
                Reached::Answered(answer) => return Ok(answer),
            };
            match on(&open.engine).await {
                // The term ended meanwhile: the next owner is asked.
                Err(error) if shared_chain.lost(&open, &error) => {}
                answered => return answered,
            }
        }
    }

    /// Carries out a request of another node.
    pub(crate) async fn answer(&self, call: ForwardedCall) -> Result<Vec<u8>, CallRefusal> {
        let ChainCall { chain, request } = decode(call.body.clone()).map_err(CallRefusal::Error)?;
        let shared = match &self.0 {
            Source::Own(_) => None,
            Source::Shared(shared) => Some(shared),
        };
        let found = shared.and_then(|shared| Some((shared, shared.chains.get(&chain)?)));
        let Some((shared, shared_chain)) = found else {
            let text = format!("this server does not share chain {chain}");
            return Err(CallRefusal::NotOwner(text));
        };
        // The engine of a term that may have ended does not begin it.
        let open = shared_chain.slot.get();
        let open = open.map_err(|error| CallRefusal::NotOwner(error.message().to_owned()))?;
        let answered = if call.method == INTEREST {
            let update: InterestUpdate = decode(request).map_err(CallRefusal::Error)?;
            let applied = follow::apply(&open, &shared.stream, update).await;
            applied.map(|answer| answer.encode_to_vec())
        } else {
            let call = ForwardedCall {
                body: request,
                ..call
            };
            calls::answer(&open.engine, &call).await
        };
        answered.map_err(|error| match shared_chain.lost(&open, &error) {
            true => CallRefusal::NotOwner(error.message().to_owned()),
            false => CallRefusal::Error(error),
        })
    }
}

impl SharedChain {
    /// Whether an engine refused a request because its term has ended.
    fn lost(&self, before: &OpenChain, error: &StreamError) -> bool {
        let is_same = match self.slot.locate() {
            Location::Here(open) => Arc::ptr_eq(&open.nodes, &before.nodes),
            _ => false,
        };
        error.code() == ErrorCode::Unavailable && !is_same
    }
}
