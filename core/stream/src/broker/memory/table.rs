//! Channel table: the channels of a memory broker, counted by namespace and by the client that
//! published on each first.
//!
//! A channel's name is cheap to make up and its history is not cheap to keep. So each client
//! may make a bounded number of channels, and each namespace holds a bounded number. At a bound
//! the channels without subscribers that have not been used for longest are forgotten.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use indexmap::IndexMap;
use parking_lot::{Mutex, RwLock};

use super::Channel;
use crate::{ChannelName, Epoch, limit::ClientKey};

/// The channels.
#[derive(Debug, Default)]
pub(super) struct ChannelTable {
    /// Each channel has a place, so that a long pass over them is made in parts.
    all: IndexMap<ChannelName, TableEntry>,
    namespaces: HashMap<Box<str>, usize>,
    clients: HashMap<ClientKey, HashSet<ChannelName>>,
}

#[derive(Debug)]
struct TableEntry {
    channel: Arc<Mutex<Channel>>,
    /// The client that published first, if it is counted.
    client: Option<ClientKey>,
}

impl ChannelTable {
    pub(super) fn get(&self, name: &ChannelName) -> Option<&Arc<Mutex<Channel>>> {
        self.all.get(name).map(|entry| &entry.channel)
    }

    pub(super) fn contains(&self, name: &ChannelName) -> bool {
        self.all.contains_key(name)
    }

    /// Adds a channel that is not in the table.
    pub(super) fn insert(
        &mut self,
        name: &ChannelName,
        channel: Arc<Mutex<Channel>>,
        client: Option<ClientKey>,
    ) {
        match self.namespaces.get_mut(name.namespace()) {
            Some(count) => *count += 1,
            None => {
                self.namespaces.insert(name.namespace().into(), 1);
            }
        }
        if let Some(client) = &client {
            let made = self.clients.entry(client.clone()).or_default();
            made.insert(name.clone());
        }
        self.all
            .insert(name.clone(), TableEntry { channel, client });
    }

    pub(super) fn remove(&mut self, name: &ChannelName) -> Option<Arc<Mutex<Channel>>> {
        let TableEntry { channel, client } = self.all.swap_remove(name)?;
        if let Some(count) = self.namespaces.get_mut(name.namespace()) {
            *count -= 1;
        }
        if let Some(client) = client
            && let Some(made) = self.clients.get_mut(&client)
        {
            made.remove(name);
            if made.is_empty() {
                self.clients.remove(&client);
            }
        }
        Some(channel)
    }

    /// The number of channels in a namespace.
    pub(super) fn count(&self, namespace: &str) -> usize {
        self.namespaces.get(namespace).copied().unwrap_or_default()
    }

    /// Namespaces with a channel, and the number of their channels.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.namespaces
            .iter()
            .map(|(namespace, count)| (&**namespace, *count))
    }

    /// The number of channels that a client made.
    pub(super) fn count_of(&self, client: &ClientKey) -> usize {
        self.clients.get(client).map_or(0, HashSet::len)
    }

    /// The channels that a client made.
    pub(super) fn made_by(
        &self,
        client: &ClientKey,
    ) -> impl Iterator<Item = (&ChannelName, &Arc<Mutex<Channel>>)> {
        let made = self.clients.get(client).into_iter().flatten();
        made.filter_map(|name| Some((name, self.get(name)?)))
    }

    /// The number of channels.
    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    /// Up to `count` channels from a place on. A channel that is removed gives its place to the last
    /// one.
    pub(super) fn part(
        &self,
        from: usize,
        count: usize,
    ) -> impl Iterator<Item = (&ChannelName, &Arc<Mutex<Channel>>)> {
        let to = from.saturating_add(count).min(self.all.len());
        let part = self.all.get_range(from.min(to)..to).into_iter().flatten();
        part.map(|(name, entry)| (name, &entry.channel))
    }
}

/// Epochs of channels that nothing was published on. The channels of a namespace share one. It
/// changes when one of them is forgotten, so that no position is ever given twice.
#[derive(Debug)]
pub(super) struct FreshEpochs(RwLock<EpochTable>);

#[derive(Debug)]
struct EpochTable {
    /// Epoch of the namespaces in which no channel was forgotten yet.
    first: Epoch,
    changed: HashMap<Box<str>, Epoch>,
}

impl FreshEpochs {
    pub(super) fn new() -> Self {
        Self(RwLock::new(EpochTable {
            first: Epoch::random(),
            changed: HashMap::new(),
        }))
    }

    pub(super) fn of(&self, namespace: &str) -> Epoch {
        let table = self.0.read();
        table.changed.get(namespace).unwrap_or(&table.first).clone()
    }

    /// Gives a namespace another epoch.
    pub(super) fn change(&self, namespace: &str) {
        self.set(Some(namespace), Epoch::random());
    }

    /// Gives every namespace another epoch.
    pub(super) fn change_all(&self) {
        let mut table = self.0.write();
        table.first = Epoch::random();
        table.changed.clear();
    }

    /// Sets the epoch of a namespace, or of all namespaces without one of their own.
    pub(super) fn set(&self, namespace: Option<&str>, epoch: Epoch) {
        let mut table = self.0.write();
        match namespace {
            Some(namespace) => {
                table.changed.insert(namespace.into(), epoch);
            }
            None => table.first = epoch,
        }
    }

    /// All epochs, as [`set`](Self::set) takes them.
    pub(super) fn all(&self) -> Vec<(Option<Box<str>>, Epoch)> {
        let table = self.0.read();
        let changed = table.changed.iter();
        let changed = changed.map(|(namespace, epoch)| (Some(namespace.clone()), epoch.clone()));
        std::iter::once((None, table.first.clone()))
            .chain(changed)
            .collect()
    }
}
