//! Control: what the servers that share their channels, called nodes, do for each other beside
//! publications.
//!
//! A revocation is spread to all nodes. A question goes to some nodes, and each answers it: it may
//! also ask for an action, such as the end of a connection. [`StreamCore`](crate::StreamCore) knows
//! the meaning of questions; a broker carries bytes.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;

use crate::auth::Revocation;

/// Carries out the requests of other nodes.
pub trait ControlHandler: Send + Sync + 'static {
    /// Refuses the tokens of a revocation until the last of them expires, in milliseconds since the
    /// Unix epoch.
    fn revoke(&self, revocation: &Revocation, expires_at_ms: i64);

    /// The revocations in force here, with their expiry in milliseconds since the Unix epoch.
    fn revocations(&self) -> Vec<(Revocation, i64)>;

    /// The time in milliseconds since the Unix epoch.
    fn now_ms(&self) -> i64;

    /// Answers a question of another node.
    fn answer(self: Arc<Self>, question: Bytes) -> Pin<Box<dyn Future<Output = Bytes> + Send>>;
}

/// The beginning of the ids of all connections to one node, by which other nodes find it: eight
/// hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct NodeTag([u8; 8]);

impl NodeTag {
    /// A tag that was never used before: with a hundred nodes, the chance that two have the same one
    /// is one in a million.
    pub(crate) fn random() -> Self {
        let mut tag = [0; 8];
        let digits = format!("{:08x}", rand::random::<u32>());
        tag.copy_from_slice(digits.as_bytes());
        Self(tag)
    }

    /// The tag that a text begins with.
    pub(crate) fn read(text: &[u8]) -> Option<Self> {
        let tag: [u8; 8] = text.get(..8)?.try_into().ok()?;
        let is_digit = |byte: &u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(byte);
        tag.iter().all(is_digit).then_some(Self(tag))
    }

    /// The digits.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 8] {
        &self.0
    }

    /// The digits as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Digits are ASCII.
        str::from_utf8(&self.0).unwrap_or_default()
    }
}

impl std::fmt::Debug for NodeTag {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The nodes that a question is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipients {
    /// All others.
    Others,
    /// One.
    Node(NodeTag),
    /// One, which acts on the question once at most, also if it is asked again since its answer did not
    /// come. The time is the longest wait for it.
    NodeOnce(NodeTag, Duration),
}

/// The answers to a question.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answers {
    /// One of each node that answered.
    pub answers: Vec<Bytes>,
    /// Nodes that did not answer in time.
    pub missing: usize,
    /// Whether it is certain that no node has heard the question.
    pub is_unheard: bool,
}
