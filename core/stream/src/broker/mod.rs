//! Broker: gives every publication its position and keeps histories.
//!
//! A broker passes publications to the subscribers of this server ([`LocalDelivery`]), in the
//! order of each channel. The hub knows the subscribers; recovery is the session's.
//!
//! # Example of a history
//! A channel has publications 3, 4 and 5 of epoch `e`; 1 and 2 were too old. A client reads
//! from [`Broker::history`] the publications after its position:
//!
//! | since    | result                                                  |
//! |----------|---------------------------------------------------------|
//! | `(e, 3)` | 4, 5; complete                                          |
//! | `(e, 2)` | 3, 4, 5; complete: nothing after 2 is missing           |
//! | `(e, 1)` | lost: 2 is gone                                         |
//! | `(f, 4)` | lost: the epoch is another                              |
//! | `(e, 9)` | lost: 9 does not exist, so the position is not from here |

mod control;
mod idempotency;
pub mod memory;
pub mod redis;

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak},
};

pub use control::{Answers, ControlHandler, NodeTag, Recipients};
pub use memory::MemoryBroker;
pub use redis::RedisBroker;

use crate::{
    Caller, ChannelName, Content, Epoch, Event, Position, Publication, Scope, StoredPublication,
    StreamError, Urgency, auth::Revocation, limit::ClientKey,
};

/// A future that a broker returns.
pub type BrokerFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, StreamError>> + Send + 'a>>;

/// The key of the entry that ends an incomplete snapshot: no channel's name begins with it.
pub(crate) const INCOMPLETE: u8 = b'!';

/// The outcome of a publication that the broker has taken.
pub type PublishFuture = Pin<Box<dyn Future<Output = Result<(), StreamError>> + Send>>;

/// One entry of the state that a graceful stop saves for the next start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SnapshotEntry {
    /// Key of the entry, unlike all others.
    pub key: Vec<u8>,
    /// Content, which only the broker reads.
    pub value: Vec<u8>,
}

impl SnapshotEntry {
    /// The entry that ends a snapshot whose last channels were left out. None of them may start
    /// again in the epoch that it had.
    #[must_use]
    pub fn incomplete() -> Self {
        Self {
            key: vec![INCOMPLETE],
            value: Vec::new(),
        }
    }

    /// Whether the entry is a channel.
    #[must_use]
    pub fn is_channel(&self) -> bool {
        std::str::from_utf8(&self.key).is_ok_and(|name| ChannelName::parse(name).is_ok())
    }
}

/// Bounds of a read of a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PageLimit {
    /// Publications at most.
    pub items: usize,
    /// Bytes at which reading stops; one publication is read in any case.
    pub bytes: usize,
}

impl PageLimit {
    /// No bound.
    pub const ALL: Self = Self::bytes(usize::MAX);

    /// The newest publication alone.
    pub const NEWEST: Self = Self {
        items: 1,
        bytes: usize::MAX,
    };

    /// No publication: only the newest position is read.
    pub const NOTHING: Self = Self { items: 0, bytes: 0 };

    /// Any number of publications, up to about `bytes`.
    #[must_use]
    pub const fn bytes(bytes: usize) -> Self {
        Self {
            items: usize::MAX,
            bytes,
        }
    }
}

/// A part of a channel's history.
#[derive(Debug, Clone)]
pub struct History {
    /// Newest position of the channel.
    pub top: Position,
    /// Publications, oldest first.
    pub publications: Vec<Arc<Publication>>,
    /// Whether the history reaches back to the position of the request.
    pub reach: Reach,
}

/// Whether a history reaches back far enough.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// Nothing between the position and the first publication is missing.
    Complete,
    /// Something is missing, or the epoch is another.
    Lost,
}

/// Delivers publications to the subscribers of this server.
pub trait LocalDelivery: Send + Sync + 'static {
    /// Delivers a publication. Called in the order of its channel, under the channel's lock.
    /// Returns whether the channel has a subscriber.
    fn deliver(&self, publication: &Arc<Publication>) -> bool;

    /// Notes the newest position of a channel without a publication: publications up to it are
    /// missing here, or another epoch has begun. Subscribers read the history, and get a gap if
    /// it does not reach back.
    fn note_newest(&self, channel: &ChannelName, newest: &Position);

    /// Whether a channel has a subscriber.
    fn has_subscribers(&self, channel: &ChannelName) -> bool;
}

/// The sender of a publication that is not an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The client. Its idempotency keys are its own.
    pub client: ClientKey,
    /// Whether its channels and keys count towards the shares of a client. Those of a back end
    /// do not.
    pub is_limited: bool,
}

impl From<&Caller> for Sender {
    fn from(caller: &Caller) -> Self {
        Self {
            client: caller.into(),
            is_limited: !caller.identity.has(Scope::Service),
        }
    }
}

/// State of a broker's connection to what all servers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerLink {
    /// The fault in words. None while all works.
    pub fault: Option<String>,
    /// Whether shared channels can be read and published on, or those of one server of several. A fault
    /// may only threaten that.
    pub is_available: bool,
    /// Whether all of them can.
    pub is_whole: bool,
    /// Bytes of publications that wait for it.
    pub waiting_bytes: usize,
    /// The version of the protocol between nodes that all nodes speak, once it is known.
    pub node_protocol: Option<u32>,
}

/// Proof that a server owns an engine whose publications go to the clients of all servers. It is
/// checked where a publication gets its position: a server that was paused, and that another one
/// has followed as the owner, cannot publish any more, whatever it believes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// The key of the lease, a hash in Redis whose field `term` is the newest term.
    pub lease: String,
    /// The term of this server.
    pub term: String,
}

/// Gives publications their position and keeps histories.
pub trait Broker: Send + Sync + 'static {
    /// Publishes for an engine, without waiting: at once if that is possible, else in order
    /// and as soon as it is.
    fn offer(&self, channel: &ChannelName, event: Event, urgency: Urgency);

    /// Publishes as [`offer`](Self::offer) does, and returns what to wait for until it is published. An
    /// engine that has stored its event repeats it after an error, also from another node: `key` is
    /// that of the event, and where all servers share the channel, it is published once within the
    /// window of idempotency keys. Dropping the outcome may withdraw the publication.
    fn offer_once(
        &self,
        channel: &ChannelName,
        event: Event,
        urgency: Urgency,
        key: &str,
    ) -> PublishFuture;

    /// Publishes as [`offer`](Self::offer) does, for an engine that this server owns in a term
    /// which another one may have followed. It is then refused, and lost. Without other servers,
    /// it is never refused.
    fn offer_fenced(&self, channel: &ChannelName, event: Event, _fence: &Arc<Fence>) {
        self.offer(channel, event, Urgency::Ordinary);
    }

    /// Publishes as [`offer_once`](Self::offer_once) does, for an engine that this server owns as with
    /// [`offer_fenced`](Self::offer_fenced). A refusal of an earlier owner is an error.
    fn offer_fenced_once(
        &self,
        channel: &ChannelName,
        event: Event,
        key: &str,
        _fence: &Arc<Fence>,
    ) -> PublishFuture {
        self.offer_once(channel, event, Urgency::Ordinary, key)
    }

    /// Has publications under earlier terms of a lease refused. The owner of a new term calls it before
    /// it [publishes](Self::offer_fenced). Where the lease is looked at by itself, nothing is done.
    fn raise_fence<'a>(&'a self, _fence: &'a Fence) -> BrokerFuture<'a, ()> {
        Box::pin(std::future::ready(Ok(())))
    }

    /// Publishes as [`offer`](Self::offer) does, if the channel is known: it has a subscriber, or
    /// had one lately. Returns whether it is. The publication alone does not keep the channel
    /// known, so that a user who is away for good is forgotten.
    ///
    /// It is for events that clients can also read elsewhere. A client that subscribes to an
    /// unknown channel later is not recovered, or was never subscribed before.
    ///
    /// With a `fence` it is refused, and lost, if another server owns the engine by now, as
    /// [`offer_fenced`](Self::offer_fenced) is.
    fn offer_if_known(
        &self,
        channel: &ChannelName,
        content: Content,
        urgency: Urgency,
        fence: Option<&Arc<Fence>>,
    ) -> bool;

    /// Whether a channel is known: see [`offer_if_known`](Self::offer_if_known).
    fn is_known(&self, channel: &ChannelName) -> bool;

    /// Begins to receive the publications of a channel from other servers. Called after a
    /// subscriber is in the list of the hub, and before its history is read: what is published in
    /// between reaches the hub. None if there is nothing to wait for.
    ///
    /// The interest ends by itself, some time after the last subscriber has left
    /// ([`note_left`](Self::note_left)).
    fn join<'a>(&'a self, _channel: &'a ChannelName) -> Option<BrokerFuture<'a, ()>> {
        None
    }

    /// Makes a channel known from now on, without a publication.
    fn touch(&self, channel: &ChannelName);

    /// Notes that a subscriber is about to leave a channel. The channel was in use until now,
    /// however long ago the last publication was.
    fn note_left(&self, channel: &ChannelName);

    /// Forgets the channels of a namespace that have neither a subscriber nor a history, and
    /// returns the others. It comes before an event for all channels of a namespace that is
    /// published on those alone: no position on a forgotten channel is recovered, so the event is
    /// missed by nobody who believes to have all.
    fn forget_quiet(&self, namespace: &str) -> Vec<ChannelName>;

    /// Publishes, and returns the position. With an idempotency key that `sender` used before,
    /// this returns the position of then, and publishes nothing. A new channel counts towards the
    /// channels of `sender`.
    fn publish<'a>(
        &'a self,
        channel: &'a ChannelName,
        event: Event,
        idempotency_key: Option<&'a str>,
        sender: Sender,
    ) -> BrokerFuture<'a, Position>;

    /// Reads the publications after `since`, oldest first; without `since`, the newest.
    fn history<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        limit: PageLimit,
    ) -> BrokerFuture<'a, History>;

    /// Reads a history for a client that recovers: [`join`](Self::join) was called for it, and its
    /// subscriber is in the list of the hub. The result may be behind
    /// [`history`](Self::history), and never behind what was delivered.
    fn recover<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        limit: PageLimit,
    ) -> BrokerFuture<'a, History> {
        self.history(channel, since, limit)
    }

    /// Restores a channel that nothing was published on yet.
    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()>;

    /// Starts a channel anew, under another epoch.
    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// The same for the personal channel of a user, once in each term of a store that all servers share,
    /// whichever of them asks, and however many. Without such a store it does so each time.
    fn start_epoch_of_term<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        self.start_new_epoch(channel)
    }

    /// Forgets a channel: none of its positions is recovered any more.
    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()>;

    /// State that a graceful stop saves, entry by entry, so that clients recover after the next
    /// start. Empty where histories outlive the process.
    fn save(&self) -> Box<dyn Iterator<Item = SnapshotEntry> + '_>;

    /// Loads an entry of [`save`](Self::save). A channel that was published on since then stays
    /// as it is.
    ///
    /// # Errors
    /// The entry cannot be read.
    fn load(&self, saved: &SnapshotEntry) -> Result<(), StreamError>;

    /// Waits until histories take more memory than they may: then [`sweep`](Self::sweep) is
    /// needed at once.
    fn over_budget(&self) -> BrokerFuture<'_, ()>;

    /// Memory of all histories here, with the encodings of their publications, in bytes.
    fn history_bytes(&self) -> usize;

    /// Forgets old publications, and channels that have had neither a subscriber nor a
    /// publication for a day. Called about once a second.
    fn sweep(&self);

    /// State of the connection that the broker depends on. None if it depends on nothing.
    fn link(&self) -> Option<BrokerLink> {
        None
    }

    /// Begins to answer the questions of other nodes, and to carry out their revocations. Returns
    /// what to wait for until those are in force here. None if there are no others.
    fn listen_to_operators(
        &self,
        _handler: Weak<dyn ControlHandler>,
    ) -> Option<BrokerFuture<'_, ()>> {
        None
    }

    /// Spreads a revocation to all other nodes. None if there can be none.
    fn spread<'a>(
        &'a self,
        _revocation: &'a Revocation,
        _expires_at_ms: i64,
    ) -> Option<BrokerFuture<'a, ()>> {
        None
    }

    /// The beginning of the ids of connections to this node. None if there can be no other node.
    fn node_tag(&self) -> Option<NodeTag> {
        None
    }

    /// How many other nodes there were lately.
    fn other_nodes(&self) -> usize {
        0
    }

    /// Asks other nodes, and waits for their answers. None if there can be none.
    fn ask<'a>(
        &'a self,
        _whom: Recipients,
        _question: &'a [u8],
    ) -> Option<BrokerFuture<'a, Answers>> {
        None
    }

    /// Waits until nothing that was published waits any more. Call it at a graceful stop.
    fn flush(&self) -> BrokerFuture<'_, ()> {
        Box::pin(std::future::ready(Ok(())))
    }
}
