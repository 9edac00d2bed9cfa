//! The adapters: WebSocket, SSE, gRPC, gRPC-Web and JSON over HTTP, all on one port.
//!
//! An adapter translates between its transport and a session or a service; it
//! knows no engine. [`Gateway`] is what they share, [`serve`] the listener.

mod access;
mod admission;
mod frame_kind;
mod front;
mod gateway;
mod grpc;
pub mod http;
mod key_set;
mod origin;
mod proxy;
mod server;
pub mod sse;
pub mod tls;
pub mod websocket;

pub use admission::{Admission, AdmissionOptions, Ticket};
pub use gateway::{Doors, Gateway, GatewayOptions, Probes, Services};
pub use key_set::{KeySetError, KeySetUrl};
pub use origin::OriginPolicy;
pub use proxy::{Proxies, ProxyHeader};
pub use server::{ShardThreads, serve};
pub use tidewire_service::AdminAccess;

/// Transports that the adapters serve.
pub const TRANSPORTS: [tidewire_stream::Transport; 3] =
    [websocket::TRANSPORT, sse::TRANSPORT, tidewire_service::GRPC];
