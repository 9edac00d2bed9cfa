//! Memory broker: the broker of a server that runs alone. Its histories are in memory, bounded
//! by number, age and, over all channels, bytes.

mod forgetting;
mod shares;
mod snapshot;
mod table;

use std::{
    collections::VecDeque,
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use parking_lot::{Mutex, MutexGuard, RwLock};
use tokio::time::Instant;

use self::{
    shares::Shares,
    table::{ChannelTable, FreshEpochs},
};
use super::{
    Broker, BrokerFuture, Fence, History, LocalDelivery, PageLimit, PublishFuture, Reach, Sender,
    SnapshotEntry,
    idempotency::{IdempotencyKeys, fingerprint},
};
use crate::{
    ChannelEpoch, ChannelName, Class, Content, Epoch, Event, Namespaces, Position, Publication,
    SharedClock, StoredPublication, StreamError, Urgency,
    history_memory::{HistoryMemory, HistoryShare},
    limit::ClientKey,
    namespace::METADATA_TTL,
};

/// Limits of a memory broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryLimits {
    /// Channels that one client made and that are not forgotten yet. 0 means no limit.
    pub channels_per_client: usize,
    /// Memory of all histories together, with the encodings of their publications, in bytes.
    pub history_bytes: usize,
    /// How long an idempotency key is remembered.
    pub idempotency_window: Duration,
    /// Bytes of all remembered idempotency keys together.
    pub idempotency_bytes: usize,
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self {
            channels_per_client: 10_000,
            history_bytes: 512 << 20,
            idempotency_window: Duration::from_secs(5 * 60),
            idempotency_bytes: 64 << 20,
        }
    }
}

/// Keeps histories in memory. `D` delivers to the subscribers of this server; as a type, so
/// that no virtual call is needed.
#[derive(Debug)]
pub struct MemoryBroker<D> {
    namespaces: Arc<Namespaces>,
    subscribers: Arc<D>,
    clock: SharedClock,
    limits: MemoryLimits,
    channels: RwLock<ChannelTable>,
    fresh_epochs: FreshEpochs,
    keys: Mutex<IdempotencyKeys>,
    /// The start of the broker, on both clocks.
    started: (i64, Instant),
    memory: Arc<HistoryMemory>,
    shares: Shares,
    /// Held by the one who frees memory: a second one would drop histories twice.
    freeing: Mutex<()>,
    /// The place in the table at which the next sweep begins.
    swept: AtomicUsize,
}

/// How a publication counts as a use of its channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Use {
    /// In any case.
    Always,
    /// If the channel has a subscriber. Otherwise nobody may ever come to read it.
    WithSubscribers,
}

#[derive(Debug)]
struct Channel {
    epoch: Epoch,
    seq: u64,
    log: VecDeque<Arc<Publication>>,
    used_ms: i64,
    /// Where the memory of `log` is charged.
    share: Arc<HistoryShare>,
    /// Set when the channel is removed from the map: a caller that still has it looks it up
    /// again.
    forgotten: bool,
}

impl<D: LocalDelivery> MemoryBroker<D> {
    /// A broker without histories.
    #[must_use]
    pub fn new(
        namespaces: Arc<Namespaces>,
        subscribers: Arc<D>,
        clock: SharedClock,
        limits: MemoryLimits,
    ) -> Self {
        let memory = Arc::new(HistoryMemory::new(limits.history_bytes));
        Self {
            shares: Shares::new(&namespaces, &memory),
            started: (clock.now_ms(), Instant::now()),
            memory,
            namespaces,
            subscribers,
            clock,
            limits,
            channels: RwLock::default(),
            fresh_epochs: FreshEpochs::new(),
            keys: Mutex::new(IdempotencyKeys::new(
                limits.idempotency_window,
                limits.idempotency_bytes,
            )),
            freeing: Mutex::default(),
            swept: AtomicUsize::default(),
        }
    }

    /// The time by which idempotency keys are kept: that of the start, and the time since by the
    /// monotonic clock. A wall clock that is wrong for a moment would forget a key, and what is
    /// repeated with it would be published twice.
    fn steady_ms(&self) -> i64 {
        let (start_ms, start) = self.started;
        let passed = i64::try_from(start.elapsed().as_millis()).unwrap_or(i64::MAX);
        start_ms.saturating_add(passed)
    }

    fn publish_now(
        &self,
        name: &ChannelName,
        content: Content,
        urgency: Urgency,
        client: Option<&ClientKey>,
        counts: Use,
    ) -> Result<Position, StreamError> {
        loop {
            let channel = self.channel(name, client)?;
            let channel = channel.lock();
            if !channel.forgotten {
                return Ok(self.publish_in(name, channel, content, urgency, counts));
            }
        }
    }

    fn publish_in(
        &self,
        name: &ChannelName,
        mut channel: MutexGuard<'_, Channel>,
        content: Content,
        urgency: Urgency,
        counts: Use,
    ) -> Position {
        let position = self.append(name, &mut channel, content, urgency, counts);
        drop(channel);
        if self.memory.is_far_exceeded() {
            self.free_memory();
        }
        position
    }

    fn offer_content(
        &self,
        channel: &ChannelName,
        content: Content,
        urgency: Urgency,
        counts: Use,
    ) {
        if let Err(error) = self.publish_now(channel, content, urgency, None, counts) {
            tracing::error!(%channel, %error, "lost a publication of an engine");
        }
    }

    /// Appends and delivers under the channel's lock, so that all subscribers get a channel in
    /// its order.
    fn append(
        &self,
        name: &ChannelName,
        channel: &mut Channel,
        content: Content,
        urgency: Urgency,
        counts: Use,
    ) -> Position {
        // A clock that is set back does not set the channel's time back.
        let newest_ms = channel.log.back().map_or(0, |newest| newest.time_ms());
        let now_ms = self.clock.now_ms().max(channel.used_ms).max(newest_ms);
        channel.seq += 1;
        let position = Position {
            epoch: channel.epoch.clone(),
            seq: channel.seq,
        };
        let (name_shared, at) = (name.clone(), position.clone());
        let publication = Publication::with_urgency(name_shared, at, now_ms, content, urgency);
        let has_subscribers = self.subscribers.deliver(&publication);
        if counts == Use::Always || has_subscribers {
            channel.used_ms = now_ms;
        }
        self.push(channel, publication.for_history());
        self.trim(name, channel, now_ms);
        position
    }

    /// Adds a publication to a history.
    fn push(&self, channel: &mut Channel, publication: Arc<Publication>) {
        publication.enter_history(&channel.share);
        channel.log.push_back(publication);
    }

    /// The channel, which is made if there is none. A new one counts towards those of `client`.
    fn channel(
        &self,
        name: &ChannelName,
        client: Option<&ClientKey>,
    ) -> Result<Arc<Mutex<Channel>>, StreamError> {
        if let Some(channel) = self.channels.read().get(name) {
            return Ok(channel.clone());
        }
        if let Some(client) = client {
            self.make_room_of(client)?;
        }
        self.make_room_in(name.namespace())?;
        let mut channels = self.channels.write();
        if let Some(channel) = channels.get(name) {
            return Ok(channel.clone());
        }
        let channel = Arc::new(Mutex::new(Channel {
            epoch: self.first_epoch(name),
            seq: 0,
            log: VecDeque::new(),
            used_ms: self.clock.now_ms(),
            share: self.shares.of(name).clone(),
            forgotten: false,
        }));
        channels.insert(name, channel.clone(), client.cloned());
        Ok(channel)
    }

    /// Epoch of a channel that nothing was published on.
    fn first_epoch(&self, name: &ChannelName) -> Epoch {
        match self.namespaces.epoch(name) {
            ChannelEpoch::BrokerChosen => self.fresh_epochs.of(name.namespace()),
            ChannelEpoch::Active(epoch) => epoch,
            // No position of it can be resumed.
            ChannelEpoch::Inactive => Epoch::random(),
        }
    }

    /// Epoch in which a channel that is not known is read.
    fn unknown_epoch(&self, name: &ChannelName) -> Epoch {
        match self.namespaces.get(name) {
            // An event for a user whose channel is unknown is left out: no position of before is
            // recovered.
            Some(namespace) if namespace.is_personal() => Epoch::random(),
            _ => self.first_epoch(name),
        }
    }

    fn start_new_epoch_now(&self, name: &ChannelName, channel: &mut Channel) {
        channel.drop_all();
        channel.epoch = match self.namespaces.epoch(name) {
            ChannelEpoch::Active(epoch) => epoch,
            ChannelEpoch::BrokerChosen | ChannelEpoch::Inactive => Epoch::random(),
        };
        channel.seq = 0;
        channel.used_ms = self.clock.now_ms().max(channel.used_ms);
    }

    fn forget_now(&self, name: &ChannelName) {
        let Some(channel) = self.channels.write().remove(name) else {
            return;
        };
        let mut channel = channel.lock();
        channel.drop_all();
        channel.forgotten = true;
    }

    /// Runs `work` on a channel that is not forgotten.
    fn with_channel<T>(
        &self,
        name: &ChannelName,
        work: impl Fn(&mut Channel) -> T,
    ) -> Result<T, StreamError> {
        loop {
            let channel = self.channel(name, None)?;
            let mut channel = channel.lock();
            if !channel.forgotten {
                return Ok(work(&mut channel));
            }
        }
    }

    fn restore_now(
        &self,
        name: &ChannelName,
        channel: &mut Channel,
        epoch: &Epoch,
        publications: &[StoredPublication],
    ) {
        if channel.seq > 0 {
            return;
        }
        channel.epoch = epoch.clone();
        for StoredPublication {
            seq,
            time_ms,
            event,
        } in publications
        {
            let position = Position {
                epoch: epoch.clone(),
                seq: *seq,
            };
            channel.seq = *seq;
            let publication = Publication::new(name.clone(), position, *time_ms, event.clone());
            self.push(channel, publication);
        }
        self.trim(name, channel, self.clock.now_ms());
    }

    fn trim(&self, name: &ChannelName, channel: &mut Channel, now_ms: i64) {
        let Some(namespace) = self.namespaces.get(name) else {
            return;
        };
        let (size, ttl_ms) = match namespace.class {
            Class::History => (namespace.history_size, namespace.history_ttl.as_millis()),
            Class::Latest => (1, METADATA_TTL.as_millis()),
        };
        let ttl_ms = i64::try_from(ttl_ms).unwrap_or(i64::MAX);
        let oldest_ms = now_ms.saturating_sub(ttl_ms);
        while channel.log.len() > size
            || channel.log.front().is_some_and(|publication| {
                let time_ms = publication.time_ms();
                // A clock in doubt removes nothing. It is asked only about what seems too old.
                time_ms < oldest_ms && time_ms < self.clock.retention_ms().saturating_sub(ttl_ms)
            })
        {
            channel.drop_oldest();
        }
    }

    fn history_now(
        &self,
        name: &ChannelName,
        since: Option<&Position>,
        limit: PageLimit,
    ) -> History {
        let Some(channel) = self.channels.read().get(name).cloned() else {
            let top = Position::start(self.unknown_epoch(name));
            let reach = if since.is_none_or(|since| *since == top) {
                Reach::Complete
            } else {
                Reach::Lost
            };
            return History {
                top,
                publications: Vec::new(),
                reach,
            };
        };
        let mut channel = channel.lock();
        self.trim(name, &mut channel, self.clock.now_ms());
        channel.read(since, limit)
    }
}

impl Channel {
    /// Drops the oldest publication of the history, and returns the memory that is no longer
    /// charged for.
    fn drop_oldest(&mut self) -> usize {
        let oldest = self.log.pop_front();
        // After a burst, the memory of its entries is freed too.
        if self.log.capacity() > 64 && self.log.len() < self.log.capacity() / 4 {
            self.log.shrink_to(2 * self.log.len());
        }
        oldest.map_or(0, |oldest| oldest.leave_history())
    }

    fn drop_all(&mut self) {
        while !self.log.is_empty() {
            self.drop_oldest();
        }
    }

    fn read(&self, since: Option<&Position>, limit: PageLimit) -> History {
        let top = Position {
            epoch: self.epoch.clone(),
            seq: self.seq,
        };
        let first = self.seq + 1 - self.log.len() as u64;
        let (skip, reach) = match since {
            None => (self.log.len().saturating_sub(limit.items), Reach::Complete),
            Some(since)
                if since.epoch != self.epoch || since.seq > self.seq || since.seq + 1 < first =>
            {
                return History {
                    top,
                    publications: Vec::new(),
                    reach: Reach::Lost,
                };
            }
            // At most the log's length, since `since` is not before the log.
            Some(since) => ((since.seq + 1 - first) as usize, Reach::Complete),
        };
        let mut bytes = 0;
        let publications = self
            .log
            .iter()
            .skip(skip)
            .take(limit.items)
            .take_while(|publication| {
                let size = publication.encoded_size_hint();
                let fits = bytes == 0 || bytes + size <= limit.bytes;
                bytes += size;
                fits
            })
            .cloned()
            .collect();
        History {
            top,
            publications,
            reach,
        }
    }
}

impl<D: LocalDelivery> Broker for MemoryBroker<D> {
    fn offer(&self, channel: &ChannelName, event: Event, urgency: Urgency) {
        self.offer_content(channel, event.into(), urgency, Use::Always);
    }

    fn offer_once(
        &self,
        channel: &ChannelName,
        event: Event,
        urgency: Urgency,
        _key: &str,
    ) -> PublishFuture {
        // Its outcome is known at once, so nothing that was published is repeated.
        let published = self.publish_now(channel, event.into(), urgency, None, Use::Always);
        Box::pin(std::future::ready(published.map(drop)))
    }

    fn offer_if_known(
        &self,
        channel: &ChannelName,
        content: Content,
        urgency: Urgency,
        _fence: Option<&Arc<Fence>>,
    ) -> bool {
        // One lookup suffices nearly always. A broadcast does this for each user.
        let known = self.channels.read().get(channel).cloned();
        if let Some(known) = known {
            let known = known.lock();
            if !known.forgotten {
                self.publish_in(channel, known, content, urgency, Use::WithSubscribers);
                return true;
            }
        }
        let is_known = self.is_known(channel);
        if is_known {
            self.offer_content(channel, content, urgency, Use::WithSubscribers);
        }
        is_known
    }

    fn is_known(&self, channel: &ChannelName) -> bool {
        self.channels.read().contains(channel) || self.subscribers.has_subscribers(channel)
    }

    fn touch(&self, channel: &ChannelName) {
        let now_ms = self.clock.now_ms();
        // In a full namespace the channel stays unknown, and none of its positions is recovered.
        let _ = self.with_channel(channel, |held| held.used_ms = held.used_ms.max(now_ms));
    }

    fn note_left(&self, channel: &ChannelName) {
        let (known, must_note) = {
            let channels = self.channels.read();
            let Some(known) = channels.get(channel).cloned() else {
                return;
            };
            (known, channels.must_note_left(channel))
        };
        {
            let mut known = known.lock();
            known.used_ms = known.used_ms.max(self.clock.now_ms());
        }
        if must_note {
            self.channels.write().note_left(channel);
        }
    }

    fn forget_quiet(&self, namespace: &str) -> Vec<ChannelName> {
        self.forget_quiet_in(namespace)
    }

    fn publish<'a>(
        &'a self,
        channel: &'a ChannelName,
        event: Event,
        idempotency_key: Option<&'a str>,
        sender: Sender,
    ) -> BrokerFuture<'a, Position> {
        Box::pin(async move {
            let client = sender.is_limited.then_some(&sender.client);
            let Some(key) = idempotency_key else {
                let ordinary = Urgency::Ordinary;
                return self.publish_now(channel, event.into(), ordinary, client, Use::Always);
            };
            // Locked while publishing, so that two requests with one key do not both publish.
            let mut keys = self.keys.lock();
            let now_ms = self.steady_ms();
            if let Some(position) = keys.find(&sender, channel, key, &event, now_ms)? {
                return Ok(position);
            }
            let body = fingerprint(&event);
            let ordinary = Urgency::Ordinary;
            let position =
                self.publish_now(channel, event.into(), ordinary, client, Use::Always)?;
            keys.remember(&sender, channel, key, body, position.clone(), now_ms);
            Ok(position)
        })
    }

    fn history<'a>(
        &'a self,
        channel: &'a ChannelName,
        since: Option<&'a Position>,
        limit: PageLimit,
    ) -> BrokerFuture<'a, History> {
        Box::pin(async move { Ok(self.history_now(channel, since, limit)) })
    }

    fn restore<'a>(
        &'a self,
        channel: &'a ChannelName,
        epoch: Epoch,
        publications: Vec<StoredPublication>,
    ) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            let restore =
                |held: &mut Channel| self.restore_now(channel, held, &epoch, &publications);
            self.with_channel(channel, restore)
        })
    }

    fn start_new_epoch<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            let is_known = self.channels.read().contains(channel);
            if !is_known && self.namespaces.epoch(channel) != ChannelEpoch::BrokerChosen {
                // It starts in the epoch of its engine.
                return Ok(());
            }
            self.with_channel(channel, |held| self.start_new_epoch_now(channel, held))
        })
    }

    fn forget<'a>(&'a self, channel: &'a ChannelName) -> BrokerFuture<'a, ()> {
        Box::pin(async move {
            if self.namespaces.epoch(channel) != ChannelEpoch::BrokerChosen {
                self.forget_now(channel);
                return Ok(());
            }
            // Channels without history share an epoch: this one needs an epoch of its own.
            self.with_channel(channel, |held| self.start_new_epoch_now(channel, held))
        })
    }

    fn over_budget(&self) -> BrokerFuture<'_, ()> {
        Box::pin(async move {
            self.memory.exceeded().await;
            Ok(())
        })
    }

    fn history_bytes(&self) -> usize {
        self.memory.used()
    }

    fn save(&self) -> Box<dyn Iterator<Item = SnapshotEntry> + '_> {
        Box::new(self.all_saved())
    }

    fn load(&self, saved: &SnapshotEntry) -> Result<(), StreamError> {
        self.load_one(saved)
    }

    fn sweep(&self) {
        self.sweep_next();
    }
}
