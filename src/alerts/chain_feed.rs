//! Chain feed: passes the base fees of shared chains to the alert engine, whichever node follows them.
//! States of transactions come with their watches.

use std::sync::Arc;

use tidewire_alert::AlertEngine;
use tidewire_chain::blocks_channel;
use tidewire_proto::v1::server_message::Data;
use tidewire_stream::{StreamCore, Tap};

use super::chain_tap::add_gas;

/// The blocks of the chains that the nodes share.
pub(super) struct ChainFeed {
    pub(super) stream: Arc<StreamCore>,
    pub(super) chains: Vec<u64>,
}

impl ChainFeed {
    /// Passes base fees to an engine until the taps are dropped.
    pub(super) async fn listen(&self, engine: &AlertEngine) -> Vec<Tap> {
        let mut taps = Vec::new();
        for chain in &self.chains {
            let engine = engine.clone();
            let tap = self.stream.tap(
                blocks_channel(*chain),
                Arc::new(move |publication| {
                    if let Data::Block(block) = &*publication.event() {
                        add_gas(&engine, block);
                    }
                }),
            );
            taps.push(tap.await);
        }
        taps
    }
}
