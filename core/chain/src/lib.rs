//! Chain engine: blocks that survive reorgs, transactions until they are final, wallets, and
//! contract events.
//!
//! The path of a block:
//!
//! ```text
//! endpoint ─▶ fork_choice ─▶ processor ─▶ trackers ─▶ journal ─▶ channels
//!  JSON-RPC    ChainUpdate     events, wallet, transaction   store
//! ```
//!
//! [`ChainUpdate`]s come in order and without gaps, each with the blocks that a reorg took back.
//! Trackers turn them into publications, and read through an [`RpcClient`] what a block does
//! not hold. The journal writes publications to the store before it publishes them.

pub mod abi;
mod address;
mod block;
mod block_store;
mod channel;
pub mod config;
pub mod decode;
pub mod endpoint;
mod engine;
mod error;
pub mod events;
mod fork_choice;
mod interest;
mod journal;
mod mempool;
pub mod notice;
mod outage;
mod outbox;
mod probe;
mod processor;
mod profiles;
pub mod proof;
mod provenance;
mod provider;
mod receipt;
mod rpc_client;
mod rpc_types;
pub mod sample;
mod shares;
pub mod transaction;
pub mod tree;
pub mod wallet;

pub use address::AccountAddressError;
pub use block::{BlockData, BlockRef, ChainUpdate};
pub use channel::{ChannelEvent, blocks_channel, transaction_channel, wallet_channel};
pub use config::{ChainConfig, ConfigError, EndpointConfig, Finality};
pub use engine::ChainEngine;
pub use error::ChainError;
pub use interest::WalletIndex;
pub use outage::ChainOutage;
pub use probe::{ChainProbe, ProbeFailure};
pub use provenance::Provenance;
pub use receipt::ReceiptId;
pub use rpc_client::{Call, ExpectedResult, RpcClient, RpcError};
