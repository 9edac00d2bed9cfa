//! What happens to wallets: the channel `wallet:{address}`.
//!
//! [`WalletIndex`] says who is watched, [`Activity`] what a block has for them, and
//! [`WalletFeed`] reads what the block does not hold and tells it.

mod activity;
mod calls;
mod feed;
mod flat;
mod followed;
mod index;
mod links;
mod pending;
mod reads;
mod tokens;
mod told;
mod trace;
mod tracer;
mod update;
mod waiting;

pub(crate) use activity::parties;
pub use activity::{Activity, Happened};
pub use feed::{Tracing, WalletFeed};
pub(crate) use followed::{Indexed, Wallets};
pub use index::WalletIndex;
pub use told::Stages;
pub(crate) use waiting::Minded;

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
