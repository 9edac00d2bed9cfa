//! Shares of a memory broker: which histories lose something when all together take too much.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;

use super::{Channel, LocalDelivery, MemoryBroker};
use crate::{
    ChannelName, Namespaces,
    history_memory::{HistoryMemory, HistoryShare, largest_share},
};

/// Memory of the histories of each namespace. The namespaces are fixed when the server starts.
#[derive(Debug)]
pub(super) struct Shares {
    by_namespace: HashMap<Box<str>, Arc<HistoryShare>>,
    /// Of channels in no known namespace.
    others: Arc<HistoryShare>,
}

impl Shares {
    pub(super) fn new(namespaces: &Namespaces, memory: &Arc<HistoryMemory>) -> Self {
        let names = namespaces.names();
        Self {
            by_namespace: names
                .map(|name| (name.into(), HistoryShare::new(memory)))
                .collect(),
            others: HistoryShare::new(memory),
        }
    }

    pub(super) fn of(&self, channel: &ChannelName) -> &Arc<HistoryShare> {
        let share = self.by_namespace.get(channel.namespace());
        share.unwrap_or(&self.others)
    }

    fn used(&self) -> Vec<usize> {
        let all = self.by_namespace.values().chain([&self.others]);
        all.map(|share| share.used()).collect()
    }
}

impl<D: LocalDelivery> MemoryBroker<D> {
    /// Cuts the namespaces that take most down, until all together take less than they may: see
    /// [`largest_share`]. Such a namespace drops what is oldest in those of its histories that
    /// have not been used for the longest time. Sessions count their own part of it.
    pub(super) fn free_memory(&self) {
        let Some(_freeing) = self.freeing.try_lock() else {
            return;
        };
        let Some(excess) = self.memory.excess() else {
            return;
        };
        let used = self.shares.used();
        let kept = used.iter().sum::<usize>().saturating_sub(excess);
        let largest = largest_share(used, kept);
        let mut too_large: HashMap<*const HistoryShare, (usize, Vec<_>)> = HashMap::new();
        self.for_each(|_, channel| {
            let share = channel.lock().share.clone();
            let excess = share.used().saturating_sub(largest);
            if excess > 0 {
                let entry = too_large.entry(Arc::as_ptr(&share));
                let (_, channels) = entry.or_insert_with(|| (excess, Vec::new()));
                channels.push(channel);
            }
        });
        for (excess, channels) in too_large.into_values() {
            drop_oldest(channels, excess);
        }
    }
}

/// Drops what is oldest in the histories that have not been used for the longest time, until so
/// many bytes are free.
fn drop_oldest(mut channels: Vec<Arc<Mutex<Channel>>>, bytes: usize) {
    channels.sort_by_cached_key(|channel| channel.lock().used_ms);
    let mut freed = 0;
    for channel in channels {
        let mut channel = channel.lock();
        while freed < bytes && !channel.log.is_empty() {
            freed += channel.drop_oldest();
        }
        if freed >= bytes {
            return;
        }
    }
}
