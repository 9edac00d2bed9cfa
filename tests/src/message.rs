//! Server messages in the JSON form of the contract, on every transport.

use serde_json::Value;
use tidewire_proto::{json, prost::Message as _, v1::ServerMessage};

/// A server message.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its type.
    pub kind: String,
    /// The id of the client message that it replies to.
    pub id: Option<String>,
    /// Its channel.
    pub channel: Option<String>,
    /// Its sequence number on that channel.
    pub seq: Option<u64>,
    /// Its payload.
    pub data: Value,
    /// Publication time, in milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// The JSON text: as received, or converted from protobuf.
    pub text: String,
}

impl Message {
    /// Parses the JSON form.
    ///
    /// # Panics
    /// The text is not a message of the contract.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // The text must parse as the generated types describe it.
        json::from_slice::<ServerMessage>(text.as_bytes())
            .unwrap_or_else(|error| panic!("{text} is no server message: {error}"));
        let value: Value = serde_json::from_str(text).expect("it was read before");
        let string = |name: &str| value[name].as_str().map(str::to_owned);
        Self {
            kind: string("type").unwrap_or_else(|| panic!("{text} has no type")),
            id: string("id"),
            channel: string("channel"),
            seq: value["seq"].as_u64(),
            data: value["data"].clone(),
            timestamp: value["timestamp"].as_i64(),
            text: text.to_owned(),
        }
    }

    /// Parses the protobuf form.
    ///
    /// # Panics
    /// The bytes are not a message of the contract.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self::from_proto(&ServerMessage::decode(bytes).expect("a ServerMessage"))
    }

    /// Converts a decoded message to its JSON form.
    #[must_use]
    pub fn from_proto(message: &ServerMessage) -> Self {
        Self::parse(&String::from_utf8(json::to_vec(message)).expect("JSON is UTF-8"))
    }

    /// Fails unless the message has this type.
    ///
    /// # Panics
    /// The message has another type.
    #[must_use]
    pub fn expect(self, kind: &str) -> Self {
        assert_eq!(self.kind, kind, "{}", self.text);
        self
    }

    /// Returns the error code of an `error`.
    ///
    /// # Panics
    /// The message is not an `error`.
    #[must_use]
    pub fn error_code(&self) -> &str {
        assert_eq!(self.kind, "error", "{}", self.text);
        self.data["code"].as_str().expect("errors have a code")
    }

    /// Returns the error text of an `error`.
    ///
    /// # Panics
    /// The message is not an `error`.
    #[must_use]
    pub fn error_message(&self) -> &str {
        assert_eq!(self.kind, "error", "{}", self.text);
        self.data["message"]
            .as_str()
            .expect("errors have a message")
    }
}

/// The end of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// A WebSocket close frame.
    WebSocket {
        /// The close code.
        code: u16,
        /// The reason text.
        reason: String,
    },
    /// The event stream ended.
    Sse,
    /// The gRPC stream ended with a status.
    Grpc {
        /// The status code.
        code: tonic::Code,
        /// The status message.
        message: String,
    },
    /// The connection broke without a close frame or status.
    Broken(String),
}
