//! Chain engine: blocks that survive reorgs, transactions until they are final, wallets, events.
//!
//! The fork choice turns the heads of many nodes into [`ChainUpdate`]s: in order, without gaps,
//! each with the blocks that a reorg retracts. One processor for each chain turns the updates
//! into publications. It calls a node through [`RpcClient`] for state that blocks do not hold.

pub mod abi;
mod block;
mod block_store;
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
mod processor;
pub mod proof;
mod provider;
mod publish;
mod rpc_client;
mod rpc_types;
pub mod transaction;
pub mod tree;
pub mod wallet;

pub use block::{BlockData, BlockRef, ChainUpdate};
pub use config::{ChainConfig, ConfigError, EndpointConfig, Finality};
pub use engine::ChainEngine;
pub use error::ChainError;
pub use interest::WalletIndex;
pub use publish::{ChannelEvent, transaction_channel, wallet_channel};
pub use rpc_client::{Call, RpcClient, RpcError};
