//! The `tidewire.v1` messages and services, generated from `tidewire/v1/*.proto`,
//! and their JSON form.
//!
//! [`json`] reads and writes messages as the wire contract shows them, [`rpc`]
//! calls unary RPCs with JSON, [`EncodedMessage`] lets many gRPC streams share
//! what was encoded once.

pub mod codec;
mod decimal;
mod error;
pub mod json;
pub mod rpc;

pub use codec::EncodedMessage;
pub use decimal::DecimalError;
pub use prost;

/// The descriptors of all files, for reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Version 1 of the protocol.
pub mod v1 {
    // The generators write full paths everywhere.
    #![allow(unused_qualifications)]
    // A state of a transaction is longer than what else may be said; none is kept for long.
    #![allow(clippy::large_enum_variant)]
    tonic::include_proto!("tidewire.v1");
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.StreamService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.PriceService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.WatchService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.NotifyService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.AlertService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.AdminService.rs"));
}
