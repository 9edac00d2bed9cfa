//! The block listener: from what endpoints say to [`ChainUpdate`](crate::ChainUpdate)s, in order,
//! without gaps, each block loaded once.
//!
//! A watcher for each endpoint puts the newest head it heard on the [`Heads`]. One
//! [`HeadTracker`] for each chain judges the heads, fills what is missing between them and
//! the tip by hash-linked headers, loads what is included, and hands it on over a
//! bounded path.
//!
//! # Which head counts
//! - A head that is canonical moves nothing: its node lags.
//! - A higher head is followed, on whichever branch.
//! - A head as high as the tip replaces it if no endpoint stands by the tip any more.
//! - A lower head of another branch likewise, if it stays so for a while: behind one
//!   address there may be many nodes, and one that lags on an old branch is no reorg.
//! - With `agreement` all that only where so many endpoints have that block.
//!
//! An endpoint that does not push is asked at full pace only while pushed heads do not lead
//! the chain on in time, and whenever endpoints are not of one mind.

mod block_loader;
mod choice;
mod head_listener;
mod head_tracker;
mod headers;
mod heads;

pub(crate) use head_listener::HeadListener;
pub(crate) use head_tracker::{Continuity, HeadTracker, SequencedUpdate};
pub(crate) use heads::{HeadSource, Heads, PollIntervals};
