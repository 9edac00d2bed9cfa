//! Adapters: WebSocket, SSE, gRPC, gRPC-Web and JSON over HTTP, all on one port.
//!
//! An adapter translates between a transport and a session or service. It knows no
//! engine. All adapters share one [`Gateway`]; [`serve`] listens and accepts connections.

mod access;
mod client;
mod compression;
mod context;
mod frame_kind;
mod gateway;
mod grpc_web;
mod http;
mod jwks;
mod reply;
mod routes;
mod server;
pub mod sse;
pub mod tls;
mod upgrade;
pub mod websocket;

pub use access::{
    AccessPolicy, Admission, AdmissionOptions, ConnectionGuard, LocalityPolicy, OriginPolicy,
    ParseNetworkError, ProxyHeader, TrustedProxies,
};
pub use compression::{CompressionLevel, CompressionOptions, InvalidCompressionLevel};
pub use gateway::{DataCount, DataState, Gateway, GatewayOptions, Probes, Services};
pub use jwks::{JwksUrl, JwksUrlError};
pub use server::{ShardThreads, serve};

/// Transports that the adapters serve.
pub const TRANSPORTS: [tidewire_stream::Transport; 3] =
    [websocket::TRANSPORT, sse::TRANSPORT, tidewire_service::GRPC];
