//! Transactions from the first sight to the final state, on the channel `tx:{chain}:{hash}`.
//!
//! [`TransactionTracker`] is a state machine without I/O. Chain updates, responses of nodes and
//! the time go in; statuses to publish and requests to nodes come out.
//!
//! ```text
//! unknown ──seen──▶ pending ──in a block──▶ confirming ──▶ confirmed ──▶ finalized
//!    │                │ ▲  │                    │ └─reverted─▶ failed
//!    │                │ │  └─nonce used─▶ replaced, cancelled
//!    │                │ └──a reorg takes the block back── (from all of these)
//!    ▼                ▼
//! timed out     dropped, timed out
//! ```
//!
//! A transaction is **dropped** if several checks in a row, over a minimum time, find it neither
//! in a mempool nor in the chain. Its nonce must be free meanwhile: unused at the newest block,
//! and not used by another pending transaction. A missing hash alone proves nothing, because a node
//! forgets a replaced transaction at once.
//!
//! A state that another block could still undo is published at once. The watch ends when the
//! block is final. A watch that reaches no final state in time reports this in its reason.
//!
//! Only an end that a final block shows is remembered. A dropped or timed-out transaction may
//! still be sent again and included, so a later watch or request asks the nodes anew.
//!
//! Example with 3 confirmations and the 6th block final: a transaction in block 10 is confirming
//! at blocks 10 and 11, confirmed at 12, and finalized at 15. If a reorg at block 12 replaces
//! blocks 10 to 12 by a branch without it, it is pending again, with `reorged` set.

mod canonical;
mod ended;
mod options;
mod request_owner;
mod requests;
mod responses;
mod slots;
mod tracker;
mod watch;
mod watch_table;

pub use crate::shares::Excess;
pub use options::TransactionOptions;
pub(crate) use request_owner::RequestOwner;
pub use requests::NodeRequest;
pub use slots::{WatchSlot, WatchSlots};
pub use tracker::{Concern, TrackerOutput, TransactionTracker, WatchError, is_provisional_end};
pub use watch::{BlockNumHash, Interest, StoredPhase, StoredWatch, Transfer};
