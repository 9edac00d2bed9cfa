//! Catch-up: compares the channels of this node with Redis, and delivers what it has missed.
//!
//! A channel is compared when the node subscribes to it, also after a reconnect, when a batch does
//! not follow or is of another server, and from time to time. The script `check` finds a server that has lost what this
//! node has seen: then it begins a new epoch. Publications that are missing are read from the
//! history, page by page, and delivered in order. Those that the history does not have any more
//! are left out: each session sees the hole, and sends `gap`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::Semaphore;

use super::{
    calls::{Calls, backoff},
    error::RedisError,
    keys::KeyNames,
    positions::{BatchSuccession, ChannelState, Positions, Top},
    reads::{PAGE_BYTES, Part, Reads, fresh_lifetime},
    record::{self, BatchMessage},
    route::Place,
    script::{Script, ScriptCall},
};
use crate::{
    ChannelName, Class, Epoch, Namespace, Namespaces, Position, broker::LocalDelivery,
    namespace::METADATA_TTL,
};

/// Channels of a server that are compared or read at the same time.
const AT_ONCE: usize = 256;

/// Compares channels, and delivers what was missed.
#[derive(Debug)]
pub(super) struct CatchUp<D> {
    pub(super) positions: Arc<Positions>,
    pub(super) reads: Arc<Reads>,
    calls: Calls,
    keys: KeyNames,
    namespaces: Arc<Namespaces>,
    local: Arc<D>,
    /// Those of each server: one that hangs keeps its own for long.
    permits: Mutex<HashMap<Place, Arc<Semaphore>>>,
    filled: metrics::Counter,
}

impl<D: LocalDelivery> CatchUp<D> {
    pub(super) fn new(
        positions: Arc<Positions>,
        reads: Arc<Reads>,
        calls: Calls,
        keys: KeyNames,
        namespaces: Arc<Namespaces>,
        local: Arc<D>,
    ) -> Arc<Self> {
        Arc::new(Self {
            positions,
            reads,
            calls,
            keys,
            namespaces,
            local,
            permits: Mutex::default(),
            filled: metrics::counter!("tidewire_broker_filled_publications_total"),
        })
    }

    /// Delivers a batch that came over a shard channel.
    pub(super) fn receive(self: &Arc<Self>, channel: &ChannelName, batch: &BatchMessage<'_>) {
        let Some(state) = self.positions.get(channel) else {
            return;
        };
        // The lock is held while the batch is delivered, so that all get the channel in its order.
        let mut locked = state.lock();
        match locked.succession(batch) {
            BatchSuccession::Known => {}
            BatchSuccession::Next if batch.payloads.is_empty() => {
                locked.advance(batch);
                self.local.note_newest(channel, &batch.top());
            }
            BatchSuccession::Next => {
                self.deliver(channel, &mut locked, batch);
                locked.advance(batch);
            }
            BatchSuccession::Doubtful => {
                drop(locked);
                tokio::spawn(self.clone().run(channel.clone(), state));
            }
        }
    }

    fn deliver(&self, channel: &ChannelName, state: &mut ChannelState, batch: &BatchMessage<'_>) {
        let known = state.top().map(|top| &top.position.epoch);
        // Nearly always the text is shared.
        let epoch = match known.filter(|epoch| epoch.as_str() == batch.epoch) {
            Some(epoch) => epoch.clone(),
            None => Epoch::new(batch.epoch),
        };
        for (seq, payload) in (batch.first..).zip(&batch.payloads) {
            let position = Position {
                epoch: epoch.clone(),
                seq,
            };
            match record::decode(channel, position, batch.time_ms, payload) {
                Some(publication) => {
                    self.local.deliver(&publication);
                    state.remember(&publication);
                }
                None => {
                    tracing::warn!(%channel, seq, "a publication of another node cannot be read")
                }
            }
        }
    }

    /// Compares a channel in a task of its own, unless that is under way.
    pub(super) fn start(self: &Arc<Self>, channel: &ChannelName) {
        if let Some(state) = self.positions.get(channel)
            && state.lock().start_catching_up()
        {
            tokio::spawn(self.clone().run(channel.clone(), state));
        }
    }

    /// Compares a channel and delivers what is missing, until that has worked or the node has left
    /// the channel.
    async fn run(self: Arc<Self>, channel: ChannelName, state: Arc<Mutex<ChannelState>>) {
        let mut backoff = backoff();
        while !state.lock().is_left() {
            let permits = self.permits(self.calls.route().of(&channel));
            // It is never closed.
            let permit = permits.acquire().await;
            let done = self.step(&channel, &state).await;
            drop(permit);
            match done {
                Ok(()) if state.lock().end_catching_up() => return,
                Ok(()) => {}
                Err(error) => {
                    tracing::debug!(%channel, %error, "a channel cannot be compared with Redis yet");
                    tokio::time::sleep(backoff.next_pause()).await;
                }
            }
        }
        state.lock().end_catching_up();
    }

    /// The permits of a server.
    fn permits(&self, place: Place) -> Arc<Semaphore> {
        let mut permits = self.permits.lock();
        // Servers that were replaced are forgotten.
        permits.retain(|known, one| *known == place || Arc::strong_count(one) > 1);
        let permits = permits.entry(place);
        permits
            .or_insert_with(|| Arc::new(Semaphore::new(AT_ONCE)))
            .clone()
    }

    async fn step(
        &self,
        channel: &ChannelName,
        state: &Mutex<ChannelState>,
    ) -> Result<(), RedisError> {
        let Some(namespace) = self.namespaces.get(channel) else {
            return Ok(());
        };
        let seen = state.lock().top().cloned();
        let mode = match namespace.is_personal() {
            true => "create",
            false => "read",
        };
        let newest = self.check(channel, seen.as_ref(), namespace, mode).await?;
        let Some(seen) = seen else {
            // Nobody has anything of the channel yet.
            state.lock().set_top(Top::unmarked(newest));
            return Ok(());
        };
        if newest.epoch != seen.position.epoch {
            let mut state = state.lock();
            state.set_top(Top::unmarked(newest.clone()));
            self.local.note_newest(channel, &newest);
            return Ok(());
        }
        if newest.seq > seen.position.seq {
            match namespace.class {
                Class::History => self.fill(channel, state).await?,
                Class::Latest => self.fill_latest(channel, state).await?,
            }
        }
        Ok(())
    }

    /// The newest position of a channel in Redis, after it was compared with what was seen.
    pub(super) async fn check(
        &self,
        channel: &ChannelName,
        seen: Option<&Top>,
        namespace: &Namespace,
        mode: &'static str,
    ) -> Result<Position, RedisError> {
        let call = check_call(&self.keys, channel, seen, namespace, mode);
        let mut reply = self.calls.read(call).await?.array()?.into_iter();
        let (Some(epoch), Some(seq)) = (reply.next(), reply.next()) else {
            return Err(RedisError::Protocol("a position is missing".to_owned()));
        };
        let seq = seq.string()?;
        let seq = seq.parse();
        Ok(Position {
            epoch: Epoch::new(&epoch.string()?),
            seq: seq.map_err(|_| RedisError::Protocol("a seq is no number".to_owned()))?,
        })
    }

    /// Delivers the publications after the newest position, page by page.
    async fn fill(
        &self,
        channel: &ChannelName,
        state: &Mutex<ChannelState>,
    ) -> Result<(), RedisError> {
        loop {
            let Some(seen) = state.lock().top().cloned() else {
                return Ok(());
            };
            let part = Part::After(seen.position.seq);
            let page = self.reads.page(channel, part, PAGE_BYTES).await?;
            let mut state = state.lock();
            if page.top.epoch != seen.position.epoch {
                state.set_top(Top::unmarked(page.top.clone()));
                self.local.note_newest(channel, &page.top);
                return Ok(());
            }
            // A shared page may begin earlier.
            let missed = page.publications.iter();
            let missed = missed.filter(|one| one.seq() > seen.position.seq);
            let mut last = None;
            for publication in missed {
                self.local.deliver(publication);
                state.remember(publication);
                self.filled.increment(1);
                last = Some(publication.position().clone());
            }
            match last {
                Some(position) => state.set_top(Top {
                    position,
                    mark: page.mark.clone(),
                }),
                // The history has dropped them.
                None => {
                    state.set_top(Top::unmarked(page.top.clone()));
                    self.local.note_newest(channel, &page.top);
                }
            }
            if page.is_end {
                return Ok(());
            }
        }
    }

    /// Delivers the newest value of a latest channel.
    async fn fill_latest(
        &self,
        channel: &ChannelName,
        state: &Mutex<ChannelState>,
    ) -> Result<(), RedisError> {
        let page = self
            .reads
            .page(channel, Part::Newest(1), PAGE_BYTES)
            .await?;
        let mut state = state.lock();
        if let Some(newest) = page.publications.last() {
            self.local.deliver(newest);
        }
        state.set_top(Top {
            position: page.top.clone(),
            mark: page.mark.clone(),
        });
        Ok(())
    }
}

/// The call that compares a channel with what was seen.
pub(super) fn check_call(
    keys: &KeyNames,
    channel: &ChannelName,
    seen: Option<&Top>,
    namespace: &Namespace,
    mode: &'static str,
) -> ScriptCall {
    let copied = |text: &str| Bytes::copy_from_slice(text.as_bytes());
    let mut arguments = Vec::from(keys.of(channel));
    if namespace.is_personal() {
        arguments.push(keys.store_lease(channel));
    }
    let count = arguments.len();
    let (epoch, seq) = match seen {
        Some(top) => (copied(top.position.epoch.as_str()), top.position.seq),
        None => (Bytes::new(), 0),
    };
    arguments.extend([
        keys.shard_channel(channel),
        epoch,
        seq.to_string().into(),
        copied(seen.map_or("", |top| &top.mark)),
        copied(Epoch::random().as_str()),
        metadata_lifetime(namespace),
        fresh_lifetime(),
        Bytes::from_static(mode.as_bytes()),
        keys.fresh(channel),
    ]);
    ScriptCall {
        script: Script::Check,
        keys: count,
        arguments,
    }
}

/// How long the metadata of a channel are stored after its last use, in milliseconds: longer than
/// its history.
pub(super) fn metadata_lifetime(namespace: &Namespace) -> Bytes {
    let hour = Duration::from_secs(60 * 60);
    let longest = METADATA_TTL.max(namespace.history_ttl);
    (longest + hour).as_millis().to_string().into()
}
