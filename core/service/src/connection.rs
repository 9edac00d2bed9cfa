//! Session streams: how a gRPC call opens a session, and how the session's end becomes a
//! status.

use tidewire_stream::{CloseReason, ConnectionInfo, Encoding, SessionQuota, ShardId, Transport};
use tonic::{Request, Status};

use crate::caller_of;

/// Label of gRPC and gRPC-Web streams.
pub const GRPC: Transport = Transport::new("grpc");

/// Bytes that one poll of a gRPC stream takes from its session.
pub(crate) const BATCH_BYTES: usize = 64 << 10;

/// The session parameters of a call, from the extensions that the adapter inserted.
pub(crate) fn connection_info<T>(request: &Request<T>) -> ConnectionInfo {
    let extensions = request.extensions();
    ConnectionInfo {
        caller: caller_of(request),
        transport: GRPC,
        post_key: None,
        encoding: Encoding::Proto,
        heartbeat: None,
        quota: extensions.get::<SessionQuota>().cloned(),
        // Without a listener, as in tests, the publishing thread delivers.
        shard: extensions.get().copied().unwrap_or(ShardId::CALLER),
    }
}

/// The status that ends the stream of a closed session.
pub(crate) fn close_status(reason: CloseReason) -> Status {
    match reason.code() {
        4005 | 4500 | 4504 => Status::unauthenticated(reason.text()),
        4001 | 4004 => Status::resource_exhausted(reason.text()),
        1007 | 1009 => Status::invalid_argument(reason.text()),
        4503 => Status::permission_denied(reason.text()),
        _ => Status::unavailable(reason.text()),
    }
}
