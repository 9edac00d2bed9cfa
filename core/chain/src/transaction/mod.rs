//! Transactions until they settle: the channel `tx:{chain}:{hash}`.
//!
//! [`TransactionTracker`] is a state machine: steps of the chain, answers of the node and the time go
//! in, states and questions come out. It does no I/O.
//!
//! ```text
//! unknown ──seen──▶ pending ──in a block──▶ confirming ──▶ confirmed ──▶ finalized
//!    │                │ ▲  │                    │ └─reverted─▶ failed
//!    │                │ │  └─nonce used─▶ replaced, cancelled
//!    │                │ └──reorg takes the block back── (from all of these)
//!    ▼                ▼
//! timed out     dropped, timed out
//! ```
//!
//! **Dropped** is a transaction that several checks in a row, over at least some time,
//! found neither in the pool nor in the chain, while its nonce was neither used at the
//! newest block nor taken by another transaction in the pool. Only then: a node forgets
//! the hash of a replaced transaction at once, so a missing hash alone says nothing.
//!
//! A state that another block could still undo is told at once, and its watch ends only
//! when its block is final. A watch that reaches no end in time says so in its reason.

mod errors;
mod options;
mod requests;
mod responses;
mod table;
mod tracker;
mod watch;

pub use options::TransactionOptions;
pub use requests::NodeRequest;
pub use tracker::{TrackerOutput, TransactionTracker, WatchError};
pub use watch::{BlockNumHash, Interest, StoredPhase, StoredWatch};
