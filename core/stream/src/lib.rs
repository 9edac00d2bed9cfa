//! The streaming core: channels, publications, history and recovery, sessions.
//!
//! Engines publish through [`Publisher`]; adapters open a [`Connection`] and take
//! what it has to send. Nothing here knows an engine or a transport.

pub mod auth;
mod backoff;
pub mod broker;
pub mod channel;
pub mod channel_provider;
pub mod clock;
mod drain;
pub mod error;
pub mod hub;
pub mod identity;
pub mod limit;
pub mod namespace;
pub mod operator;
pub mod publication;
mod publication_batch;
mod registry;
pub mod session;
pub mod stream_core;
mod transport;

pub use auth::{AnonymousPolicy, Authenticator, Claims, Keys, RemoteKeySet, TokenRules};
pub use backoff::Backoff;
pub use channel::{ChannelName, ChannelNameError};
pub use channel_provider::{ChannelEpoch, ChannelProvider};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error::StreamError;
pub use hub::{BatchInterval, Shard, ShardId, shard::Sink};
pub use identity::{Identity, Scope, UserId};
pub use limit::{LimitError, LimitOptions, SessionLimits, SessionQuota};
pub use namespace::{Access, Class, Namespace, Namespaces, Opening, Ownership, PublishRight};
pub use operator::{ConnectionFilter, Presence, Target};
pub use publication::{
    DurablePublisher, Epoch, Event, FrameKind, Position, Publication, Publisher, StoredPublication,
};
pub use publication_batch::PublicationBatch;
pub use registry::RegistrySizes;
pub use session::{
    CloseReason, Connection, ConnectionInfo, ConnectionQuality, DirectMessage, Encoding,
    FlushOutcome, KeepAliveTimeouts, OutgoingItem, OutgoingMessage, PostKey, PriceBatch, Session,
};
pub use stream_core::{StreamCore, StreamOptions, StreamStats};
pub use transport::{Transport, TransportStats};
