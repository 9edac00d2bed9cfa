//! Chain tap: passes what the chain engine publishes to the streaming core, and base fees and
//! transaction states to the alert engine too.

use std::sync::{Arc, OnceLock};

use tidewire_alert::{AlertEngine, Decimal};
use tidewire_proto::v1::{Block, TransactionState, TransactionStatus, server_message::Data};
use tidewire_stream::{
    ChannelName, DurablePublisher, Epoch, Event, Position, Publisher, StoredPublication,
    StreamCore, broker::BrokerFuture,
};

use super::{EngineSlot, TransactionWatches};

/// Decimal places from wei to gwei.
const GWEI_SCALE: u32 = 9;

/// The publisher of the chain engine.
pub(crate) struct ChainTap {
    stream: Arc<StreamCore>,
    engine: EngineSlot,
    watches: OnceLock<Arc<TransactionWatches>>,
}

impl ChainTap {
    /// A tap without an alert engine yet.
    pub(crate) fn new(stream: Arc<StreamCore>) -> Self {
        Self {
            stream,
            engine: EngineSlot::default(),
            watches: OnceLock::new(),
        }
    }

    /// Has the states of transactions observed. The first observer stays.
    pub(super) fn set_watches(&self, watches: Arc<TransactionWatches>) {
        let _ = self.watches.set(watches);
    }

    /// Where the alert engine is set.
    pub(super) fn engine(&self) -> EngineSlot {
        self.engine.clone()
    }
}

impl Publisher for ChainTap {
    fn publish(&self, channel: &ChannelName, event: Event) {
        let engine = self.engine.read().clone();
        if let Some(engine) = &engine {
            match &event {
                Data::Block(block) => add_gas(engine, block),
                Data::Transaction(status) => {
                    if let Some(watches) = self.watches.get() {
                        watches.observe(status);
                    }
                    add_transaction(engine, status);
                }
                _ => {}
            }
        }
        self.stream.publish(channel, event);
    }
}

impl DurablePublisher for ChainTap {
    fn position<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, Position> {
        self.stream.position(channel)
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        self.stream.restore(channel, epoch, publications)
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        self.stream.start_new_epoch(channel)
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        self.stream.forget(channel)
    }
}

/// Adds the base fee of a block. Chains without one have no gas price.
pub(super) fn add_gas(engine: &AlertEngine, block: &Block) {
    let wei = block.base_fee_per_gas.as_deref();
    let wei = wei.and_then(|wei| wei.parse::<i128>().ok());
    let gwei = wei.and_then(|wei| Decimal::try_from_i128_with_scale(wei, GWEI_SCALE).ok());
    if let Some(gwei) = gwei {
        let formed_us = block.timestamp.saturating_mul(1_000);
        engine.gas(block.chain, gwei.normalize(), formed_us);
    }
}

/// Adds the state of a transaction.
pub(super) fn add_transaction(engine: &AlertEngine, status: &TransactionStatus) {
    let state = status.state();
    let is_retraction = status.reorged == Some(true) && state == TransactionState::Pending;
    engine.transaction(status.chain, &status.hash, state, is_retraction);
}
