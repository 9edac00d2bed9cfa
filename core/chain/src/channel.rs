//! Channels of the chain engine: their names, and the events that are published on them.

use alloy::{
    hex,
    primitives::{Address, B256},
};
use tidewire_stream::{ChannelName, Event};

/// An event, and the channel that it belongs on.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelEvent {
    /// The channel.
    pub channel: ChannelName,
    /// The event.
    pub event: Event,
}

/// The channel of a chain's blocks, `blocks:{chain}`.
#[must_use]
pub fn blocks_channel(chain: u64) -> ChannelName {
    channel(&format!("blocks:{chain}"))
}

/// The channel of a transaction, `tx:{chain}:{hash}`.
#[must_use]
pub fn transaction_channel(chain: u64, hash: &B256) -> ChannelName {
    channel(&format!("tx:{chain}:{hash}"))
}

/// The channel of a wallet on all chains, `wallet:{address}`, the address in lower case.
#[must_use]
pub fn wallet_channel(address: &Address) -> ChannelName {
    // `Display` would write the checksum's mixed case.
    channel(&format!("wallet:{address:?}"))
}

/// The channel of an event filter, `events:{chain}:{digest}`.
pub(crate) fn events_channel(chain: u64, digest: &[u8]) -> ChannelName {
    channel(&format!("events:{chain}:{}", hex::encode(digest)))
}

#[expect(
    clippy::expect_used,
    reason = "a namespace of ours, a number and hexadecimal digits make a valid name under 255 bytes"
)]
fn channel(name: &str) -> ChannelName {
    ChannelName::parse(name).expect("the name is built of allowed characters")
}
