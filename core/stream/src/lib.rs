//! The streaming core: channels, publications, history and recovery, sessions.
//!
//! Engines publish through [`Publisher`]. Adapters open a [`Connection`] and take its
//! outgoing messages. The core knows no engine and no transport: a [`Transport`] is a label
//! to count by, and a [`FrameKind`] a slot in which an adapter caches a framed publication.
//! The core does know the two encodings of a message, JSON and protobuf ([`Encoding`]), since
//! an encoded message counts towards the bound of an outbox.

pub mod auth;
mod backoff;
pub mod broker;
mod caller;
pub mod channel;
pub mod channel_provider;
pub mod clock;
mod content;
pub mod error;
mod guarded_clock;
pub mod health;
mod history_memory;
pub mod hub;
pub mod identity;
pub mod limit;
mod missed_summary;
pub mod namespace;
mod options;
mod permission;
pub mod publication;
mod publication_batch;
mod publisher;
mod redacted_url;
pub mod session;
pub mod stream_core;
mod transport;

pub use auth::{AnonymousPolicy, Authenticator, Claims, Keys, RemoteKeySet, TokenRules};
pub use backoff::Backoff;
pub use broker::PageLimit;
pub use caller::{Caller, Locality};
pub use channel::{ChannelName, ChannelNameError, UserIdError};
pub use channel_provider::{Activation, ChannelEpoch, ChannelProvider, OwnerLookup};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock, deadline};
pub use content::{Content, SharedEvent};
pub use error::StreamError;
pub use guarded_clock::{ClockMark, GuardedClock};
pub use health::{Disclosure, HealthFault, PartHealth, PartReport};
pub use hub::{DeliveryTimes, LateShard, Shard, ShardId, Sink, Tap, TapListener};
pub use identity::{Identity, Scope, UserId};
pub use limit::{
    CallLimits, CallQuota, ClientKey, LimitError, LimitOptions, SessionLimits, SessionQuota,
};
pub use missed_summary::MissedSummary;
pub use namespace::{
    Access, Class, EngineReach, Namespace, Namespaces, Opening, Ownership, PublishRight,
};
pub use options::{BatchInterval, StreamOptions};
pub use publication::{Epoch, Event, FrameKind, Position, Publication, StoredPublication, Urgency};
pub use publication_batch::PublicationBatch;
pub use publisher::{DurablePublisher, Publisher};
pub use redacted_url::{quotable_url, redact_url, redacted_url};
pub use session::{
    CloseReason, Command, Connection, ConnectionInfo, ConnectionQuality, DirectMessage, Encoding,
    FlushOutcome, KeepAliveTimeouts, OutgoingItem, OutgoingMessage, PostKey, PriceBatch,
    RegistrySizes, ReplyReservation, Session,
};
pub use stream_core::{
    CallClass, CallHandler, CallLane, CallOutcome, CallRefusal, ConnectionFilter, ConnectionPage,
    ForwardedCall, NodeSettings, OtherSettings, PostHandler, PostedCommand, Presence, StreamCore,
    StreamStats, Target,
};
pub use transport::{Transport, TransportStats};
