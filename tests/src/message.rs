//! What a server says, in the JSON form of the contract whatever the transport.

use serde_json::Value;
use tidewire_proto::{json, prost::Message as _, v1::ServerMessage};

/// A message of the server.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Its type.
    pub kind: String,
    /// The message that it answers.
    pub id: Option<String>,
    /// The channel that it was published on.
    pub channel: Option<String>,
    /// Its number on that channel.
    pub seq: Option<u64>,
    /// What it says.
    pub data: Value,
    /// When it was published, in milliseconds since the Unix epoch.
    pub timestamp: Option<i64>,
    /// The JSON text as it came, or as it is shown where protobuf came.
    pub text: String,
}

impl Message {
    /// Reads the JSON form.
    ///
    /// # Panics
    /// The text is no message of the contract.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        // What is sent must be what the generated types describe.
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

    /// Reads the protobuf form.
    ///
    /// # Panics
    /// The bytes are no message of the contract.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Self {
        Self::from_proto(&ServerMessage::decode(bytes).expect("a ServerMessage"))
    }

    /// The JSON form of a decoded message.
    #[must_use]
    pub fn from_proto(message: &ServerMessage) -> Self {
        Self::parse(&String::from_utf8(json::to_vec(message)).expect("JSON is UTF-8"))
    }

    /// Fails unless it is of this type.
    ///
    /// # Panics
    /// It is of another.
    #[must_use]
    pub fn expect(self, kind: &str) -> Self {
        assert_eq!(self.kind, kind, "{}", self.text);
        self
    }

    /// The error code of an `error`.
    ///
    /// # Panics
    /// It is something else.
    #[must_use]
    pub fn error_code(&self) -> &str {
        assert_eq!(self.kind, "error", "{}", self.text);
        self.data["code"].as_str().expect("errors have a code")
    }

    /// The error message of an `error`.
    ///
    /// # Panics
    /// It is something else.
    #[must_use]
    pub fn error_message(&self) -> &str {
        assert_eq!(self.kind, "error", "{}", self.text);
        self.data["message"]
            .as_str()
            .expect("errors have a message")
    }
}

/// How a conversation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Close {
    /// A WebSocket close frame.
    WebSocket {
        /// The close code.
        code: u16,
        /// The words beside it.
        reason: String,
    },
    /// The event stream ended as a whole.
    Sse,
    /// The gRPC stream ended with this status.
    Grpc {
        /// The status code.
        code: tonic::Code,
        /// The words beside it.
        message: String,
    },
    /// The connection broke off.
    Broken(String),
}
