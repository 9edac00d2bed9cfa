//! Messages and services of `tidewire.v1`, generated from `tidewire/v1/*.proto`, with their
//! JSON form.
//!
//! [`json`] reads and writes messages as the wire contract shows them. [`rpc`] calls unary
//! RPCs with JSON. [`EncodedMessage`] lets many gRPC streams share one encoding.

pub mod codec;
mod decimal;
mod error;
pub mod json;
pub mod rpc;

pub use codec::EncodedMessage;
pub use decimal::DecimalError;
pub use error::{MAX_MESSAGE_BYTES, bound_message};
pub use prost;

/// The descriptors of all files, for gRPC reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptor.bin"));

/// Version 1 of the protocol.
pub mod v1 {
    // The generators write full paths.
    #![allow(unused_qualifications)]
    // A transaction status is larger than the other cases. Messages are short-lived.
    #![allow(clippy::large_enum_variant)]
    tonic::include_proto!("tidewire.v1");
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.StreamService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.PriceService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.WatchService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.NotifyService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.AlertService.rs"));
    include!(concat!(env!("OUT_DIR"), "/tidewire.v1.AdminService.rs"));
}
