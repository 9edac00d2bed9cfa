//! Shared prices: requests about prices where one node owns the price engine for all.
//!
//! The owner answers them, whichever node is asked: it has the prices that are published. A request that
//! reads does not wait for an owner where this node has an answer of its own: that of its engine, or, on
//! a node without one, the last price that was published.

use std::{sync::Arc, time::Duration};

use prost::Message;
use tidewire_store::{EngineTerm, Ownership};
use tidewire_stream::{Caller, StreamCore, StreamError};

use crate::{
    engine_slot::{EngineSlot, Location},
    forwarding::{Call, PRICE, Reached, Relay, Unanswered},
    published_prices::PublishedPrices,
};

/// Longest time of a request that this node can answer too: an owner that hangs is not waited for.
const READ: Duration = Duration::from_secs(2);

/// The way to the owner of the price engine. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct SharedPrices {
    /// Open while this node is the owner.
    slot: EngineSlot<()>,
    relay: Relay,
    engine: OwnEngine,
}

/// The engine of this node.
#[derive(Debug, Clone)]
enum OwnEngine {
    /// It follows the venues, also while another node is the owner.
    Runs,
    /// It does not run. Prices are those that were published.
    Absent(PublishedPrices),
}

/// The answerer of a request for the newest value of a channel.
pub(crate) enum Newest<'a, A> {
    /// The engine of this node.
    Engine,
    /// The owner, which has answered this.
    Owner(A),
    /// The last publication.
    Published(&'a PublishedPrices),
}

impl SharedPrices {
    pub(crate) fn new(stream: &Arc<StreamCore>) -> Self {
        Self {
            slot: EngineSlot::of_owner(
                "requests about prices".to_owned(),
                "the price engine".to_owned(),
                "the server is starting",
            ),
            relay: Relay::Forward(stream.clone()),
            engine: OwnEngine::Runs,
        }
    }

    /// The same on a node that does not run the engine.
    pub(crate) fn without_engine(self, stream: &Arc<StreamCore>) -> Self {
        let published = PublishedPrices::new(stream.clone());
        Self {
            engine: OwnEngine::Absent(published),
            ..self
        }
    }

    /// The same for requests that come from other nodes: it passes none on.
    pub(crate) fn for_other_nodes(&self) -> Self {
        Self {
            relay: Relay::Refuse,
            ..self.clone()
        }
    }

    /// Has requests go to the owner.
    pub(crate) fn set_owner(&self, owner: &Ownership<EngineTerm>) {
        match owner {
            Ownership::Own(term) => self.slot.set((), term.clone()),
            Ownership::Other { node, .. } => {
                let reason = format!("node {node} owns the price engine");
                self.slot.clear_for(Some(node), reason);
            }
            Ownership::Unknown(error) => {
                let reason = format!("no owner of the price engine is known: {error}");
                self.slot.clear_for(None, reason);
            }
        }
    }

    /// Why this node is not the owner. None if it is.
    pub(crate) fn absence(&self) -> Option<StreamError> {
        self.slot.get().err()
    }

    /// Reaches what answers a request that reads.
    ///
    /// # Errors
    /// The owner refuses it, or this node has no engine, and there is no owner in time.
    pub(crate) async fn read<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        caller: &Caller,
        request: &Q,
    ) -> Result<Reached<(), A>, StreamError> {
        let call = Call::read((PRICE, method), caller, request);
        match self.engine {
            OwnEngine::Runs => Ok(self.ask_now(call).await?.unwrap_or(Reached::Here(()))),
            OwnEngine::Absent(_) => self.relay.reach(&self.slot, call).await,
        }
    }

    /// Reaches what answers a request for the newest value of a channel.
    ///
    /// # Errors
    /// The owner refuses it.
    pub(crate) async fn newest<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        caller: &Caller,
        request: &Q,
    ) -> Result<Newest<'_, A>, StreamError> {
        let call = Call::read((PRICE, method), caller, request);
        Ok(match (self.ask_now(call).await?, &self.engine) {
            (Some(Reached::Answered(answer)), _) => Newest::Owner(answer),
            (Some(Reached::Here(())), _) | (None, OwnEngine::Runs) => Newest::Engine,
            (None, OwnEngine::Absent(published)) => Newest::Published(published),
        })
    }

    /// Reaches the owner for a request that must not be carried out twice.
    ///
    /// # Errors
    /// The owner refuses it, there is none in time, or it does not answer.
    pub(crate) async fn change<Q: Message, A: Message + Default>(
        &self,
        method: &'static str,
        caller: &Caller,
        request: &Q,
    ) -> Result<Reached<(), A>, StreamError> {
        let call = Call::once((PRICE, method), caller, request);
        self.relay.reach(&self.slot, call).await
    }

    /// Whether some node brings prices up to date, as far as this one knows.
    pub(crate) fn has_owner(&self) -> bool {
        matches!(
            self.slot.locate(),
            Location::Here(()) | Location::Elsewhere(_)
        )
    }

    /// Asks the owner. None if nobody answers at once.
    async fn ask_now<Q: Message, A: Message + Default>(
        &self,
        call: Call<'_, Q>,
    ) -> Result<Option<Reached<(), A>>, StreamError> {
        let call = call.within(READ).without_waiting();
        match self.relay.try_reach(&self.slot, call).await {
            Ok(reached) => Ok(Some(reached)),
            Err(Unanswered::Absent(_)) => Ok(None),
            Err(Unanswered::Refused(error)) => Err(error),
        }
    }
}
