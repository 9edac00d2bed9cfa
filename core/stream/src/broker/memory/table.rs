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
    namespaces: HashMap<Box<str>, NamespaceEntry>,
    clients: HashMap<ClientKey, ClientEntry>,
}

/// The channels of a namespace.
#[derive(Debug, Default)]
struct NamespaceEntry {
    count: usize,
    search: RoomSearch,
}

/// The channels that a client made.
#[derive(Debug, Default)]
struct ClientEntry {
    made: HashSet<ChannelName>,
    search: RoomSearch,
}

/// The last search for room that found none, and the channels that may have become idle since.
///
/// A full search visits all channels in question, and a client at its bound can ask for one with
/// each message. So for a second after one that failed, only the channels that were made or left
/// since are looked at.
#[derive(Debug, Default)]
struct RoomSearch {
    failed_at_ms: Option<i64>,
    idle_since: Vec<ChannelName>,
}

/// Time for which a failed search is known, in milliseconds.
const SEARCH_PAUSE_MS: i64 = 1_000;

/// Channels that a failed search remembers. With more, it is forgotten itself.
const MAX_IDLE_SINCE: usize = 64;

impl RoomSearch {
    /// The channels to look at. None if all are to be. A clock that was set back ends the wait.
    fn candidates(&self, now_ms: i64) -> Option<&[ChannelName]> {
        let failed_at_ms = self.failed_at_ms?;
        let known_until_ms = failed_at_ms.saturating_add(SEARCH_PAUSE_MS);
        (failed_at_ms..known_until_ms)
            .contains(&now_ms)
            .then_some(&self.idle_since)
    }

    /// Notes that a search failed: one of all channels at this time, or one of the candidates.
    fn note_failed(&mut self, full_at_ms: Option<i64>) {
        self.failed_at_ms = full_at_ms.or(self.failed_at_ms);
        self.idle_since.clear();
    }

    /// Notes a channel that may be idle now.
    fn note_idle(&mut self, name: &ChannelName) {
        if self.failed_at_ms.is_none() {
            return;
        }
        if self.idle_since.len() == MAX_IDLE_SINCE {
            *self = Self::default();
            return;
        }
        self.idle_since.push(name.clone());
    }
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
            Some(entry) => {
                entry.count += 1;
                entry.search.note_idle(name);
            }
            None => {
                let entry = NamespaceEntry {
                    count: 1,
                    ..NamespaceEntry::default()
                };
                self.namespaces.insert(name.namespace().into(), entry);
            }
        }
        if let Some(client) = &client {
            let entry = self.clients.entry(client.clone()).or_default();
            entry.made.insert(name.clone());
            entry.search.note_idle(name);
        }
        self.all
            .insert(name.clone(), TableEntry { channel, client });
    }

    pub(super) fn remove(&mut self, name: &ChannelName) -> Option<Arc<Mutex<Channel>>> {
        let TableEntry { channel, client } = self.all.swap_remove(name)?;
        if let Some(entry) = self.namespaces.get_mut(name.namespace()) {
            entry.count -= 1;
        }
        if let Some(client) = client
            && let Some(entry) = self.clients.get_mut(&client)
        {
            entry.made.remove(name);
            if entry.made.is_empty() {
                self.clients.remove(&client);
            }
        }
        Some(channel)
    }

    /// The number of channels in a namespace.
    pub(super) fn count(&self, namespace: &str) -> usize {
        self.namespaces
            .get(namespace)
            .map_or(0, |entry| entry.count)
    }

    /// The channels of a namespace that may be idle, with the time of their last use. None if all
    /// have to be looked at.
    pub(super) fn candidates_in(
        &self,
        namespace: &str,
        now_ms: i64,
    ) -> Option<Vec<(i64, ChannelName)>> {
        let entry = self.namespaces.get(namespace)?;
        let candidates = entry.search.candidates(now_ms)?;
        Some(self.with_last_use(candidates))
    }

    /// Notes that a search for room in a namespace failed. `full_at_ms` is its time, if it looked
    /// at all channels.
    pub(super) fn note_full(&mut self, namespace: &str, full_at_ms: Option<i64>) {
        if let Some(entry) = self.namespaces.get_mut(namespace) {
            entry.search.note_failed(full_at_ms);
        }
    }

    /// Notes that a channel was left by its last subscriber. Returns whether that needs the table
    /// for itself.
    pub(super) fn must_note_left(&self, name: &ChannelName) -> bool {
        let Some(entry) = self.all.get(name) else {
            return false;
        };
        let namespace = self.namespaces.get(name.namespace());
        let client = entry.client.as_ref().and_then(|one| self.clients.get(one));
        namespace.is_some_and(|entry| entry.search.failed_at_ms.is_some())
            || client.is_some_and(|entry| entry.search.failed_at_ms.is_some())
    }

    /// Notes that a channel was left by its last subscriber.
    pub(super) fn note_left(&mut self, name: &ChannelName) {
        let Some(entry) = self.all.get(name) else {
            return;
        };
        if let Some(entry) = self.namespaces.get_mut(name.namespace()) {
            entry.search.note_idle(name);
        }
        if let Some(client) = &entry.client
            && let Some(entry) = self.clients.get_mut(client)
        {
            entry.search.note_idle(name);
        }
    }

    /// Namespaces with a channel, and the number of their channels.
    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, usize)> {
        self.namespaces
            .iter()
            .map(|(namespace, entry)| (&**namespace, entry.count))
    }

    /// The number of channels that a client made.
    pub(super) fn count_of(&self, client: &ClientKey) -> usize {
        self.clients.get(client).map_or(0, |entry| entry.made.len())
    }

    /// The channels that a client made and that may be idle, with the time of their last use. All
    /// of them, unless a search among them failed a moment ago: then `false` comes with those since.
    pub(super) fn candidates_of(
        &self,
        client: &ClientKey,
        now_ms: i64,
    ) -> (Vec<(i64, ChannelName)>, bool) {
        let Some(entry) = self.clients.get(client) else {
            return (Vec::new(), true);
        };
        match entry.search.candidates(now_ms) {
            // One that was forgotten since may be there again as another client's.
            Some(candidates) => {
                let made = candidates.iter().filter(|name| entry.made.contains(*name));
                (self.with_last_use(made), false)
            }
            None => (self.with_last_use(&entry.made), true),
        }
    }

    /// Notes that a search for room among the channels of a client failed. `full_at_ms` is its
    /// time, if it looked at all of them.
    pub(super) fn note_client_full(&mut self, client: &ClientKey, full_at_ms: Option<i64>) {
        if let Some(entry) = self.clients.get_mut(client) {
            entry.search.note_failed(full_at_ms);
        }
    }

    /// Those of the names that are in the table, with the time of their last use.
    fn with_last_use<'a>(
        &self,
        names: impl IntoIterator<Item = &'a ChannelName>,
    ) -> Vec<(i64, ChannelName)> {
        let known = names
            .into_iter()
            .filter_map(|name| Some((self.get(name)?.lock().used_ms, name.clone())));
        known.collect()
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
