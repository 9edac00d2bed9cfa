//! Connection info: facts of a transport about a connecting client, and the ids that the
//! session gives the connection.

use std::time::Duration;

use crate::{Caller, SessionQuota, broker::NodeTag, hub::ShardId, transport::Transport};

/// Encoding of a client's messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// As JSON text.
    Json,
    /// As protobuf.
    Proto,
}

/// Facts that a transport knows about a client when it connects.
#[derive(Debug, Clone)]
pub struct ConnectionInfo {
    /// The client.
    pub caller: Caller,
    /// Label of the transport.
    pub transport: Transport,
    /// Key that its commands need, where they come beside the connection.
    pub post_key: Option<PostKey>,
    /// Encoding of its messages.
    pub encoding: Encoding,
    /// Shortest heartbeat interval that the client requested, if any.
    pub heartbeat: Option<Duration>,
    /// Rates that the client is held to. None: no rate.
    pub quota: Option<SessionQuota>,
    /// Shard that the connection lives on.
    pub shard: ShardId,
}

/// Id of a connection: 128 random bits in hexadecimal digits. Where several servers share their
/// channels, the first digits are the same for all connections to one of them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ConnectionId([u8; 32]);

impl ConnectionId {
    /// A new id.
    #[must_use]
    pub fn random() -> Self {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        let mut bits = rand::random::<u128>();
        Self([(); 32].map(|()| {
            let digit = DIGITS[(bits & 15) as usize];
            bits >>= 4;
            digit
        }))
    }

    /// The same id with the beginning by which other servers find the connection: 96 bits stay
    /// random.
    #[must_use]
    pub(crate) fn on(mut self, node: NodeTag) -> Self {
        let tag = node.as_bytes();
        self.0[..tag.len()].copy_from_slice(tag);
        self
    }

    /// Reads an id as it is sent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: [u8; 32] = text.as_bytes().try_into().ok()?;
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        digits.iter().all(is_digit).then_some(Self(digits))
    }

    /// The id as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits are ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for ConnectionId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.as_str().fmt(f)
    }
}

// As text, since maps are searched by text.
impl std::hash::Hash for ConnectionId {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

impl std::borrow::Borrow<str> for ConnectionId {
    fn borrow(&self) -> &str {
        self.as_str()
    }
}

/// Key that proves the right to send commands for a connection, where commands come as
/// requests of their own: 128 random bits in hexadecimal digits.
#[derive(Clone, PartialEq, Eq)]
pub struct PostKey(String);

impl PostKey {
    /// A key that was never used before.
    #[must_use]
    pub fn random() -> Self {
        Self(format!("{:032x}", rand::random::<u128>()))
    }

    /// The key as it is sent.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

// The key is a secret: logs do not get it.
impl std::fmt::Debug for PostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PostKey")
    }
}
