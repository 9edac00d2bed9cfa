//! Unary RPCs called by name, with requests and responses as JSON or protobuf, and the list of
//! streams. Two functions per service are generated.

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status};

use crate::{
    json::{self, JsonValue},
    v1,
};

/// An RPC with a stream. It lasts as long as a connection of its own would.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCall {
    /// The HTTP path.
    pub path: &'static str,
    /// Whether the request is a stream too. Otherwise it is one message.
    pub streams_request: bool,
}

include!(concat!(env!("OUT_DIR"), "/rpc.rs"));

/// An empty body means all defaults.
fn parse<T: JsonValue>(request: Request<Bytes>) -> Result<Request<T>, Status> {
    let (metadata, extensions, body) = request.into_parts();
    let body = if body.is_empty() {
        Bytes::from_static(b"{}")
    } else {
        body
    };
    let message =
        json::from_slice(&body).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Request::from_parts(metadata, extensions, message))
}

fn decode<T: Message + Default>(request: Request<Bytes>) -> Result<Request<T>, Status> {
    let (metadata, extensions, body) = request.into_parts();
    let message = T::decode(body).map_err(|error| Status::invalid_argument(error.to_string()))?;
    Ok(Request::from_parts(metadata, extensions, message))
}

fn encode<T: Message>(response: Result<Response<T>, Status>) -> Result<Response<Vec<u8>>, Status> {
    response.map(|response| response.map(|message| message.encode_to_vec()))
}

fn answer<T: JsonValue>(
    response: Result<Response<T>, Status>,
) -> Result<Response<Vec<u8>>, Status> {
    response.map(|response| response.map(|message| json::to_vec(&message)))
}

fn is_a_stream(method: &str) -> Status {
    Status::unimplemented(format!("{method} is a stream: use gRPC, /v1/ws or /v1/sse"))
}

fn no_method(service: &str, method: &str, expected: &str) -> Status {
    Status::unimplemented(format!(
        "there is no method {method:?} in {service}, expected one of {expected}"
    ))
}
