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
mod tokens;
mod trace;
mod tracer;
mod update;

pub(crate) use activity::parties;
pub use activity::{Activity, Happened};
pub use feed::{Tracing, WalletFeed};
pub(crate) use followed::Followed;
pub use index::WalletIndex;
