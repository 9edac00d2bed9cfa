//! Wallets: transactions, balances and tokens of an address, on the channel `wallet:{address}`.
//!
//! [`Activity`] finds the watched wallets that a block concerns. [`WalletTracker`] reads what the
//! block does not show, and returns the updates. Which wallets are watched is decided in
//! `interest`; which transactions are pending, in `mempool`.

mod activity;
mod payment;
mod reads;
mod sent_updates;
mod suspicion;
mod tokens;
mod trace;
mod tracker;
mod update;

pub use activity::{Activity, TokenActivity};
pub(crate) use payment::TokenPayment;
pub use sent_updates::ConfirmationRules;
pub use tracker::{Tracing, WalletTracker};
