//! Fork choice: decides which reported head the chain follows, and so every reorg.
//!
//! Nodes disagree: one lags, one is on a branch that will be abandoned, one is wrong. Clients
//! still need one chain: blocks in order, without gaps, each loaded once.
//!
//! # The path of a block
//! 1. A [`HeadListener`] for each endpoint reports its newest head to [`Heads`], the table of
//!    heads by endpoint.
//! 2. `ForkChoice` chooses one head by the rules below.
//! 3. [`HeaderTree`](crate::tree::HeaderTree) decides whether the head extends the chain or
//!    causes a reorg, and which headers are missing.
//! 4. `block_loader` loads each block that is to be included, with proofs.
//! 5. The [`HeadTracker`], one for each chain, sends a [`SequencedUpdate`] over a bounded
//!    channel. A slow consumer therefore slows the chain down, and nothing is dropped.
//!
//! # Rules
//! - A canonical head changes nothing: its endpoint lags.
//! - A head that is higher than the tip is followed, on whichever branch it is. If it is on
//!   another branch, this is a reorg.
//! - A head at the height of the tip is followed once no endpoint reports the tip any more.
//! - A lower head on another branch is followed likewise, if this lasts for a grace period.
//!   One address may hide many nodes, and a node that lags on an old branch is no reorg.
//! - A head counts no longer once its endpoint has failed for a grace period.
//! - A head whose ancestors are missing, or take too long to read, loses against the heads of other
//!   endpoints, and so do further heads of its endpoint for a while.
//! - With `agreement = n`, all this holds only for a head that `n` endpoints have.
//!
//! # Example
//! The tip is `c3`. Endpoint 1 reports `c3` and endpoint 2 reports `y3`: both have the same
//! height, and endpoint 1 still supports the tip, so nothing happens. Endpoint 2 reports `y4`:
//! it is higher and on another branch, so the chain reorgs to `y4`.

mod block_loader;
mod choice;
mod head_listener;
mod head_tracker;
mod headers;
mod heads;
mod metrics;

pub(crate) use block_loader::load;
pub(crate) use choice::fork_choice_grace;
pub(crate) use head_listener::HeadListener;
pub(crate) use head_tracker::{Continuity, HeadTracker, RetractedContent, SequencedUpdate};
pub(crate) use headers::{fetch_header, parse_header};
pub(crate) use heads::{HeadSource, Heads, PollIntervals};
