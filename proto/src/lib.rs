//! The `tidewire.v1` messages and services, generated from `tidewire/v1/*.proto`.

/// Version 1 of the protocol.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, unused_qualifications, clippy::all)]
    tonic::include_proto!("tidewire.v1");
}
