//! Taps: listeners of the server itself to channels, beside the sessions of clients.
//!
//! An engine on this server hears what another server publishes through a tap. It is called in the order
//! of the channel, under its lock, so that it must return at once.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use parking_lot::RwLock;

use crate::{ChannelName, Publication, StreamCore};

/// A listener to the publications of a channel.
pub type TapListener = Arc<dyn Fn(&Publication) + Send + Sync>;

/// The taps of all channels.
#[derive(Default)]
pub(super) struct Taps {
    by_channel: RwLock<HashMap<ChannelName, Vec<(u64, TapListener)>>>,
    /// How many there are: without any, a publication costs one read of it.
    count: AtomicUsize,
    next: AtomicU64,
}

impl fmt::Debug for Taps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Taps")
            .field("count", &self.count)
            .finish_non_exhaustive()
    }
}

impl Taps {
    fn add(&self, channel: &ChannelName, listener: TapListener) -> u64 {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut taps = self.by_channel.write();
        taps.entry(channel.clone())
            .or_default()
            .push((id, listener));
        self.count.fetch_add(1, Ordering::Release);
        id
    }

    fn remove(&self, channel: &ChannelName, id: u64) {
        let mut taps = self.by_channel.write();
        let Some(own) = taps.get_mut(channel) else {
            return;
        };
        let before = own.len();
        own.retain(|(known, _)| *known != id);
        self.count.fetch_sub(before - own.len(), Ordering::Release);
        if own.is_empty() {
            taps.remove(channel);
        }
    }

    /// Passes a publication on. Returns whether its channel has a tap.
    pub(super) fn deliver(&self, publication: &Publication) -> bool {
        if self.count.load(Ordering::Acquire) == 0 {
            return false;
        }
        let listeners = self.by_channel.read().get(publication.channel()).cloned();
        let listeners = listeners.unwrap_or_default();
        for (_, listener) in &listeners {
            listener(publication);
        }
        !listeners.is_empty()
    }

    pub(super) fn has(&self, channel: &ChannelName) -> bool {
        self.count.load(Ordering::Acquire) > 0 && self.by_channel.read().contains_key(channel)
    }
}

/// A listener that is called until this is dropped.
pub struct Tap {
    stream: Arc<StreamCore>,
    channel: ChannelName,
    id: u64,
}

impl fmt::Debug for Tap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Tap").field(&self.channel).finish()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        self.stream.broker().note_left(&self.channel);
        self.stream.hub().taps.remove(&self.channel, self.id);
    }
}

impl StreamCore {
    /// Has `listener` called for each publication of a channel on this server from now on, also for those
    /// of other servers. While the broker is away there are none.
    pub async fn tap(self: &Arc<Self>, channel: ChannelName, listener: TapListener) -> Tap {
        let tap = Tap {
            id: self.hub().taps.add(&channel, listener),
            stream: self.clone(),
            channel,
        };
        if let Some(joined) = self.broker().join(&tap.channel)
            && let Err(error) = joined.await
        {
            tracing::debug!(channel = %tap.channel, %error, "a channel is joined later");
        }
        tap
    }
}
