//! The `tidewire.v1` services over the engines, and the router that answers the
//! messages of a session.
//!
//! Adapters know this crate and the streaming core, never an engine.

mod admin;
mod price;
mod revocations;
mod router;
mod status;
mod stream;
mod watch;

pub use admin::{AdminAccess, AdminRpc};
pub use price::PriceRpc;
pub use revocations::RevocationStore;
pub use router::Router;
pub use status::{from_status, identity_of, status_of};
pub use stream::{ClientAddress, GRPC, StreamRpc};
pub use watch::WatchRpc;
