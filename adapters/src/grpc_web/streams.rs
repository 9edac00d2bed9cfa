//! Streaming calls: the RPCs that last as long as a connection of their own would.

use tidewire_proto::rpc::{self, StreamCall};

/// Streams of the health and reflection services, which open no session.
const WITHOUT_SESSION: &[StreamCall] = &[
    StreamCall {
        path: "/grpc.health.v1.Health/Watch",
        streams_request: false,
    },
    StreamCall {
        path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        streams_request: true,
    },
    StreamCall {
        path: "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
        streams_request: true,
    },
];

/// The stream at a path that opens a session.
pub(super) fn with_session(path: &str) -> Option<StreamCall> {
    find(rpc::STREAMS, path)
}

/// Whether a call at a path opens a session.
pub(crate) fn opens_session(path: &str) -> bool {
    with_session(path).is_some()
}

/// The stream at a path that opens none.
pub(super) fn without_session(path: &str) -> Option<StreamCall> {
    find(WITHOUT_SESSION, path)
}

/// Whether the request to a path is a stream of messages, for as long as the client likes.
pub(crate) fn streams_request(path: &str) -> bool {
    let call = with_session(path).or_else(|| without_session(path));
    call.is_some_and(|call| call.streams_request)
}

fn find(calls: &[StreamCall], path: &str) -> Option<StreamCall> {
    calls.iter().find(|call| call.path == path).copied()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use tidewire_proto::{FILE_DESCRIPTOR_SET, prost::Message as _};

    use super::*;

    #[test]
    fn the_streams_are_those_of_the_descriptors() {
        let mut expected = BTreeSet::new();
        for set in [
            FILE_DESCRIPTOR_SET,
            tonic_health::pb::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
            tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
        ] {
            let set = prost_types::FileDescriptorSet::decode(set).unwrap();
            for file in &set.file {
                for service in &file.service {
                    for method in &service.method {
                        let (package, service) = (file.package(), service.name());
                        let path = format!("/{package}.{service}/{}", method.name());
                        assert_eq!(streams_request(&path), method.client_streaming(), "{path}");
                        if method.client_streaming() || method.server_streaming() {
                            expected.insert(path);
                        }
                    }
                }
            }
        }
        let listed = rpc::STREAMS.iter().chain(WITHOUT_SESSION);
        let listed: BTreeSet<_> = listed.map(|call| call.path.to_owned()).collect();
        assert_eq!(listed, expected);
    }
}
