//! Versions of the protocol between nodes: of what they store in Redis, and of what they send each
//! other.
//!
//! During a rolling upgrade, nodes of two releases run side by side. Each node has the oldest and the
//! newest version that it speaks beside its lease. A node joins only nodes with which it has a version
//! in common, which Redis decides in one script: of two that begin at once, one is first. All write the
//! *agreed* version, the newest one that every node speaks, which grows by itself when the last node of
//! an older release is gone.
//!
//! A change that older nodes can read, such as a new field of a question, needs no new version. Any
//! other one adds to [`NodeProtocol::CURRENT`], and writes the earlier form while the agreed version is
//! lower.

use std::fmt;

pub(super) use tidewire_redis::NodeProtocol;

use super::{error::RedisError, resp::Reply};

/// Answer of Redis to a node that extends its lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Roll {
    /// The nodes that are there.
    Present(Presence),
    /// The lease was refused: this other node has no version in common.
    Refused(Stranger),
}

/// The nodes that are there, with the one that asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Presence {
    pub(super) count: usize,
    /// The version that all of them speak.
    pub(super) agreed: u32,
}

/// A node without a version in common.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Stranger {
    node: String,
    release: String,
    spoken: NodeProtocol,
}

impl Stranger {
    /// The fault, for a node that speaks `own`.
    pub(super) fn fault(&self, own: NodeProtocol) -> String {
        let (node, release) = (&self.node, &self.release);
        let (this, other) = (Versions(own), Versions(self.spoken));
        let advice = match own.newest < self.spoken.oldest {
            true => "upgrade this node",
            false => "upgrade that node first, if need be by a release in between",
        };
        format!(
            "node {node} (Tidewire {release}) speaks {other} of the protocol between nodes, and this one {this}: {advice}"
        )
    }
}

/// Versions in words.
struct Versions(NodeProtocol);

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            NodeProtocol { oldest, newest } if oldest == newest => write!(f, "version {oldest}"),
            NodeProtocol { oldest, newest } => write!(f, "versions {oldest} to {newest}"),
        }
    }
}

impl Roll {
    /// Reads the reply of the script `lease`.
    ///
    /// # Errors
    /// The reply is another one.
    pub(super) fn read(reply: Reply) -> Result<Self, RedisError> {
        let parts = reply.array()?.into_iter().map(Reply::string);
        let parts = parts.collect::<Result<Vec<_>, _>>()?;
        let texts: Vec<&str> = parts.iter().map(String::as_str).collect();
        let wrong = || RedisError::Protocol(format!("{texts:?} came, expected the nodes"));
        let number = |text: &str| text.parse().map_err(|_| wrong());
        match texts[..] {
            ["present", count, agreed] => Ok(Self::Present(Presence {
                count: count.parse().map_err(|_| wrong())?,
                agreed: number(agreed)?,
            })),
            ["refused", node, oldest, newest, release] => Ok(Self::Refused(Stranger {
                node: node.to_owned(),
                release: release.to_owned(),
                spoken: NodeProtocol {
                    oldest: number(oldest)?,
                    newest: number(newest)?,
                },
            })),
            _ => Err(wrong()),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(parts: &[&str]) -> Reply {
        let text = |part: &&str| Reply::Text(Bytes::copy_from_slice(part.as_bytes()));
        Reply::Array(parts.iter().map(text).collect())
    }

    #[test]
    fn a_roll_is_read_or_refused() {
        let present = Roll::read(reply(&["present", "3", "2"])).unwrap();
        let (count, agreed) = (3, 2);
        assert_eq!(present, Roll::Present(Presence { count, agreed }));
        for wrong in [
            &["present", "3"][..],
            &["present", "three", "2"],
            &["refused", "0badcafe", "2", "x", "0.2.0"],
            &[],
        ] {
            assert!(Roll::read(reply(wrong)).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn a_fault_names_both_sides_and_which_to_upgrade() {
        let spoken = |oldest, newest| NodeProtocol { oldest, newest };
        let fault = |own, other: &[&str; 2]| {
            let [oldest, newest] = other;
            let refused = reply(&["refused", "0badcafe", oldest, newest, "0.9.0"]);
            match Roll::read(refused) {
                Ok(Roll::Refused(stranger)) => stranger.fault(own),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(
            fault(spoken(1, 1), &["2", "3"]),
            "node 0badcafe (Tidewire 0.9.0) speaks versions 2 to 3 of the protocol between nodes, and this one version 1: upgrade this node"
        );
        assert_eq!(
            fault(spoken(3, 4), &["2", "2"]),
            "node 0badcafe (Tidewire 0.9.0) speaks version 2 of the protocol between nodes, and this one versions 3 to 4: upgrade that node first, if need be by a release in between"
        );
    }
}
