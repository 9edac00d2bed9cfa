//! Authority: who says that the server of a connection is the master, and when it is not any more.

use std::time::Duration;

use tokio::time::Instant;

use crate::{
    address::RedisOptions,
    cluster::Cluster,
    error::RedisError,
    sentinels::Sentinels,
    slots::{ServerAddress, Slot, SlotMap},
};

/// Time without an answer after which another server may have become the master: shorter than any
/// useful `down-after-milliseconds` or `cluster-node-timeout`.
const HANG: Duration = Duration::from_millis(250);

/// Source of what a connection knows of its master.
#[derive(Clone)]
pub(crate) enum Authority {
    /// Nobody: the server is the only one.
    Address,
    /// Sentinels, at this version.
    Sentinels(Sentinels, u64),
    /// The map of a cluster.
    Cluster(Cluster, ServerAddress, Service),
}

/// The part of a cluster that a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    /// Questions that any server answers.
    Any,
    /// The keys of one slot.
    Slot(Slot),
    /// All slots of a master.
    Master,
}

impl Service {
    fn is_at(self, server: &ServerAddress, map: &SlotMap) -> bool {
        match self {
            Self::Any => true,
            Self::Slot(slot) => map.master(slot) == Some(server),
            Self::Master => map.masters().contains(server),
        }
    }
}

impl Authority {
    /// Checks that the server is still the master.
    pub(crate) fn check(&self) -> Result<(), RedisError> {
        let is_replaced = match self {
            Self::Address => false,
            Self::Sentinels(sentinels, version) => *version != sentinels.version(),
            Self::Cluster(cluster, server, service) => !service.is_at(server, &cluster.map()),
        };
        match is_replaced {
            true => Err(Self::replacement()),
            false => Ok(()),
        }
    }

    /// Waits until the server is not the master any more: for ever if it is the only one.
    pub(crate) async fn replaced(&self) -> RedisError {
        match self {
            Self::Address => std::future::pending().await,
            Self::Sentinels(sentinels, version) => sentinels.replaced(*version).await,
            Self::Cluster(cluster, server, service) => {
                let mut maps = cluster.changes();
                // The sender is in the cluster, which lives as long as this.
                let _ = maps.wait_for(|map| !service.is_at(server, map)).await;
            }
        }
        Self::replacement()
    }

    /// Asks whether the server is still the master, if it has not answered for a while: another one may
    /// have taken its place.
    pub(crate) async fn confirm(
        &self,
        options: &RedisOptions,
        asked: Instant,
    ) -> Result<(), RedisError> {
        if asked.elapsed() >= HANG {
            // Without an answer, nothing is known against the server.
            match self {
                Self::Address => {}
                Self::Sentinels(sentinels, _) => {
                    let named = sentinels.find(options).await;
                    if named.is_ok_and(|named| named.is_some_and(|master| master.is_replaced)) {
                        return Err(Self::replacement());
                    }
                }
                Self::Cluster(cluster, server, _) => {
                    drop(cluster.ask_others(options, Some(server)).await);
                }
            }
        }
        self.check()
    }

    /// Takes note of an error of the server, which may say that a slot has moved.
    pub(crate) fn note_error(&self, error: &str) {
        if let Self::Cluster(cluster, server, _) = self {
            cluster.note_error(error, server);
        }
    }

    /// Takes note that the connection broke: the server may be away.
    pub(crate) fn note_loss(&self) {
        match self {
            Self::Cluster(_, _, Service::Any) | Self::Address | Self::Sentinels(..) => {}
            Self::Cluster(cluster, ..) => cluster.doubt(),
        }
    }

    fn replacement() -> RedisError {
        RedisError::Connection("another server has become the master".to_owned())
    }
}
