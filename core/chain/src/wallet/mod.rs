//! What happens to wallets: the channel `wallet:{address}`.
//!
//! [`WalletIndex`] says who is watched, [`Activity`] what a block has for them, and
//! [`WalletTracker`] reads what the block does not hold and tells it.

mod activity;
mod calls;
mod flat;
mod pending;
mod reads;
mod sent_updates;
mod tokens;
mod trace;
mod tracer;
mod tracker;
mod update;

pub(crate) use activity::parties;
pub use activity::{Activity, TokenActivity};
pub use sent_updates::Stages;
pub use tracker::{Tracing, WalletTracker};

use alloy::primitives::Address;

use crate::ChainError;

/// An address in any one case, or in the mixed case of its checksum.
pub(crate) fn parse_address(text: &str) -> Result<Address, ChainError> {
    let address = text
        .strip_prefix("0x")
        .and_then(|hex| hex.parse::<Address>().ok());
    let address = address.ok_or_else(|| ChainError::Address(text.to_owned()))?;
    let has = |is: fn(&char) -> bool| text.chars().skip(2).any(|c| is(&c));
    let is_mixed = has(char::is_ascii_uppercase) && has(char::is_ascii_lowercase);
    let expected = address.to_checksum(None);
    if is_mixed && expected != text {
        return Err(ChainError::Checksum {
            given: text.to_owned(),
            expected,
        });
    }
    Ok(address)
}
