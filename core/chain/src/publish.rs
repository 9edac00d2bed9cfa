//! What trackers have to say, and on which channel.

use alloy::primitives::{Address, B256};
use tidewire_stream::{ChannelName, ChannelNameError, Event};

/// An event for a channel.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelEvent {
    /// Where it is said.
    pub channel: ChannelName,
    /// What is said.
    pub event: Event,
}

/// The channel of a transaction, `tx:{chain}:{hash}`.
///
/// # Errors
/// Never: what the name is made of is allowed in one.
pub fn transaction_channel(chain: u64, hash: &B256) -> Result<ChannelName, ChannelNameError> {
    ChannelName::parse(&format!("tx:{chain}:{hash}"))
}

/// The channel of a wallet, `wallet:{address}`.
///
/// # Errors
/// Never: what the name is made of is allowed in one.
pub fn wallet_channel(address: &Address) -> Result<ChannelName, ChannelNameError> {
    // Not as `Display` writes it: that is with a checksum.
    ChannelName::parse(&format!("wallet:{address:?}"))
}
