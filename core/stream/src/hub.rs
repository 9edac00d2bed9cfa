//! The hub: who follows which channel on this server.
//!
//! Delivery happens under the channel's lock, so that a subscriber that is in the
//! list sees every publication that comes after, in order. Locks are taken in the
//! order broker channel, hub channel, session; a session never calls the hub
//! while it holds its own.

use std::{collections::HashMap, sync::Arc};

use parking_lot::{Mutex, RwLock};
use slab::Slab;

use crate::{ChannelName, Publication, session::SessionCore};

/// Where a subscriber stands in its channel's list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct HubKey(usize);

struct Subscriber {
    session: Arc<SessionCore>,
    slot: usize,
}

type Subscribers = Arc<Mutex<Slab<Subscriber>>>;

/// Who follows which channel.
#[derive(Default)]
pub struct Hub {
    channels: RwLock<HashMap<ChannelName, Subscribers>>,
}

impl std::fmt::Debug for Hub {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hub")
            .field("channels", &self.channels.read().len())
            .finish()
    }
}

impl Hub {
    /// A hub that nobody follows anything on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Hands a publication to everyone who follows its channel. Called in the
    /// order of the channel.
    pub fn deliver(&self, publication: &Arc<Publication>) {
        let Some(subscribers) = self.channels.read().get(publication.channel()).cloned() else {
            return;
        };
        for (_, subscriber) in subscribers.lock().iter() {
            subscriber.session.deliver(subscriber.slot, publication);
        }
    }

    /// Adds a subscription of a session.
    pub(crate) fn add(
        &self,
        channel: &ChannelName,
        session: Arc<SessionCore>,
        slot: usize,
    ) -> HubKey {
        // The entry is taken under the map's lock: an empty list may be on its way out.
        let mut channels = self.channels.write();
        let subscribers = channels.entry(channel.clone()).or_default();
        let key = subscribers.lock().insert(Subscriber { session, slot });
        HubKey(key)
    }

    /// Takes a subscription out. Nothing is delivered to it afterwards.
    pub(crate) fn remove(&self, channel: &ChannelName, key: HubKey) {
        let mut channels = self.channels.write();
        let Some(subscribers) = channels.get(channel) else {
            return;
        };
        let is_empty = {
            let mut subscribers = subscribers.lock();
            subscribers.try_remove(key.0);
            subscribers.is_empty()
        };
        if is_empty {
            channels.remove(channel);
        }
    }

    /// How many connections follow `channel`.
    #[must_use]
    pub fn followers(&self, channel: &ChannelName) -> usize {
        self.channels
            .read()
            .get(channel)
            .map_or(0, |subscribers| subscribers.lock().len())
    }

    /// How many channels are followed.
    #[must_use]
    pub fn channels(&self) -> usize {
        self.channels.read().len()
    }
}
