//! The adapters: WebSocket, SSE, gRPC, gRPC-Web and JSON over HTTP, all on one port.
//!
//! An adapter translates between its transport and a session or a service; it
//! knows no engine. [`Gateway`] is what they share, [`serve`] the listener.

mod access;
mod front;
mod gateway;
mod grpc;
pub mod http;
mod origin;
mod server;
pub mod sse;
pub mod websocket;

pub use gateway::{AdminAccess, Gateway, GatewayOptions, Probes};
pub use origin::OriginPolicy;
pub use server::{ShardThreads, serve};
