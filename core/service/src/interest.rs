//! What connections watch: so that a watch ends with the connection that wanted it.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use parking_lot::Mutex;
use tidewire_chain::{ChainEngine, transaction::Interest};
use tidewire_stream::Stream;

/// Something that a connection watches.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Watched {
    /// A transaction, by chain and hash in lower case.
    Transaction(u64, String),
}

/// What is watched, by connection.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interests(Arc<Mutex<HashMap<String, HashSet<Watched>>>>);

impl Interests {
    /// Notes that a connection watches something. False if it did already.
    pub(crate) fn add(&self, connection: &str, watched: Watched) -> bool {
        let mut all = self.0.lock();
        all.entry(connection.to_owned())
            .or_default()
            .insert(watched)
    }

    /// Notes that it does no more. False if it did not.
    pub(crate) fn remove(&self, connection: &str, watched: &Watched) -> bool {
        let mut all = self.0.lock();
        let Some(own) = all.get_mut(connection) else {
            return false;
        };
        let was_there = own.remove(watched);
        if own.is_empty() {
            all.remove(connection);
        }
        was_there
    }

    /// What connections watched that have gone.
    pub(crate) fn take_gone(&self, stream: &Stream) -> Vec<Watched> {
        let mut all = self.0.lock();
        let gone: Vec<_> = all
            .keys()
            .filter(|connection| stream.session(connection).is_none())
            .cloned()
            .collect();
        let watched = gone.iter().filter_map(|connection| all.remove(connection));
        watched.flatten().collect()
    }
}

/// Ends a watch of a connection.
pub(crate) async fn end(engine: &ChainEngine, watched: Watched) {
    let ended = match watched {
        Watched::Transaction(chain, hash) => engine.unwatch(chain, &hash, Interest::Session).await,
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a watch could not be ended");
    }
}
