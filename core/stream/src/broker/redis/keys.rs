//! Keys: the names in Redis of what belongs to a channel.
//!
//! Channels are spread over [`PARTITIONS`], and all names of a partition have the same hash tag.
//! In a cluster they are in one slot, so that one script reaches the keys of a channel, the fresh
//! epoch of its partition, and its shard channel. Example with the prefix `tidewire`, of
//! `orders:1`, which is in partition 809:
//!
//! | name                              | content                                             |
//! |-----------------------------------|-----------------------------------------------------|
//! | `tidewire:{809}:meta:orders:1`    | hash: epoch, seq, time, last write of each node,    |
//! |                                   | and of a personal channel the term of the store     |
//! | `tidewire:{809}:history:orders:1` | stream: publications, whose ids are `<seq>-0`       |
//! | `tidewire:{809}:fresh`            | epoch of channels that are published on first       |
//! | `tidewire:{809}:key:<digest>`     | position that a publication with this key got       |
//! | `tidewire:{809}:0:orders:1`       | shard channel of database 0                         |
//! | `tidewire:{809}:fence:<lease>`    | hash: newest term of a lease, in a cluster alone    |
//! | `tidewire:{control}:revocations`  | hash: revocations of all nodes                      |
//! | `tidewire:{control}:version`      | another number after each change of it              |
//! | `tidewire:{control}:nodes`        | sorted set: nodes, by the end of their lease        |
//! | `tidewire:{control}:spoken`       | hash: versions of the protocol that each node speaks|
//! | `tidewire:{control}:0`            | shard channel of all nodes                          |
//! | `tidewire:{control}:0:0badcafe`   | shard channel of one node                           |

use bytes::Bytes;

use crate::{ChannelName, broker::NodeTag};

/// Parts over which channels are spread: enough for a cluster of a hundred servers, and few
/// enough that a fresh epoch for each costs nothing. All nodes must agree on it.
pub(super) const PARTITIONS: u64 = 1_024;

/// Names with a prefix.
#[derive(Debug, Clone)]
pub(super) struct KeyNames {
    prefix: String,
    /// Pub/sub knows no databases: the number is in the names.
    database: u32,
    /// Whether a script reaches the keys of one slot alone.
    is_cluster: bool,
}

impl KeyNames {
    pub(super) fn new(prefix: &str, database: u32) -> Self {
        Self {
            prefix: prefix.to_owned(),
            database,
            is_cluster: false,
        }
    }

    /// The same names in a cluster.
    pub(super) fn in_cluster(self) -> Self {
        Self {
            is_cluster: true,
            ..self
        }
    }

    fn name(&self, channel: &ChannelName, kind: &str, rest: &str) -> Bytes {
        format!("{}{kind}{rest}", self.partition(partition(channel))).into()
    }

    /// The beginning of all names of a partition.
    pub(super) fn partition(&self, partition: u64) -> String {
        format!("{}:{{{partition}}}:", self.prefix)
    }

    /// The metadata, the history and the fresh epoch, as all scripts take them. In a cluster, the
    /// metadata stand in the place of the fresh epoch, which is an [argument](Self::fresh).
    pub(super) fn of(&self, channel: &ChannelName) -> [Bytes; 3] {
        let meta = self.name(channel, "meta:", channel.as_str());
        let third = match self.is_cluster {
            true => meta.clone(),
            false => self.fresh_of(channel),
        };
        let history = self.name(channel, "history:", channel.as_str());
        [meta, history, third]
    }

    /// The argument of scripts that names the fresh epoch of a partition, where it is none of the keys:
    /// while a slot moves, Redis refuses a script of which one key has moved, or does not exist.
    pub(super) fn fresh(&self, channel: &ChannelName) -> Bytes {
        match self.is_cluster {
            true => self.fresh_of(channel),
            false => Bytes::new(),
        }
    }

    fn fresh_of(&self, channel: &ChannelName) -> Bytes {
        self.name(channel, "fresh", "")
    }

    /// The key whose field `term` is the term of the shared store, for a script of a channel.
    pub(super) fn store_lease(&self, channel: &ChannelName) -> Bytes {
        let lease = tidewire_redis::store_lease(&self.prefix);
        self.lease(channel, &lease)
    }

    /// The key whose field `term` is the newest term of a lease, for a script of a channel: the lease,
    /// or its fence in the slot of the channel.
    pub(super) fn lease(&self, channel: &ChannelName, lease: &str) -> Bytes {
        match self.is_cluster {
            true => self.fence(partition(channel), lease),
            false => Bytes::copy_from_slice(lease.as_bytes()),
        }
    }

    /// The newest term of a lease as the channels of a partition know it.
    pub(super) fn fence(&self, partition: u64, lease: &str) -> Bytes {
        format!("{}fence:{lease}", self.partition(partition)).into()
    }

    /// Whether scripts read fences in the place of leases.
    pub(super) fn has_fences(&self) -> bool {
        self.is_cluster
    }

    /// An idempotency key.
    pub(super) fn idempotency(&self, channel: &ChannelName, digest: &str) -> Bytes {
        self.name(channel, "key:", digest)
    }

    /// The shard channel.
    pub(super) fn shard_channel(&self, channel: &ChannelName) -> Bytes {
        self.name(channel, &format!("{}:", self.database), channel.as_str())
    }

    /// The channel whose shard channel this is.
    pub(super) fn channel(&self, shard_channel: &[u8]) -> Option<ChannelName> {
        let name = std::str::from_utf8(shard_channel).ok()?;
        let rest = name.strip_prefix(&*self.prefix)?.strip_prefix(":{")?;
        let (_, rest) = rest.split_once("}:")?;
        let (_, channel) = rest.split_once(':')?;
        ChannelName::parse(channel).ok()
    }

    /// The shard channel on which a node hears itself.
    pub(super) fn probe(&self, node: &str) -> Bytes {
        self.probe_name(node, &self.database.to_string())
    }

    /// The metadata, the history and the fresh epoch of that channel.
    pub(super) fn of_probe(&self, node: &str) -> [Bytes; 3] {
        ["meta", "history", "fresh"].map(|kind| self.probe_name(node, kind))
    }

    /// The revocations of all nodes, and their version.
    pub(super) fn control(&self) -> [Bytes; 2] {
        ["revocations", "version"].map(|kind| format!("{}:{{control}}:{kind}", self.prefix).into())
    }

    /// The nodes, by the end of their lease.
    pub(super) fn nodes(&self) -> Bytes {
        format!("{}:{{control}}:nodes", self.prefix).into()
    }

    /// The versions of the protocol between nodes that each node speaks.
    pub(super) fn spoken(&self) -> Bytes {
        format!("{}:{{control}}:spoken", self.prefix).into()
    }

    /// The shard channel of one node.
    pub(super) fn node_channel(&self, node: NodeTag) -> Bytes {
        let node = node.as_str();
        format!("{}:{{control}}:{}:{node}", self.prefix, self.database).into()
    }

    /// The shard channel of all nodes.
    pub(super) fn control_channel(&self) -> Bytes {
        format!("{}:{{control}}:{}", self.prefix, self.database).into()
    }

    fn probe_name(&self, node: &str, rest: &str) -> Bytes {
        format!("{}:{{probe-{node}}}:{rest}", self.prefix).into()
    }
}

/// Index of a channel's partition.
pub(super) fn partition(channel: &ChannelName) -> u64 {
    fnv(channel.as_str().as_bytes()) % PARTITIONS
}

/// FNV-1a, which is the same on all nodes.
pub(super) fn fnv(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_in_the_table() {
        let keys = KeyNames::new("tidewire", 0);
        let channel = ChannelName::parse("orders:1").unwrap();
        let [meta, history, fresh] = keys.of(&channel);
        assert_eq!(meta, "tidewire:{809}:meta:orders:1");
        assert_eq!(history, "tidewire:{809}:history:orders:1");
        assert_eq!(fresh, "tidewire:{809}:fresh");
        let shard_channel = keys.shard_channel(&channel);
        assert_eq!(shard_channel, "tidewire:{809}:0:orders:1");
        assert_eq!(keys.channel(&shard_channel), Some(channel.clone()));
        let other = KeyNames::new("tidewire", 1);
        assert_ne!(other.shard_channel(&channel), shard_channel);
        assert_eq!(keys.channel(&keys.probe("7")), None);
        let lease = "tidewire:{prices}:lease";
        assert_eq!(keys.lease(&channel, lease), lease);
        assert_eq!(
            keys.in_cluster().lease(&channel, lease),
            "tidewire:{809}:fence:tidewire:{prices}:lease"
        );
    }
}
