//! Endpoints: the nodes that are asked about a chain, over WebSocket, HTTP or IPC.
//!
//! An [`Endpoint`] holds one connection, makes it anew when it breaks, and knows how
//! the node did of late. A [`EndpointPool`] asks the best one and goes on to the next when that
//! fails. Every call has a time limit. What is asked, and what an answer means, is the
//! business of others.

mod address;
mod connection;
mod failure;
mod health;
mod http;
mod node;
mod pool;
mod tls;
mod websocket;

pub use address::{Address, AddressError};
pub(crate) use connection::{Subscription, SubscriptionEvent};
pub use failure::Failure;
pub(crate) use node::Endpoint;
pub use pool::EndpointPool;
pub(crate) use tls::trust;
