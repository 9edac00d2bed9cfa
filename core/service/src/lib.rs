//! Services: the `tidewire.v1` gRPC services over the engines, and the router of session
//! messages.
//!
//! Adapters depend on this crate and the streaming core, never on an engine.

mod admin;
mod alert;
mod backtests;
mod chains;
mod channels;
mod connection;
mod counts;
mod delivery;
mod engine_slot;
mod forwarding;
mod notify;
mod personal;
mod price;
mod published_prices;
mod revocations;
mod router;
mod series;
mod shared_prices;
mod status;
mod stream;
mod watch;

pub use admin::AdminRpc;
pub use alert::AlertRpc;
pub use chains::ChainSlots;
pub use connection::GRPC;
pub use delivery::{Delivery, DeliverySlot, UnsubscribeAnswer};
pub use forwarding::ForwardedCalls;
pub use notify::NotifyRpc;
pub use price::PriceRpc;
pub use revocations::RevocationStore;
pub use router::{CommandQueue, Router};
pub use series::ServerSeries;
pub use status::{caller_of, from_status, status_of};
pub use stream::StreamRpc;
pub use watch::WatchRpc;
