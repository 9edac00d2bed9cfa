//! The streaming core: channels, publications, history and recovery, sessions.
//!
//! Engines publish through [`Publisher`]; adapters open a [`Connection`] and take
//! what it has to send. Nothing here knows an engine or a transport.

pub mod auth;
pub mod broker;
pub mod channel;
pub mod clock;
mod drain;
pub mod error;
pub mod hub;
pub mod identity;
pub mod limit;
pub mod namespace;
pub mod operator;
pub mod publication;
mod registry;
mod run;
pub mod session;
pub mod stream;

pub use auth::{AnonymousPolicy, Authenticator, Claims, Keys, RemoteKeys, TokenRules};
pub use channel::{ChannelName, ChannelNameError};
pub use clock::{Clock, ManualClock, SharedClock, SystemClock};
pub use error::StreamError;
pub use hub::{BatchInterval, Shard, ShardId, shard::Sink};
pub use identity::{Identity, Scope, UserId};
pub use limit::{Allowance, LimitError, LimitOptions, SessionLimits};
pub use namespace::{Access, Class, Namespace, Namespaces, Opening, PublishRight};
pub use operator::{ConnectionFilter, Presence, Target};
pub use publication::{
    ChannelKeeper, Epoch, Event, FrameKind, Kept, Position, Publication, Publisher,
};
pub use registry::Registered;
pub use run::Run;
pub use session::{
    Arrival, CloseReason, Connection, Direct, Encoding, Outgoing, Parcel, Prices, Quality, Rhythm,
    Session, Taken,
};
pub use stream::{Stream, StreamOptions, StreamStats, Transport};
