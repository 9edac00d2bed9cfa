//! Session streams: how a gRPC call opens a session, and how the session's end becomes a
//! status.

use tidewire_stream::{CloseReason, ConnectionInfo, Encoding, SessionQuota, ShardId, Transport};
use tonic::{Code, Request, Status, metadata::MetadataMap};

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

/// Trailer with the code that closes a WebSocket for the same reason. Statuses are fewer: an expired
/// token and a revoked one have the same.
const CLOSE_CODE: &str = "tidewire-close-code";

/// The status that ends the stream of a closed session.
pub(crate) fn close_status(reason: CloseReason) -> Status {
    let code = match reason.code() {
        4005 | 4500 | 4504 => Code::Unauthenticated,
        4001 | 4004 => Code::ResourceExhausted,
        1007 | 1009 => Code::InvalidArgument,
        4503 => Code::PermissionDenied,
        _ => Code::Unavailable,
    };
    let mut metadata = MetadataMap::new();
    metadata.insert(CLOSE_CODE, reason.code().into());
    Status::with_metadata(code, reason.text(), metadata)
}
