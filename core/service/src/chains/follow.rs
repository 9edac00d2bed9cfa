//! Following for other nodes: applies an update of a node's interest to the engine of a chain.

use std::time::Duration;

use futures::future::join_all;
use tidewire_chain::ChainEngine;
use tidewire_proto::v1::{ErrorCode, EventFilter, TransactionState};
use tidewire_stream::{ChannelName, Event, PageLimit, StreamCore, StreamError};
use tokio::time::{Instant, timeout};

use super::{
    OpenChain,
    nodes::{NodeInterest, UpdateStep},
    wire::{FollowRefusal, Follower, InterestAnswer, InterestUpdate, KnownFilter, index_of},
};

/// Time for which a new owner takes all wallets and filters for followed: the nodes tell it what they
/// follow, evenly spread.
const SETTLING: Duration = Duration::from_secs(60);

/// Longest wait for what the owner before has stored to be published. The node tries again.
const LEFT_TIME: Duration = Duration::from_secs(2);

/// Longest wait for the processor with one filter. The node tries again.
const FILTER_TIME: Duration = Duration::from_secs(2);

impl OpenChain {
    /// Whether nodes may not have told of their interest yet.
    pub(super) fn is_settling(&self, now: Instant) -> bool {
        now < self.opened_at + SETTLING
    }
}

/// Forgets a node whose update was not finished, so that it begins anew.
struct Unfinished<'a> {
    nodes: &'a NodeInterest,
    node: &'a str,
    is_finished: bool,
}

impl Drop for Unfinished<'_> {
    fn drop(&mut self) {
        if !self.is_finished {
            self.nodes.forget(self.node);
        }
    }
}

/// Applies an update.
///
/// # Errors
/// It is being applied already, or what the owner before has stored is not published yet: a transaction may
/// be final by it, and would be watched again. Channels that are late hold up none but themselves.
pub(super) async fn apply(
    open: &OpenChain,
    stream: &StreamCore,
    update: InterestUpdate,
) -> Result<InterestAnswer, StreamError> {
    match timeout(LEFT_TIME, open.engine.caught_up()).await {
        Ok(caught_up) => caught_up?,
        Err(_) => {
            let text = "what the owner before has stored is not published yet";
            return Err(StreamError::new(ErrorCode::Unavailable, text));
        }
    }
    match open.nodes.begin(&update, Instant::now()) {
        UpdateStep::Apply => {}
        UpdateStep::Known(answer) => return Ok(answer),
        UpdateStep::OutOfStep => return Ok(InterestAnswer::default()),
        UpdateStep::Busy => {
            let text = "the update is being applied";
            return Err(StreamError::new(ErrorCode::Unavailable, text));
        }
    }
    let mut unfinished = Unfinished {
        nodes: &open.nodes,
        node: &update.node,
        is_finished: false,
    };
    // At once: filters wait for the processor of the chain.
    let mut following = Vec::with_capacity(update.added.len());
    for follower in update.added.iter().cloned() {
        following.push(follow(open.engine.clone(), stream, follower));
    }
    let followed = join_all(following).await;
    let mut answer = InterestAnswer {
        is_in_step: true,
        ..InterestAnswer::default()
    };
    let named = |name: &String| ChannelName::parse(name).ok();
    let mut removed: Vec<_> = update.removed.iter().filter_map(named).collect();
    let mut added = Vec::new();
    let results = update.added.iter().zip(followed).enumerate();
    for (index, (follower, result)) in results {
        match result {
            Ok(filter) => {
                added.extend(named(&follower.channel));
                let filter = filter.filter(|_| follower.filter.is_none());
                answer.filters.extend(filter.map(|filter| KnownFilter {
                    index: index_of(index),
                    filter: Some(filter),
                }));
            }
            Err(error) => {
                removed.extend(named(&follower.channel));
                answer.refusals.push(FollowRefusal::new(index, &error));
            }
        }
    }
    let now = Instant::now();
    open.nodes
        .finish(&update, &removed, added, answer.clone(), now);
    unfinished.is_finished = true;
    Ok(answer)
}

/// Follows a channel for a client of a node. Returns the filter of an `events:` channel.
async fn follow(
    engine: ChainEngine,
    stream: &StreamCore,
    follower: Follower,
) -> Result<Option<EventFilter>, StreamError> {
    let channel = ChannelName::parse(&follower.channel)?;
    let (engine, rest) = (engine.on_behalf_of(&follower.caller()), channel.rest());
    match channel.namespace() {
        // After a takeover, nodes also tell of transactions whose subscribers have the final state.
        "tx" if engine.is_behind(&channel) => {
            let text = "what the owner before has stored of this transaction is not published yet";
            return Err(StreamError::new(ErrorCode::Unavailable, text));
        }
        "tx" if is_final(stream, &channel).await? => {}
        "tx" => engine.follow_transaction(rest)?,
        "wallet" => engine.follow_wallet(rest)?,
        "events" => {
            let followed = follow_events(&engine, rest, follower.filter);
            return followed.await.map(Some);
        }
        other => {
            let text = format!("{other:?} has no channels that are followed");
            return Err(StreamError::new(ErrorCode::InvalidArgument, text));
        }
    }
    Ok(None)
}

/// Whether the channel of a transaction has its final state. Another watch would publish it again.
///
/// # Errors
/// The history cannot be read.
async fn is_final(stream: &StreamCore, channel: &ChannelName) -> Result<bool, StreamError> {
    let newest = stream.broker().history(channel, None, PageLimit::NEWEST);
    let newest = newest.await?.publications.pop();
    Ok(newest.is_some_and(|newest| match &*newest.event() {
        Event::Transaction(status) => status.state() == TransactionState::Finalized,
        _ => false,
    }))
}

/// Follows an `events:` channel. Registers its filter, if the engine does not know it.
async fn follow_events(
    engine: &ChainEngine,
    rest: &str,
    filter: Option<EventFilter>,
) -> Result<EventFilter, StreamError> {
    let unknown = match (engine.follow_events(rest), filter) {
        (Ok(()), filter) => {
            let known = filter.or_else(|| engine.events_filter(rest));
            return Ok(known.unwrap_or_default());
        }
        (Err(error), None) => return Err(error.into()),
        (Err(_), Some(filter)) => filter,
    };
    let chain = rest.split(':').next().and_then(|id| id.parse().ok());
    let watched = engine.watch_events(chain.unwrap_or_default(), unknown.clone());
    match timeout(FILTER_TIME, watched).await {
        Ok(watched) => watched.map(|_| unknown).map_err(StreamError::from),
        Err(_) => {
            let text = "the chain does not answer in time";
            Err(StreamError::new(ErrorCode::Unavailable, text))
        }
    }
}
